/*
 * What a client gives, checked by name: the members of a JSON body by a table, numbers of a query.
 * What is unknown, missing, of another kind or out of its bounds is refused by its field.
 */
#ifndef FAN_SERVER_FIELD_H
#define FAN_SERVER_FIELD_H

#include <fanfare/event.h>

#include <jansson.h>
#include <stdbool.h>

enum fan__field_kind {
    FAN__FIELD_TEXT,   /* const char *, of least to most bytes; NULL when absent */
    FAN__FIELD_NUMBER, /* uint64_t, a whole number */
    FAN__FIELD_DIGITS, /* uint64_t, as a string: 64 bits would not survive as a number */
    FAN__FIELD_FLAG,   /* bool */
    FAN__FIELD_ITEMS,  /* const json_t *, an array of least to most items */
};

/* offset: of the value in the caller's struct, untouched when the member is absent or null. */
struct fan__field {
    const char *name;
    enum fan__field_kind kind;
    bool required;
    size_t offset;
    uint64_t least;
    uint64_t most;
};

/*
 * Parses a body that is one JSON object and reads its members.
 *
 * Returns: FAN_INVALID with the field; FAN_NO_MEMORY.
 * Memory:  texts and items are borrowed from *ret_value, which is yours, for json_decref.
 */
FAN_MUST_CHECK enum fan_status fan__fields_parse(struct fan_str body,
                                                 const struct fan__field *fields, void *target,
                                                 json_t **ret_value, struct fan_error *ret_error);

/* Reads an object's members. `fields` ends with a name of NULL. Returns: FAN_INVALID. */
FAN_MUST_CHECK enum fan_status fan__fields_read(const json_t *object,
                                                const struct fan__field *fields, void *target,
                                                struct fan_error *ret_error);

/* Reads an item of an array: the field is named `items[INDEX].FIELD`. Returns: FAN_INVALID. */
FAN_MUST_CHECK enum fan_status fan__fields_item(const json_t *items, size_t index,
                                                const struct fan__field *fields, void *target,
                                                struct fan_error *ret_error);

/* Puts an item's place before the field of an error. Returns: inner's status. */
enum fan_status fan__field_in_item(size_t index, const struct fan_error *inner,
                                   struct fan_error *ret_error);

struct fan__range {
    uint64_t least;
    uint64_t most;
};

/* Reads decimal digits, as of a query. Returns: FAN_INVALID. */
FAN_MUST_CHECK enum fan_status fan__field_number(const char *name, const char *text,
                                                 struct fan__range range, uint64_t *ret_number,
                                                 struct fan_error *ret_error);

#endif
