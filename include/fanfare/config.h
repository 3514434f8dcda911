/*
 * Configuration: what stands in a YAML file, in the environment and on the command line, checked
 * against one table of keys (docs/config.md).
 *
 *     load -> get, open_broker ... -> free
 *
 * The last of file, environment and settings wins. Every mistake is told with its place and with
 * what was expected; with one, there is no configuration. It never changes after it was loaded.
 *
 * In values of the file, `${NAME}` stands for an environment variable and `$$` for a `$`.
 * `${HOSTNAME}` is the host's name where the environment does not say; another unset variable is an
 * error.
 *
 * Limits: a file of 1 MiB, 32 levels, lines of 8,192 characters, ten mistakes told. libfyaml reads
 * YAML with memory of malloc.
 */
#ifndef FANFARE_CONFIG_H
#define FANFARE_CONFIG_H

#include <fanfare/status.h>

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_broker_options;
struct fan_config;
struct fan_env;

/* A value from a command line: of `key`, called `name` ("--listen") in messages. */
struct fan_config_setting {
    const char *key;
    const char *name;
    const char *value;
};

/*
 * A mistake. `place` is "FILE:LINE:COLUMN", or the name of a variable or setting; key may be ""
 * where there is none. Secrets are never in it. Pointers are borrowed for the call.
 */
struct fan_config_problem {
    size_t size;
    const char *place;
    unsigned line;   /* from 1; 0 outside a file */
    unsigned column; /* in characters, from 1 */
    const char *key;
    const char *message;
};

/*
 * path         a file, or NULL
 * text         YAML instead of a file, or NULL. With neither, the file that the environment's
 *              FANFARE_CONFIG names, if any
 * environment  "NAME=VALUE" and a NULL at the end; NULL for that of the process
 * settings     over file and environment
 * problem      told of each mistake, up to ten, and then of how many more there are; may be NULL
 */
struct fan_config_options {
    size_t size;
    const struct fan_env *env;
    const char *path;
    const char *text;
    const char *const *environment;
    const struct fan_config_setting *settings;
    size_t setting_count;
    void (*problem)(void *context, const struct fan_config_problem *problem);
    void *context;
};

#define FAN_CONFIG_OPTIONS_INIT                                                                    \
    {                                                                                              \
        sizeof(struct fan_config_options), NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL             \
    }

/*
 * Loads. `options` may be NULL.
 *
 * Returns: FAN_INVALID with the key and the place of the first mistake; FAN_IO for a file that
 *          cannot be read; FAN_NO_MEMORY.
 * Memory:  *ret_config is yours, for fan_config_free; nothing of options is kept.
 * Thread:  any, while none changes the environment. Blocks: for the file.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_config_load(const struct fan_config_options *options,
                                                       struct fan_config **ret_config,
                                                       struct fan_error *ret_error);

/* Frees. Accepts NULL. Thread: any, while no other call on it runs. */
FAN_API void fan_config_free(struct fan_config *config);

enum fan_config_source {
    FAN_CONFIG_DEFAULT = 0,
    FAN_CONFIG_FILE = 1,
    FAN_CONFIG_ENVIRONMENT = 2,
    FAN_CONFIG_SETTING = 3,
};

/*
 * A value and where it comes from. place as in a problem, "" for a default. text: as written, with
 * its variables expanded, items of a list with a comma between; NULL when there is none. shown:
 * the same without secrets, never NULL. number: milliseconds, bytes, 0 or 1 for true, the index of
 * a choice; factor: of a fraction.
 */
struct fan_config_value {
    size_t size;
    enum fan_config_source source;
    const char *place;
    const char *text;
    const char *shown;
    uint64_t number;
    double factor;
};

#define FAN_CONFIG_VALUE_SIZE sizeof(struct fan_config_value)

/*
 * Gets the value of a key ("event_broker.mode"); set ret_value->size first.
 *
 * Returns: FAN_NOT_FOUND when there is no such key.
 * Memory:  what the value points to is borrowed from the configuration.
 * Thread:  any. Blocks: never.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_config_get(const struct fan_config *config,
                                                      const char *key,
                                                      struct fan_config_value *ret_value);

/*
 * Opens the broker that the configuration describes; start it with fan_broker_start. `options` (may
 * be NULL) tell what it does not say.
 *
 * Returns: FAN_UNAVAILABLE when event_broker.enabled is false; FAN_INVALID for a provider that
 *          this build does not have, or a setting that it does not take; as fan_broker_open.
 * Memory:  *ret_broker is yours, for fan_broker_free; the configuration may be freed before it.
 * Thread:  any. Blocks: for the storage.
 */
FAN_MUST_CHECK FAN_API enum fan_status fan_config_open_broker(
    const struct fan_config *config, const struct fan_broker_options *options,
    struct fan_broker **ret_broker, struct fan_error *ret_error);

#ifdef __cplusplus
}
#endif

#endif
