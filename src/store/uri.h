/*
 * Store URIs, `scheme:path?name=value&...`, as every provider reads them: the path and the values
 * are percent-decoded, and an option that nobody took is an error that names it.
 *
 *     parse -> take ... -> finish (complains of what was not taken) -> deinit
 */
#ifndef FAN_STORE_URI_H
#define FAN_STORE_URI_H

#include <fanfare/env.h>

#include <stdbool.h>
#include <stdint.h>

#define FAN__URI_OPTION_COUNT_MAX 32

struct fan__uri_option {
    const char *name;
    const char *value;
    bool taken;
};

/* path has no option in it; for `scheme://host/x` it starts with the two slashes. */
struct fan__uri {
    const struct fan_env *env;
    char *text;
    const char *scheme;
    const char *path;
    size_t option_count;
    struct fan__uri_option options[FAN__URI_OPTION_COUNT_MAX];
};

/*
 * Splits and decodes.
 *
 * Returns: FAN_INVALID for no scheme, a broken percent escape, an escaped NUL, a name given twice;
 * FAN_NO_MEMORY. Memory: *ret_uri wants fan__uri_deinit after FAN_OK.
 */
FAN_MUST_CHECK enum fan_status fan__uri_parse(const char *uri, const struct fan_env *env,
                                              struct fan__uri *ret_uri, struct fan_error *error);
void fan__uri_deinit(struct fan__uri *uri);

/* Gives an option's value, NULL when it is not there. Memory: the uri's. */
const char *fan__uri_take(struct fan__uri *uri, const char *name);

/*
 * Reads an option as a number within bounds; *ret_value keeps what it holds when it is not there.
 * Returns: FAN_INVALID naming the option and the bounds.
 * tidy: a number with its bounds; a struct for them would be filled at each of its few calls.
 */
FAN_MUST_CHECK enum fan_status fan__uri_take_count(struct fan__uri *uri, const char *name,
                                                   uint64_t min, uint64_t max, uint64_t *ret_value,
                                                   struct fan_error *error);

/* Returns: FAN_INVALID naming the first option that was not taken. */
FAN_MUST_CHECK enum fan_status fan__uri_finish(const struct fan__uri *uri, struct fan_error *error);

/*
 * Takes apart the URI of a store over others, `scheme:OPTIONS:URI` or `scheme:URI`: what stands
 * before the second colon are options when there is a `=` in it. Nothing is decoded.
 *
 * Returns: FAN_INVALID when no URI follows; FAN_NO_MEMORY. Memory: *ret_options is yours, and NULL
 * where there are none; *ret_inner lies in `uri`.
 */
FAN_MUST_CHECK enum fan_status fan__uri_peel(const char *uri, const struct fan_env *env,
                                             char **ret_options, const char **ret_inner,
                                             struct fan_error *error);

/*
 * Whether `scheme://user:password@host:port` can be told apart: what libpq says of a password with
 * one of its marks in it names a part of that.
 */
enum fan_status fan__uri_check_place(const char *uri, struct fan_error *error);

/*
 * Writes a URI as it may be shown: passwords and tokens become `***`, what does not fit is cut.
 * In doubt it hides too much rather than too little.
 */
void fan__uri_redact(const char *uri, char *buffer, size_t size);

#endif
