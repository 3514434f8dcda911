/*
 * What benchmarks share: runs of ours and of a peer in turn, their medians, a table for people and
 * rows for scripts (tools/bench).
 *
 *     begin -> compare, value ... -> end (prints, writes --json FILE)
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>
#include <stdint.h>

/*
 * name is the case; peer says what ours is held against; goal is the ratio asked for, 0 for none.
 */
struct bench_case {
    const char *name;
    const char *unit;
    const char *peer;
    double goal;
    bool less_is_better;
};

/* Reads `--json FILE` and `--runs N` (odd; 5). Ends the program with 2 for anything else. */
void bench_begin(int argc, char **argv);

/*
 * Runs ours and the peer in turn, bench_runs() times each. Each gives a value in the case's unit.
 */
void bench_compare(const struct bench_case *row, double (*ours)(void *context),
                   double (*peer)(void *context), void *context);

/* A row of values that were measured elsewhere; `ours` is held against `wanted`. */
void bench_value(const struct bench_case *row, double ours, double wanted);

/* The median of ours in the row that was added last. */
double bench_last(void);

/* Prints the table and writes the rows. Returns: the program's exit code. */
int bench_end(void);

/* Monotonic seconds. */
double bench_now(void);

/*
 * Ends the program with the words when `right` is false: a benchmark of failures measures nothing.
 */
__attribute__((format(printf, 2, 3))) void bench_must(bool right, const char *format, ...);

#endif
