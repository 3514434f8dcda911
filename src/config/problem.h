/* Mistakes of a configuration: each told with its place, up to ten, the first one kept. */
#ifndef FAN_CONFIG_PROBLEM_H
#define FAN_CONFIG_PROBLEM_H

#include <fanfare/config.h>

#define FAN__PROBLEM_COUNT_MAX 10

/* name: of the file, the variable or the setting. line and column are 0 where there are none. */
struct fan__place {
    enum fan_config_source source;
    const char *name;
    unsigned line;
    unsigned column;
};

struct fan__problems {
    void (*call)(void *context, const struct fan_config_problem *problem);
    void *context;
    unsigned count;
    struct fan_error first;
};

/* "config.yaml:3:11", "FANFARE_SERVER_LISTEN", "--listen"; "" for a default. Cut when too long. */
void fan__place_format(const struct fan__place *place, char *text, size_t size);

/* status: of the whole, when it is the first one. key: "" for none. */
__attribute__((format(printf, 5, 6))) void fan__problem(struct fan__problems *problems,
                                                        const struct fan__place *place,
                                                        enum fan_status status, const char *key,
                                                        const char *format, ...);

/* Says how many more there were, fills `error` from the first and gives its status, or FAN_OK. */
enum fan_status fan__problems_end(struct fan__problems *problems, struct fan_error *error);

#endif
