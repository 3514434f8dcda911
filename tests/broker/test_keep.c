/* Retention under a broker: who is told what it took, and that everything else goes on. */
#include "../seed.h"
#include "support.h"

#include <fanfare/batch.h>
#include <fanfare/env.h>
#include <fanfare/fault.h>
#include <fanfare/keep.h>

#include <pthread.h>
#include <sched.h>

static struct fan_retained retain_all(struct fan_store *store, struct fan_retention retention)
{
    struct fan_retained one = { .size = sizeof(one), .more = true };
    retention.size = FAN_RETENTION_SIZE;
    while (one.more)
        assert_ok(fan_store_retain(store, &retention, &one, NULL));
    return one;
}

static void append(struct fan_store *store, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
        struct fan_event *event = NULL;
        assert_ok(fan_event_new(&draft, NULL, &event, NULL));
        struct fan_append item = { .event = event };
        assert_ok(fan_store_append(store, &item, 1, NULL));
        fan_event_free(event, NULL);
    }
}

/* By hand, as an operator may: what is deleted is no gap, and what is trimmed before it stays. */
static void delete_last(struct fan_store *store, uint64_t seq)
{
    struct fan_query query = { .size = FAN_QUERY_SIZE };
    struct fan_read_result result;
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_read(store, seq - 1, &query, batch, &result));
    assert_int_equal(fan_batch_count(batch), 1);
    assert_ok(fan_store_delete(store, fan_event_id(fan_batch_event(batch, 0))));
    fan_batch_free(batch);
}

static struct fan_reader *subscribe(struct fan_broker *broker, enum fan_policy policy)
{
    const struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE, .policy = policy };
    struct fan_reader *reader = NULL;
    assert_ok(fan_broker_subscribe(broker, &options, &reader, NULL));
    return reader;
}

static void check_next_is_gap(struct fan_reader *reader, uint64_t after, uint64_t before)
{
    const struct fan_event *event = NULL;
    struct fan_gap gap;
    assert_int_equal(fan_reader_next(reader, 0, &event), FAN_GAP);
    fan_reader_gap(reader, &gap);
    assert_int_equal(gap.reason, FAN_GAP_RETENTION);
    assert_int_equal(gap.after, after);
    assert_int_equal(gap.before, before);
    assert_true(gap.count == FAN_GAP_COUNT_UNKNOWN);
}

/*
 * Another instance appends and trims before this one looks: what its live readers never had a
 * chance to get is told, to those that go back to the log and to those that do not.
 */
static void test_L04_P11_live_readers_are_told_what_was_trimmed_before_they_heard(void **state)
{
    struct place *place = *state;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.stepped = true;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    struct fan_store *other = NULL;
    assert_ok(fan_store_open(place->uri, NULL, &other, NULL));
    const enum fan_policy policies[] = { FAN_POLICY_REFILL, FAN_POLICY_DROP_OLDEST,
                                         FAN_POLICY_DROP_NEWEST };
    struct fan_reader *readers[3];
    for (size_t i = 0; i < 3; i++)
        readers[i] = subscribe(broker, policies[i]);
    append(other, 3);
    assert_ok(fan_broker_step(broker));
    for (size_t i = 0; i < 3; i++) {
        for (uint64_t seq = 1; seq <= 3; seq++)
            assert_int_equal(next_seq(readers[i]), seq);
    }
    append(other, 10);
    assert_int_equal(retain_all(other, (struct fan_retention){ .count = 4 }).trimmed_seq, 9);
    assert_ok(fan_broker_step(broker));
    for (size_t i = 0; i < 3; i++) {
        check_next_is_gap(readers[i], 3, 10);
        for (uint64_t seq = 10; seq <= 13; seq++)
            assert_int_equal(next_seq(readers[i]), seq);
        const struct fan_event *event = NULL;
        assert_int_equal(fan_reader_next(readers[i], 0, &event), FAN_AGAIN);
    }
    /* What was told before it was trimmed is no loss: it lies in the ring. */
    append(other, 5);
    assert_ok(fan_broker_step(broker));
    retain_all(other, (struct fan_retention){ .count = 1 });
    append(other, 1);
    assert_ok(fan_broker_step(broker));
    for (size_t i = 0; i < 3; i++) {
        for (uint64_t seq = 14; seq <= 19; seq++)
            assert_int_equal(next_seq(readers[i]), seq);
    }
    /* Nor does the end come before the loss. */
    append(other, 3);
    retain_all(other, (struct fan_retention){ .count = 1 });
    delete_last(other, 22);
    assert_ok(fan_broker_step(broker));
    assert_ok(fan_broker_stop(broker, 0));
    for (size_t i = 0; i < 3; i++) {
        const struct fan_event *event = NULL;
        check_next_is_gap(readers[i], 19, 22);
        assert_int_equal(fan_reader_next(readers[i], 0, &event), FAN_CLOSED);
        fan_reader_free(readers[i]);
    }
    fan_store_close(other);
    fan_broker_free(broker);
}

static void *wait_for_gap(void *context)
{
    const struct fan_event *event = NULL;
    assert_int_equal(fan_reader_next(context, FAN_TIMEOUT_FOREVER, &event), FAN_GAP);
    return NULL;
}

/*
 * The log cannot be read for a time, and is trimmed meanwhile past what its live readers have seen:
 * some of what was missed is left, or nothing is; what was missed came from this broker, or from
 * others. Each reader is told before it gets anything else, and nobody waits for what is gone.
 */
static void check_outage(const char *scheme, bool own, uint64_t left)
{
    struct place place;
    struct fan_store *inner = NULL;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan_broker *broker = NULL;
    place_make(&place, scheme);
    assert_ok(fan_store_open(place.uri, NULL, &inner, NULL));
    assert_ok(fan_fault_wrap(inner, "", NULL, &options.store, NULL));
    options.stepped = true;
    assert_ok(fan_broker_open(NULL, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    const enum fan_policy policies[] = { FAN_POLICY_REFILL, FAN_POLICY_DROP_OLDEST,
                                         FAN_POLICY_DROP_NEWEST };
    struct fan_reader *readers[3];
    for (size_t i = 0; i < 3; i++)
        readers[i] = subscribe(broker, policies[i]);
    append(inner, 3);
    assert_ok(fan_broker_step(broker));
    for (size_t i = 0; i < 3; i++) {
        for (uint64_t seq = 1; seq <= 3; seq++)
            assert_int_equal(next_seq(readers[i]), seq);
    }
    struct fan_reader *waiting = subscribe(broker, FAN_POLICY_DROP_OLDEST);
    assert_ok(fan_fault_set(options.store, "read.errors=100%", NULL));
    append(inner, own ? 1 : 10);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    for (int i = 0; own && i < 9; i++)
        assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
    (void)!fan_broker_step(broker);
    const struct fan_event *event = NULL;
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(fan_reader_next(readers[i], 0, &event), FAN_AGAIN);
    struct fan_retention retention = { .count = left ? left : 1 };
    assert_int_equal(retain_all(inner, retention).trimmed_seq, left ? 13 - left : 12);
    if (left == 0)
        delete_last(inner, 13);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, wait_for_gap, waiting), 0);
    assert_ok(fan_fault_set(options.store, "", NULL));
    assert_ok(fan_broker_step(broker));
    assert_int_equal(pthread_join(thread, NULL), 0);
    fan_reader_free(waiting);
    uint64_t trimmed_seq = left ? 13 - left : 12;
    if (left == 0) {
        /* Nothing came that could bring the news along. */
        for (size_t i = 0; i < 3; i++) {
            check_next_is_gap(readers[i], 3, trimmed_seq + 1);
            assert_int_equal(fan_reader_next(readers[i], 0, &event), FAN_AGAIN);
        }
    }
    assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
    for (size_t i = 0; i < 3; i++) {
        if (left > 0)
            check_next_is_gap(readers[i], 3, trimmed_seq + 1);
        for (uint64_t seq = 14 - left; seq <= 14; seq++)
            assert_int_equal(next_seq(readers[i]), seq);
        assert_int_equal(fan_reader_next(readers[i], 0, &event), FAN_AGAIN);
        fan_reader_free(readers[i]);
    }
    struct fan_store *store = options.store;
    fan_broker_free(broker);
    fan_store_close(store);
    fan_store_close(inner);
    place_remove(&place);
}

static void test_L04_P11_readers_are_told_what_was_trimmed_while_nothing_could_be_read(void **state)
{
    for (int own = 0; own < 2; own++) {
        for (uint64_t left = 0; left <= 4; left += 4)
            check_outage(*state, own, left);
    }
}

/* Clocks that the test moves, and lines that were logged. */
struct world {
    struct fan_env env;
    pthread_mutex_t mutex;
    int64_t passed_us;
    int64_t wrong_us; /* the wall clock's alone */
    int64_t bytes;
    int64_t bytes_max;
    int64_t looks; /* at the monotonic clock */
    char lines[4096];
};

static int64_t get(struct world *world, const int64_t *number)
{
    pthread_mutex_lock(&world->mutex);
    int64_t value = *number;
    pthread_mutex_unlock(&world->mutex);
    return value;
}

static void set(struct world *world, int64_t *number, int64_t value)
{
    pthread_mutex_lock(&world->mutex);
    *number = value;
    pthread_mutex_unlock(&world->mutex);
}

static int64_t world_wall_us(void *context)
{
    struct world *world = context;
    const struct fan_env *real = fan_env_default();
    return real->wall_us(real->context) + get(world, &world->passed_us) +
           get(world, &world->wrong_us);
}

static int64_t world_monotonic_ns(void *context)
{
    struct world *world = context;
    const struct fan_env *real = fan_env_default();
    set(world, &world->looks, get(world, &world->looks) + 1);
    return real->monotonic_ns(real->context) + get(world, &world->passed_us) * 1000;
}

static void world_log(void *context, enum fan_log_level level, const char *message)
{
    struct world *world = context;
    (void)level;
    pthread_mutex_lock(&world->mutex);
    size_t size = strlen(world->lines);
    snprintf(world->lines + size, sizeof(world->lines) - size, "%s\n", message);
    pthread_mutex_unlock(&world->mutex);
}

static bool was_logged(struct world *world, const char *words)
{
    pthread_mutex_lock(&world->mutex);
    bool there = strstr(world->lines, words) != NULL;
    pthread_mutex_unlock(&world->mutex);
    return there;
}

/*
 * The sum of what the passes of retention said that they removed, where none let anything expire.
 */
static unsigned logged_removed(struct world *world)
{
    static const char words[] = "retention: ";
    unsigned sum = 0;
    pthread_mutex_lock(&world->mutex);
    for (const char *at = world->lines; (at = strstr(at, words)); at += strlen(words)) {
        char *end;
        unsigned long count = strtoul(at + strlen(words), &end, 10);
        if (strncmp(end, " events removed, 0 deliveries expired", 37) == 0)
            sum += (unsigned)count;
    }
    pthread_mutex_unlock(&world->mutex);
    return sum;
}

/* Every block has its size before it. */
static void *world_resize(void *context, void *pointer, size_t size)
{
    struct world *world = context;
    max_align_t *old = pointer ? (max_align_t *)pointer - 1 : NULL;
    size_t before = old ? *(size_t *)old : 0;
    max_align_t *block = realloc(old, size + sizeof(*block));
    if (!block)
        return NULL;
    *(size_t *)block = size;
    pthread_mutex_lock(&world->mutex);
    world->bytes += (int64_t)size - (int64_t)before;
    if (world->bytes > world->bytes_max)
        world->bytes_max = world->bytes;
    pthread_mutex_unlock(&world->mutex);
    return block + 1;
}

static void world_release(void *context, void *pointer)
{
    struct world *world = context;
    if (!pointer)
        return;
    max_align_t *block = (max_align_t *)pointer - 1;
    pthread_mutex_lock(&world->mutex);
    world->bytes -= (int64_t) * (size_t *)block;
    pthread_mutex_unlock(&world->mutex);
    free(block);
}

static void world_make(struct world *world)
{
    *world = (struct world){ .env = *fan_env_default() };
    pthread_mutex_init(&world->mutex, NULL);
    world->env.context = world;
    world->env.wall_us = world_wall_us;
    world->env.monotonic_ns = world_monotonic_ns;
    world->env.log = world_log;
    world->env.resize = world_resize;
    world->env.release = world_release;
}

static struct fan_broker_stats stats_of(struct fan_broker *broker)
{
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    return stats;
}

#define DAY_US INT64_C(86400000000)
#define LOOK_COUNT 50

/* Time passes while the broker's threads run, and see it pass. */
static void pass_awake(struct world *world, int64_t until_us)
{
    while (get(world, &world->passed_us) < until_us) {
        int64_t looks = get(world, &world->looks);
        /* Who reads one clock before it and one after it finds them less than a day apart. */
        set(world, &world->passed_us, get(world, &world->passed_us) + DAY_US / 2);
        while (get(world, &world->looks) < looks + LOOK_COUNT)
            sched_yield();
    }
}

static void test_P11_a_broker_keeps_house(void **state)
{
    struct place *place = *state;
    static struct world world;
    world_make(&world);
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE,
                                       .age_ms = 86400000,
                                       .group_age_ms = (uint64_t)86400000 * 7,
                                       .limit = 10 };
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.env = &world.env;
    options.retention = &retention;
    options.retention_interval_ms = 1;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    retention = (struct fan_retention){ .size = 0 }; /* it was copied */
    assert_ok(fan_broker_start(broker));
    const struct fan_group_name name = { .group = "left", .handler = "alone" };
    const struct fan_group_options group = { .size = FAN_GROUP_OPTIONS_SIZE };
    for (int i = 0; i < 100; i++)
        publish(broker, "a.b.c", "t");
    assert_ok(fan_group_create(fan_broker_store(broker), &name, &group, NULL));
    pass_awake(&world, 2 * DAY_US);
    while (stats_of(broker).removed < 100)
        sched_yield();
    pass_awake(&world, 11 * DAY_US);
    while (stats_of(broker).groups_expired == 0)
        sched_yield();
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_int_equal(stats.events, 0);
    assert_int_equal(stats.groups, 0);
    assert_int_equal(stats_of(broker).retention_failures, 0);
    assert_int_equal(stats_of(broker).removed, 100);
    assert_ok(fan_broker_stop(broker, 10000));
    /* In more than one pass, where one was under way when the time came. */
    assert_int_equal(logged_removed(&world), 100);
    assert_true(was_logged(&world, "group left/alone: no member has asked for work in too long"));
    fan_broker_free(broker);
    assert_int_equal(world.bytes, 0);
    pthread_mutex_destroy(&world.mutex);
}

#define MINUTE_US INT64_C(60000000)
#define OWED 50

static enum fan_verdict count_one(void *context, const struct fan_event *event,
                                  const struct fan_handling *handling)
{
    (void)event;
    (void)handling;
    ++*(unsigned *)context;
    return FAN_VERDICT_DONE;
}

static struct fan_broker *stepped_broker(struct world *world, struct fan_store *store)
{
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .group_age_ms = 3600000 };
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.env = &world->env;
    options.store = store;
    options.retention = &retention;
    options.stepped = true;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(NULL, &options, &broker, NULL));
    return broker;
}

/* Lets time pass, in steps in which everybody has their turn. */
static void live(struct world *world, struct fan_broker *broker, int64_t minutes)
{
    for (int64_t i = 0; i <= minutes; i++) {
        while (fan_broker_step(broker) == FAN_OK)
            ;
        if (i < minutes)
            set(world, &world->passed_us, get(world, &world->passed_us) + MINUTE_US);
    }
}

static bool find_group(struct fan_store *store, const char *group)
{
    const struct fan_group_name name = { .group = group, .handler = "" };
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = "elsewhere",
                                               .lease_ms = 1 };
    struct fan_claim claim;
    struct fan_batch *batch = NULL;
    assert_ok(fan_batch_new(NULL, &batch));
    enum fan_status status = fan_group_claim(store, &name, &options, batch, &claim);
    assert_true(status == FAN_OK || status == FAN_NOT_FOUND);
    fan_batch_free(batch);
    return status == FAN_OK;
}

/*
 * A program is down for longer than groups may stay away. Its handler is added before the start,
 * right after it, or an hour later; members elsewhere need as long to come back. So they do when
 * the program was not down, but stood still.
 */
static void test_P11_time_in_which_no_broker_ran_deletes_no_group(void **state)
{
    static const int64_t adds_after_minutes[] = { -1, 0, 55 };
    for (size_t i = 0; i < 3; i++) {
        struct place place;
        static struct world world;
        struct fan_store *store = NULL;
        unsigned handled = 0;
        place_make(&place, *state);
        world_make(&world);
        assert_ok(fan_store_open(place.uri, &world.env, &store, NULL));
        struct fan_handler_options mail = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                            .group = "mail",
                                            .handle = count_one };
        mail.context = &handled;
        const struct fan_group_options group = { .size = FAN_GROUP_OPTIONS_SIZE };
        static const struct fan_group_name others[] = { { "back", "" }, { "left", "" } };
        struct fan_handler *handler = NULL;
        struct fan_broker *broker = stepped_broker(&world, store);
        assert_ok(fan_broker_handle(broker, &mail, &handler, NULL));
        fan_handler_free(handler);
        for (size_t j = 0; j < 2; j++)
            assert_ok(fan_group_create(store, &others[j], &group, NULL));
        append(store, OWED);
        fan_broker_free(broker);
        set(&world, &world.passed_us, 120 * MINUTE_US);
        broker = stepped_broker(&world, store);
        if (adds_after_minutes[i] < 0)
            assert_ok(fan_broker_handle(broker, &mail, NULL, NULL));
        assert_ok(fan_broker_start(broker));
        live(&world, broker, adds_after_minutes[i] < 0 ? 55 : adds_after_minutes[i]);
        if (adds_after_minutes[i] >= 0)
            assert_ok(fan_broker_handle(broker, &mail, NULL, NULL));
        live(&world, broker, adds_after_minutes[i] == 0 ? 55 : 0);
        assert_int_equal(handled, OWED);
        assert_int_equal(stats_of(broker).groups_expired, 0);
        assert_true(find_group(store, "back"));
        /* Who does not come back while a broker runs has left. */
        live(&world, broker, 10);
        assert_int_equal(stats_of(broker).groups_expired, 1);
        assert_false(find_group(store, "left"));
        assert_true(find_group(store, "back"));
        set(&world, &world.passed_us, get(&world, &world.passed_us) + 300 * MINUTE_US);
        live(&world, broker, 55);
        assert_int_equal(stats_of(broker).groups_expired, 1);
        live(&world, broker, 10);
        assert_int_equal(stats_of(broker).groups_expired, 2);
        fan_broker_free(broker);
        fan_store_close(store);
        place_remove(&place);
        pthread_mutex_destroy(&world.mutex);
    }
}

/* Moves the environment's clock past its own time limit, and so past its sibling's lease. */
static enum fan_verdict take_a_minute(void *context, const struct fan_event *event,
                                      const struct fan_handling *handling)
{
    struct world *world = context;
    (void)event;
    if (handling->attempt == 1)
        set(world, &world->passed_us, get(world, &world->passed_us) + MINUTE_US);
    return FAN_VERDICT_DONE;
}

static void test_H05_P09_a_stepped_brokers_work_is_timed_by_its_environments_clock(void **state)
{
    struct place *place = *state;
    static struct world world;
    struct fan_store *log = NULL;
    struct fan_store *store = NULL;
    unsigned handled = 0;
    world_make(&world);
    assert_ok(fan_store_open(place->uri, &world.env, &log, NULL));
    assert_ok(fan_fault_wrap(log, NULL, &world.env, &store, NULL));
    struct fan_broker *broker = stepped_broker(&world, store);
    const struct fan_retry_policy retry = { .retries = 1, .delay_ms = 60000 };
    struct fan_handler_options options = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                           .group = "slow",
                                           .handle = take_a_minute,
                                           .context = &world,
                                           .retry = &retry,
                                           .timeout_ms = 30000 };
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    options = (struct fan_handler_options){
        .size = FAN_HANDLER_OPTIONS_SIZE, .group = "next", .handle = count_one, .context = &handled
    };
    assert_ok(fan_broker_handle(broker, &options, NULL, NULL));
    assert_ok(fan_broker_start(broker));
    publish(broker, "a.b.c", NULL);
    /* The first took too long; the second's lease was over then, and it was not called. */
    assert_ok(fan_broker_step(broker));
    assert_int_equal(stats_of(broker).retried, 1);
    assert_int_equal(handled, 0);
    while (fan_broker_step(broker) == FAN_OK)
        ;
    assert_int_equal(handled, 1);
    assert_int_equal(stats_of(broker).processed, 2);
    /* A claim fails, is not tried again at once, and is when the time for that has come. */
    set(&world, &world.passed_us, get(&world, &world.passed_us) + MINUTE_US);
    assert_ok(fan_fault_set(store, "claim.io=100%,limit=2", NULL));
    (void)!fan_broker_step(broker);
    uint64_t count = 0;
    assert_ok(fan_fault_count(store, "claim.io", &count));
    assert_int_equal(count, 2);
    set(&world, &world.passed_us, get(&world, &world.passed_us) + MINUTE_US);
    while (fan_broker_step(broker) == FAN_OK)
        ;
    assert_int_equal(stats_of(broker).processed, 3);
    fan_broker_free(broker);
    fan_store_close(store);
    fan_store_close(log);
    pthread_mutex_destroy(&world.mutex);
}

static void test_R02_a_jump_of_the_clock_is_told_and_nothing_is_removed(void **state)
{
    struct place *place = *state;
    static struct world world;
    world_make(&world);
    const struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .age_ms = 60000 };
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.env = &world.env;
    options.retention = &retention;
    options.retention_interval_ms = 1000;
    options.stepped = true;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    append(fan_broker_store(broker), 5);
    while (fan_broker_step(broker) == FAN_OK)
        ;
    for (int i = 1; i <= 3; i++) {
        set(&world, &world.wrong_us, i % 2 ? 3 * DAY_US : -3 * DAY_US);
        set(&world, &world.passed_us, i * 2000000);
        while (fan_broker_step(broker) == FAN_OK)
            ;
        assert_int_equal(stats_of(broker).retention_failures, i);
    }
    assert_true(was_logged(&world, "nothing is removed until the clock is set right"));
    assert_int_equal(stats_of(broker).removed, 0);
    /* Set right, it goes on by itself. */
    set(&world, &world.wrong_us, 0);
    set(&world, &world.passed_us, 100000000);
    while (stats_of(broker).removed < 5)
        (void)!fan_broker_step(broker);
    assert_int_equal(stats_of(broker).retention_failures, 3);
    fan_broker_free(broker);
    pthread_mutex_destroy(&world.mutex);
}

static uint64_t events_of(struct fan_broker *broker)
{
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    return stats.events;
}

static void publish_count(struct fan_broker *broker, size_t count)
{
    for (size_t i = 0; i < count; i++)
        publish(broker, "a.b.c", "t");
}

/* Asked for nothing at first; an hour between two looks, so that only a change has it look. */
static void test_P11_bounds_change_while_it_runs(void **state)
{
    struct place *place = *state;
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE };
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, NULL, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    publish_count(broker, 50);
    for (uint64_t count = 40; count > 0; count -= 10) {
        retention.count = count;
        assert_ok(fan_broker_set_retention(broker, &retention, 3600000));
        while (stats_of(broker).removed < 50 - count)
            sched_yield();
        assert_int_equal(events_of(broker), count);
    }
    assert_ok(fan_broker_set_retention(broker, NULL, 0));
    publish_count(broker, 50);
    assert_int_equal(events_of(broker), 60);
    retention.count = 5;
    assert_ok(fan_broker_set_retention(broker, &retention, 0));
    while (stats_of(broker).removed < 95)
        sched_yield();
    retention.size = 1;
    assert_int_equal(fan_broker_set_retention(broker, &retention, 0), FAN_INVALID);
    retention.size = FAN_RETENTION_SIZE;
    assert_ok(fan_broker_stop(broker, 1000));
    assert_int_equal(fan_broker_set_retention(broker, &retention, 0), FAN_CLOSED);
    fan_broker_free(broker);
}

static void test_P11_bounds_of_a_stepped_broker_change(void **state)
{
    struct place *place = *state;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.stepped = true;
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = 20 };
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    assert_ok(fan_broker_set_retention(broker, &retention, 3600000));
    assert_ok(fan_broker_start(broker));
    append(fan_broker_store(broker), 50);
    while (fan_broker_step(broker) == FAN_OK)
        ;
    assert_int_equal(events_of(broker), 20);
    retention.count = 10;
    assert_ok(fan_broker_set_retention(broker, &retention, 3600000));
    while (events_of(broker) > 10)
        (void)!fan_broker_step(broker);
    assert_ok(fan_broker_set_retention(broker, NULL, 0));
    append(fan_broker_store(broker), 5);
    while (fan_broker_step(broker) == FAN_OK)
        ;
    assert_int_equal(events_of(broker), 15);
    fan_broker_free(broker);
}

struct changer {
    struct fan_broker *broker;
    uint64_t count;
};

static void *change_many(void *context)
{
    const struct changer *changer = context;
    struct fan_retention retention = { .size = FAN_RETENTION_SIZE, .count = changer->count };
    for (int i = 0; i < 200; i++) {
        enum fan_status status =
            fan_broker_set_retention(changer->broker, i % 3 ? &retention : NULL, 1);
        if (status != FAN_OK && status != FAN_CLOSED)
            return "set";
    }
    return NULL;
}

static void test_P11_bounds_may_be_set_by_many_while_it_starts_and_stops(void **state)
{
    for (int life = 0; life < 10; life++) {
        struct place place;
        place_make(&place, *state);
        struct fan_broker *broker = NULL;
        assert_ok(fan_broker_open(place.uri, NULL, &broker, NULL));
        struct changer changers[4];
        pthread_t threads[4];
        for (size_t i = 0; i < 4; i++) {
            changers[i] = (struct changer){ .broker = broker, .count = 10 + i };
            assert_int_equal(pthread_create(&threads[i], NULL, change_many, &changers[i]), 0);
        }
        assert_ok(fan_broker_start(broker));
        publish_count(broker, 20);
        assert_ok(fan_broker_stop(broker, 5000));
        for (size_t i = 0; i < 4; i++) {
            void *wrong = NULL;
            pthread_join(threads[i], &wrong);
            assert_null(wrong);
        }
        fan_broker_free(broker);
        place_remove(&place);
    }
}

/* One reader of the soak: what comes is the next, or the gap before it was told. */
struct listener {
    struct fan_reader *reader;
    pthread_t thread;
    uint64_t last_seq;
    uint64_t until_seq;
    uint64_t delivered;
    uint64_t gaps;
    bool slow;
    const char *wrong;
};

static void *listen(void *context)
{
    struct listener *listener = context;
    uint64_t expected_seq = 1;
    while (!listener->wrong && listener->last_seq < listener->until_seq) {
        const struct fan_event *event = NULL;
        enum fan_status status = fan_reader_next(listener->reader, 60000, &event);
        if (status == FAN_GAP) {
            struct fan_gap gap;
            fan_reader_gap(listener->reader, &gap);
            listener->gaps++;
            if (gap.after != listener->last_seq || gap.before <= gap.after + 1)
                listener->wrong = "a gap does not begin where the reader is";
            listener->last_seq = gap.before - 1;
            expected_seq = gap.before;
            continue;
        }
        if (status != FAN_OK) {
            listener->wrong = fan_status_name(status);
            break;
        }
        if (fan_event_seq(event) != expected_seq)
            listener->wrong = "an event is missing, and no gap told it";
        listener->last_seq = fan_event_seq(event);
        expected_seq = listener->last_seq + 1;
        listener->delivered++;
        for (int i = 0; listener->slow && i < 200; i++)
            sched_yield();
    }
    return NULL;
}

struct publisher {
    struct fan_broker *broker;
    pthread_t thread;
    size_t count;
};

static void *publish_many(void *context)
{
    const struct publisher *publisher = context;
    for (size_t i = 0; i < publisher->count; i++)
        publish(publisher->broker, i % 4 ? "a.b.c" : "d.e.f", "t");
    return NULL;
}

static enum fan_verdict on_event(void *context, const struct fan_event *event,
                                 const struct fan_handling *handling)
{
    (void)context;
    (void)handling;
    return fan_event_seq(event) % 100 == 0 ? FAN_VERDICT_FAIL : FAN_VERDICT_DONE;
}

enum { PUBLISHERS = 3, LISTENERS = 4 };

static void start_listeners(struct fan_broker *broker, struct listener *listeners, uint64_t total)
{
    static const struct {
        enum fan_start start;
        enum fan_policy policy;
        bool slow;
    } kinds[LISTENERS] = {
        { FAN_START_BEGINNING, FAN_POLICY_REFILL, false },
        { FAN_START_BEGINNING, FAN_POLICY_REFILL, true },
        { FAN_START_NOW, FAN_POLICY_DROP_OLDEST, true },
        { FAN_START_NOW, FAN_POLICY_REFILL, true },
    };
    for (size_t i = 0; i < LISTENERS; i++) {
        const struct fan_reader_options options = { .size = FAN_READER_OPTIONS_SIZE,
                                                    .start = kinds[i].start,
                                                    .policy = kinds[i].policy,
                                                    .buffer_count = 64 };
        listeners[i] = (struct listener){ .until_seq = total, .slow = kinds[i].slow };
        assert_ok(fan_broker_subscribe(broker, &options, &listeners[i].reader, NULL));
        assert_int_equal(pthread_create(&listeners[i].thread, NULL, listen, &listeners[i]), 0);
    }
}

/* One half of the soak; gives how much memory it had at most. */
static void run_half(struct fan_broker *broker, struct publisher *publishers, size_t count)
{
    for (size_t i = 0; i < PUBLISHERS; i++) {
        publishers[i] = (struct publisher){ .broker = broker, .count = count };
        assert_int_equal(pthread_create(&publishers[i].thread, NULL, publish_many, &publishers[i]),
                         0);
    }
    for (size_t i = 0; i < PUBLISHERS; i++)
        pthread_join(publishers[i].thread, NULL);
}

static bool show_finding(void *context, const struct fan_finding *finding)
{
    (void)context;
    print_error("%s %llu: %s\n", finding->part, (unsigned long long)finding->seq, finding->words);
    return true;
}

/* Everything at once: publishers, workers, readers of all kinds, and retention. */
static void test_P11_L04_what_is_trimmed_is_told_exactly_while_all_goes_on(void **state)
{
    struct place *place = *state;
    static struct world world;
    strcat(place->uri, strcmp(place->scheme, "sqlite") == 0
                           ? "?synchronous=normal&checkpoint_frames=500"
                           : "?capacity=10000000");
    world_make(&world);
    bool soak = test_is_soak();
    size_t count = soak ? 200000 : 2000;
    const struct fan_retention retention = {
        .size = FAN_RETENTION_SIZE, .count = 300, .dead_age_ms = 1, .limit = soak ? 1000 : 50
    };
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.env = &world.env;
    options.retention = &retention;
    options.retention_interval_ms = 1;
    struct fan_broker *broker = NULL;
    assert_ok(fan_broker_open(place->uri, &options, &broker, NULL));
    const struct fan_handler_options handler = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                                 .group = "workers",
                                                 .pattern = "a.>",
                                                 .start = FAN_START_BEGINNING,
                                                 .handle = on_event };
    assert_ok(fan_broker_handle(broker, &handler, NULL, NULL));
    assert_ok(fan_broker_start(broker));
    uint64_t total = PUBLISHERS * count * 2;
    struct listener listeners[LISTENERS];
    struct publisher publishers[PUBLISHERS];
    start_listeners(broker, listeners, total);
    run_half(broker, publishers, count);
    run_half(broker, publishers, count);
    for (size_t i = 0; i < LISTENERS; i++) {
        pthread_join(listeners[i].thread, NULL);
        if (listeners[i].wrong)
            fail_msg("reader %zu at %llu: %s", i, (unsigned long long)listeners[i].last_seq,
                     listeners[i].wrong);
        print_message("# reader %zu: %llu delivered, %llu gaps\n", i,
                      (unsigned long long)listeners[i].delivered,
                      (unsigned long long)listeners[i].gaps);
        fan_reader_free(listeners[i].reader);
    }
    while (stats_of(broker).removed < total - 300)
        sched_yield();
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(fan_broker_store(broker), &stats));
    assert_true(stats.last_seq == total && stats.events <= 300);
    /* Memory is that of what is kept, not of what has passed. */
    print_message("# %lld bytes at the end, %lld at most\n", (long long)get(&world, &world.bytes),
                  (long long)get(&world, &world.bytes_max));
    assert_true(get(&world, &world.bytes) <= get(&world, &world.bytes_max) / 4 + (1 << 20));
    assert_true(stats_of(broker).discarded > 0);
    if (strcmp(place->scheme, "sqlite") == 0)
        assert_ok(fan_store_verify(fan_broker_store(broker), show_finding, NULL, NULL));
    fan_broker_free(broker);
    assert_int_equal(world.bytes, 0);
    pthread_mutex_destroy(&world.mutex);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        on_sqlite(test_L04_P11_live_readers_are_told_what_was_trimmed_before_they_heard),
        on_every_scheme(test_L04_P11_readers_are_told_what_was_trimmed_while_nothing_could_be_read),
        on_every_store(test_P11_a_broker_keeps_house),
        on_every_scheme(test_P11_time_in_which_no_broker_ran_deletes_no_group),
        on_every_store(test_H05_P09_a_stepped_brokers_work_is_timed_by_its_environments_clock),
        on_every_store(test_R02_a_jump_of_the_clock_is_told_and_nothing_is_removed),
        on_every_store(test_P11_bounds_change_while_it_runs),
        on_every_store(test_P11_bounds_of_a_stepped_broker_change),
        on_every_scheme(test_P11_bounds_may_be_set_by_many_while_it_starts_and_stops),
        on_every_store(test_P11_L04_what_is_trimmed_is_told_exactly_while_all_goes_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
