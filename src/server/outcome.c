/* See outcome.h. */
#include "server/outcome.h"

#include "event/json.h"
#include "server/reply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void fan__outcome_init(struct fan__outcome *outcome, const struct fan_env *env,
                       const struct fan__http_request *request)
{
    *outcome = (struct fan__outcome){
        .as_lines = fan__reply_header_has(request, "Accept", "application/x-ndjson"),
        .minimal = fan__reply_header_has(request, "Prefer", "return=minimal"),
    };
    fan__buffer_init(&outcome->results, env);
}

void fan__outcome_deinit(struct fan__outcome *outcome)
{
    fan__buffer_deinit(&outcome->results);
}

static void add_string(struct fan__buffer *json, const char *text)
{
    fan__json_add_string(json, (struct fan_str){ text, strlen(text) });
}

void fan__outcome_write(struct fan__buffer *json, const struct fan__accepted *accepted)
{
    char cursor[FAN_CURSOR_TEXT_SIZE];
    char numbers[2 * FAN_CURSOR_TEXT_SIZE];
    fan_cursor_format(&accepted->cursor, cursor);
    snprintf(numbers, sizeof(numbers), ",\"seq\":%" PRIu64 ",\"cursor\":\"%s\"",
             accepted->cursor.seq, cursor);
    fan__buffer_add_text(json, "\"id\":");
    add_string(json, accepted->id);
    fan__buffer_add_text(json, numbers);
    fan__buffer_add_text(json, accepted->duplicate ? ",\"duplicate\":true}" : "}");
}

/* Opens the result of one event; false when it is not to be listed. */
static bool begin(struct fan__outcome *outcome, uint64_t number)
{
    struct fan__buffer *results = &outcome->results;
    if (results->size > FAN__OUTCOME_SIZE_MAX) {
        outcome->unlisted++;
        return false;
    }
    char text[40];
    const char *between = results->size == 0 || outcome->as_lines ? "" : ",";
    snprintf(text, sizeof(text), "%s\n{\"line\":%" PRIu64 ",", between, number);
    fan__buffer_add_text(results, outcome->as_lines ? text + 1 : text);
    return true;
}

static void end(struct fan__outcome *outcome)
{
    if (outcome->as_lines)
        fan__buffer_add(&outcome->results, "\n", 1);
}

void fan__outcome_accept(struct fan__outcome *outcome, uint64_t number,
                         const struct fan__accepted *accepted)
{
    if (accepted->duplicate)
        outcome->duplicates++;
    else
        outcome->stored++;
    if (outcome->minimal || !begin(outcome, number))
        return;
    fan__outcome_write(&outcome->results, accepted);
    end(outcome);
}

void fan__outcome_refuse(struct fan__outcome *outcome, uint64_t number, unsigned http_status,
                         const char *field, const char *reason)
{
    outcome->refused++;
    if (!begin(outcome, number))
        return;
    fan__buffer_add_format(&outcome->results, "\"error\":{\"status\":%u,\"field\":", http_status);
    add_string(&outcome->results, field);
    fan__buffer_add_text(&outcome->results, ",\"reason\":");
    add_string(&outcome->results, reason);
    fan__buffer_add_text(&outcome->results, "}}");
    end(outcome);
}

static void write_totals(struct fan__outcome *outcome, struct fan__buffer *json)
{
    fan__buffer_add_format(
        json, "{\"stored\":%" PRIu64 ",\"duplicates\":%" PRIu64 ",\"refused\":%" PRIu64,
        outcome->stored, outcome->duplicates, outcome->refused);
    if (outcome->unlisted > 0)
        fan__buffer_add_format(json, ",\"unlisted\":%" PRIu64, outcome->unlisted);
}

void fan__outcome_answer(struct fan__outcome *outcome, struct fan__http_request *request)
{
    struct fan__buffer *results = &outcome->results;
    if (outcome->as_lines) {
        write_totals(outcome, results);
        fan__buffer_add_text(results, "}\n");
        if (results->failed)
            fan__reply_busy(request, NULL, "out of memory");
        else
            fan__http_answer(request, 200, "application/x-ndjson", results->data, results->size);
        return;
    }
    struct fan__buffer json;
    fan__buffer_init(&json, results->env);
    write_totals(outcome, &json);
    fan__buffer_add_text(&json, ",\"results\":[");
    fan__buffer_add(&json, results->data, results->size);
    fan__buffer_add_text(&json, "]}\n");
    json.failed = json.failed || results->failed;
    fan__reply_json(request, 200, &json);
    fan__buffer_deinit(&json);
}
