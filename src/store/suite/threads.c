/* Many at once: visibility in order, one winner, one member, waits that are woken. */
#include "store/suite/suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct fan_group_name g = { .group = "g", .handler = "h" };

/* What the threads of one behaviour share, under `mutex`. */
struct shared {
    struct fan__suite *suite;
    pthread_mutex_t mutex;
    size_t writers_left;
    size_t written;
    size_t seq_end;
    size_t done;
    unsigned char *claimed;
};

struct worker {
    struct shared *shared;
    struct fan_store *store;
    size_t index;
    struct fan_batch *batch;
    struct fan__suite_claims *claims;
    const struct fan_event **events;
    size_t event_count;
    size_t count;
    uint64_t random;
    uint64_t *seqs;
};

/* Where the storage was opened twice, every other worker has the second store. */
static struct worker *make_workers(struct fan__suite *suite, size_t count)
{
    struct shared *shared = fan__suite_alloc(suite, 1, sizeof(*shared));
    struct worker *workers = fan__suite_alloc(suite, count, sizeof(*workers));
    shared->suite = suite;
    pthread_mutex_init(&shared->mutex, NULL);
    for (size_t i = 0; i < count; i++)
        workers[i] =
            (struct worker){ .shared = shared,
                             .store = suite->second && i % 2 ? suite->second : suite->store,
                             .index = i,
                             .batch = fan__suite_batch(suite),
                             .random = suite->seed + i * 1000 };
    return workers;
}

static void give_events(struct fan__suite *suite, struct worker *worker, size_t count,
                        const char *prefix)
{
    worker->events = fan__suite_alloc(suite, count, sizeof(*worker->events));
    worker->event_count = count;
    for (size_t i = 0; i < count; i++) {
        char id[64];
        snprintf(id, sizeof(id), "%s-%zu", prefix, i);
        worker->events[i] = fan__suite_simple(suite, "a.b.c", prefix, id);
    }
}

static bool is_writing(struct shared *shared)
{
    pthread_mutex_lock(&shared->mutex);
    bool writing = shared->writers_left > 0;
    pthread_mutex_unlock(&shared->mutex);
    return writing;
}

static void append_all(struct worker *worker)
{
    struct fan__suite *suite = worker->shared->suite;
    for (size_t at = 0; at < worker->event_count;) {
        struct fan_append items[7] = { { .event = NULL } };
        size_t count = 1 + fan__suite_random(&worker->random, 7);
        if (count > worker->event_count - at)
            count = worker->event_count - at;
        for (size_t i = 0; i < count; i++)
            items[i].event = worker->events[at + i];
        CHECK_HERE(suite, fan_store_append(worker->store, items, count, NULL) == FAN_OK);
        for (size_t i = 0; i < count; i++) {
            CHECK_HERE(suite, items[i].ret_status == FAN_OK && !items[i].ret_duplicate);
            CHECK_HERE(suite, i == 0 || items[i].ret_seq > items[i - 1].ret_seq);
        }
        /* Durable and visible on return: also for a read of one's own. */
        const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 1 };
        struct fan_read_result result;
        CHECK_HERE(suite, fan_store_read(worker->store, items[0].ret_seq - 1, &query, worker->batch,
                                         &result) == FAN_OK);
        CHECK_HERE(suite, result.head_seq >= items[count - 1].ret_seq);
        CHECK_HERE(suite, fan_batch_count(worker->batch) > 0);
        CHECK_HERE(suite, fan_event_seq(fan_batch_event(worker->batch, 0)) == items[0].ret_seq);
        at += count;
    }
}

/*
 * Reads from its cursor until the writers are done, counting; what it passes must be all there is.
 */
static void read_all(struct worker *worker)
{
    struct shared *shared = worker->shared;
    struct fan__suite *suite = shared->suite;
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 1 + worker->index * 37 };
    uint64_t cursor = 0;
    bool last_round = false;
    while (!last_round) {
        last_round = !is_writing(shared);
        struct fan_read_result result;
        do {
            CHECK_HERE(suite, fan_store_read(worker->store, cursor, &query, worker->batch,
                                             &result) == FAN_OK);
            CHECK_HERE(suite, result.scanned_seq >= cursor);
            for (size_t i = 0; i < fan_batch_count(worker->batch); i++) {
                uint64_t seq = fan_event_seq(fan_batch_event(worker->batch, i));
                CHECK_HERE(suite, seq > cursor && seq <= result.scanned_seq);
                cursor = seq;
                worker->count++;
            }
            cursor = result.scanned_seq;
        } while (cursor < result.head_seq && !fan__suite_must_end(suite));
        enum fan_status status = fan_store_wait(worker->store, cursor, 2);
        CHECK_HERE(suite, status == FAN_OK || status == FAN_AGAIN);
    }
}

static void write_or_read(void *context)
{
    struct worker *worker = context;
    struct shared *shared = worker->shared;
    if (worker->event_count == 0) {
        read_all(worker);
        return;
    }
    append_all(worker);
    pthread_mutex_lock(&shared->mutex);
    shared->writers_left--;
    shared->written += worker->event_count;
    pthread_mutex_unlock(&shared->mutex);
}

static void readers_miss_nothing(struct fan__suite *suite)
{
    enum { WRITERS = 6, READERS = 3 };
    size_t each = fan__suite_amount(suite, 150, 5000);
    struct worker *workers = make_workers(suite, WRITERS + READERS);
    workers[0].shared->writers_left = WRITERS;
    for (size_t i = 0; i < WRITERS; i++) {
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "writer-%zu", i);
        give_events(suite, &workers[i], each, prefix);
    }
    fan__suite_parallel(suite, WRITERS + READERS, write_or_read, workers, sizeof(*workers));
    for (size_t i = WRITERS; i < WRITERS + READERS; i++) {
        size_t missed = WRITERS * each - workers[i].count;
        CHECK_EQUAL(suite, missed, 0);
    }
    CHECK_EQUAL(suite, fan__suite_stats(suite).events, WRITERS * each);
}

static void append_each(void *context)
{
    struct worker *worker = context;
    struct fan__suite *suite = worker->shared->suite;
    for (size_t n = 0; n < worker->event_count; n++) {
        size_t at = (n + worker->index * 7) % worker->event_count;
        struct fan_append item = { .event = worker->events[at] };
        CHECK_HERE(suite, fan_store_append(worker->store, &item, 1, NULL) == FAN_OK);
        CHECK_HERE(suite, item.ret_status == FAN_OK && item.ret_seq > 0);
        worker->seqs[at] = item.ret_seq;
        worker->count += !item.ret_duplicate;
    }
}

static void same_ids_from_many(struct fan__suite *suite)
{
    enum { THREADS = 8, IDS = 60 };
    struct worker *workers = make_workers(suite, THREADS);
    for (size_t i = 0; i < THREADS; i++) {
        give_events(suite, &workers[i], IDS, "same");
        workers[i].seqs = fan__suite_alloc(suite, IDS, sizeof(uint64_t));
    }
    fan__suite_parallel(suite, THREADS, append_each, workers, sizeof(*workers));
    size_t stored = 0;
    for (size_t i = 0; i < THREADS; i++) {
        stored += workers[i].count;
        for (size_t j = 0; j < IDS; j++)
            CHECK_EQUAL(suite, workers[i].seqs[j], workers[0].seqs[j]);
    }
    CHECK_EQUAL(suite, stored, IDS);
    CHECK_EQUAL(suite, fan__suite_count(suite), IDS);
}

#define ROUND_COUNT 60

/* Tells the last event of the topic "run", going on from where the last look ended. */
static bool look(struct worker *worker, uint64_t *cursor, uint64_t *last_seq)
{
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .topic = "run" };
    struct fan_read_result result;
    do {
        if (fan_store_read(worker->store, *cursor, &query, worker->batch, &result) != FAN_OK)
            return false;
        size_t count = fan_batch_count(worker->batch);
        if (count > 0)
            *last_seq = fan_event_seq(fan_batch_event(worker->batch, count - 1));
        if (result.scanned_seq == *cursor)
            break;
        *cursor = result.scanned_seq;
    } while (result.scanned_seq < result.head_seq);
    return result.scanned_seq >= result.head_seq;
}

/* Appends each of its events on the last one that it saw, looking again after each conflict. */
static void race_for_a_key(void *context)
{
    struct worker *worker = context;
    struct fan__suite *suite = worker->shared->suite;
    uint64_t cursor = 0;
    uint64_t last_seq = 0;
    for (size_t i = 0; i < worker->event_count && !fan__suite_must_end(suite);) {
        CHECK_HERE(suite, look(worker, &cursor, &last_seq));
        const struct fan_expectation expectation = { .size = sizeof(expectation),
                                                     .key = "run",
                                                     .last_seq = last_seq };
        struct fan_append item = { .event = worker->events[i], .expectation = &expectation };
        CHECK_HERE(suite, fan_store_append(worker->store, &item, 1, NULL) == FAN_OK);
        CHECK_HERE(suite, item.ret_status == FAN_OK || item.ret_status == FAN_CONFLICT);
        if (item.ret_status == FAN_OK)
            worker->seqs[i++] = last_seq;
    }
}

static int compare_seqs(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

/* Nobody won on a state on which another won too: then two would have seen the same last one. */
static void races_have_one_winner(struct fan__suite *suite)
{
    enum { THREADS = 4 };
    struct worker *workers = make_workers(suite, THREADS);
    uint64_t *seen = fan__suite_alloc(suite, THREADS * ROUND_COUNT, sizeof(*seen));
    for (size_t i = 0; i < THREADS; i++) {
        workers[i].events = fan__suite_alloc(suite, ROUND_COUNT, sizeof(*workers[i].events));
        workers[i].event_count = ROUND_COUNT;
        workers[i].seqs = seen + i * ROUND_COUNT;
        for (size_t j = 0; j < ROUND_COUNT; j++)
            workers[i].events[j] = fan__suite_simple(suite, "a.b.c", "run", NULL);
    }
    fan__suite_parallel(suite, THREADS, race_for_a_key, workers, sizeof(*workers));
    qsort(seen, THREADS * ROUND_COUNT, sizeof(*seen), compare_seqs);
    for (size_t i = 1; i < THREADS * ROUND_COUNT; i++)
        CHECK(suite, seen[i] > seen[i - 1]);
    CHECK_EQUAL(suite, fan__suite_count(suite), THREADS * ROUND_COUNT);
}

static void claim_until_done(void *context)
{
    struct worker *worker = context;
    struct shared *shared = worker->shared;
    struct fan__suite *suite = shared->suite;
    char owner[16];
    snprintf(owner, sizeof(owner), "owner-%zu", worker->index);
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = owner,
                                               .limit = 1 + worker->index * 3,
                                               .lease_ms = FAN__SUITE_LONG_MS };
    while (!fan__suite_must_end(suite)) {
        enum fan_status status = fan__suite_claim_into(suite, &g, &options, worker->claims);
        if (status == FAN_AGAIN)
            return;
        CHECK_HERE(suite, status == FAN_OK);
        for (size_t i = 0; i < worker->claims->count; i++) {
            const struct fan_claim *claim = &worker->claims->items[i];
            CHECK_HERE(suite, claim->attempt == 1);
            pthread_mutex_lock(&shared->mutex);
            bool first = claim->seq < shared->seq_end && shared->claimed[claim->seq]++ == 0;
            shared->done++;
            pthread_mutex_unlock(&shared->mutex);
            CHECK_HERE(suite, first);
            struct fan_settle item = { .seq = claim->seq, .token = claim->token };
            CHECK_HERE(suite, fan_group_settle(worker->store, &g, &item, 1) == FAN_OK);
            CHECK_HERE(suite, item.ret_status == FAN_OK);
        }
    }
}

static void one_event_to_one_member(struct fan__suite *suite)
{
    enum { THREADS = 4 };
    size_t count = fan__suite_amount(suite, 400, 20000);
    struct worker *workers = make_workers(suite, THREADS);
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    struct fan_append *items = fan__suite_alloc(suite, count, sizeof(*items));
    for (size_t i = 0; i < count; i++)
        items[i].event = fan__suite_simple(suite, "a.b.c", "", NULL);
    CHECK_OK(suite, fan_store_append(suite->store, items, count, NULL));
    /* Indexed by sequence: the log is fresh, holes are few. */
    workers[0].shared->seq_end = fan__suite_head(suite) + 1;
    workers[0].shared->claimed = fan__suite_alloc(suite, workers[0].shared->seq_end, 1);
    for (size_t i = 0; i < THREADS; i++)
        workers[i].claims = fan__suite_alloc(suite, 1, sizeof(*workers[i].claims));
    for (size_t i = 0; i < THREADS; i++) {
        workers[i].claims->batch = workers[i].batch;
        workers[i].claims->store = workers[i].store;
    }
    fan__suite_parallel(suite, THREADS, claim_until_done, workers, sizeof(*workers));
    CHECK_EQUAL(suite, workers[0].shared->done, count);
    CHECK_EQUAL(suite, fan__suite_stats(suite).completed, count);
}

static void publish_or_work(void *context)
{
    struct worker *worker = context;
    struct shared *shared = worker->shared;
    struct fan__suite *suite = shared->suite;
    if (worker->event_count > 0) {
        append_all(worker);
        return;
    }
    char owner[16];
    snprintf(owner, sizeof(owner), "owner-%zu", worker->index);
    const struct fan_claim_options options = {
        .size = FAN_CLAIM_OPTIONS_SIZE, .owner = owner, .limit = 9, .lease_ms = FAN__SUITE_LONG_MS
    };
    for (bool over = false; !over && !fan__suite_must_end(suite);) {
        enum fan_status status = fan__suite_claim_into(suite, &g, &options, worker->claims);
        CHECK_HERE(suite, status == FAN_OK || status == FAN_AGAIN);
        struct fan_settle items[9] = { { .seq = 0 } };
        size_t done = 0;
        for (size_t i = 0; i < worker->claims->count; i++) {
            enum fan_verdict verdict = (enum fan_verdict)fan__suite_random(&worker->random, 4);
            done += verdict == FAN_VERDICT_DONE || verdict == FAN_VERDICT_FAIL;
            items[i] = (struct fan_settle){ .seq = worker->claims->items[i].seq,
                                            .token = worker->claims->items[i].token,
                                            .verdict = verdict,
                                            .error = "by chance" };
        }
        CHECK_HERE(suite,
                   fan_group_settle(worker->store, &g, items, worker->claims->count) == FAN_OK);
        for (size_t i = 0; i < worker->claims->count; i++)
            CHECK_HERE(suite, items[i].ret_status == FAN_OK);
        pthread_mutex_lock(&shared->mutex);
        shared->done += done;
        over = shared->done >= shared->written;
        pthread_mutex_unlock(&shared->mutex);
    }
}

static void nothing_is_stranded(struct fan__suite *suite)
{
    enum { PUBLISHERS = 2, WORKERS = 4 };
    size_t each = fan__suite_amount(suite, 150, 5000);
    struct worker *workers = make_workers(suite, PUBLISHERS + WORKERS);
    fan__suite_create(suite, &g, FAN_START_NOW, NULL);
    for (size_t i = 0; i < PUBLISHERS + WORKERS; i++) {
        char prefix[32];
        snprintf(prefix, sizeof(prefix), "publisher-%zu", i);
        if (i < PUBLISHERS)
            give_events(suite, &workers[i], each, prefix);
        workers[i].claims = fan__suite_alloc(suite, 1, sizeof(*workers[i].claims));
        workers[i].claims->batch = fan__suite_batch(suite);
        workers[i].claims->store = workers[i].store;
    }
    workers[0].shared->written = PUBLISHERS * each;
    fan__suite_parallel(suite, PUBLISHERS + WORKERS, publish_or_work, workers, sizeof(*workers));
    struct fan_store_stats stats = fan__suite_stats(suite);
    CHECK_EQUAL(suite, stats.completed + stats.failed, PUBLISHERS * each);
    struct fan_group_stats group = fan__suite_group_stats(suite, &g);
    CHECK_EQUAL(suite, group.completed, stats.completed);
    CHECK_EQUAL(suite, group.failed, stats.failed);
    CHECK_EQUAL(suite, group.pending + group.processing + group.lag, 0);
}

/* One holder at a time: what it does while it holds the lease must not meet another's. */
static void hold_the_lease(void *context)
{
    struct worker *worker = context;
    struct shared *shared = worker->shared;
    struct fan__suite *suite = shared->suite;
    char owner[16];
    snprintf(owner, sizeof(owner), "owner-%zu", worker->index);
    while (worker->count < 25 && !fan__suite_must_end(suite)) {
        uint64_t fence = 0;
        enum fan_status status =
            fan_lease_acquire(worker->store, "lease", owner, FAN__SUITE_LONG_MS, &fence);
        if (status == FAN_EXISTS) {
            fan__suite_pause(suite);
            continue;
        }
        CHECK_HERE(suite, status == FAN_OK);
        pthread_mutex_lock(&shared->mutex);
        bool right = shared->done == 0 && fence > shared->written;
        shared->done = 1;
        shared->written = fence;
        pthread_mutex_unlock(&shared->mutex);
        CHECK_HERE(suite, right);
        pthread_mutex_lock(&shared->mutex);
        shared->done = 0;
        pthread_mutex_unlock(&shared->mutex);
        CHECK_HERE(suite, fan_lease_release(worker->store, "lease", owner, fence) == FAN_OK);
        worker->count++;
    }
}

static void leases_exclude(struct fan__suite *suite)
{
    enum { THREADS = 4 };
    struct worker *workers = make_workers(suite, THREADS);
    fan__suite_parallel(suite, THREADS, hold_the_lease, workers, sizeof(*workers));
}

static void wait_or_write(void *context)
{
    struct worker *worker = context;
    struct fan__suite *suite = worker->shared->suite;
    if (worker->index == 0) {
        struct fan_append item = { .event = worker->events[0] };
        CHECK_HERE(suite, fan_store_append(worker->store, &item, 1, NULL) == FAN_OK);
        return;
    }
    CHECK_HERE(suite, fan_store_wait(worker->store, 0, 60000) == FAN_OK);
    uint64_t seq = 0;
    CHECK_HERE(suite, fan_store_head(worker->store, &seq) == FAN_OK && seq > 0);
}

static void waits_are_woken_by_appends(struct fan__suite *suite)
{
    enum { THREADS = 5 };
    struct worker *workers = make_workers(suite, THREADS);
    give_events(suite, &workers[0], 1, "waited for");
    fan__suite_parallel(suite, THREADS, wait_or_write, workers, sizeof(*workers));
}

/* Far more than a wake takes; twice as long, and the wait would have ended by itself. */
#define WAKE_MS 2500

static void wait_or_wake(void *context)
{
    struct worker *worker = context;
    struct shared *shared = worker->shared;
    struct fan__suite *suite = shared->suite;
    if (worker->index > 0) {
        const struct fan_env *real = fan_env_default();
        int64_t begun_ns = real->monotonic_ns(real->context);
        CHECK_HERE(suite, fan_store_wait(worker->store, 0, WAKE_MS * 2) == FAN_AGAIN);
        int64_t waited_ms = (real->monotonic_ns(real->context) - begun_ns) / 1000000;
        CHECK_HERE(suite, waited_ms < WAKE_MS);
        pthread_mutex_lock(&shared->mutex);
        shared->writers_left--;
        pthread_mutex_unlock(&shared->mutex);
        return;
    }
    /* A wake ends the waits that are under way, so it is sent until all have ended. */
    while (is_writing(shared) && !fan__suite_must_end(suite)) {
        fan_store_wake(worker->store);
        fan__suite_pause(suite);
    }
}

static void wake_ends_waits(struct fan__suite *suite)
{
    enum { THREADS = 4 };
    struct worker *workers = make_workers(suite, THREADS);
    workers[0].shared->writers_left = THREADS - 1;
    fan__suite_parallel(suite, THREADS, wait_or_wake, workers, sizeof(*workers));
}

static void two_know_each_other(struct fan__suite *suite)
{
    fan__suite_open_second(suite);
    CHECK_EQUAL(suite, fan_store_epoch(suite->second), fan_store_epoch(suite->store));
    uint64_t first = fan__suite_put_simple(suite, "a.b.c", "t", "first");
    uint64_t fence = 0;
    uint64_t other = 0;
    CHECK_OK(suite, fan_store_wait(suite->second, first - 1, 60000));
    CHECK_OK(suite, fan_store_get(suite->second, "first", suite->batch, NULL));
    CHECK_OK(suite, fan_lease_acquire(suite->second, "l", "b", FAN__SUITE_LONG_MS, &fence));
    CHECK_IS(suite, fan_lease_acquire(suite->store, "l", "a", FAN__SUITE_LONG_MS, &other),
             FAN_EXISTS);
    struct fan_append item = { .event = fan__suite_simple(suite, "a.b.c", "t", "second") };
    CHECK_OK(suite, fan_store_append(suite->second, &item, 1, NULL));
    CHECK(suite, item.ret_seq > first);
    fan__suite_create(suite, &g, FAN_START_BEGINNING, NULL);
    const struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                               .owner = "b",
                                               .lease_ms = FAN__SUITE_LONG_MS };
    struct fan_claim claim;
    CHECK_OK(suite, fan_group_claim(suite->second, &g, &options, suite->batch, &claim));
    CHECK_EQUAL(suite, claim.seq, first);
    fan__suite_claim_one(suite, &g, item.ret_seq);
    CHECK_OK(suite, fan__suite_settle(suite, &g, &claim, FAN_VERDICT_DONE, NULL));
    CHECK_OK(suite, fan_store_delete(suite->store, "second"));
    CHECK_IS(suite, fan_store_get(suite->second, "second", suite->batch, NULL), FAN_NOT_FOUND);
}

#define TWICE(name, behaviour)                                                                     \
    static void name(struct fan__suite *suite)                                                     \
    {                                                                                              \
        fan__suite_open_second(suite);                                                             \
        behaviour(suite);                                                                          \
    }

TWICE(two_miss_nothing, readers_miss_nothing)
TWICE(two_know_their_ids, same_ids_from_many)
TWICE(two_race, races_have_one_winner)
TWICE(two_share_members, one_event_to_one_member)
TWICE(two_strand_nothing, nothing_is_stranded)
TWICE(two_exclude, leases_exclude)
TWICE(two_wake_each_other, waits_are_woken_by_appends)

const struct fan__suite_behaviour fan__suite_threads[] = {
    { "L10_readers_miss_nothing_while_many_write", readers_miss_nothing, 0 },
    { "L09_the_same_ids_from_many_threads", same_ids_from_many, 0 },
    { "P23_races_for_a_key_have_one_winner", races_have_one_winner, 0 },
    { "P09_an_event_goes_to_one_member_once", one_event_to_one_member, 0 },
    { "L08_nothing_is_stranded_while_many_publish_and_work", nothing_is_stranded, 0 },
    { "W09_leases_exclude_each_other", leases_exclude, 0 },
    { "P05_waits_are_woken_by_appends", waits_are_woken_by_appends, 0 },
    { "P05_wake_ends_waits", wake_ends_waits, 0 },
    { "P10_two_on_one_log_know_what_the_other_does", two_know_each_other, FAN__SUITE_REOPEN },
    { "P10_L10_two_on_one_log_miss_nothing", two_miss_nothing, FAN__SUITE_REOPEN },
    { "P10_L09_two_on_one_log_know_their_ids", two_know_their_ids, FAN__SUITE_REOPEN },
    { "P10_P23_two_on_one_log_race", two_race, FAN__SUITE_REOPEN },
    { "P10_P09_two_on_one_log_share_a_group", two_share_members, FAN__SUITE_REOPEN },
    { "P10_L08_two_on_one_log_strand_nothing", two_strand_nothing, FAN__SUITE_REOPEN },
    { "P10_W09_two_on_one_log_exclude_each_other", two_exclude, FAN__SUITE_REOPEN },
    { "P10_two_on_one_log_wake_each_other", two_wake_each_other, FAN__SUITE_REOPEN },
    { .name = NULL },
};
