/*
 * tail: follows the log over server-sent events, across lost connections and restarts.
 *
 *     connecting --200--> streaming --end, cut or silence--> waiting --retry: and jitter-->
 * connecting |                   | refused: exit 1     --count reached, or a signal: exit 0, and
 * the cursor to go on from
 *
 * The place is that of the last event whose line was written as a whole. Each connection asks for
 * what follows it, so nothing comes twice and nothing is left out; what the log itself no longer
 * has, the server tells as a gap. Only a tail that is live from its start, and loses its first
 * connection before the server has named a place, must begin anew: it says so.
 */
#include "cli/cli.h"
#include "cli/slice.h"
#include "cli/sse.h"
#include "cli/wait.h"

#include <fanfare/cursor.h>
#include <fanfare/pattern.h>

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RETRY_MS 2000
#define RETRY_MS_MAX 30000
/* The server says something every 15 s; three times nothing is a dead line. */
#define SILENCE_S 45
#define FLUSH_SIZE ((size_t)64 << 10)

enum {
    TAIL_TOPIC = 0x100,
    TAIL_TYPE,
    TAIL_AFTER,
    TAIL_FROM_START,
    TAIL_COUNT,
    TAIL_JSON,
    TAIL_SILENCE
};

struct tail {
    struct fan__common *common;
    const char *topic;
    const char *type;
    const char *after;
    uint64_t count;
    uint64_t silence_s;
    bool json;

    struct fan__client *client;
    struct fan__sse sse;
    struct fan__backoff backoff;
    /* The last event that was written, and where that stands. */
    struct fan__text place;
    struct fan_cursor seen;
    uint64_t shown;
    /* Lines that wait to be written, and their ids, each with its NUL. */
    struct fan__text out;
    struct fan__text out_ids;
    bool connected;
    bool was_connected;
    bool too_long;
    bool output_failed;
};

static const struct argp_option options[] = {
    { "topic", TAIL_TOPIC, "TOPIC", 0, "Of one topic", 1 },
    { "type", TAIL_TYPE, "PATTERN", 0, "Of types that match: `*` is a segment, a last `>` more",
      1 },
    { "after", TAIL_AFTER, "CURSOR", 0, "What follows SEQ@EPOCH, or SEQ", 2 },
    { "from-start", TAIL_FROM_START, NULL, 0, "All that the log has (else only what comes)", 2 },
    { "count", TAIL_COUNT, "N", 0, "End after so many events", 2 },
    { "silence", TAIL_SILENCE, "SECONDS", 0,
      "Connect anew when the server says nothing for so long (45)", 3 },
    { "json", TAIL_JSON, NULL, 0, "One event a line, as JSON; {\"gap\":{...}} where some were lost",
      3 },
    { 0 },
};

static void take_after(struct tail *tail, struct argp_state *state, const char *value)
{
    struct fan_error error;
    if (tail->after)
        argp_error(state, "one of --after and --from-start, not both");
    if (fan_cursor_parse(value, &tail->seen, &error) != FAN_OK)
        argp_error(state, "--after: the cursor '%s' %s", value, error.message);
    tail->after = value;
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct tail *tail = state->input;
    struct fan_error error;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = tail->common;
        return 0;
    case TAIL_TOPIC:
        tail->topic = value;
        return 0;
    case TAIL_TYPE:
        if (fan_pattern_check(value, &error) != FAN_OK)
            argp_error(state, "--type: the pattern '%s' %s", value, error.message);
        tail->type = value;
        return 0;
    case TAIL_AFTER:
        take_after(tail, state, value);
        return 0;
    case TAIL_FROM_START:
        take_after(tail, state, "0");
        return 0;
    case TAIL_COUNT:
        tail->count = fan__read_number(state, "count", value, 1, UINT64_MAX);
        return 0;
    case TAIL_SILENCE:
        tail->silence_s = fan__read_number(state, "silence", value, 1, 86400);
        return 0;
    case TAIL_JSON:
        tail->json = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "what is '%s'? Use --topic or --type", value);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = { { &fan__common_argp, 0, NULL, 0 }, { 0 } };

static const struct argp tail_argp = {
    options,
    parse,
    NULL,
    "Follows events as they come, across lost connections and restarts of the server.\v"
    "Ctrl-C ends it and says on standard error which cursor to go on from (--after).",
    children,
    NULL,
    NULL,
};

static void set_place(struct tail *tail, const char *id)
{
    if (*id == '\0')
        return;
    fan__text_clear(&tail->place);
    fan__text_add_text(&tail->place, id);
}

/* Writes what waits. When that fails half-way, the place is behind the last whole line. */
static bool flush(struct tail *tail)
{
    if (tail->out.size == 0)
        return true;
    size_t written = fan__write_all(STDOUT_FILENO, tail->out.data, tail->out.size);
    if (written < tail->out.size) {
        if (!fan__interrupted())
            fan__say("standard output: %s", strerror(errno));
        tail->output_failed = true;
    }
    const char *id = tail->out_ids.data;
    const char *last = "";
    for (size_t i = 0; i < written; i++) {
        if (tail->out.data[i] != '\n')
            continue;
        last = id;
        id += strlen(id) + 1;
    }
    set_place(tail, last);
    fan__text_clear(&tail->out);
    fan__text_clear(&tail->out_ids);
    return !tail->output_failed;
}

static bool end_line(struct tail *tail, const char *id)
{
    fan__text_add_text(&tail->out, "\n");
    fan__text_add(&tail->out_ids, id, strlen(id) + 1);
    return tail->out.size < FLUSH_SIZE || flush(tail);
}

static void add_number(struct fan__text *text, const json_t *gap, const char *name)
{
    const json_t *value = json_object_get(gap, name);
    if (json_is_integer(value))
        fan__text_add_format(text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else
        fan__text_add_text(text, "?");
}

static void say_gap(const json_t *gap)
{
    struct fan__text words = { NULL, 0, 0 };
    const char *reason = json_string_value(json_object_get(gap, "reason"));
    if (reason && strcmp(reason, "epoch") == 0) {
        fan__text_add_text(&words, "gap: the log is another one than that of the cursor; what "
                                   "followed sequence ");
        add_number(&words, gap, "after");
        fan__text_add_text(&words, " there is lost, the next here is ");
        add_number(&words, gap, "before");
    } else {
        fan__text_add_text(&words, "gap: ");
        if (json_is_integer(json_object_get(gap, "count")))
            add_number(&words, gap, "count");
        else
            fan__text_add_text(&words, "an unknown number of");
        fan__text_add_text(&words, " events lost between ");
        add_number(&words, gap, "after");
        fan__text_add_text(&words, " and ");
        add_number(&words, gap, "before");
        fan__text_add_text(&words, " (");
        fan__text_add_shown(&words,
                            (struct fan_str){ reason ? reason : "?", reason ? strlen(reason) : 1 });
        fan__text_add_text(&words, ")");
    }
    fan__say("%s", words.data);
    fan__text_deinit(&words);
}

/* In its place among the events: what came before it is written first. */
static bool take_gap(struct tail *tail, const struct fan__sse_frame *frame)
{
    json_t *gap = json_loadb(frame->data.data, frame->data.size, 0, NULL);
    if (!json_is_object(gap)) {
        fan__say("the server tells of a gap in words that make no sense");
        json_decref(gap);
        return true;
    }
    bool more = true;
    if (tail->json) {
        fan__text_add_text(&tail->out, "{\"gap\":");
        fan__text_add_one_line(&tail->out, frame->data);
        fan__text_add_text(&tail->out, "}");
        more = end_line(tail, frame->id);
    } else {
        more = flush(tail);
        say_gap(gap);
    }
    json_decref(gap);
    return more;
}

static void add_member(struct fan__text *text, const json_t *event, const char *name)
{
    const json_t *value = json_object_get(event, name);
    if (json_is_string(value))
        fan__text_add_shown(
            text, (struct fan_str){ json_string_value(value), json_string_length(value) });
}

static unsigned count_columns(const char *line)
{
    unsigned count = 0;
    bool escape = false;
    for (; *line; line++) {
        if (*line == '\x1b')
            escape = true;
        else if (escape)
            escape = *line != 'm';
        else if (((unsigned char)*line & 0xc0) != 0x80)
            count++;
    }
    return count;
}

/* `SEQ  TIME  TYPE  TOPIC  PAYLOAD`, cut to the terminal's width if there is one. */
static void add_human(struct tail *tail, const struct fan__sse_frame *frame)
{
    json_t *event = json_loadb(frame->data.data, frame->data.size, JSON_DECODE_INT_AS_REAL, NULL);
    struct fan__text line = { NULL, 0, 0 };
    struct fan_str payload = { "", 0 };
    struct fan_cursor cursor = { 0, 0 };
    if (fan_cursor_parse(frame->id, &cursor, NULL) == FAN_OK)
        fan__text_add_format(&line, "%s%" PRIu64 "  ", fan__colour("dim"), cursor.seq);
    add_member(&line, event, "created_at");
    fan__text_add_format(&line, "%s  %s", fan__colour("off"), fan__colour("cyan"));
    fan__text_add_shown(&line, (struct fan_str){ frame->event, strlen(frame->event) });
    fan__text_add_format(&line, "%s  %s", fan__colour("off"), fan__colour("yellow"));
    add_member(&line, event, "topic");
    fan__text_add_format(&line, "%s  ", fan__colour("off"));
    if (json_is_object(event))
        fan__slice_find(frame->data, "payload", &payload);
    unsigned columns = fan__columns();
    unsigned used = count_columns(line.data);
    if (columns > 0)
        fan__text_add_fitting(&line, payload, columns > used ? columns - used : 1);
    else
        fan__text_add_shown(&line, payload);
    fan__text_add(&tail->out, line.data, line.size);
    fan__text_deinit(&line);
    json_decref(event);
}

/* Whether the server repeats what this tail has had. It must not, so it is said. */
static bool is_repeated(struct tail *tail, const struct fan__sse_frame *frame)
{
    struct fan_cursor cursor;
    if (fan_cursor_parse(frame->id, &cursor, NULL) != FAN_OK)
        return false;
    bool same_log = cursor.epoch == tail->seen.epoch && cursor.epoch != 0;
    if (same_log && cursor.seq <= tail->seen.seq) {
        fan__say("the server sends %s again after %" PRIu64 "; left out", frame->id,
                 tail->seen.seq);
        return true;
    }
    tail->seen = cursor;
    return false;
}

static bool on_frame(void *context, const struct fan__sse_frame *frame)
{
    struct tail *tail = context;
    if (strcmp(frame->event, "fanfare.gap") == 0)
        return take_gap(tail, frame);
    if (is_repeated(tail, frame))
        return true;
    if (tail->json)
        fan__text_add_one_line(&tail->out, frame->data);
    else
        add_human(tail, frame);
    tail->shown++;
    return end_line(tail, frame->id) && (tail->count == 0 || tail->shown < tail->count);
}

static bool on_piece(void *context, const char *bytes, size_t size)
{
    struct tail *tail = context;
    tail->connected = true;
    tail->was_connected = true;
    tail->backoff.tries = 0;
    enum fan__sse_result result = fan__sse_feed(&tail->sse, bytes, size);
    tail->too_long = result == FAN__SSE_TOO_LONG;
    if (!flush(tail) || tail->output_failed)
        return false;
    /* All that came is written, so the stream's own place is ours, without an event too. */
    set_place(tail, tail->sse.last_id.data);
    return result == FAN__SSE_MORE;
}

static void connect_once(struct tail *tail, struct fan__answer *answer)
{
    struct fan__text target = { NULL, 0, 0 };
    fan__text_add_text(&target, "/v1/stream");
    fan__text_add_query(&target, "topic", tail->topic);
    fan__text_add_query(&target, "type", tail->type);
    bool goes_on = tail->place.size > 0;
    if (!goes_on)
        fan__text_add_query(&target, "after", tail->after);
    struct fan__call call = {
        .target = target.data,
        .accept = "text/event-stream",
        .last_event_id = goes_on ? tail->place.data : NULL,
        .piece_type = "text/event-stream",
        .piece = on_piece,
        .context = tail,
        .silence_ms = (int64_t)tail->silence_s * 1000,
    };
    tail->connected = false;
    fan__sse_begin(&tail->sse);
    fan__client_call(tail->client, &call, answer);
    fan__text_deinit(&target);
}

/* What to make of the end of a connection: -1 to connect anew, else the exit code. */
static int judge(struct tail *tail, const struct fan__answer *answer)
{
    if (tail->output_failed)
        return fan__interrupted() ? FAN__EXIT_OK : FAN__EXIT_FAILED;
    if (tail->too_long) {
        fan__say("the server sends an event of more than %zu MiB", FAN__SSE_SIZE_MAX >> 20);
        return FAN__EXIT_FAILED;
    }
    switch (answer->outcome) {
    case FAN__STOPPED:
    case FAN__HUNG_UP:
        return FAN__EXIT_OK;
    case FAN__UNREACHED:
        if (tail->was_connected)
            return -1;
        fan__say_answer(tail->client, answer);
        return FAN__EXIT_FAILED;
    case FAN__LOST:
        return -1;
    case FAN__ANSWERED:
        break;
    }
    if (answer->status == 200 && strcmp(answer->type, "text/event-stream") == 0)
        return -1;
    if (answer->status == 200 || answer->status == 204) {
        fan__say("%s answers %ld, but with no stream of events: is it a Fanfare server?",
                 fan__client_url(tail->client), answer->status);
        return FAN__EXIT_FAILED;
    }
    if (fan__answer_is_passing(answer))
        return -1;
    fan__say_answer(tail->client, answer);
    return FAN__EXIT_FAILED;
}

/* False when a signal ended the wait. */
static bool wait_before_next(struct tail *tail, const struct fan__answer *answer)
{
    struct fan__text why = { NULL, 0, 0 };
    tail->backoff.base_ms = tail->sse.retry_ms >= 0 ? tail->sse.retry_ms : RETRY_MS;
    int64_t pause_ms = fan__backoff_next(&tail->backoff, answer->retry_after_ms);
    if (answer->outcome == FAN__ANSWERED && answer->status == 200)
        fan__text_add_text(&why, "the server ended the stream");
    else if (answer->outcome == FAN__ANSWERED)
        fan__answer_describe(answer, &why);
    else
        fan__text_add_text(&why, answer->why);
    fan__say("%s; trying again in %.1f s", why.data, (double)pause_ms / 1000);
    if (tail->was_connected && tail->place.size == 0 && !tail->after)
        fan__say("no event has come yet: what is published until then will not be seen");
    fan__text_deinit(&why);
    return fan__wait_ms(pause_ms);
}

static int follow(struct tail *tail)
{
    struct fan__answer answer = { .status = 0 };
    int code;
    do {
        connect_once(tail, &answer);
        code = judge(tail, &answer);
        if (code < 0 && !wait_before_next(tail, &answer))
            code = FAN__EXIT_OK;
    } while (code < 0);
    fan__answer_deinit(&answer);
    return code;
}

int fan__cli_tail(struct fan__common *common, int argc, char **argv)
{
    struct tail tail = { .common = common, .silence_s = SILENCE_S };
    argp_parse(&tail_argp, argc, argv, 0, NULL, &tail);
    tail.client = fan__client_new(common->url);
    if (!tail.client)
        return FAN__EXIT_USAGE;
    tail.backoff.cap_ms = RETRY_MS_MAX;
    fan__sse_init(&tail.sse, on_frame, &tail);
    int code = follow(&tail);
    const char *place = tail.place.size > 0 ? tail.place.data : tail.after;
    if (place)
        fan__say("go on with --after %s", place);
    fan__sse_deinit(&tail.sse);
    fan__text_deinit(&tail.place);
    fan__text_deinit(&tail.out);
    fan__text_deinit(&tail.out_ids);
    fan__client_free(tail.client);
    return code;
}
