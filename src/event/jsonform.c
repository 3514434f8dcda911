/* See jsonform.h. */
#include "event/jsonform.h"

#include "base/status.h"
#include "event/batch.h"
#include "event/json.h"
#include "event/jsontext.h"

#include <stdio.h>
#include <string.h>

/*
 * `text` begins with the object that jansson gave as `object`; both list the members in one order.
 */
static enum fan_status read_object(const struct fan__json_form *form, json_t *object,
                                   const char *text, struct fan_event **ret_event,
                                   struct fan_error *ret_error)
{
    if (!json_is_object(object))
        return fan__fail(ret_error, FAN_INVALID, form->name, "is not a JSON object");
    struct fan__json_walk walk;
    struct fan_str key;
    struct fan__json_part part;
    enum fan_status status = FAN_OK;
    fan__json_walk_init(&walk, text);
    if (form->begin)
        form->begin(form->context);
    for (void *at = json_object_iter(object); at && status == FAN_OK;
         at = json_object_iter_next(object, at)) {
        if (!fan__json_walk_next(&walk, &key, &part.raw))
            break;
        part.name = json_object_iter_key(at);
        part.value = json_object_iter_value(at);
        status = form->take(form->context, &part, ret_error);
    }
    return form->end(form->context, status, ret_event, ret_error);
}

static enum fan_status load(const struct fan__json_form *form, struct fan_str text,
                            json_t **ret_value, struct fan_error *ret_error)
{
    return fan__json_load_members(text, form->defaults->json_depth_max, form->name, ret_value,
                                  ret_error);
}

enum fan_status fan__json_form_read(const struct fan__json_form *form, struct fan_str text,
                                    struct fan_event **ret_event, struct fan_error *ret_error)
{
    json_t *value;
    enum fan_status status = load(form, text, &value, ret_error);
    if (status != FAN_OK)
        return status;
    status = read_object(form, value, text.data, ret_event, ret_error);
    json_decref(value);
    return status;
}

enum fan_status fan__json_form_add(const struct fan__json_form *form, struct fan_event *event,
                                   struct fan_batch *batch, struct fan_error *ret_error)
{
    enum fan_status status = fan_batch_add_event(batch, event);
    if (status != FAN_OK)
        status = fan__fail(ret_error, status, NULL, "no memory for another event");
    fan_event_free(event, form->defaults->env);
    return status;
}

static enum fan_status read_into(const struct fan__json_form *form, json_t *object,
                                 const char *text, struct fan_batch *batch,
                                 struct fan_error *ret_error)
{
    struct fan_event *event;
    enum fan_status status = read_object(form, object, text, &event, ret_error);
    return status == FAN_OK ? fan__json_form_add(form, event, batch, ret_error) : status;
}

/* Puts `[3].` before the field that an item of an array failed by; the error may be NULL. */
static void name_item(struct fan_error *error, size_t index)
{
    if (!error)
        return;
    char field[sizeof(error->field)];
    memcpy(field, error->field, sizeof(field));
    char message[sizeof(error->message)];
    memcpy(message, error->message, sizeof(message));
    char name[sizeof(field) + 32];
    snprintf(name, sizeof(name), "[%zu]%s%s", index, field[0] ? "." : "", field);
    (void)fan__fail(error, error->status, name, "%s", message);
}

static enum fan_status read_array(const struct fan__json_form *form, json_t *array,
                                  const char *text, struct fan_batch *batch,
                                  struct fan_error *ret_error)
{
    struct fan__json_walk walk;
    struct fan_str key;
    struct fan_str raw;
    enum fan_status status = FAN_OK;
    fan__json_walk_init(&walk, text);
    for (size_t i = 0; status == FAN_OK && fan__json_walk_next(&walk, &key, &raw); i++) {
        status = read_into(form, json_array_get(array, i), raw.data, batch, ret_error);
        if (status != FAN_OK)
            name_item(ret_error, i);
    }
    return status;
}

enum fan_status fan__json_form_read_all(const struct fan__json_form *form, struct fan_str text,
                                        struct fan_batch *batch, struct fan_error *ret_error)
{
    json_t *value;
    size_t before = fan_batch_count(batch);
    enum fan_status status = load(form, text, &value, ret_error);
    if (status != FAN_OK)
        return status;
    status = json_is_array(value) ? read_array(form, value, text.data, batch, ret_error)
                                  : read_into(form, value, text.data, batch, ret_error);
    if (status != FAN_OK)
        fan__batch_truncate(batch, before);
    json_decref(value);
    return status;
}
