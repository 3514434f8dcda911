/* See intake.h. */
#include "server/intake.h"

#include "base/env.h"
#include "server/daemon.h"

#include <string.h>

/* The members of an array are refused alone for their depth; the parser's own bound is for all. */
#define DEPTH_MAX 1024
/* Memory beyond this is not kept for the next piece. */
#define KEEP_SIZE ((size_t)256 * 1024)

void fan__intake_init(struct fan__intake *intake, const struct fan_env *env,
                      enum fan__intake_kind kind)
{
    *intake = (struct fan__intake){ .kind = kind };
    fan__buffer_init(&intake->input, env);
}

void fan__intake_deinit(struct fan__intake *intake)
{
    fan__buffer_deinit(&intake->input);
}

/* Drops what was taken, so that the buffer holds one unfinished line and what follows it. */
static void compact(struct fan__intake *intake)
{
    struct fan__buffer *input = &intake->input;
    if (intake->kind != FAN__INTAKE_LINES || intake->at == 0)
        return;
    input->size -= intake->at;
    intake->scanned -= intake->at;
    memmove(input->data, input->data + intake->at, input->size);
    intake->at = 0;
    if (input->size == 0 && input->capacity > KEEP_SIZE)
        fan__buffer_deinit(input);
}

void fan__intake_add(struct fan__intake *intake, struct fan_str bytes, bool whole)
{
    compact(intake);
    fan__buffer_add(&intake->input, bytes.data, bytes.size);
    intake->whole = intake->whole || whole;
}

static bool is_space(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

enum fan_status fan__intake_open(struct fan__intake *intake, struct fan_error *ret_error)
{
    struct fan_str text = { intake->input.data, intake->input.size };
    size_t start = 0;
    while (start < text.size && is_space(text.data[start]))
        start++;
    if (start == text.size || text.data[start] != '[')
        return FAN_OK;
    /* Whole or not at all: what is no JSON is refused before any of its members is published. */
    enum fan_status status = fan__json_check_members(text, DEPTH_MAX, "body", ret_error);
    if (status != FAN_OK)
        return status;
    intake->kind = FAN__INTAKE_ARRAY;
    fan__json_walk_init(&intake->walk, text.data + start);
    return FAN_OK;
}

/* Ends the line at `end`; false when it is blank. */
static bool take_line(struct fan__intake *intake, size_t end, struct fan_str *ret_item)
{
    const char *data = intake->input.data;
    size_t start = intake->at;
    intake->at = intake->scanned = end < intake->input.size ? end + 1 : end;
    intake->number++;
    while (start < end && is_space(data[start]))
        start++;
    while (end > start && is_space(data[end - 1]))
        end--;
    *ret_item = (struct fan_str){ data + start, end - start };
    return end > start;
}

static enum fan__intake_step next_line(struct fan__intake *intake, struct fan_str *ret_item)
{
    struct fan__buffer *input = &intake->input;
    while (intake->at < input->size) {
        const char *found =
            memchr(input->data + intake->scanned, '\n', input->size - intake->scanned);
        size_t end = found ? (size_t)(found - input->data) : input->size;
        intake->scanned = end;
        if (intake->skipping) {
            intake->skipping = !found;
            intake->at = intake->scanned = found ? end + 1 : end;
            continue;
        }
        if (end - intake->at > FAN__BODY_SIZE_MAX) {
            intake->number++;
            intake->skipping = !found;
            intake->at = intake->scanned = found ? end + 1 : end;
            return FAN__INTAKE_TOO_LONG;
        }
        if (!found && !intake->whole)
            return FAN__INTAKE_MORE;
        if (take_line(intake, end, ret_item))
            return FAN__INTAKE_ITEM;
    }
    return intake->whole ? FAN__INTAKE_END : FAN__INTAKE_MORE;
}

enum fan__intake_step fan__intake_next(struct fan__intake *intake, struct fan_str *ret_item)
{
    struct fan_str key;
    switch (intake->kind) {
    case FAN__INTAKE_LINES:
        return next_line(intake, ret_item);
    case FAN__INTAKE_ARRAY:
        if (!fan__json_walk_next(&intake->walk, &key, ret_item))
            return FAN__INTAKE_END;
        intake->number++;
        return FAN__INTAKE_ITEM;
    case FAN__INTAKE_WHOLE:
        break;
    }
    if (!intake->whole)
        return FAN__INTAKE_MORE;
    if (intake->number++ > 0)
        return FAN__INTAKE_END;
    *ret_item = (struct fan_str){ intake->input.data, intake->input.size };
    return FAN__INTAKE_ITEM;
}
