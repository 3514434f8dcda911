/*
 * Waiting that Ctrl-C ends. SIGINT and SIGTERM are noted and make a descriptor readable; a second
 * one kills, for when the first did not help.
 */
#ifndef FAN_CLI_WAIT_H
#define FAN_CLI_WAIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Before anything else here; once. False (and said) when the system has no descriptor left. */
bool fan__wait_open(void);

/* Readable from the first signal on. */
int fan__wait_descriptor(void);

bool fan__interrupted(void);

/* False when a signal came first. */
bool fan__wait_ms(int64_t ms);

enum fan__ready { FAN__READY, FAN__NOT_YET, FAN__INTERRUPTED };

/* Whether a descriptor can be read without waiting, after up to timeout_ms (-1: for ever). */
enum fan__ready fan__wait_readable(int descriptor, int timeout_ms);

/*
 * Writes all; fewer than `size` are written when a signal came and nobody reads for a second
 * (fan__interrupted), or when writing failed (errno). The end of a pipe's reader ends the program
 * as it does others, by SIGPIPE.
 */
size_t fan__write_all(int descriptor, const char *bytes, size_t size);

/* Milliseconds that never go back. */
int64_t fan__now_ms(void);

/* A random time from 0 to most_ms. */
int64_t fan__random_ms(int64_t most_ms);

/*
 * Tries with growing pauses between them: base_ms, doubled each time up to cap_ms, of which a
 * random half is left out, so that many clients do not come back at once.
 */
struct fan__backoff {
    int64_t base_ms;
    int64_t cap_ms;
    unsigned tries;
};

/* The next pause; least_ms and up to a second (as asked by Retry-After) if not -1. Counts a try. */
int64_t fan__backoff_next(struct fan__backoff *backoff, int64_t least_ms);

#endif
