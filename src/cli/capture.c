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

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_MS 500

enum {
    CAPTURE_STORE = 0x100,
    CAPTURE_FROM,
    CAPTURE_TABLE,
    CAPTURE_SLOT,
    CAPTURE_BYTES,
    CAPTURE_TRIGGER,
    CAPTURE_OUTBOX,
    CAPTURE_REMOVE,
};

struct capture {
    const char *store;
    const char *from;
    const char *slot;
    const char *outbox;
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
    { "remove", CAPTURE_REMOVE, NULL, 0,
      "Drop slot and publication, or the tables' triggers, and end", 5 },
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

/* One of the two, opened and started. */
struct work {
    struct fan_capture *capture;
    struct fan_outbox_relay *relay;
};

static enum fan_status begin(struct work *work, struct fan_broker *broker,
                             const struct capture *capture, struct fan_error *error)
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
            status = fan_outbox_relay_open(broker, &relay, &work->relay, error);
        return status == FAN_OK ? fan_outbox_relay_start(work->relay) : status;
    }
    struct fan_capture_options decode = { .size = FAN_CAPTURE_OPTIONS_SIZE,
                                          .database = capture->from,
                                          .slot = capture->slot,
                                          .tables = capture->tables,
                                          .table_count = capture->table_count,
                                          .slot_bytes_max = capture->slot_bytes_max };
    enum fan_status status = fan_capture_open(broker, &decode, &work->capture, error);
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
    do {
        (void)look(work, &error);
        if (error.status != said && error.status != FAN_OK)
            fan__say("%s; trying again",
                     *error.message ? error.message : fan_status_text(error.status));
        else if (error.status != said)
            fan__say("going on");
        said = error.status;
    } while (fan__wait_ms(LOOK_MS));
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
    struct fan_broker *broker = NULL;
    struct work work = { NULL, NULL };
    env.log = log_line;
    broker_options.env = &env;
    if (fan_broker_open(capture->store, &broker_options, &broker, &error) != FAN_OK) {
        fan__say("%s", error.message);
        return FAN__EXIT_FAILED;
    }
    int code = FAN__EXIT_OK;
    if (fan_broker_start(broker) != FAN_OK || begin(&work, broker, capture, &error) != FAN_OK) {
        code = fail(&error);
    } else {
        fan__say("capturing");
        follow(&work);
    }
    fan_capture_free(work.capture);
    fan_outbox_relay_free(work.relay);
    fan_broker_free(broker);
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
