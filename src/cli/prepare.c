/*
 * The text is parsed once, strictly as the server will, then copied: parsing finds what is missing,
 * and nothing that was given is written anew.
 */
#include "cli/prepare.h"

#include "cli/slice.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The library makes ids only together with an event, so one is made for its id. */
void fan__make_id(char *text)
{
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "id" };
    struct fan_event *event = NULL;
    if (fan_event_new(&draft, NULL, &event, NULL) != FAN_OK) {
        fputs("fanfare: out of memory\n", stderr);
        exit(1);
    }
    snprintf(text, FAN_TEXT_SIZE_MAX + 1, "%s", fan_event_id(event));
    fan_event_free(event, NULL);
}

static json_t *load(struct fan_str object, char *reason)
{
    json_error_t error;
    json_t *value = json_loadb(object.data ? object.data : "", object.size,
                               JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
    if (!value)
        snprintf(reason, 256, "is no JSON object: %s, at byte %d", error.text, error.position);
    else if (!json_is_object(value))
        snprintf(reason, 256, "is no JSON object but an array");
    else
        return value;
    json_decref(value);
    return NULL;
}

/* The key as it is written, `id` or `\u0069d`; the bytes around it are its quotes. */
static bool is_key(struct fan_str key, const char *name)
{
    json_t *text = json_loadb(key.data - 1, key.size + 2, JSON_DECODE_ANY, NULL);
    bool same = json_is_string(text) && strcmp(json_string_value(text), name) == 0;
    json_decref(text);
    return same;
}

/* Copies the object without its members of that name, which are null. */
static void drop_member(struct fan__text *object, const char *name)
{
    struct fan__text kept = { NULL, 0, 0 };
    struct fan__slice slice = fan__slice_open((struct fan_str){ object->data, object->size });
    struct fan_str key;
    struct fan_str value;
    fan__text_add_text(&kept, "{");
    while (fan__slice_next(&slice, &key, &value)) {
        if (is_key(key, name))
            continue;
        if (kept.size > 1)
            fan__text_add_text(&kept, ",");
        fan__text_add_format(&kept, "\"%.*s\":", (int)key.size, key.data);
        fan__text_add(&kept, value.data, value.size);
    }
    fan__text_add_text(&kept, "}");
    fan__text_deinit(object);
    *object = kept;
}

bool fan__prepare(struct fan__text *text, struct fan_str object, bool *ret_has_own_id, char *reason)
{
    json_t *value = load(object, reason);
    if (!value)
        return false;
    struct fan__text copy = { NULL, 0, 0 };
    fan__text_add(&copy, object.data, object.size);
    json_t *id = json_object_get(value, "id");
    json_t *source = json_object_get(value, "source");
    bool needs_id = !id || json_is_null(id);
    bool needs_source = !source || json_is_null(source);
    /* null means absent, and two members of one name are refused. */
    if (json_is_null(id))
        drop_member(&copy, "id");
    if (json_is_null(source))
        drop_member(&copy, "source");
    struct fan__slice slice = fan__slice_open((struct fan_str){ copy.data, copy.size });
    struct fan_str key;
    struct fan_str member;
    const char *inside = slice.at;
    bool empty = !fan__slice_next(&slice, &key, &member);
    char made[FAN_TEXT_SIZE_MAX + 1];
    fan__text_add_text(text, "{");
    if (needs_id) {
        fan__make_id(made);
        fan__text_add_format(text, "\"id\":\"%s\"%s", made, empty && !needs_source ? "" : ",");
    }
    if (needs_source)
        fan__text_add_format(text, "\"source\":\"system\"%s", empty ? "" : ",");
    fan__text_add(text, inside, (size_t)(copy.data + copy.size - inside));
    *ret_has_own_id = needs_id;
    fan__text_deinit(&copy);
    json_decref(value);
    return true;
}
