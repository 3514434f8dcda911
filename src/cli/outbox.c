/*
 * One request at a time, so that events keep their order. The answer is read line by line as it
 * comes: when the connection breaks in its middle, only what has no answer is sent again.
 */
#include "cli/outbox.h"

#include "cli/prepare.h"
#include "cli/say.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BACKOFF_MS 200
#define BACKOFF_MS_MAX 10000
#define RETRY_AFTER_MS_MAX 300000
#define ANSWER_LINE_SIZE_MAX ((size_t)64 << 10)
/* Bytes that an id and a source in front of a line may take. */
#define PREPARED_SIZE 128

void fan__outbox_init(struct fan__outbox *outbox, struct fan__client *client)
{
    *outbox = (struct fan__outbox){
        .client = client,
        .backoff = { BACKOFF_MS, BACKOFF_MS_MAX, 0 },
        .lines_at_once = FAN__OUTBOX_LINES_MAX,
    };
}

void fan__outbox_deinit(struct fan__outbox *outbox)
{
    fan__text_deinit(&outbox->text);
    fan__text_deinit(&outbox->answer_line);
    fan__text_deinit(&outbox->out);
}

bool fan__outbox_is_full(const struct fan__outbox *outbox, size_t size)
{
    return outbox->count == FAN__OUTBOX_LINES_MAX ||
           (outbox->count > 0 && outbox->text.size + size + PREPARED_SIZE > FAN__OUTBOX_SIZE_MAX);
}

static void print_out(struct fan__outbox *outbox)
{
    if (!fan__print(&outbox->out))
        outbox->output_failed = true;
}

void fan__outbox_refuse(struct fan__outbox *outbox, uint64_t number, const char *field,
                        const char *reason)
{
    outbox->refused++;
    struct fan__text words = { NULL, 0, 0 };
    if (outbox->json) {
        fan__text_add_text(&outbox->out, "{");
        if (!outbox->single)
            fan__text_add_format(&outbox->out, "\"line\":%" PRIu64 ",", number);
        fan__text_add_text(&outbox->out, "\"error\":{\"field\":");
        if (!fan__text_add_json(&outbox->out, field))
            fan__text_add_text(&outbox->out, "\"\"");
        fan__text_add_text(&outbox->out, ",\"reason\":");
        fan__text_add_shown(&words, (struct fan_str){ reason, strlen(reason) });
        if (!fan__text_add_json(&outbox->out, words.data))
            fan__text_add_text(&outbox->out, "\"no UTF-8\"");
        fan__text_add_text(&outbox->out, "}}\n");
        print_out(outbox);
    } else {
        fan__text_add_text(&words, "");
        if (!outbox->single)
            fan__text_add_format(&words, "line %" PRIu64 ": ", number);
        fan__text_add_text(&words, "refused: ");
        fan__text_add_shown(&words, (struct fan_str){ field, strlen(field) });
        if (*field)
            fan__text_add_text(&words, ": ");
        fan__text_add_shown(&words, (struct fan_str){ reason, strlen(reason) });
        fan__say("%s", words.data);
    }
    fan__text_deinit(&words);
}

void fan__outbox_add(struct fan__outbox *outbox, uint64_t number, struct fan_str line)
{
    struct fan__owed *owed = &outbox->lines[outbox->count];
    char reason[256];
    size_t before = outbox->text.size;
    *owed = (struct fan__owed){ .number = number };
    if (!fan__prepare(&outbox->text, line, &owed->has_own_id, reason)) {
        fan__outbox_refuse(outbox, number, "", reason);
        return;
    }
    fan__text_add_text(&outbox->text, "\n");
    owed->size = outbox->text.size - before;
    outbox->count++;
}

/* ---- Answers ---- */

static void tell_stored(struct fan__outbox *outbox, const struct fan__owed *owed,
                        const json_t *result, bool was_there)
{
    struct fan__text *out = &outbox->out;
    const char *id = json_string_value(json_object_get(result, "id"));
    const char *cursor = json_string_value(json_object_get(result, "cursor"));
    json_int_t seq = json_integer_value(json_object_get(result, "seq"));
    if (outbox->json) {
        fan__text_add_text(out, "{");
        if (!outbox->single)
            fan__text_add_format(out, "\"line\":%" PRIu64 ",", owed->number);
        fan__text_add_text(out, "\"id\":");
        fan__text_add_json(out, id);
        fan__text_add_format(out, ",\"seq\":%" JSON_INTEGER_FORMAT ",\"cursor\":", seq);
        fan__text_add_json(out, cursor);
        fan__text_add_text(out, was_there ? ",\"duplicate\":true}\n" : "}\n");
    } else if (outbox->single) {
        fan__text_add_text(out, was_there ? "there already " : "stored ");
        fan__text_add_shown(out, (struct fan_str){ id, strlen(id) });
        fan__text_add_text(out, " ");
        fan__text_add_shown(out, (struct fan_str){ cursor, strlen(cursor) });
        fan__text_add_text(out, "\n");
    }
}

static void settle(struct fan__outbox *outbox, struct fan__owed *owed)
{
    owed->done = true;
    outbox->settled++;
}

/* The server keeps a line for later tries by naming a status that passes. */
static bool is_passing_error(const json_t *error)
{
    struct fan__answer answer = { .status = json_integer_value(json_object_get(error, "status")) };
    return fan__answer_is_passing(&answer);
}

/* False when it is none that makes sense. */
static bool take_result(struct fan__outbox *outbox, struct fan__owed *owed, const json_t *result)
{
    const json_t *error = json_object_get(result, "error");
    if (json_is_object(error)) {
        const char *field = json_string_value(json_object_get(error, "field"));
        const char *reason = json_string_value(json_object_get(error, "reason"));
        if (is_passing_error(error))
            return true;
        fan__outbox_refuse(outbox, owed->number, field ? field : "",
                           reason ? reason : "no reason given");
        settle(outbox, owed);
        return true;
    }
    if (!json_is_string(json_object_get(result, "id")) ||
        !json_is_integer(json_object_get(result, "seq")) ||
        !json_is_string(json_object_get(result, "cursor")))
        return false;
    bool was_there = json_is_true(json_object_get(result, "duplicate")) && !owed->has_own_id &&
                     !owed->was_unsure;
    if (was_there)
        outbox->duplicates++;
    else
        outbox->stored++;
    tell_stored(outbox, owed, result, was_there);
    settle(outbox, owed);
    return true;
}

/* One line of the answer: a result for each line in turn, and the sums at last. */
static bool take_answer_line(struct fan__outbox *outbox)
{
    struct fan__text *line = &outbox->answer_line;
    if (outbox->answer_ended)
        return false;
    json_t *result = json_loadb(line->data, line->size, 0, NULL);
    const json_t *number = json_object_get(result, "line");
    bool good;
    if (json_is_integer(number)) {
        good = outbox->answered < outbox->asked &&
               json_integer_value(number) == (json_int_t)outbox->answered + 1 &&
               take_result(outbox, &outbox->lines[outbox->answered], result);
        outbox->answered++;
    } else {
        good =
            json_is_integer(json_object_get(result, "stored")) && outbox->answered == outbox->asked;
        outbox->answer_ended = true;
    }
    json_decref(result);
    return good;
}

static bool on_piece(void *context, const char *bytes, size_t size)
{
    struct fan__outbox *outbox = context;
    const char *end = bytes + size;
    while (bytes < end) {
        const char *stop = memchr(bytes, '\n', (size_t)(end - bytes));
        fan__text_add(&outbox->answer_line, bytes, (size_t)((stop ? stop : end) - bytes));
        if (outbox->answer_line.size > ANSWER_LINE_SIZE_MAX)
            outbox->answer_broken = true;
        if (outbox->answer_broken || !stop)
            break;
        if (!take_answer_line(outbox))
            outbox->answer_broken = true;
        fan__text_clear(&outbox->answer_line);
        bytes = stop + 1;
    }
    if (outbox->out.size > 0)
        print_out(outbox);
    return !outbox->answer_broken && !outbox->output_failed;
}

/* ---- Requests ---- */

static void send_once(struct fan__outbox *outbox, struct fan__answer *answer)
{
    size_t size = 0;
    outbox->asked = 0;
    while (outbox->asked < outbox->count && outbox->asked < outbox->lines_at_once)
        size += outbox->lines[outbox->asked++].size;
    outbox->answered = outbox->settled = 0;
    outbox->answer_ended = outbox->answer_broken = false;
    fan__text_clear(&outbox->answer_line);
    struct fan__call call = {
        .target = "/v1/events",
        .body = { outbox->text.data, size },
        .content_type = "application/x-ndjson",
        .accept = "application/x-ndjson",
        .piece_type = "application/x-ndjson",
        .piece = on_piece,
        .context = outbox,
        .silence_ms = outbox->silence_ms,
    };
    if (outbox->single) {
        call.content_type = call.accept = "application/json";
        call.piece = NULL;
    }
    fan__client_call(outbox->client, &call, answer);
    outbox->server_was_there |= answer->outcome != FAN__UNREACHED;
}

static void read_single(struct fan__outbox *outbox, const struct fan__answer *answer)
{
    json_t *result = NULL;
    if (strcmp(answer->type, "application/json") == 0 && answer->body.size > 0)
        result = json_loadb(answer->body.data, answer->body.size, 0, NULL);
    outbox->answer_ended = take_result(outbox, &outbox->lines[0], result);
    outbox->answer_broken = !outbox->answer_ended;
    json_decref(result);
    print_out(outbox);
}

/* Takes out what is done. */
static void compact(struct fan__outbox *outbox)
{
    size_t from = 0;
    size_t to = 0;
    size_t kept = 0;
    for (size_t i = 0; i < outbox->count; i++) {
        struct fan__owed owed = outbox->lines[i];
        if (!owed.done) {
            memmove(outbox->text.data + to, outbox->text.data + from, owed.size);
            to += owed.size;
            outbox->lines[kept++] = owed;
        }
        from += owed.size;
    }
    outbox->text.size = to;
    outbox->count = kept;
}

/* A whole request was refused: the fault of one line if it is of this kind. */
static bool blames_a_line(long status)
{
    return status == 400 || status == 409 || status == 410 || status == 413 || status == 422;
}

static void refuse_first(struct fan__outbox *outbox, const struct fan__answer *answer)
{
    struct fan__text words = { NULL, 0, 0 };
    fan__answer_describe(answer, &words);
    fan__outbox_refuse(outbox, outbox->lines[0].number, "", words.data);
    settle(outbox, &outbox->lines[0]);
    fan__text_deinit(&words);
}

enum verdict { ON, AGAIN, END };

/* What to do after an answer. `why` says what went wrong, for AGAIN. */
static enum verdict judge(struct fan__outbox *outbox, const struct fan__answer *answer,
                          struct fan__text *why)
{
    bool taken = answer->status == 200 || (outbox->single && answer->status == 201);
    if (outbox->answer_broken) {
        fan__text_add_text(why, "the server's answer makes no sense");
        return AGAIN;
    }
    if (answer->outcome == FAN__UNREACHED || answer->outcome == FAN__LOST) {
        if (answer->outcome == FAN__UNREACHED && !outbox->server_was_there) {
            fan__say_answer(outbox->client, answer);
            return END;
        }
        fan__text_add_text(why, answer->why);
        return AGAIN;
    }
    if (fan__answer_is_passing(answer)) {
        fan__answer_describe(answer, why);
        return AGAIN;
    }
    if (blames_a_line(answer->status)) {
        /* Smaller requests find the line, and the rest goes on. */
        outbox->lines_at_once = outbox->asked > 1 ? outbox->asked / 2 : 1;
        if (outbox->asked == 1)
            refuse_first(outbox, answer);
        return ON;
    }
    if (!taken) {
        fan__say_answer(outbox->client, answer);
        return END;
    }
    if (!outbox->answer_ended) {
        fan__text_add_text(why, "the server's answer ends early");
        return AGAIN;
    }
    if (outbox->settled < outbox->asked) {
        fan__text_add_text(why, "the server asks to come again");
        return AGAIN;
    }
    return ON;
}

/* False when there is nothing to wait for, or a signal came. */
static bool wait_before_next(struct fan__outbox *outbox, const struct fan__answer *answer,
                             const char *why)
{
    if (outbox->settled > 0)
        outbox->backoff.tries = 0;
    if (outbox->backoff.tries >= outbox->tries_max) {
        fan__say("gave up after %u tries: %s", outbox->tries_max + 1, why);
        return false;
    }
    if (answer->retry_after_ms > RETRY_AFTER_MS_MAX) {
        fan__say("gave up: the server asks to come back only in %" PRId64 " s: %s",
                 answer->retry_after_ms / 1000, why);
        return false;
    }
    int64_t pause_ms = fan__backoff_next(&outbox->backoff, answer->retry_after_ms);
    fan__say("%s; trying again in %.1f s (%u of %u)", why, (double)pause_ms / 1000,
             outbox->backoff.tries, outbox->tries_max);
    return fan__wait_ms(pause_ms);
}

static void mark_unsure(struct fan__outbox *outbox, const struct fan__answer *answer)
{
    if (answer->outcome == FAN__UNREACHED)
        return;
    for (size_t i = 0; i < outbox->asked; i++)
        outbox->lines[i].was_unsure = true;
}

enum fan__delivery fan__outbox_deliver(struct fan__outbox *outbox)
{
    struct fan__answer answer = { .status = 0 };
    struct fan__text why = { NULL, 0, 0 };
    enum fan__delivery result = FAN__DELIVERED;
    while (outbox->count > 0 && result == FAN__DELIVERED) {
        send_once(outbox, &answer);
        if (outbox->single && answer.outcome == FAN__ANSWERED &&
            (answer.status == 200 || answer.status == 201))
            read_single(outbox, &answer);
        fan__text_clear(&why);
        enum verdict verdict = END;
        if (answer.outcome != FAN__STOPPED && !outbox->output_failed)
            verdict = judge(outbox, &answer, &why);
        if (verdict == AGAIN)
            mark_unsure(outbox, &answer);
        if (verdict == END || (verdict == AGAIN && !wait_before_next(outbox, &answer, why.data)))
            result = fan__interrupted() ? FAN__CUT_SHORT : FAN__GAVE_UP;
        else if (verdict == ON)
            outbox->backoff.tries = 0;
        compact(outbox);
    }
    fan__answer_deinit(&answer);
    fan__text_deinit(&why);
    return result;
}
