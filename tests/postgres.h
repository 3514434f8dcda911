/*
 * A PostgreSQL of a test's own (postgres.py), which ends with the test whatever becomes of that.
 *
 *     start -> tell "kill", "start", "stop" ... -> end
 */
#ifndef TEST_POSTGRES_H
#define TEST_POSTGRES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

struct test_postgres {
    pid_t pid;
    FILE *words;
    FILE *answers;
    char folder[64];
    unsigned port;
};

/* Starts one, with at most one setting "NAME=VALUE" (or NULL). False when there is none. */
bool test_postgres_start(struct test_postgres *server, const char *setting);

/* Says a word of postgres.py and waits until it is done. */
bool test_postgres_tell(struct test_postgres *server, const char *word);

/* Says it, and does not wait; answered does that later. */
bool test_postgres_say(struct test_postgres *server, const char *word);
bool test_postgres_answered(struct test_postgres *server);
void test_postgres_end(struct test_postgres *server);

/* A URI by the socket, as who owns the database; `options` as "schema=a&poll_ms=5", or "". */
void test_postgres_uri(const struct test_postgres *server, const char *options, char *uri,
                       size_t size);

#endif
