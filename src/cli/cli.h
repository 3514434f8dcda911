/*
 * The verbs of the command line, and what their options share. A verb is given its own arguments,
 * its name first, and returns the exit code.
 */
#ifndef FAN_CLI_CLI_H
#define FAN_CLI_CLI_H

#include "cli/client.h"
#include "cli/say.h"

#include <argp.h>

/* What may stand before the verb and behind it. */
struct fan__common {
    const char *url;
};

/* The options in `struct fan__common`, as a child of a verb's parser: it sets child_inputs[0]. */
extern const struct argp fan__common_argp;

int fan__cli_pub(struct fan__common *common, int argc, char **argv);
int fan__cli_tail(struct fan__common *common, int argc, char **argv);
int fan__cli_get(struct fan__common *common, int argc, char **argv);
int fan__cli_ls(struct fan__common *common, int argc, char **argv);
int fan__cli_stats(struct fan__common *common, int argc, char **argv);
int fan__cli_dead(struct fan__common *common, int argc, char **argv);
int fan__cli_groups(struct fan__common *common, int argc, char **argv);
int fan__cli_run(struct fan__common *common, int argc, char **argv);
int fan__cli_backup(struct fan__common *common, int argc, char **argv);
int fan__cli_restore(struct fan__common *common, int argc, char **argv);
int fan__cli_verify(struct fan__common *common, int argc, char **argv);
int fan__cli_retain(struct fan__common *common, int argc, char **argv);
int fan__cli_capture(struct fan__common *common, int argc, char **argv);

/* Reads a size such as 500M or 10G, or ends the program with a usage error. */
uint64_t fan__read_size(const struct argp_state *state, const char *option, const char *text);

/* Reads a decimal number from `least` to `most`, or ends the program with a usage error. */
uint64_t fan__read_number(const struct argp_state *state, const char *option, const char *text,
                          uint64_t least, uint64_t most);

#endif
