/* Medians, a table, and JSON. */
#include "bench.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ROW_COUNT_MAX 64
#define RUN_COUNT_MAX 101

struct row {
    struct bench_case what;
    double ours;
    double peer_value;
    double ratio;
    int runs;
};

static struct {
    const char *json;
    int runs;
    struct row rows[ROW_COUNT_MAX];
    size_t count;
} bench = { .runs = 5 };

double bench_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void bench_must(bool right, const char *format, ...)
{
    if (right)
        return;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(EXIT_FAILURE);
}

void bench_begin(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
            bench.json = argv[++i];
        } else if (strcmp(argv[i], "--runs") == 0 && i + 1 < argc) {
            bench.runs = (int)strtol(argv[++i], NULL, 10);
        } else {
            fprintf(stderr, "usage: %s [--json FILE] [--runs N]\n", argv[0]);
            exit(2);
        }
    }
    bench_must(bench.runs >= 1 && bench.runs <= RUN_COUNT_MAX, "--runs: expected 1 to %d",
               RUN_COUNT_MAX);
}

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a;
    double right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof(*values), compare);
    return values[count / 2];
}

static void add(const struct bench_case *what, double ours, double peer_value, int runs)
{
    bench_must(bench.count < ROW_COUNT_MAX, "more than %d rows", ROW_COUNT_MAX);
    struct row *row = &bench.rows[bench.count++];
    *row = (struct row){ .what = *what, .ours = ours, .peer_value = peer_value, .runs = runs };
    double better = what->less_is_better ? peer_value : ours;
    double worse = what->less_is_better ? ours : peer_value;
    row->ratio = worse > 0 ? better / worse : 0;
    fprintf(stderr, "%s: %.6g %s, %s %.6g, ratio %.2f\n", what->name, ours, what->unit, what->peer,
            peer_value, row->ratio);
}

void bench_compare(const struct bench_case *row, double (*ours)(void *context),
                   double (*peer)(void *context), void *context)
{
    double our_values[RUN_COUNT_MAX];
    double peer_values[RUN_COUNT_MAX];
    for (int i = 0; i < bench.runs; i++) {
        our_values[i] = ours(context);
        peer_values[i] = peer(context);
    }
    add(row, median(our_values, bench.runs), median(peer_values, bench.runs), bench.runs);
}

void bench_value(const struct bench_case *row, double ours, double wanted)
{
    add(row, ours, wanted, bench.runs);
}

double bench_last(void)
{
    return bench.count > 0 ? bench.rows[bench.count - 1].ours : 0;
}

static void print_table(void)
{
    printf("%-44s %12s %-14s %12s %-26s %6s %5s\n", "case", "ours", "unit", "peer", "", "ratio",
           "goal");
    for (size_t i = 0; i < bench.count; i++) {
        const struct row *row = &bench.rows[i];
        char goal[16] = "";
        if (row->what.goal > 0)
            snprintf(goal, sizeof(goal), "%.2f", row->what.goal);
        printf("%-44s %12.6g %-14s %12.6g %-26s %6.2f %5s\n", row->what.name, row->ours,
               row->what.unit, row->peer_value, row->what.peer, row->ratio, goal);
    }
}

/* Names hold no character that JSON escapes. */
static int write_json(void)
{
    FILE *file = fopen(bench.json, "w");
    if (!file) {
        perror(bench.json);
        return EXIT_FAILURE;
    }
    fputs("[\n", file);
    for (size_t i = 0; i < bench.count; i++) {
        const struct row *row = &bench.rows[i];
        char goal[32] = "null";
        if (row->what.goal > 0)
            snprintf(goal, sizeof(goal), "%.4g", row->what.goal);
        fprintf(file,
                "  {\"case\": \"%s\", \"unit\": \"%s\", \"ours\": %.6g, \"peer\": \"%s\", "
                "\"peer_value\": %.6g, \"ratio\": %.4g, \"goal\": %s, \"runs\": %d}%s\n",
                row->what.name, row->what.unit, row->ours, row->what.peer, row->peer_value,
                row->ratio, goal, row->runs, i + 1 < bench.count ? "," : "");
    }
    fputs("]\n", file);
    return fclose(file) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int bench_end(void)
{
    print_table();
    return bench.json ? write_json() : EXIT_SUCCESS;
}
