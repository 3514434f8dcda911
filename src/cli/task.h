/*
 * A command that handles one event: it is given a text on standard input, its standard error passes
 * through to ours and its last line there is remembered, its standard output is ours.
 *
 *     free --start--> running --(kill)--> ended
 *
 * Each runs in a process group of its own, without a shell and without any other descriptor of
 * ours, so that a Ctrl-C in the terminal is ours alone, and a kill reaches all that it started.
 */
#ifndef FAN_CLI_TASK_H
#define FAN_CLI_TASK_H

#include "cli/text.h"

#include <poll.h>
#include <signal.h>
#include <sys/types.h>

#define FAN__TASK_POLLS 3
#define FAN__TASK_WORDS_SIZE_MAX 1000

/* pid 0: free. Descriptors are -1 when they are closed. */
struct fan__task {
    pid_t pid;
    int process;
    int input;
    int words;
    bool killed;
    struct fan__text text; /* for its standard input */
    size_t written;
    struct fan__text line; /* of its standard error, so far */
    struct fan__text last; /* the last whole one that was not blank */
};

/* Whether there is such a command, as a path or by PATH. */
bool fan__task_exists(const char *command);

/*
 * Starts a command that is free, with task->text on its standard input and the signals of `mask`
 * blocked. Gives 0 or an errno: nothing runs then.
 */
int fan__task_start(struct fan__task *task, char **argv, char **environment, const sigset_t *mask);

/* Moves what its pipes take and give, without waiting. */
void fan__task_move(struct fan__task *task);

/* What to wait for; gives their number. */
size_t fan__task_polls(const struct fan__task *task, struct pollfd *polls);

/* Sends a signal to it and all that it started. */
void fan__task_kill(struct fan__task *task, int number);

/* Whether it has ended; it is free then, with `last` to be read until the next start. */
bool fan__task_ended(struct fan__task *task, int *ret_status);

void fan__task_deinit(struct fan__task *task);

#endif
