/*
 * Filters: every one alone, every two together, against a plain comparison of the drafts. The
 * fixture is small, so that all of it is looked at; each value of each field has several events.
 */
#include "store/suite/suite.h"

#include <fanfare/pattern.h>

#include <stdio.h>
#include <string.h>

#define EVENT_COUNT 48
#define TIME_US INT64_C(1700000000000000)

struct fixture {
    struct fan__suite *suite;
    const struct fan_event *events[EVENT_COUNT];
    uint64_t seqs[EVENT_COUNT];
    enum fan_event_status statuses[EVENT_COUNT];
    struct fan_event_state states[EVENT_COUNT + 2];
};

/* One way to fill a field of the query. */
struct filter {
    const char *name;
    void (*set)(struct fan_query *query);
};

#define FILTER(function, field, value)                                                             \
    static void function(struct fan_query *query)                                                  \
    {                                                                                              \
        query->field = (value);                                                                    \
    }

FILTER(topic_one, topic, "topic:1")
FILTER(topic_none, topic, "")
FILTER(topic_odd, topic, "topic:%")
FILTER(pattern_all, pattern, "*")
FILTER(pattern_exact, pattern, "public.users.create")
FILTER(pattern_tail, pattern, "public.>")
FILTER(pattern_middle, pattern, "*.users.*")
FILTER(pattern_last, pattern, "*.*.create")
FILTER(pattern_two, pattern, "chat.*")
FILTER(pattern_nothing, pattern, "public")
FILTER(source_internal, source, FAN_SOURCE_INTERNAL)
FILTER(source_database, source, FAN_SOURCE_DATABASE)
FILTER(schema_public, schema, "public")
FILTER(schema_none, schema, "")
FILTER(entity_users, entity, "users")
FILTER(entity_case, entity, "Users")
FILTER(operation_create, operation, "create")
FILTER(operation_delete, operation, "delete")
FILTER(instance_one, instance_id, "i-1")
FILTER(instance_unknown, instance_id, "i-")
FILTER(user_seven, user_id, 7)
FILTER(user_negative, user_id, -7)
FILTER(from_middle, from_us, TIME_US + 10)
FILTER(until_middle, until_us, TIME_US + 20)
FILTER(from_end, from_us, TIME_US + 1000)

static void time_between(struct fan_query *query)
{
    query->from_us = TIME_US + 5;
    query->until_us = TIME_US + 6;
}

#define STATUS_FILTER(function, value)                                                             \
    static void function(struct fan_query *query)                                                  \
    {                                                                                              \
        query->has_status = true;                                                                  \
        query->status = (value);                                                                   \
    }

STATUS_FILTER(status_pending, FAN_EVENT_PENDING)
STATUS_FILTER(status_processing, FAN_EVENT_PROCESSING)
STATUS_FILTER(status_completed, FAN_EVENT_COMPLETED)
STATUS_FILTER(status_failed, FAN_EVENT_FAILED)

static const struct filter filters[] = {
    { "topic", topic_one },
    { "topic without", topic_none },
    { "topic with a wildcard of SQL", topic_odd },
    { "pattern *", pattern_all },
    { "pattern exact", pattern_exact },
    { "pattern public.>", pattern_tail },
    { "pattern *.users.*", pattern_middle },
    { "pattern *.*.create", pattern_last },
    { "pattern chat.*", pattern_two },
    { "pattern of nothing", pattern_nothing },
    { "source internal", source_internal },
    { "source database", source_database },
    { "schema", schema_public },
    { "schema without", schema_none },
    { "entity", entity_users },
    { "entity in another case", entity_case },
    { "operation create", operation_create },
    { "operation delete", operation_delete },
    { "instance", instance_one },
    { "instance unknown", instance_unknown },
    { "user", user_seven },
    { "user negative", user_negative },
    { "from", from_middle },
    { "until", until_middle },
    { "from past all", from_end },
    { "between", time_between },
    { "pending", status_pending },
    { "processing", status_processing },
    { "completed", status_completed },
    { "failed", status_failed },
};

#define FILTER_COUNT (sizeof(filters) / sizeof(*filters))

/* The plain comparison, written again from the header rather than shared with any provider. */
static bool is_wanted(const struct fan_query *query, const struct fan_event *event,
                      enum fan_event_status status)
{
    bool wanted = true;
    if (query->topic)
        wanted = wanted && strcmp(query->topic, fan_event_topic(event)) == 0;
    if (query->pattern)
        wanted = wanted && fan_pattern_match(query->pattern, fan_event_type(event));
    if (query->source)
        wanted = wanted && query->source == fan_event_source(event);
    if (query->schema)
        wanted = wanted && strcmp(query->schema, fan_event_schema(event)) == 0;
    if (query->entity)
        wanted = wanted && strcmp(query->entity, fan_event_entity(event)) == 0;
    if (query->operation)
        wanted = wanted && strcmp(query->operation, fan_event_operation(event)) == 0;
    if (query->instance_id)
        wanted = wanted && strcmp(query->instance_id, fan_event_instance_id(event)) == 0;
    if (query->user_id)
        wanted = wanted && query->user_id == fan_event_user_id(event);
    if (query->from_us)
        wanted = wanted && fan_event_created_us(event) >= query->from_us;
    if (query->until_us)
        wanted = wanted && fan_event_created_us(event) < query->until_us;
    if (query->has_status)
        wanted = wanted && query->status == status;
    return wanted;
}

/* A quarter of the events each: done, claimed, dead, and owed still. Topics are free of it. */
static void give_statuses(struct fixture *fixture)
{
    struct fan__suite *suite = fixture->suite;
    const struct fan_group_name name = { .group = "g", .handler = "" };
    fan__suite_create(suite, &name, FAN_START_BEGINNING, NULL);
    for (size_t taken = 0; taken < EVENT_COUNT * 3 / 4;) {
        struct fan__suite_claims *claims =
            fan__suite_claim(suite, &name, "me", EVENT_COUNT * 3 / 4 - taken, FAN__SUITE_LONG_MS);
        CHECK(suite, claims->count > 0);
        for (size_t i = 0; i < claims->count; i++, taken++) {
            CHECK_EQUAL(suite, claims->items[i].seq, fixture->seqs[taken]);
            fixture->statuses[taken] = FAN_EVENT_PROCESSING;
            if (taken % 3 == 0)
                continue;
            bool fails = taken % 3 == 1;
            fixture->statuses[taken] = fails ? FAN_EVENT_FAILED : FAN_EVENT_COMPLETED;
            CHECK_OK(suite,
                     fan__suite_settle(suite, &name, &claims->items[i],
                                       fails ? FAN_VERDICT_FAIL : FAN_VERDICT_DONE, "it broke"));
        }
    }
    for (size_t i = EVENT_COUNT * 3 / 4; i < EVENT_COUNT; i++)
        fixture->statuses[i] = FAN_EVENT_PENDING;
}

static struct fixture *make(struct fan__suite *suite, bool with_statuses)
{
    static const char *const types[] = { "public.users.create",  "public.users.delete",
                                         "public.orders.create", "private.Users.create",
                                         "chat.message",         "public.users.create.late" };
    static const char *const topics[] = { "topic:1", "", "topic:%", "topic:11" };
    static const char *const instances[] = { "i-1", "i-11", "I-1" };
    static const int64_t users[] = { 7, -7, 0, 77, 7 };
    struct fixture *fixture = fan__suite_alloc(suite, 1, sizeof(*fixture));
    fixture->suite = suite;
    for (size_t i = 0; i < EVENT_COUNT; i++) {
        /* Times neither rise nor fall with the sequence. */
        const struct fan_event_draft draft = {
            .type = types[(i * 5 + i / 7) % 6],
            .topic = topics[(i + i / 4) % 4],
            .source = (enum fan_source)(1 + (i + i / 5) % 5),
            .instance_id = instances[(i + i / 3) % 3],
            .user_id = users[(i + i / 6) % 5],
            .created_us = TIME_US + (int64_t)((i * 17) % 31),
        };
        fixture->events[i] = fan__suite_event(suite, &draft);
        fixture->seqs[i] = fan__suite_put(suite, fixture->events[i]);
        fixture->statuses[i] = FAN_EVENT_COMPLETED;
    }
    if (with_statuses)
        give_statuses(fixture);
    return fixture;
}

static void check_one(struct fixture *fixture, const struct fan_query *query, const char *what)
{
    struct fan__suite *suite = fixture->suite;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status =
        fan_store_list(suite->store, query, suite->batch, fixture->states, &error);
    if (status != FAN_OK)
        fan__suite_fail(suite, __FILE__, __LINE__, "list by %s gave %s: %s", what,
                        fan_status_name(status), error.message);
    uint64_t passed = 0;
    size_t at = 0;
    for (size_t n = 0; n < EVENT_COUNT && at < query->limit; n++) {
        size_t i = query->newest_first ? EVENT_COUNT - 1 - n : n;
        if (!is_wanted(query, fixture->events[i], fixture->statuses[i]) || passed++ < query->offset)
            continue;
        const struct fan_event *event = fan_batch_event(suite->batch, at);
        if (!event || fan_event_seq(event) != fixture->seqs[i] ||
            fixture->states[at].status != fixture->statuses[i])
            fan__suite_fail(
                suite, __FILE__, __LINE__,
                "list by %s%s, offset %d, limit %d: place %zu is event %d in state %d, expected "
                "%d in state %d",
                what, query->newest_first ? " newest first" : "", (int)query->offset,
                (int)query->limit, at, event ? (int)fan_event_seq(event) : 0,
                event ? (int)fixture->states[at].status : -1, (int)fixture->seqs[i],
                (int)fixture->statuses[i]);
        at++;
    }
    if (fan_batch_count(suite->batch) != at)
        fan__suite_fail(suite, __FILE__, __LINE__, "list by %s gave %zu events, expected %zu", what,
                        fan_batch_count(suite->batch), at);
}

static void check_query(struct fixture *fixture, struct fan_query query, const char *what)
{
    static const struct {
        uint64_t offset;
        size_t limit;
    } windows[] = { { 0, EVENT_COUNT + 2 }, { 3, 4 }, { 1, EVENT_COUNT } };
    for (size_t i = 0; i < sizeof(windows) / sizeof(*windows); i++) {
        query.offset = windows[i].offset;
        query.limit = windows[i].limit;
        query.newest_first = i == 1;
        check_one(fixture, &query, what);
    }
    query.offset = 0;
    query.limit = EVENT_COUNT;
    query.newest_first = true;
    check_one(fixture, &query, what);
}

/* Reads take the same filters, but for the status. */
static void check_read(struct fixture *fixture, struct fan_query query, const char *what)
{
    struct fan__suite *suite = fixture->suite;
    if (query.has_status)
        return;
    query.limit = 5;
    struct fan_read_result result = { 0 };
    size_t next = 0;
    do {
        uint64_t after_seq = result.scanned_seq;
        CHECK_OK(suite, fan_store_read(suite->store, after_seq, &query, suite->batch, &result));
        CHECK(suite, result.scanned_seq > after_seq);
        for (size_t at = 0; at < fan_batch_count(suite->batch); at++) {
            while (next < EVENT_COUNT &&
                   !is_wanted(&query, fixture->events[next], fixture->statuses[next]))
                next++;
            if (next == EVENT_COUNT ||
                fan_event_seq(fan_batch_event(suite->batch, at)) != fixture->seqs[next])
                fan__suite_fail(suite, __FILE__, __LINE__, "read by %s gave event %d", what,
                                (int)fan_event_seq(fan_batch_event(suite->batch, at)));
            next++;
        }
    } while (result.scanned_seq < result.head_seq);
    while (next < EVENT_COUNT && !is_wanted(&query, fixture->events[next], fixture->statuses[next]))
        next++;
    if (next < EVENT_COUNT)
        fan__suite_fail(suite, __FILE__, __LINE__, "read by %s left out event %d", what,
                        (int)fixture->seqs[next]);
}

static void single_filters(struct fan__suite *suite)
{
    struct fixture *fixture = make(suite, true);
    check_query(fixture, (struct fan_query){ .size = FAN_QUERY_SIZE }, "nothing");
    for (size_t i = 0; i < FILTER_COUNT; i++) {
        struct fan_query query = { .size = FAN_QUERY_SIZE };
        filters[i].set(&query);
        check_query(fixture, query, filters[i].name);
        check_read(fixture, query, filters[i].name);
    }
}

static void paired_filters(struct fan__suite *suite)
{
    struct fixture *fixture = make(suite, true);
    for (size_t i = 0; i < FILTER_COUNT; i++) {
        for (size_t j = i + 1; j < FILTER_COUNT; j++) {
            struct fan_query query = { .size = FAN_QUERY_SIZE };
            filters[i].set(&query);
            filters[j].set(&query);
            char what[128];
            snprintf(what, sizeof(what), "%s and %s", filters[i].name, filters[j].name);
            check_query(fixture, query, what);
            check_read(fixture, query, what);
        }
    }
}

static void many_filters(struct fan__suite *suite)
{
    struct fixture *fixture = make(suite, true);
    size_t rounds = fan__suite_amount(suite, 200, 5000);
    for (size_t round = 0; round < rounds; round++) {
        struct fan_query query = { .size = FAN_QUERY_SIZE };
        for (size_t i = 0; i < FILTER_COUNT; i++) {
            if (fan__suite_random(&suite->random, 10) == 0)
                filters[i].set(&query);
        }
        query.offset = fan__suite_random(&suite->random, 6);
        query.limit = 1 + fan__suite_random(&suite->random, 12);
        query.newest_first = fan__suite_random(&suite->random, 2) == 0;
        check_one(fixture, &query, "many at once");
    }
}

static void offset_past_the_end(struct fan__suite *suite)
{
    struct fixture *fixture = make(suite, false);
    static const uint64_t offsets[] = { EVENT_COUNT - 1, EVENT_COUNT, EVENT_COUNT + 1, 1000000,
                                        FAN_SEQ_MAX };
    for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
        for (int newest_first = 0; newest_first < 2; newest_first++) {
            const struct fan_query query = { .size = FAN_QUERY_SIZE,
                                             .offset = offsets[i],
                                             .limit = EVENT_COUNT,
                                             .newest_first = newest_first };
            check_one(fixture, &query, "offset");
        }
    }
}

static void pages_join_without_a_seam(struct fan__suite *suite)
{
    struct fixture *fixture = make(suite, true);
    for (size_t limit = 1; limit <= EVENT_COUNT; limit += 1 + limit / 3) {
        for (uint64_t offset = 0; offset <= EVENT_COUNT; offset += limit) {
            struct fan_query query = { .size = FAN_QUERY_SIZE, .offset = offset, .limit = limit };
            check_one(fixture, &query, "pages");
            query.newest_first = true;
            check_one(fixture, &query, "pages");
        }
    }
}

/* Both ways, once by a state. */
static void list_is_bounded(struct fan__suite *suite)
{
    enum { COUNT = 18, SIZE = 1000000 };
    char *large = fan__suite_alloc(suite, SIZE, 1);
    const struct fan_event_draft draft = { .type = "raw.bytes",
                                           .content_type = "application/octet-stream",
                                           .payload = { large, SIZE } };
    struct fan_event_state states[COUNT];
    uint64_t seqs[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        seqs[i] = fan__suite_put(suite, fan__suite_event(suite, &draft));
    for (int way = 0; way < 2; way++) {
        struct fan_query query = { .size = FAN_QUERY_SIZE,
                                   .limit = COUNT,
                                   .newest_first = way == 1,
                                   .has_status = way == 1,
                                   .status = FAN_EVENT_COMPLETED };
        while (query.offset < COUNT) {
            CHECK_OK(suite, fan_store_list(suite->store, &query, suite->batch, states, NULL));
            size_t count = fan_batch_count(suite->batch);
            CHECK(suite, count > 0);
            CHECK(suite, fan_batch_size(suite->batch) < FAN_LIST_SIZE_MAX + 2 * SIZE);
            CHECK(suite, query.offset + count == COUNT ||
                             fan_batch_size(suite->batch) >= FAN_LIST_SIZE_MAX);
            for (size_t i = 0; i < count; i++, query.offset++)
                CHECK_EQUAL(suite, fan_event_seq(fan_batch_event(suite->batch, i)),
                            seqs[way == 1 ? COUNT - 1 - query.offset : query.offset]);
        }
    }
}

static void list_tells_states(struct fan__suite *suite)
{
    struct fixture *fixture = make(suite, true);
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = EVENT_COUNT };
    struct fan_error error = FAN_ERROR_INIT;
    CHECK_OK(suite, fan_store_list(suite->store, &query, suite->batch, fixture->states, &error));
    for (size_t i = 0; i < EVENT_COUNT; i++) {
        const struct fan_event_state *listed = &fixture->states[i];
        CHECK_EQUAL(suite, listed->status, fixture->statuses[i]);
        CHECK_TEXT(suite, listed->error, listed->status == FAN_EVENT_FAILED ? "it broke" : "");
        struct fan_batch *batch = fan__suite_batch(suite);
        struct fan_event_state state;
        CHECK_OK(suite,
                 fan_store_get(suite->store, fan_event_id(fixture->events[i]), batch, &state));
        CHECK_EQUAL(suite, state.status, listed->status);
        CHECK_EQUAL(suite, state.retry_count, listed->retry_count);
        CHECK_TEXT(suite, state.error, listed->error);
        CHECK(suite, state.processed_us == listed->processed_us);
        CHECK(suite, state.completed_us == listed->completed_us);
    }
}

const struct fan__suite_behaviour fan__suite_list[] = {
    { "P05_list_and_read_by_every_filter_alone", single_filters, 0 },
    { "P05_list_and_read_by_every_two_filters", paired_filters, 0 },
    { "P05_list_by_many_filters_at_random", many_filters, 0 },
    { "P05_an_offset_past_the_end_is_empty", offset_past_the_end, 0 },
    { "P05_pages_join_without_a_seam", pages_join_without_a_seam, 0 },
    { "L12_a_list_ends_at_its_bound", list_is_bounded, 0 },
    { "P04_list_and_get_tell_the_same_states", list_tells_states, 0 },
    { .name = NULL },
};
