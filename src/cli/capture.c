/*
 * capture: brings what happens in a PostgreSQL into a log, by logical decoding, by triggers, or by
 * the outbox alone. It works on the log itself, beside a server that has it open or without one,
 * until a signal.
 */
#include "cli/cli.h"
#include "cli/wait.h"

#include <fanfare/broker.h>
#include <fanfare/capture.h>
#include <fanfare/env.h>
#include <fanfare/outbox.h>
#include <fanfare/outbox_postgres.h>
#include <fanfare/prometheus.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 500
#define LOOKS_A_WRITE 10 /* of metrics: every 5 s */

enum {
    CAPTURE_STORE = 0x100,
    CAPTURE_FROM,
    CAPTURE_TABLE,
    CAPTURE_SLOT,
    CAPTURE_BYTES,
    CAPTURE_TRIGGER,
    CAPTURE_OUTBOX,
    CAPTURE_REMOVE,
    CAPTURE_METRICS,
};

struct capture {
    const char *store;
    const char *from;
    const char *slot;
    const char *outbox;
    const char *metrics;
    const char **tables;
    size_t table_count;
    uint64_t slot_bytes_max;
    bool triggers;
    bool removes;
};

static void check(const struct capture *capture, const struct argp_state *state)
{
    bool decodes = !capture->triggers;
    if (!capture->from)
        argp_error(state, "--from is missing: which database? "
                          "postgres://USER:PASSWORD@HOST:PORT/DATABASE");
    if (!capture->store && !capture->removes)
        argp_error(state, "--store is missing: which log? For one, sqlite:fanfare.db");
    if (decodes && capture->outbox)
        argp_error(state, "--outbox goes with --trigger");
    if (!decodes && (capture->slot || capture->slot_bytes_max > 0))
        argp_error(state, "--slot and --slot-bytes go without --trigger");
    if (decodes && capture->table_count == 0 && !capture->removes)
        argp_error(state, "--table is missing: which tables? Or --trigger for the outbox alone");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct capture *capture = state->input;
    switch (key) {
    case CAPTURE_STORE:
        capture->store = value;
        return 0;
    case CAPTURE_FROM:
        capture->from = value;
        return 0;
    case CAPTURE_TABLE:
        capture->tables[capture->table_count++] = value;
        return 0;
    case CAPTURE_SLOT:
        capture->slot = value;
        return 0;
    case CAPTURE_BYTES:
        capture->slot_bytes_max = fan__read_size(state, "slot-bytes", value);
        return 0;
    case CAPTURE_TRIGGER:
        capture->triggers = true;
        return 0;
    case CAPTURE_OUTBOX:
        capture->outbox = value;
        return 0;
    case CAPTURE_REMOVE:
        capture->removes = true;
        return 0;
    case CAPTURE_METRICS:
        capture->metrics = value;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "what is '%s'?", value);
        return 0;
    case ARGP_KEY_END:
        check(capture, state);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {
    { "from", CAPTURE_FROM, "URI", 0, "The database: postgres://USER:PASSWORD@HOST:PORT/DATABASE",
      1 },
    { "store", CAPTURE_STORE, "URI", 0, "The log: sqlite:PATH", 1 },
    { "table", CAPTURE_TABLE, "NAME", 0, "A table, as SQL writes it; as often as needed", 2 },
    { "slot", CAPTURE_SLOT, "NAME", 0, "The slot and publication (" FAN_CAPTURE_SLOT ")", 3 },
    { "slot-bytes", CAPTURE_BYTES, "SIZE", 0,
      "How much the server keeps at most for a capture that cannot get on (16G)", 3 },
    { "trigger", CAPTURE_TRIGGER, NULL, 0,
      "By triggers and the outbox; without --table what programs record there alone", 4 },
    { "outbox", CAPTURE_OUTBOX, "SCHEMA", 0, "The outbox (" FAN_OUTBOX_TABLE ")", 4 },
    { "metrics", CAPTURE_METRICS, "FILE", 0,
      "Keeps Prometheus' metrics in a file, as node_exporter's textfile collector reads it", 5 },
    { "remove", CAPTURE_REMOVE, NULL, 0,
      "Drop slot and publication, or the tables' triggers, and end", 6 },
    { 0 },
};

static const struct argp capture_argp = {
    options,
    parse,
    "",
    "Makes events of what happens in a PostgreSQL: every change of chosen tables, read from the "
    "server's own log (logical decoding) or by triggers, and what programs record in the outbox. "
    "Runs until Ctrl-C; nothing is lost while it does not run.",
    NULL,
    NULL,
    NULL,
};

static void log_line(void *context, enum fan_log_level level, const char *message)
{
    (void)context;
    if (level >= FAN_LOG_WARNING)
        fan__say("%s", message);
}

/* --- what goes on -------------------------------------------------------------------------- */

/* One of the two, opened and started, and where its metrics go. */
struct work {
    struct fan_broker *broker;
    struct fan_capture *capture;
    struct fan_outbox_relay *relay;
    struct fan_prometheus *prometheus;
    const char *metrics;
};

static enum fan_status put(void *context, const char *bytes, size_t size)
{
    return fwrite(bytes, 1, size, context) == size ? FAN_OK : FAN_IO;
}

/* Whoever reads the file sees a whole one: it is written beside it. */
static bool write_metrics(const struct work *work)
{
    char path[4096];
    if (!work->metrics)
        return true;
    int size = snprintf(path, sizeof(path), "%s.tmp", work->metrics);
    FILE *file = size < (int)sizeof(path) ? fopen(path, "we") : NULL;
    bool good = file && fan_prometheus_write(work->prometheus, work->broker, FAN_METRICS_PROMETHEUS,
                                             put, file) == FAN_OK;
    if (file)
        good = fclose(file) == 0 && good;
    good = good && rename(path, work->metrics) == 0;
    if (!good)
        fan__say("--metrics %s cannot be written: %s", work->metrics, strerror(errno));
    return good;
}

static enum fan_status begin(struct work *work, const struct capture *capture,
                             struct fan_error *error)
{
    if (capture->triggers) {
        struct fan_outbox_postgres_capture_options install = {
            .size = FAN_OUTBOX_POSTGRES_CAPTURE_OPTIONS_SIZE,
            .database = capture->from,
            .schema = capture->outbox,
            .tables = capture->tables,
            .table_count = capture->table_count,
        };
        struct fan_outbox_relay_options relay = { .size = FAN_OUTBOX_RELAY_OPTIONS_SIZE,
                                                  .database = capture->from,
                                                  .table = capture->outbox };
        enum fan_status status = fan_outbox_postgres_capture(&install, error);
        if (status == FAN_OK)
            status = fan_outbox_relay_open(work->broker, &relay, &work->relay, error);
        return status == FAN_OK ? fan_outbox_relay_start(work->relay) : status;
    }
    struct fan_capture_options decode = { .size = FAN_CAPTURE_OPTIONS_SIZE,
                                          .database = capture->from,
                                          .slot = capture->slot,
                                          .tables = capture->tables,
                                          .table_count = capture->table_count,
                                          .slot_bytes_max = capture->slot_bytes_max };
    enum fan_status status = fan_capture_open(work->broker, &decode, &work->capture, error);
    return status == FAN_OK ? fan_capture_start(work->capture) : status;
}

/* How many events so far, and what keeps it from getting on. */
static uint64_t look(struct work *work, struct fan_error *ret_error)
{
    struct fan_outbox_relay_stats relayed = { .size = sizeof(relayed) };
    struct fan_capture_stats captured = { .size = sizeof(captured) };
    if (work->relay) {
        fan_outbox_relay_stats(work->relay, &relayed);
        *ret_error = relayed.error;
        return relayed.published;
    }
    fan_capture_stats(work->capture, &captured);
    *ret_error = captured.error;
    return captured.published;
}

/* Says when it does not get on, and when it does again. */
static void follow(struct work *work)
{
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status said = FAN_OK;
    unsigned looks = 0;
    do {
        if (looks++ % LOOKS_A_WRITE == 0)
            (void)write_metrics(work);
        (void)look(work, &error);
        if (error.status != said && error.status != FAN_OK)
            fan__say("%s; trying again",
                     *error.message ? error.message : fan_status_text(error.status));
        else if (error.status != said)
            fan__say("going on");
        said = error.status;
    } while (fan__wait_ms(LOOK_MS));
    (void)write_metrics(work);
    fan__say("%" PRIu64 " events brought into the log", look(work, &error));
}

static int fail(const struct fan_error *error)
{
    const char *field = error->field;
    /* Words about a setting of the library's begin behind its name. */
    const char *name = strcmp(field, "database") == 0 ? "--from "
                       : strcmp(field, "slot") == 0   ? "--slot "
                       : strcmp(field, "table") == 0  ? "--outbox "
                                                      : "";
    fan__say("%s%s", name, error->message);
    return FAN__EXIT_FAILED;
}

static int run(const struct capture *capture)
{
    struct fan_env env = *fan_env_default();
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    struct fan_error error = FAN_ERROR_INIT;
    struct work work = { .metrics = capture->metrics };
    env.log = log_line;
    broker_options.env = &env;
    if (fan_prometheus_new(&env, &work.prometheus) != FAN_OK) {
        fan__say("out of memory");
        return FAN__EXIT_FAILED;
    }
    broker_options.metrics = fan_prometheus_metrics(work.prometheus);
    if (fan_broker_open(capture->store, &broker_options, &work.broker, &error) != FAN_OK) {
        fan__say("%s", error.message);
        fan_prometheus_free(work.prometheus);
        return FAN__EXIT_FAILED;
    }
    int code = FAN__EXIT_OK;
    enum fan_status status = fan_broker_start(work.broker);
    if (status != FAN_OK) {
        fan__say("the log cannot be written: %s", fan_status_text(status));
        code = FAN__EXIT_FAILED;
    } else if (!write_metrics(&work)) {
        code = FAN__EXIT_FAILED;
    } else if (begin(&work, capture, &error) != FAN_OK) {
        code = fail(&error);
    } else {
        fan__say("capturing");
        follow(&work);
    }
    fan_capture_free(work.capture);
    fan_outbox_relay_free(work.relay);
    fan_broker_free(work.broker);
    fan_prometheus_free(work.prometheus);
    return code;
}

static int end(const struct capture *capture)
{
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_outbox_postgres_capture_options release = {
        .size = FAN_OUTBOX_POSTGRES_CAPTURE_OPTIONS_SIZE,
        .database = capture->from,
        .schema = capture->outbox,
        .tables = capture->tables,
        .table_count = capture->table_count,
        .release = true,
    };
    enum fan_status status = capture->triggers
                                 ? fan_outbox_postgres_capture(&release, &error)
                                 : fan_capture_remove(capture->from, capture->slot, &error);
    return status == FAN_OK ? FAN__EXIT_OK : fail(&error);
}

int fan__cli_capture(struct fan__common *common, int argc, char **argv)
{
    (void)common;
    struct capture capture = { .tables =
                                   fan__cli_resize(NULL, (size_t)argc, sizeof(*capture.tables)) };
    argp_parse(&capture_argp, argc, argv, 0, NULL, &capture);
    int code = capture.removes ? end(&capture) : run(&capture);
    free(capture.tables);
    return code;
}
