/* The values of all keys: what one is, and how text becomes one. */
#ifndef FAN_CONFIG_VALUE_H
#define FAN_CONFIG_VALUE_H

#include "base/buffer.h"
#include "config/key.h"
#include "config/problem.h"

/* text and shown: as in struct fan_config_value. */
struct fan__value {
    struct fan__place place;
    char *name; /* owned; that of `place` points to it */
    char *text;
    char *shown;
    uint64_t number;
    double factor;
};

struct fan_config {
    const struct fan_env *env;
    struct fan__value *values; /* one a key */
    char **places;             /* one a value, in words */
};

/* What is needed while a configuration is made. */
struct fan__making {
    struct fan_config *config;
    struct fan__problems problems;
    const char *const *environment;
    /* Where each section and key stood in the file; line 0: not yet. */
    unsigned *section_lines;
    struct fan__place *key_places;
};

/* A value of the environment, NULL when it is unset. */
const char *fan__variable(const struct fan__making *making, const char *name, size_t size);

/* What stands for a value: as it was written, for messages, and with its variables replaced. */
struct fan__written {
    const char *raw;
    const char *text;
};

/*
 * Sets a key, or tells why not; the items of a list have a comma between.
 *
 * Returns: FAN_NO_MEMORY; FAN_OK also after a problem.
 */
FAN_MUST_CHECK enum fan_status fan__value_set(struct fan__making *making,
                                              const struct fan__key *key,
                                              const struct fan__place *place,
                                              const struct fan__written *written);

/*
 * Adds text to `expanded` with its variables replaced; `name`: of the key, in problems.
 *
 * Returns: FAN_INVALID when one is unset or broken, which was told.
 */
FAN_MUST_CHECK enum fan_status fan__value_expand(struct fan__making *making, const char *name,
                                                 const struct fan__place *place, const char *text,
                                                 struct fan__buffer *expanded);

void fan__value_deinit(const struct fan_env *env, struct fan__value *value);

/* By path; the key must be in the table. */
const struct fan__value *fan__config_value(const struct fan_config *config, const char *path);

#endif
