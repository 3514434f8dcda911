/*
 * Formats: PostgreSQL documentation, "Logical Replication Message Formats". Numbers are big-endian,
 * times are microseconds since 2000-01-01.
 */
#include "hook/wal.h"

#include "base/env.h"
#include "base/hash.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EPOCH_US INT64_C(946684800000000)
#define ROW_SIZE_MAX ((size_t)8 << 20) /* larger ones are not made into JSON to be refused */
#define NUMBER_DIGITS_MAX 300          /* what surely is near a double */

/* Types by their fixed numbers in pg_type. */
enum {
    TYPE_BOOL = 16,
    TYPE_INT8 = 20,
    TYPE_INT2 = 21,
    TYPE_INT4 = 23,
    TYPE_OID = 26,
    TYPE_JSON = 114,
    TYPE_FLOAT4 = 700,
    TYPE_FLOAT8 = 701,
    TYPE_TIMESTAMP = 1114,
    TYPE_TIMESTAMPTZ = 1184,
    TYPE_NUMERIC = 1700,
    TYPE_JSONB = 3802,
};

/* --- reading ------------------------------------------------------------------------------ */

struct input {
    const char *at;
    const char *end;
    bool failed;
};

static const char *take(struct input *input, size_t size)
{
    if (input->failed || (size_t)(input->end - input->at) < size) {
        input->failed = true;
        return NULL;
    }
    const char *bytes = input->at;
    input->at += size;
    return bytes;
}

static uint64_t take_number(struct input *input, size_t size)
{
    const unsigned char *bytes = (const unsigned char *)take(input, size);
    uint64_t number = 0;
    for (size_t i = 0; i < size && bytes; i++)
        number = number << 8 | bytes[i];
    return number;
}

static const char *take_text(struct input *input)
{
    size_t left = (size_t)(input->end - input->at);
    const char *text = input->failed ? NULL : input->at;
    size_t size = text ? strnlen(text, left) : 0;
    return take(input, size + 1) ? text : "";
}

static enum fan_status corrupt(char kind, struct fan_error *error)
{
    return fan__fail(error, FAN_CORRUPT, "",
                     "the server sent a change (0x%02x) that cannot be read",
                     (unsigned)(unsigned char)kind);
}

/* --- writing ------------------------------------------------------------------------------ */

void fan__wal_add_string(struct fan__buffer *buffer, const char *text, size_t size)
{
    fan__buffer_add_text(buffer, "\"");
    const char *start = text;
    const char *end = text + size;
    for (const char *at = text; at < end; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte >= ' ' && byte != '"' && byte != '\\')
            continue;
        fan__buffer_add(buffer, start, (size_t)(at - start));
        start = at + 1;
        if (byte == '"' || byte == '\\')
            fan__buffer_add_format(buffer, "\\%c", byte);
        else
            fan__buffer_add_format(buffer, "\\u%04x", byte);
    }
    fan__buffer_add(buffer, start, (size_t)(end - start));
    fan__buffer_add_text(buffer, "\"");
}

void fan__wal_add_segment(struct fan__buffer *buffer, const char *name)
{
    for (const char *at = name; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        unsigned char next = (unsigned char)at[1];
        bool control = byte == 0xc2 && next >= 0x80 && next < 0xa0;
        bool legal = byte > ' ' && byte != 0x7f && !strchr(".*>", byte) && !control;
        fan__buffer_add(buffer, legal ? at : "_", 1);
        at += control;
    }
}

/* Whether a text is a number of JSON, and one that a double comes near. */
static bool is_number(const struct fan__wal_value *value)
{
    const char *at = value->data;
    const char *end = at + value->size;
    at += at < end && *at == '-';
    const char *digits = at;
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    if (at == digits || at - digits > NUMBER_DIGITS_MAX || (*digits == '0' && at > digits + 1))
        return false;
    if (at < end && *at == '.') {
        digits = ++at;
        while (at < end && *at >= '0' && *at <= '9')
            at++;
        if (at == digits)
            return false;
    }
    /* Only floats come with an exponent, which is near a double by nature. */
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        at += at < end && (*at == '+' || *at == '-');
        digits = at;
        while (at < end && *at >= '0' && *at <= '9')
            at++;
        if (at == digits)
            return false;
    }
    return at == end;
}

/* `2026-11-21 15:51:02.5+00` as `2026-11-21T15:51:02.5+00:00`; what is no such date as it is. */
static void add_time(struct fan__buffer *buffer, const struct fan__wal_value *value)
{
    bool plain = value->size > 10 && value->data[10] == ' ' && value->data[value->size - 1] != 'C';
    if (!plain) {
        fan__wal_add_string(buffer, value->data, value->size);
        return;
    }
    fan__buffer_add_format(buffer, "\"%.10sT", value->data);
    fan__buffer_add(buffer, value->data + 11, value->size - 11);
    char sign = value->data[value->size - 3];
    fan__buffer_add_text(buffer, sign == '+' || sign == '-' ? ":00\"" : "\"");
}

static void add_value(struct fan__buffer *buffer, uint32_t type, const struct fan__wal_value *value)
{
    if (value->kind == 'n') {
        fan__buffer_add_text(buffer, "null");
        return;
    }
    switch (type) {
    case TYPE_BOOL:
        fan__buffer_add_text(buffer, value->size == 1 && *value->data == 't' ? "true" : "false");
        return;
    case TYPE_INT2:
    case TYPE_INT4:
    case TYPE_INT8:
    case TYPE_OID:
    case TYPE_FLOAT4:
    case TYPE_FLOAT8:
    case TYPE_NUMERIC:
        if (!is_number(value))
            break;
        fan__buffer_add(buffer, value->data, value->size);
        return;
    case TYPE_JSON:
    case TYPE_JSONB:
        fan__buffer_add(buffer, value->data, value->size);
        return;
    case TYPE_TIMESTAMP:
    case TYPE_TIMESTAMPTZ:
        add_time(buffer, value);
        return;
    default:
        break;
    }
    fan__wal_add_string(buffer, value->data, value->size);
}

/* --- life --------------------------------------------------------------------------------- */

void fan__wal_init(struct fan__wal *wal, const struct fan_env *env, struct fan_str source)
{
    *wal = (struct fan__wal){ .env = env };
    wal->seeds[0] = fan__hash(0, source.data, source.size);
    wal->seeds[1] = fan__hash(1, source.data, source.size);
    fan__buffer_init(&wal->text, env);
}

static void relation_deinit(struct fan__wal *wal, struct fan__wal_relation *relation)
{
    for (size_t i = 0; i < relation->count && relation->columns; i++)
        fan__free(wal->env, relation->columns[i].name);
    fan__free(wal->env, relation->columns);
    fan__free(wal->env, relation->schema);
    fan__free(wal->env, relation->entity);
}

void fan__wal_deinit(struct fan__wal *wal)
{
    for (size_t i = 0; i < wal->relation_count; i++)
        relation_deinit(wal, &wal->relations[i]);
    fan__free(wal->env, wal->relations);
    fan__free(wal->env, wal->events);
    fan__buffer_deinit(&wal->text);
}

void fan__wal_clear(struct fan__wal *wal)
{
    fan__buffer_clear(&wal->text);
    wal->count = 0;
    wal->done_lsn = 0;
    wal->done_count = 0;
}

void fan__lsn_format(uint64_t lsn, char text[FAN__LSN_TEXT_SIZE])
{
    snprintf(text, FAN__LSN_TEXT_SIZE, "%" PRIX32 "/%" PRIX32, (uint32_t)(lsn >> 32),
             (uint32_t)lsn);
}

/* --- relations ---------------------------------------------------------------------------- */

static struct fan__wal_relation *relation_of(struct fan__wal *wal, uint32_t oid)
{
    for (size_t i = 0; i < wal->relation_count; i++)
        if (wal->relations[i].oid == oid)
            return &wal->relations[i];
    return NULL;
}

static char *segment_of(struct fan__wal *wal, const char *name)
{
    struct fan__buffer buffer;
    size_t size;
    fan__buffer_init(&buffer, wal->env);
    fan__wal_add_segment(&buffer, name);
    char *segment = fan__buffer_take(&buffer, &size);
    fan__buffer_deinit(&buffer);
    return segment;
}

static bool read_columns(struct fan__wal *wal, struct fan__wal_relation *relation,
                         struct input *input)
{
    for (size_t i = 0; i < relation->count && !input->failed; i++) {
        struct fan__wal_column *column = &relation->columns[i];
        column->key = take_number(input, 1) & 1;
        column->name = fan__strdup(wal->env, take_text(input));
        column->type = (uint32_t)take_number(input, 4);
        (void)take_number(input, 4);
        if (!column->name)
            return false;
    }
    return true;
}

/* Makes it, in the place of what was known under its number. */
static enum fan_status read_relation(struct fan__wal *wal, struct input *input,
                                     struct fan_error *error)
{
    struct fan__wal_relation relation = { .oid = (uint32_t)take_number(input, 4) };
    const char *schema = take_text(input);
    relation.schema = segment_of(wal, *schema ? schema : "pg_catalog");
    relation.entity = segment_of(wal, take_text(input));
    relation.identity = (char)take_number(input, 1);
    relation.count = (size_t)take_number(input, 2);
    relation.columns = fan__alloc_zero(wal->env, relation.count + 1, sizeof(*relation.columns));
    bool good = relation.schema && relation.entity && relation.columns &&
                read_columns(wal, &relation, input);
    enum fan_status status = FAN_OK;
    if (input->failed)
        status = corrupt('R', error);
    else if (!good)
        status = fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
    else if (relation.identity == 'f')
        status = wal->mark_keys(wal->context, &relation, error);
    struct fan__wal_relation *place = relation_of(wal, relation.oid);
    if (status == FAN_OK && !place) {
        place = fan__resize(wal->env, wal->relations,
                            (wal->relation_count + 1) * sizeof(*wal->relations));
        if (place) {
            wal->relations = place;
            place += wal->relation_count++;
            *place = (struct fan__wal_relation){ 0 };
        } else {
            status = fan__fail(error, FAN_NO_MEMORY, "", "out of memory");
        }
    }
    if (status != FAN_OK) {
        relation_deinit(wal, &relation);
        return status;
    }
    relation_deinit(wal, place);
    *place = relation;
    return FAN_OK;
}

/* --- rows --------------------------------------------------------------------------------- */

static void read_row(struct fan__wal_relation *relation, struct input *input, bool before)
{
    if (take_number(input, 2) != relation->count)
        input->failed = true;
    for (size_t i = 0; i < relation->count && !input->failed; i++) {
        struct fan__wal_value value = { .kind = (char)take_number(input, 1), .data = "" };
        if (value.kind == 't') {
            value.size = (size_t)take_number(input, 4);
            value.data = take(input, value.size);
        } else if (value.kind != 'n' && value.kind != 'u') {
            input->failed = true;
        }
        *(before ? &relation->columns[i].before : &relation->columns[i].now) = value;
    }
}

enum part { ALL, KEYS, BEFORE, BEFORE_KEYS };

static void add_row(struct fan__buffer *text, const struct fan__wal_relation *relation,
                    enum part part)
{
    const char *between = "{";
    for (size_t i = 0; i < relation->count; i++) {
        const struct fan__wal_column *column = &relation->columns[i];
        bool before = part == BEFORE || part == BEFORE_KEYS;
        const struct fan__wal_value *value = before ? &column->before : &column->now;
        if (value->kind == 'u' || ((part == KEYS || part == BEFORE_KEYS) && !column->key))
            continue;
        fan__buffer_add_text(text, between);
        fan__wal_add_string(text, column->name, strlen(column->name));
        fan__buffer_add_text(text, ":");
        add_value(text, column->type, value);
        between = ",";
    }
    fan__buffer_add_text(text, *between == '{' ? "{}" : "}");
}

/* The topic is `entity:KEY`, or `entity` where there is no key or too long a one. */
static size_t add_topic(struct fan__wal *wal, const struct fan__wal_relation *relation, bool keyed)
{
    struct fan__buffer *text = &wal->text;
    size_t at = text->size;
    fan__buffer_add_text(text, relation->entity);
    size_t plain = text->size;
    const char *between = ":";
    for (size_t i = 0; i < relation->count && keyed; i++) {
        const struct fan__wal_column *column = &relation->columns[i];
        if (!column->key)
            continue;
        fan__buffer_add_text(text, between);
        fan__buffer_add(text, column->now.data, column->now.size);
        between = ",";
    }
    if (text->size - at > FAN_TEXT_SIZE_MAX && !text->failed)
        text->size = plain;
    fan__buffer_add(text, "", 1);
    return at;
}

static void add_metadata(struct fan__wal *wal, const struct fan__wal_relation *relation, char old)
{
    struct fan__buffer *text = &wal->text;
    char lsn[FAN__LSN_TEXT_SIZE];
    const char *between = ",\"unchanged\":[";
    fan__lsn_format(wal->commit_lsn, lsn);
    fan__buffer_add_format(text, "{\"lsn\":\"%s\",\"xid\":\"%" PRIu32 "\"", lsn, wal->xid);
    for (size_t i = 0; i < relation->count; i++) {
        if (relation->columns[i].now.kind != 'u')
            continue;
        fan__buffer_add_text(text, between);
        fan__wal_add_string(text, relation->columns[i].name, strlen(relation->columns[i].name));
        between = ",";
    }
    if (strcmp(between, ",") == 0)
        fan__buffer_add_text(text, "]");
    if (old) {
        fan__buffer_add_text(text, ",\"old\":");
        add_row(text, relation, old == 'K' ? BEFORE_KEYS : BEFORE);
    }
    fan__buffer_add_text(text, "}");
}

/*
 * A UUIDv7 of the commit's time, the index, and 62 bits of a digest: the same each time, in order,
 * and of an age that can be told.
 */
static void make_id(const struct fan__wal *wal, char id[37])
{
    uint64_t place[4] = { wal->commit_lsn, wal->index, (uint64_t)wal->commit_us, wal->xid };
    uint64_t digest = fan__hash(wal->seeds[0], place, sizeof(place)) ^
                      fan__hash(wal->seeds[1], place, sizeof(place));
    uint64_t ms = (uint64_t)(wal->commit_us / 1000) & UINT64_C(0xffffffffffff);
    snprintf(id, 37, "%08" PRIx64 "-%04" PRIx64 "-7%03x-%04" PRIx64 "-%012" PRIx64, ms >> 16,
             ms & 0xffff, wal->index & 0xfff, (digest >> 48 & 0x3fff) | 0x8000,
             digest & UINT64_C(0xffffffffffff));
}

static struct fan__wal_event *more(struct fan__wal *wal)
{
    if (wal->count == wal->capacity) {
        size_t capacity = wal->capacity ? 2 * wal->capacity : 64;
        struct fan__wal_event *events =
            fan__resize(wal->env, wal->events, capacity * sizeof(*events));
        if (!events)
            return NULL;
        wal->events = events;
        wal->capacity = capacity;
    }
    return &wal->events[wal->count];
}

/* operation: create, update, delete, truncate; old: K or O when there is a row before, else 0. */
static enum fan_status add_event(struct fan__wal *wal, const struct fan__wal_relation *relation,
                                 const char *operation, char old, bool huge)
{
    struct fan__buffer *text = &wal->text;
    struct fan__wal_event *event = more(wal);
    bool truncates = strcmp(operation, "truncate") == 0;
    bool deletes = strcmp(operation, "delete") == 0;
    if (!event)
        return FAN_NO_MEMORY;
    make_id(wal, event->id);
    wal->index++;
    event->created_us = wal->commit_us;
    event->type = text->size;
    fan__buffer_add_format(text, "%s.%s.%s", relation->schema, relation->entity, operation);
    fan__buffer_add(text, "", 1);
    event->topic = add_topic(wal, relation, !truncates);
    event->keys = text->size;
    if (truncates)
        fan__buffer_add_text(text, "null");
    else
        add_row(text, relation, KEYS);
    event->keys_size = text->size - event->keys;
    event->payload = event->keys;
    event->payload_size = event->keys_size;
    /* A deleted row is there as `now`, too; of one that is known by its key the rest is empty. */
    if (!truncates && !huge && !(deletes && old == 'K')) {
        event->payload = text->size;
        add_row(text, relation, ALL);
        event->payload_size = text->size - event->payload;
    }
    event->metadata = text->size;
    if (huge)
        fan__buffer_add_text(text, "{\"refused\":\"the row is over 8 MiB\"}");
    else
        add_metadata(wal, relation, deletes ? 0 : old);
    event->metadata_size = text->size - event->metadata;
    if (text->failed)
        return FAN_NO_MEMORY;
    wal->count++;
    return FAN_OK;
}

/* Of a row that is known in full, what was not sent again is as it was before. */
static void fill_unchanged(struct fan__wal_relation *relation)
{
    for (size_t i = 0; i < relation->count; i++)
        if (relation->columns[i].now.kind == 'u')
            relation->columns[i].now = relation->columns[i].before;
}

static enum fan_status read_change(struct fan__wal *wal, char kind, struct input *input, bool huge,
                                   struct fan_error *error)
{
    struct fan__wal_relation *relation = relation_of(wal, (uint32_t)take_number(input, 4));
    static const struct fan__wal_value unsent = { 'u', "", 0 };
    char part = (char)take_number(input, 1);
    char old = 0;
    if (!relation || input->failed || !wal->open)
        return corrupt(kind, error);
    for (size_t i = 0; i < relation->count; i++)
        relation->columns[i].now = relation->columns[i].before = unsent;
    if (kind != 'I' && (part == 'K' || part == 'O')) {
        old = part;
        read_row(relation, input, true);
        part = kind == 'U' ? (char)take_number(input, 1) : 'N';
    }
    if (kind == 'D' ? old == 0 : part != 'N')
        return corrupt(kind, error);
    if (kind != 'D')
        read_row(relation, input, false);
    if (input->failed)
        return corrupt(kind, error);
    if (kind == 'D' || old == 'O')
        fill_unchanged(relation);
    return add_event(wal, relation,
                     kind == 'I'   ? "create"
                     : kind == 'U' ? "update"
                                   : "delete",
                     old, huge);
}

static enum fan_status read_truncate(struct fan__wal *wal, struct input *input,
                                     struct fan_error *error)
{
    size_t count = (size_t)take_number(input, 4);
    (void)take_number(input, 1);
    for (size_t i = 0; i < count; i++) {
        struct fan__wal_relation *relation = relation_of(wal, (uint32_t)take_number(input, 4));
        if (!relation || input->failed || !wal->open)
            return corrupt('T', error);
        for (size_t c = 0; c < relation->count; c++)
            relation->columns[c].now = (struct fan__wal_value){ 'n', "", 0 };
        enum fan_status status = add_event(wal, relation, "truncate", 0, false);
        if (status != FAN_OK)
            return status;
    }
    return FAN_OK;
}

static enum fan_status read_begin(struct fan__wal *wal, struct input *input,
                                  struct fan_error *error)
{
    wal->commit_lsn = take_number(input, 8);
    int64_t since_2000_us = (int64_t)take_number(input, 8);
    if (since_2000_us > INT64_MAX - EPOCH_US)
        return corrupt('B', error);
    wal->commit_us = since_2000_us + EPOCH_US;
    wal->xid = (uint32_t)take_number(input, 4);
    wal->index = 0;
    wal->open = true;
    return FAN_OK;
}

enum fan_status fan__wal_feed(struct fan__wal *wal, struct fan_str message, struct fan_error *error)
{
    struct input input = { .at = message.data, .end = message.data + message.size };
    char kind = (char)take_number(&input, 1);
    enum fan_status status = FAN_OK;
    switch (kind) {
    case 'B':
        status = read_begin(wal, &input, error);
        break;
    case 'C':
        (void)take(&input, 1 + 8);
        wal->done_lsn = take_number(&input, 8);
        wal->done_count++;
        wal->open = false;
        break;
    case 'R':
        status = read_relation(wal, &input, error);
        break;
    case 'I':
    case 'U':
    case 'D':
        status = read_change(wal, kind, &input, message.size > ROW_SIZE_MAX, error);
        break;
    case 'T':
        status = read_truncate(wal, &input, error);
        break;
    case 'O': /* whence it came */
    case 'Y': /* names of types */
    case 'M': /* messages for others */
        break;
    default:
        return corrupt(kind, error);
    }
    if (status == FAN_OK && input.failed)
        return corrupt(kind, error);
    return status == FAN_NO_MEMORY ? fan__fail(error, status, "", "out of memory") : status;
}

/* --- what was gathered -------------------------------------------------------------------- */

void fan__wal_show(struct fan__wal *wal, size_t index, struct fan_event_draft *ret_draft)
{
    const struct fan__wal_event *event = &wal->events[index];
    const char *text = wal->text.data;
    *ret_draft = (struct fan_event_draft){
        .size = FAN_EVENT_DRAFT_SIZE,
        .type = text + event->type,
        .topic = text + event->topic,
        .id = event->id,
        .source = FAN_SOURCE_DATABASE,
        .payload = { text + event->payload, event->payload_size },
        .metadata = { text + event->metadata, event->metadata_size },
        .created_us = event->created_us,
    };
}

void fan__wal_show_key(struct fan__wal *wal, size_t index, struct fan_event_draft *ret_draft)
{
    const struct fan__wal_event *event = &wal->events[index];
    fan__wal_show(wal, index, ret_draft);
    ret_draft->payload = (struct fan_str){ wal->text.data + event->keys, event->keys_size };
}
