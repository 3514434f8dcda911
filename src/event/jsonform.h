/*
 * Events out of JSON, whatever form they have there: text is parsed once, strictly; an object is
 * walked member by member beside its text, and several of them are taken whole or not at all. What
 * a member means, and what becomes of the object, is the form's.
 */
#ifndef FAN_EVENT_JSONFORM_H
#define FAN_EVENT_JSONFORM_H

#include <fanfare/batch.h>
#include <fanfare/event.h>

#include <jansson.h>

/* raw: the value's text. */
struct fan__json_part {
    const char *name;
    const json_t *value;
    struct fan_str raw;
};

/*
 * name   of the whole, for errors
 * begin  before each object; may be NULL
 * take   a member of it
 * end    `status` is FAN_OK when all were taken: makes the event, if so, and lets go of the rest
 */
struct fan__json_form {
    const char *name;
    const struct fan_event_defaults *defaults;
    void *context;
    void (*begin)(void *context);
    enum fan_status (*take)(void *context, const struct fan__json_part *part,
                            struct fan_error *ret_error);
    enum fan_status (*end)(void *context, enum fan_status status, struct fan_event **ret_event,
                           struct fan_error *ret_error);
};

/* Reads the one event that a text is. */
FAN_MUST_CHECK enum fan_status fan__json_form_read(const struct fan__json_form *form,
                                                   struct fan_str text,
                                                   struct fan_event **ret_event,
                                                   struct fan_error *ret_error);

/* Reads one event, or an array of them, into a batch, which a failure leaves as it was. */
FAN_MUST_CHECK enum fan_status fan__json_form_read_all(const struct fan__json_form *form,
                                                       struct fan_str text, struct fan_batch *batch,
                                                       struct fan_error *ret_error);

/* Adds an event that the batch copies, and frees it. */
FAN_MUST_CHECK enum fan_status fan__json_form_add(const struct fan__json_form *form,
                                                  struct fan_event *event, struct fan_batch *batch,
                                                  struct fan_error *ret_error);

#endif
