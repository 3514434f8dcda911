/*
 * pub: publishes one event, or a file of them.
 *
 * Every event has its id before it is sent for the first time, so that whatever happens on the way
 * it is stored once (outbox.h). A file is never held as a whole: what was read and has no answer is
 * all that there is in memory.
 */
#include "cli/cli.h"
#include "cli/lines.h"
#include "cli/outbox.h"
#include "cli/prepare.h"
#include "cli/wait.h"

#include <fanfare/event.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRIES 8
#define SILENCE_S 30

enum {
    PUB_TYPE = 0x100,
    PUB_TOPIC,
    PUB_SOURCE,
    PUB_ID,
    PUB_USER_ID,
    PUB_METADATA,
    PUB_DATA,
    PUB_FILE,
    PUB_NDJSON,
    PUB_JSON,
    PUB_RETRIES,
    PUB_SILENCE,
    PUB_REST
};

struct pub {
    struct fan__common *common;
    const char *type;
    const char *topic;
    const char *source;
    const char *id;
    const char *user_id;
    const char *metadata;
    const char *data;
    const char *file;
    const char *ndjson;
    const char *rest;
    unsigned retries;
    uint64_t silence_s;
    bool json;
};

static const struct argp_option options[] = {
    { NULL, 0, NULL, 0, "One event:", 1 },
    { "type", PUB_TYPE, "TYPE", 0, "Its type, `schema.entity.operation` by custom", 1 },
    { "topic", PUB_TOPIC, "TOPIC", 0, "What it is about", 1 },
    { "source", PUB_SOURCE, "SOURCE", 0,
      "database, websocket, frontend, system (as it is without this) or internal", 1 },
    { "id", PUB_ID, "ID", 0, "Its id; the same id again stores nothing", 1 },
    { "user-id", PUB_USER_ID, "N", 0, "The user that it concerns", 1 },
    { "metadata", PUB_METADATA, "JSON", 0, "An object", 1 },
    { "data", PUB_DATA, "JSON", 0, "The payload", 1 },
    { "file", PUB_FILE, "FILE", 0, "The payload, from a file; - is standard input", 1 },
    { NULL, 0, NULL, 0, "Many events:", 2 },
    { "ndjson", PUB_NDJSON, "FILE", 0, "One event a line, as JSON; - is standard input", 2 },
    { "rest", PUB_REST, "FILE", 0,
      "Where to leave what has no answer when it ends early, with its ids: publish that first", 2 },
    { NULL, 0, NULL, 0, "Both:", 3 },
    { "json", PUB_JSON, NULL, 0, "Print a result for each event, as JSON", 3 },
    { "retries", PUB_RETRIES, "N", 0, "Tries without any progress before it gives up (8)", 3 },
    { "silence", PUB_SILENCE, "SECONDS", 0,
      "Send again when the server says nothing for so long (30)", 3 },
    { 0 },
};

static void take_once(struct argp_state *state, const char **place, const char *value)
{
    if (*place)
        argp_error(state, "an option stands there twice: '%s'", value);
    *place = value;
}

static void check_user_id(struct argp_state *state, const char *value)
{
    char *end;
    errno = 0;
    strtoll(value, &end, 10);
    if (*value == '\0' || *end != '\0' || errno != 0 || value[0] == ' ' || value[0] == '+')
        argp_error(state, "--user-id: expected a number, not '%s'", value);
}

static void check_all(const struct pub *pub, struct argp_state *state)
{
    bool has_event = pub->type || pub->topic || pub->source || pub->id || pub->user_id ||
                     pub->metadata || pub->data || pub->file;
    if (pub->ndjson && has_event)
        argp_error(state, "--ndjson does not go with the options of one event");
    if (!pub->ndjson && !pub->type)
        argp_error(state, "--type is missing (or --ndjson)");
    if (pub->data && pub->file)
        argp_error(state, "one of --data and --file, not both");
    if (pub->rest && !pub->ndjson)
        argp_error(state, "--rest goes with --ndjson");
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct pub *pub = state->input;
    enum fan_source source;
    /* By their place behind PUB_TYPE. */
    const char **const places[] = {
        &pub->type,     &pub->topic, &pub->source, &pub->id,     &pub->user_id,
        &pub->metadata, &pub->data,  &pub->file,   &pub->ndjson,
    };
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = pub->common;
        return 0;
    case PUB_JSON:
        pub->json = true;
        return 0;
    case PUB_RETRIES:
        pub->retries = (unsigned)fan__read_number(state, "retries", value, 0, 1000);
        return 0;
    case PUB_SILENCE:
        pub->silence_s = fan__read_number(state, "silence", value, 1, 86400);
        return 0;
    case PUB_REST:
        take_once(state, &pub->rest, value);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "what is '%s'? A payload goes with --data or --file", value);
        return 0;
    case ARGP_KEY_END:
        check_all(pub, state);
        return 0;
    default:
        if (key < PUB_TYPE || key > PUB_NDJSON)
            return ARGP_ERR_UNKNOWN;
        if (key == PUB_SOURCE && fan_source_parse(value, &source) != FAN_OK)
            argp_error(state,
                       "--source: '%s' is none of database, websocket, frontend, system, "
                       "internal",
                       value);
        if (key == PUB_USER_ID)
            check_user_id(state, value);
        take_once(state, places[key - PUB_TYPE], value);
        return 0;
    }
}

static const struct argp_child children[] = { { &fan__common_argp, 0, NULL, 0 }, { 0 } };

static const struct argp pub_argp = {
    options,
    parse,
    NULL,
    "Publishes one event, or a file of them, and says what was stored and what was refused.\v"
    "An event without an id is given one before it is sent, so that a lost connection is tried "
    "again and nothing is stored twice.",
    children,
    NULL,
    NULL,
};

/* ---- One event ---- */

/* Reads a payload; false, and said, when it cannot be read or is too long for any server. */
static bool read_file(const char *path, struct fan__text *text)
{
    bool is_input = strcmp(path, "-") == 0;
    int descriptor = is_input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count = descriptor < 0 ? -1 : 1;
    while (count > 0 && text->size <= FAN__LINE_SIZE_MAX) {
        if (fan__wait_readable(descriptor, -1) == FAN__INTERRUPTED)
            break;
        char *place = fan__text_reserve(text, 65536);
        count = read(descriptor, place, 65536);
        if (count > 0)
            text->size += (size_t)count;
    }
    if (count < 0)
        fan__say("%s: %s", path, strerror(errno));
    else if (count > 0 && !fan__interrupted())
        fan__say("%s: is longer than %zu MiB", path, FAN__LINE_SIZE_MAX >> 20);
    if (descriptor >= 0 && !is_input)
        close(descriptor);
    return count == 0;
}

/*
 * Refuses what is not one JSON value before it is put into another: it could otherwise pass for
 * more than a value.
 */
static bool check_json(const char *field, struct fan_str text)
{
    json_error_t error;
    size_t flags = JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL;
    json_t *value = json_loadb(text.data ? text.data : "", text.size, flags, &error);
    if (!value) {
        struct fan__text words = { NULL, 0, 0 };
        fan__text_add_shown(&words, (struct fan_str){ error.text, strlen(error.text) });
        fan__say("refused: %s: is not JSON: line %d, column %d: %s", field, error.line,
                 error.column, words.data);
        fan__text_deinit(&words);
    }
    json_decref(value);
    return value != NULL;
}

static bool add_string(struct fan__text *text, const char *name, const char *value)
{
    if (!value)
        return true;
    fan__text_add_format(text, "%s\"%s\":", text->size > 1 ? "," : "", name);
    if (fan__text_add_json(text, value))
        return true;
    fan__say("refused: %s: is not valid UTF-8", name);
    return false;
}

static bool add_json(struct fan__text *text, const char *name, struct fan_str value)
{
    if (!check_json(name, value))
        return false;
    fan__text_add_format(text, ",\"%s\":", name);
    fan__text_add(text, value.data, value.size);
    return true;
}

static bool build(const struct pub *pub, struct fan__text *text)
{
    struct fan__text payload = { NULL, 0, 0 };
    fan__text_add_text(text, "{");
    bool good = add_string(text, "type", pub->type) && add_string(text, "topic", pub->topic) &&
                add_string(text, "source", pub->source) && add_string(text, "id", pub->id);
    if (good && pub->user_id)
        fan__text_add_format(text, ",\"user_id\":%lld", strtoll(pub->user_id, NULL, 10));
    if (good && pub->metadata)
        good = add_json(text, "metadata", (struct fan_str){ pub->metadata, strlen(pub->metadata) });
    if (good && pub->data)
        good = add_json(text, "payload", (struct fan_str){ pub->data, strlen(pub->data) });
    if (good && pub->file)
        good = read_file(pub->file, &payload) &&
               add_json(text, "payload", (struct fan_str){ payload.data, payload.size });
    fan__text_add_text(text, "}");
    fan__text_deinit(&payload);
    return good;
}

static bool publish_one(const struct pub *pub, struct fan__outbox *outbox)
{
    struct fan__text text = { NULL, 0, 0 };
    outbox->single = true;
    bool good = build(pub, &text);
    if (good) {
        fan__outbox_add(outbox, 0, (struct fan_str){ text.data, text.size });
        good = fan__outbox_deliver(outbox) == FAN__DELIVERED && outbox->refused == 0;
        if (outbox->count > 0 && outbox->lines[0].was_unsure)
            fan__say("whether it is stored is not known");
    }
    fan__text_deinit(&text);
    return good;
}

/* ---- Many events ---- */

static bool is_blank(struct fan_str line)
{
    for (size_t i = 0; i < line.size; i++)
        if (line.data[i] != ' ' && line.data[i] != '\t' && line.data[i] != '\r')
            return false;
    return true;
}

static enum fan__delivery deliver(struct fan__outbox *outbox, const struct fan__lines *lines,
                                  uint64_t total_size)
{
    enum fan__delivery delivery = fan__outbox_deliver(outbox);
    fan__progress(outbox->stored + outbox->duplicates + outbox->refused, lines->bytes_read,
                  total_size);
    return delivery;
}

/* Reads and sends to the end. */
static enum fan__delivery publish_lines(struct fan__outbox *outbox, struct fan__lines *lines,
                                        uint64_t total_size)
{
    enum fan__delivery delivery = FAN__DELIVERED;
    while (delivery == FAN__DELIVERED && !outbox->output_failed) {
        struct fan_str line;
        switch (fan__lines_next(lines, outbox->count == 0, &line)) {
        case FAN__LINE:
            if (is_blank(line))
                break;
            if (fan__outbox_is_full(outbox, line.size))
                delivery = deliver(outbox, lines, total_size);
            if (delivery == FAN__DELIVERED)
                fan__outbox_add(outbox, lines->number, line);
            else
                lines->number--;
            break;
        case FAN__LINE_TOO_LONG:
            fan__outbox_refuse(outbox, lines->number, "", "is longer than 16 MiB");
            break;
        case FAN__LINE_NOT_YET:
            delivery = deliver(outbox, lines, total_size);
            break;
        case FAN__LINES_END:
            return deliver(outbox, lines, total_size);
        case FAN__LINES_FAILED:
            fan__say("line %" PRIu64 ": %s", lines->number + 1, strerror(errno));
            delivery = deliver(outbox, lines, total_size);
            return delivery == FAN__DELIVERED ? FAN__GAVE_UP : delivery;
        case FAN__LINES_STOPPED:
            return FAN__CUT_SHORT;
        }
    }
    return outbox->output_failed ? FAN__GAVE_UP : delivery;
}

static void leave_rest(const struct pub *pub, const struct fan__outbox *outbox)
{
    int descriptor = open(pub->rest, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool good = descriptor >= 0;
    for (size_t written = 0; good && written < outbox->text.size;) {
        ssize_t count = write(descriptor, outbox->text.data + written, outbox->text.size - written);
        good = count > 0 || errno == EINTR;
        written += count > 0 ? (size_t)count : 0;
    }
    if (descriptor >= 0 && close(descriptor) != 0)
        good = false;
    if (good)
        fan__say("what has no answer is in %s, with its ids", pub->rest);
    else
        fan__say("%s: %s", pub->rest, strerror(errno));
}

static void tell_owed(const struct pub *pub, const struct fan__outbox *outbox, uint64_t number)
{
    if (outbox->count > 0) {
        fan__say("%zu lines, from line %" PRIu64 " on, have no answer: not known to be stored",
                 outbox->count, outbox->lines[0].number);
        if (pub->rest)
            leave_rest(pub, outbox);
    }
    fan__say("stopped behind line %" PRIu64, number);
}

static void tell_sums(const struct fan__outbox *outbox)
{
    struct fan__text text = { NULL, 0, 0 };
    if (outbox->json)
        fan__text_add_format(&text,
                             "{\"stored\":%" PRIu64 ",\"duplicates\":%" PRIu64
                             ",\"refused\":%" PRIu64 ",\"unanswered\":%zu}\n",
                             outbox->stored, outbox->duplicates, outbox->refused, outbox->count);
    else
        fan__text_add_format(&text,
                             "stored %" PRIu64 ", there already %" PRIu64 ", refused %" PRIu64
                             ", without an answer %zu\n",
                             outbox->stored, outbox->duplicates, outbox->refused, outbox->count);
    /* It failed before if it fails now, and that was said. */
    (void)fan__print(&text);
    fan__text_deinit(&text);
}

static bool publish_many(const struct pub *pub, struct fan__outbox *outbox)
{
    bool is_input = strcmp(pub->ndjson, "-") == 0;
    int descriptor = is_input ? STDIN_FILENO : open(pub->ndjson, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (descriptor < 0 || fstat(descriptor, &status) != 0) {
        fan__say("%s: %s", pub->ndjson, strerror(errno));
        if (descriptor >= 0)
            close(descriptor);
        return false;
    }
    uint64_t total_size = S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0;
    struct fan__lines lines;
    fan__lines_init(&lines, descriptor);
    enum fan__delivery delivery = publish_lines(outbox, &lines, total_size);
    fan__progress_end();
    if (delivery != FAN__DELIVERED)
        tell_owed(pub, outbox, lines.number);
    tell_sums(outbox);
    fan__lines_deinit(&lines);
    if (!is_input)
        close(descriptor);
    return delivery == FAN__DELIVERED && outbox->refused == 0;
}

int fan__cli_pub(struct fan__common *common, int argc, char **argv)
{
    struct pub pub = { .common = common, .retries = TRIES, .silence_s = SILENCE_S };
    argp_parse(&pub_argp, argc, argv, 0, NULL, &pub);
    struct fan__client *client = fan__client_new(common->url);
    if (!client)
        return FAN__EXIT_USAGE;
    struct fan__outbox *outbox = fan__cli_resize(NULL, 1, sizeof(*outbox));
    fan__outbox_init(outbox, client);
    outbox->json = pub.json;
    outbox->tries_max = pub.retries;
    outbox->silence_ms = (int64_t)pub.silence_s * 1000;
    bool good = pub.ndjson ? publish_many(&pub, outbox) : publish_one(&pub, outbox);
    good = good && !outbox->output_failed;
    fan__outbox_deinit(outbox);
    free(outbox);
    fan__client_free(client);
    return good ? FAN__EXIT_OK : FAN__EXIT_FAILED;
}
