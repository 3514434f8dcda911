/*
 * The settings of fanfared: what the command line, the environment and the file say, as one
 * configuration, and what of it changed when it is read again.
 */
#ifndef FAN_SERVER_SETTINGS_H
#define FAN_SERVER_SETTINGS_H

#include "base/buffer.h"

#include <fanfare/config.h>

#include <stdbool.h>

/* path: of --config, NULL without. check: --check-config. settings point into argv. */
struct fan__settings {
    const char *path;
    bool check;
    struct fan_config_setting *settings;
    size_t setting_count;
};

/*
 * Reads the command line. Gives the code to exit with after --help, --version or a wrong flag,
 * which were answered; -1 to go on. Wants fan__settings_deinit.
 */
int fan__settings_read(struct fan__settings *settings, int argc, char **argv);
void fan__settings_deinit(struct fan__settings *settings);

/* Loads the configuration, and says on standard error what is wrong. False when anything is. */
bool fan__settings_load(const struct fan__settings *settings, struct fan_config **ret_config);

/*
 * Prints "ok" and each value with its source, without secrets. store: the URI of the log, which
 * follows from `key` where server.store is not given.
 */
void fan__settings_print(const struct fan_config *config, const char *store, const char *key);

/*
 * Adds what a reload changes ("server.keep_alive is 30s, ...") to `changed`, and warns of what
 * differs from how it was started and cannot change.
 */
void fan__settings_compare(const struct fan_config *started, const struct fan_config *current,
                           const struct fan_config *loaded, struct fan__buffer *changed);

#endif
