/*
 * YAML as a run of events, by libfyaml; only what a configuration may hold: one document, without
 * anchors, aliases and tags, and no deeper than a bound. Whatever else there is becomes a problem
 * and the end.
 */
#ifndef FAN_CONFIG_YAML_H
#define FAN_CONFIG_YAML_H

#include "config/problem.h"

#include <stdbool.h>
#include <stddef.h>

#define FAN__YAML_DEPTH_MAX 32

struct fy_diag;
struct fy_event;
struct fy_parser;

enum fan__yaml_type {
    FAN__YAML_END, /* of the document, or after a problem */
    FAN__YAML_SCALAR,
    FAN__YAML_MAP,
    FAN__YAML_MAP_END,
    FAN__YAML_LIST,
    FAN__YAML_LIST_END,
};

/* name: of the file, in problems. */
struct fan__yaml {
    struct fan__problems *problems;
    const char *name;
    const char *source;
    size_t source_size;
    struct fy_diag *diag;
    struct fy_parser *parser;
    struct fy_event *event;
    unsigned depth;
    unsigned documents;
    bool complete; /* libfyaml saw the end of the text */
    bool ended;

    /* The event at hand. text is borrowed until the next; nothing: a plain scalar that is null. */
    enum fan__yaml_type type;
    struct fan__place place;
    const char *text;
    size_t size;
    bool nothing;
};

/*
 * Begins on valid UTF-8, which is borrowed until deinit; `name` too.
 *
 * Returns: FAN_NO_MEMORY. Memory: wants fan__yaml_deinit after FAN_OK.
 */
FAN_MUST_CHECK enum fan_status fan__yaml_init(struct fan__yaml *yaml, const char *name,
                                              const char *text, size_t size,
                                              struct fan__problems *problems);
void fan__yaml_deinit(struct fan__yaml *yaml);

/* Goes to the next event and gives its type. */
enum fan__yaml_type fan__yaml_next(struct fan__yaml *yaml);

/* Passes over the rest of the value whose first event is at hand. */
void fan__yaml_skip(struct fan__yaml *yaml);

#endif
