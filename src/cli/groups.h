/* A consumer group on the command line: how it is named, and made. */
#ifndef FAN_CLI_GROUPS_H
#define FAN_CLI_GROUPS_H

#include "cli/client.h"

#include <argp.h>

/* start: NULL for now, "beginning", or a cursor's text. */
struct fan__group {
    const char *name;
    const char *handler;
    const char *type;
    const char *topic;
    const char *start;
};

/* Take a word of the command line, or end the program with a usage error. */
void fan__group_take_name(const struct argp_state *state, const char *word, const char **ret_name);
void fan__group_take_type(const struct argp_state *state, const char *word,
                          struct fan__group *group);
void fan__group_take_start(const struct argp_state *state, const char *word,
                           struct fan__group *group);

/* Adds "/v1/groups/NAME/VERB?handler=...", the verb where it is not NULL. */
void fan__group_add_target(struct fan__text *target, const struct fan__group *group,
                           const char *verb);

/* Makes it, or gives it this filter when it is there. False, and said why, else. */
bool fan__group_create(struct fan__client *client, const struct fan__group *group,
                       struct fan__answer *answer);

#endif
