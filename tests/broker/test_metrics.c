/* What is counted, by whom, and how it is written. */
#include "counters.h"
#include "probe.h"

#include "base/buffer.h"
#include "base/number.h"
#include "broker/exposition.h"
#include "broker/histogram.h"
#include "broker/label.h"
#include "broker/metrics.h"
#include "store/memory/memory.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <sys/wait.h>

/* ---- Histograms ---- */

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void check_against_model(const struct fan__histogram_scale *scale, uint64_t seed)
{
    struct fan__histogram histogram = { .sum = 0 };
    static uint64_t values[20000];
    uint64_t sum = 0;
    for (size_t i = 0; i < 20000; i++) {
        /* Of every size, and often a bound or its neighbours. */
        values[i] = next_random(&seed) >> (20 + next_random(&seed) % 44);
        if (i % 3 == 0)
            values[i] = scale->bounds[next_random(&seed) % scale->count] + i % 9 / 3 - 1;
        sum += values[i];
        fan__histogram_add(&histogram, scale, values[i]);
    }
    uint64_t below = 0;
    for (size_t b = 0; b < scale->count; b++) {
        uint64_t wanted = 0;
        below += histogram.counts[b];
        for (size_t i = 0; i < 20000; i++)
            wanted += values[i] <= scale->bounds[b];
        assert_int_equal(below, wanted);
        assert_true(b == 0 || scale->bounds[b - 1] < scale->bounds[b]);
    }
    assert_int_equal(below + histogram.counts[scale->count], 20000);
    assert_int_equal(histogram.sum, sum);
}

static void test_H14_histograms_equal_a_plain_model(void **state)
{
    (void)state;
    check_against_model(&fan__histogram_times, 7);
    check_against_model(&fan__histogram_sizes, 11);
}

/* ---- Labels ---- */

static void test_R06_labels_are_bounded_in_number(void **state)
{
    (void)state;
    static struct fan__labels labels;
    fan__labels_init(&labels, NULL);
    fan__labels_reserve(&labels, "system", FAN__LABEL_OTHER);
    fan__labels_reserve(&labels, "frontend", FAN__LABEL_OTHER);
    unsigned found[300];
    for (unsigned i = 0; i < 300; i++) {
        char type[32];
        snprintf(type, sizeof(type), "type.%u", i / 2);
        found[i] = fan__labels_find(&labels, i % 2 ? "system" : "frontend", type, i % 2 ? 0 : 1);
        assert_int_equal(found[i], i < 200 ? i + 2 : (i % 2 ? 0u : 1u));
    }
    assert_int_equal(labels.count, 202);
    /* What has its place keeps it; neither half alone makes a pair. */
    assert_int_equal(fan__labels_find(&labels, "frontend", "type.7", 1), found[14]);
    assert_string_equal(labels.labels[found[15]].first, "system");
    assert_string_equal(labels.labels[found[15]].second, "type.7");
    assert_int_equal(fan__labels_find(&labels, "system", FAN__LABEL_OTHER, 1), 0);
    fan__labels_deinit(&labels);
}

/* ---- A table of one's own ---- */

struct tally {
    struct fan__mutex mutex;
    uint64_t published[FAN_SOURCE_INTERNAL + 1];
    uint64_t processed[FAN_PROCESSED_FAILED + 1];
    uint64_t live;
    uint64_t commits;
    uint64_t stored;
    uint64_t duplicates;
    uint64_t entered;
    size_t queue_size_max;
    size_t queue_size;
    int workers;
    int workers_max;
    bool strange;
};

static void tally_published(void *context, enum fan_source source, const char *type)
{
    struct tally *tally = context;
    fan__mutex_lock(&tally->mutex);
    tally->published[source]++;
    tally->strange |= strncmp(type, "a.b.", 4) != 0;
    fan__mutex_unlock(&tally->mutex);
}

static void tally_processed(void *context, const struct fan_metrics_processed *processed)
{
    struct tally *tally = context;
    fan__mutex_lock(&tally->mutex);
    tally->processed[processed->status]++;
    tally->live += !processed->group;
    tally->strange |= processed->duration_ns < 0 || strncmp(processed->type, "a.b.", 4) != 0 ||
                      processed->source != FAN_SOURCE_INTERNAL ||
                      (processed->group && strcmp(processed->group, "mail") != 0) ||
                      strcmp(processed->handler, "") != 0 ||
                      (!processed->group && processed->waited_ns != -1);
    fan__mutex_unlock(&tally->mutex);
}

static void tally_committed(void *context, const struct fan_metrics_commit *commit)
{
    struct tally *tally = context;
    fan__mutex_lock(&tally->mutex);
    tally->commits++;
    tally->stored += commit->stored;
    tally->duplicates += commit->duplicates;
    tally->strange |= commit->append_ns <= 0 || commit->count == 0 || commit->waited_ns < -1;
    fan__mutex_unlock(&tally->mutex);
}

static void tally_queue_size(void *context, size_t count)
{
    struct tally *tally = context;
    fan__mutex_lock(&tally->mutex);
    tally->queue_size = count;
    if (count > tally->queue_size_max)
        tally->queue_size_max = count;
    fan__mutex_unlock(&tally->mutex);
}

static void tally_workers(void *context, int change)
{
    struct tally *tally = context;
    fan__mutex_lock(&tally->mutex);
    tally->workers += change;
    tally->entered += change > 0;
    if (tally->workers > tally->workers_max)
        tally->workers_max = tally->workers;
    tally->strange |= tally->workers < 0;
    fan__mutex_unlock(&tally->mutex);
}

static struct fan_metrics tally_table(struct tally *tally)
{
    memset(tally, 0, sizeof(*tally));
    fan__mutex_init(&tally->mutex);
    return (struct fan_metrics){ FAN_METRICS_SIZE, tally,           tally_published,
                                 tally_processed,  tally_committed, tally_queue_size,
                                 tally_workers };
}

static void test_H18_a_table_of_ones_own_counts_everything(void **state)
{
    struct place *place = *state;
    struct tally tally;
    struct fan_metrics table = tally_table(&tally);
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.metrics = &table;
    struct fan_broker *broker = broker_with(place, &options);
    memset(&table, 0, sizeof(table)); /* it was copied */
    struct probe probe;
    struct probe live;
    probe_init(&probe);
    probe_init(&live);
    probe.verdict = FAN_VERDICT_RETRY;
    probe.failing = 5;
    struct fan_retry_policy retry = { .retries = 1, .delay_ms = 1 };
    struct fan_handler_options durable = probe_options(&probe, "mail", NULL);
    durable.retry = &retry;
    assert_ok(fan_broker_handle(broker, &durable, NULL, NULL));
    struct fan_handler_options options_live = probe_options(&live, NULL, NULL);
    live.verdict = FAN_VERDICT_RETRY;
    live.failing = 3;
    assert_ok(fan_broker_handle(broker, &options_live, NULL, NULL));
    publish_times(broker, 10);
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.d", .id = "twice" };
    for (int i = 0; i < 2; i++)
        assert_ok(fan_broker_publish(broker, &draft, NULL, NULL));
    for (int i = 0; i < 50; i++) {
        draft.id = NULL;
        assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    }
    wait_for_stats(broker, processed, 5 * 2 + 56 + 61);
    assert_ok(fan_broker_stop(broker, 5000));
    struct fan_broker_stats stats = stats_of(broker);
    fan_broker_free(broker);
    assert_false(tally.strange);
    assert_int_equal(tally.published[FAN_SOURCE_INTERNAL], 61);
    assert_int_equal(tally.stored, 61);
    assert_int_equal(tally.duplicates, 1);
    assert_int_equal(tally.commits, stats.commits);
    assert_int_equal(tally.queue_size, 0);
    assert_true(tally.queue_size_max < 50);
    assert_int_equal(tally.workers, 0);
    assert_in_range(tally.workers_max, 1, 10);
    assert_int_equal(tally.entered, 66);
    assert_int_equal(tally.live, 61);
    assert_int_equal(tally.processed[FAN_PROCESSED_COMPLETED], 56 + 58);
    assert_int_equal(tally.processed[FAN_PROCESSED_RETRIED], 5);
    assert_int_equal(tally.processed[FAN_PROCESSED_FAILED], 5 + 3);
    assert_int_equal(stats.failed, 5 + 3);
    assert_int_equal(stats.dead, 5);
}

static void test_H18_what_a_waiting_publisher_was_told_is_counted(void **state)
{
    struct place *place = *state;
    struct tally tally;
    struct fan_metrics table = tally_table(&tally);
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.metrics = &table;
    options.mode = FAN_MODE_SYNC;
    struct fan_broker *broker = broker_with(place, &options);
    struct probe probe;
    struct probe live;
    probe_init(&probe);
    probe_init(&live);
    probe_handle(&probe, broker, "mail");
    probe_handle(&live, broker, NULL);
    for (unsigned i = 1; i <= 20; i++) {
        publish(broker, "a.b.c", NULL);
        fan__mutex_lock(&tally.mutex);
        assert_int_equal(tally.published[FAN_SOURCE_INTERNAL], i);
        assert_int_equal(tally.processed[FAN_PROCESSED_COMPLETED], 2 * i);
        fan__mutex_unlock(&tally.mutex);
    }
    fan_broker_free(broker);
}

static void test_H18_functions_may_be_left_out(void **state)
{
    struct place *place = *state;
    struct fan_metrics table = { .size = FAN_METRICS_SIZE };
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.metrics = &table;
    struct fan_broker *broker = broker_with(place, &options);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    publish(broker, "a.b.c", NULL);
    wait_for_stats(broker, processed, 1);
    fan_broker_free(broker);

    struct fan_error error = FAN_ERROR_INIT;
    table.size = 0;
    assert_int_equal(fan_broker_open(place->uri, &options, &broker, &error), FAN_INVALID);
    assert_string_equal(error.field, "metrics.size");
}

/* ---- The statistics ---- */

static void test_H17_one_struct_tells_how_a_broker_is(void **state)
{
    struct place *place = *state;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.instance_id = "node-7";
    options.mode = FAN_MODE_SYNC;
    struct fan_broker *broker = broker_with(place, &options);
    struct probe probe;
    struct probe live;
    probe_init(&probe);
    probe_init(&live);
    probe_handle(&probe, broker, "mail");
    probe_handle(&live, broker, NULL);
    struct fan_reader *reader = subscribe_from(broker, FAN_START_NOW, (struct fan_cursor){ 0, 0 });
    publish(broker, "a.b.c", NULL);
    publish(broker, "a.b.c", NULL);

    struct fan_store_stats store = { .size = sizeof(store) };
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    stats.store = &store;
    fan_broker_stats(broker, &stats);
    assert_string_equal(stats.instance_id, "node-7");
    assert_int_equal(stats.mode, FAN_MODE_SYNC);
    assert_true(stats.running);
    assert_int_equal(stats.published, 2);
    assert_int_equal(stats.processed, 4);
    assert_int_equal(stats.failed, 0);
    assert_int_equal(stats.subscriptions, 3);
    assert_int_equal(stats.queued, 0);
    assert_int_equal(stats.workers_active, 0);
    assert_string_equal(stats.provider, place->scheme);
    assert_int_equal(stats.store_status, FAN_OK);
    assert_int_equal(store.events, 2);
    assert_int_equal(store.completed, 2);
    assert_int_equal(store.groups, 1);

    /* Of a caller that knows less, what lies behind its struct stays as it is. */
    struct fan_broker_stats older = { .size = offsetof(struct fan_broker_stats, instance_id),
                                      .subscriptions = 99 };
    older.store = (void *)&older;
    fan_broker_stats(broker, &older);
    assert_int_equal(older.published, 2);
    assert_int_equal(older.subscriptions, 99);
    assert_ptr_equal(older.store, &older);

    fan_reader_free(reader);
    assert_ok(fan_broker_stop(broker, 5000));
    assert_false(stats_of(broker).running);
    fan_broker_free(broker);
    broker = broker_open(place);
    struct fan_broker_stats fresh = stats_of(broker);
    assert_int_equal(fresh.mode, FAN_MODE_ASYNC);
    assert_true(*fresh.instance_id != '\0');
    assert_string_equal(fresh.instance_id, fan_broker_defaults(broker)->instance_id);
    fan_broker_free(broker);
}

/* ---- Prometheus ---- */

static enum fan_status take(void *context, const char *bytes, size_t size)
{
    fan__buffer_add(context, bytes, size);
    return FAN_OK;
}

/* What is written, as text; freed by the caller. */
static char *written(struct fan_prometheus *prometheus, struct fan_broker *broker,
                     enum fan_metrics_format format)
{
    struct fan__buffer text;
    fan__buffer_init(&text, NULL);
    assert_ok(fan_prometheus_write(prometheus, broker, format, take, &text));
    size_t size;
    char *copy = fan__buffer_take(&text, &size);
    assert_non_null(copy);
    assert_int_equal(strlen(copy), size);
    return copy;
}

static void assert_line(const char *text, const char *line)
{
    char whole[512];
    snprintf(whole, sizeof(whole), "\n%s\n", line);
    if (!strstr(text, whole))
        fail_msg("no line '%s' in:\n%s", line, text);
}

static struct fan_broker *counted_broker(const struct place *place,
                                         struct fan_prometheus *prometheus)
{
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.metrics = fan_prometheus_metrics(prometheus);
    return broker_with(place, &options);
}

/* Lines that are alike in both formats. */
static const char *const both[] = {
    "eventbroker_events_published_total{source=\"internal\",type=\"a.b.c\"} 3",
    "eventbroker_events_published_total{source=\"internal\",type=\"quo\\\"te\\\\\"} 1",
    "eventbroker_events_processed_total{source=\"internal\",type=\"a.b.c\",status=\"retried\"} "
    "2",
    "eventbroker_events_processed_total{source=\"internal\",type=\"a.b.c\",status=\"failed\"} "
    "2",
    "eventbroker_events_processed_total{source=\"internal\",type=\"a.b.c\","
    "status=\"completed\"} 1",
    "eventbroker_event_processing_duration_seconds_bucket{source=\"internal\",type=\"a.b.c\","
    "le=\"+Inf\"} 5",
    "eventbroker_event_processing_duration_seconds_count{source=\"internal\",type=\"a.b.c\"} 5",
    "# TYPE eventbroker_event_processing_duration_seconds histogram",
    "# TYPE eventbroker_queue_size gauge",
    "eventbroker_queue_size 0",
    "eventbroker_workers_active 0",
    "eventbroker_workers 10",
    "eventbroker_group_dead_letters{group=\"ma\\\"il\",handler=\"back\\\\slash\\nline\"} 2",
    "eventbroker_group_retries_total{group=\"ma\\\"il\",handler=\"back\\\\slash\\nline\"} 2",
    "eventbroker_group_lag_events{group=\"ma\\\"il\",handler=\"back\\\\slash\\nline\"} 0",
    "eventbroker_group_lag_seconds{group=\"ma\\\"il\",handler=\"back\\\\slash\\nline\"} 0.0",
    "eventbroker_group_pending{group=\"ma\\\"il\",handler=\"back\\\\slash\\nline\"} 0",
    "eventbroker_commit_events_bucket{le=\"1.0\"} 4",
    "eventbroker_commit_events_sum 4",
    "eventbroker_append_duration_seconds_count 4",
    "eventbroker_work_queue_wait_seconds_count 6",
    "eventbroker_log_up 1",
    "eventbroker_log_events 4",
    "eventbroker_commits_total 4",
    "eventbroker_retention_removed_total 0",
};

static void test_H14_names_labels_and_both_formats(void **state)
{
    struct place *place = *state;
    struct fan_prometheus *prometheus;
    assert_ok(fan_prometheus_new(NULL, &prometheus));
    struct fan_broker *broker = counted_broker(place, prometheus);
    struct probe probe;
    probe_init(&probe);
    probe.verdict = FAN_VERDICT_RETRY;
    probe.failing = 2;
    struct fan_retry_policy retry = { .retries = 1, .delay_ms = 1 };
    struct fan_handler_options handler = probe_options(&probe, "ma\"il", NULL);
    handler.retry = &retry;
    handler.name = "back\\slash\nline";
    assert_ok(fan_broker_handle(broker, &handler, NULL, NULL));
    publish_times(broker, 3);
    publish(broker, "quo\"te\\", NULL);
    wait_for_stats(broker, processed, 6);

    char *text = written(prometheus, broker, FAN_METRICS_PROMETHEUS);
    char *open = written(prometheus, broker, FAN_METRICS_OPENMETRICS);
    for (size_t i = 0; i < sizeof(both) / sizeof(both[0]); i++) {
        assert_line(text, both[i]);
        assert_line(open, both[i]);
    }
    assert_line(text, "# TYPE eventbroker_events_processed_total counter");
    assert_line(open, "# TYPE eventbroker_events_processed counter");
    assert_line(open, "# UNIT eventbroker_append_duration_seconds seconds");
    assert_line(open, "# UNIT eventbroker_log_bytes bytes");
    assert_null(strstr(text, "# UNIT"));
    assert_null(strstr(text, "# EOF"));
    assert_string_equal(open + strlen(open) - 6, "# EOF\n");
    free(text);
    free(open);
    fan_broker_free(broker);
    fan_prometheus_free(prometheus);
}

static void look_at_feed(void *context, struct fan_feed_stats *ret_stats)
{
    assert_int_equal(ret_stats->size, sizeof(*ret_stats));
    ret_stats->events = *(const uint64_t *)context;
    ret_stats->lag_ns = 1500000000;
    ret_stats->alarm = 1;
}

static void test_H14_H13_feeds_are_told_each_under_a_name_of_its_own(void **state)
{
    struct place *place = *state;
    struct fan_prometheus *prometheus;
    assert_ok(fan_prometheus_new(NULL, &prometheus));
    struct fan_broker *broker = counted_broker(place, prometheus);
    static const uint64_t counts[] = { 7, 8, 9 };
    struct fan_feed *feeds[3];
    for (int i = 0; i < 3; i++) {
        struct fan_feed_options options = { .size = FAN_FEED_OPTIONS_SIZE,
                                            .kind = i < 2 ? FAN_FEED_CAPTURE : FAN_FEED_RELAY,
                                            .name = "a\"b",
                                            .look = look_at_feed,
                                            .context = (void *)(uintptr_t)&counts[i] };
        assert_ok(fan_feed_add(broker, &options, &feeds[i]));
        options.look = NULL;
        assert_int_equal(fan_feed_add(broker, &options, &feeds[i]), FAN_INVALID);
    }
    char *text = written(prometheus, broker, FAN_METRICS_OPENMETRICS);
    assert_line(text, "# TYPE eventbroker_capture_events counter");
    assert_line(text, "eventbroker_capture_events_total{slot=\"a\\\"b\"} 7");
    assert_line(text, "eventbroker_capture_events_total{slot=\"a\\\"b-2\"} 8");
    assert_line(text, "eventbroker_relay_events_total{outbox=\"a\\\"b\"} 9");
    assert_line(text, "eventbroker_capture_lag_seconds{slot=\"a\\\"b\"} 1.5");
    assert_line(text, "eventbroker_capture_slot_alarm{slot=\"a\\\"b-2\"} 1");
    assert_null(strstr(text, "eventbroker_relay_slot"));
    free(text);
    /* One that went is not looked at any more. */
    for (int i = 0; i < 3; i++)
        fan_feed_remove(feeds[i]);
    text = written(prometheus, broker, FAN_METRICS_PROMETHEUS);
    assert_null(strstr(text, "eventbroker_capture"));
    assert_null(strstr(text, "eventbroker_relay"));
    free(text);
    fan_broker_free(broker);
    fan_prometheus_free(prometheus);
}

/* The memory provider, but it is down for so many appends. */
static atomic_uint down_count;

static enum fan_status down_append(void *self, struct fan_append *items, size_t count,
                                   struct fan_error *error)
{
    unsigned left = atomic_load(&down_count);
    if (left > 0 && atomic_fetch_sub(&down_count, 1) > 0)
        return FAN_UNAVAILABLE;
    return fan__memory_provider.append(self, items, count, error);
}

static void test_H14_R01_tries_of_a_log_that_is_down_are_no_commits(void **state)
{
    (void)state;
    struct fan_provider provider = fan__memory_provider;
    struct fan_prometheus *prometheus;
    struct fan_broker *broker = NULL;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    provider.append = down_append;
    atomic_store(&down_count, 3);
    assert_ok(fan_prometheus_new(NULL, &prometheus));
    options.metrics = fan_prometheus_metrics(prometheus);
    options.provider = &provider;
    assert_ok(fan_broker_open("memory:", &options, &broker, NULL));
    assert_ok(fan_broker_start(broker));
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_ok(fan_broker_publish_async(broker, &draft, NULL, NULL, NULL));
    wait_for_stats(broker, published, 1);
    char *text = written(prometheus, broker, FAN_METRICS_PROMETHEUS);
    assert_line(text, "eventbroker_commit_events_count 1");
    assert_line(text, "eventbroker_commit_events_sum 1");
    assert_line(text, "eventbroker_commits_total 1");
    assert_line(text, "eventbroker_commit_failures_total 3");
    assert_line(text, "eventbroker_append_duration_seconds_count 4");
    assert_line(text, "eventbroker_queue_wait_seconds_count 1");
    free(text);
    fan_broker_free(broker);
    fan_prometheus_free(prometheus);
}

static atomic_llong wall_skew_us;

static int64_t skewed_wall_us(void *context)
{
    (void)context;
    return fan_env_default()->wall_us(NULL) + atomic_load(&wall_skew_us);
}

static void note_duration(void *context, const struct fan_metrics_processed *processed)
{
    *(int64_t *)context = processed->duration_ns;
}

/* A member of another process settles; the wall clock was set while it worked. */
static void test_H14_R02_how_long_a_member_took_goes_by_the_stores_clock(void **state)
{
    static const enum fan_verdict verdicts[] = { FAN_VERDICT_RETRY, FAN_VERDICT_DONE,
                                                 FAN_VERDICT_FAIL };
    for (size_t i = 0; i < 3; i++) {
        struct place place;
        place_make(&place, *state);
        struct fan_env env = *fan_env_default();
        env.wall_us = skewed_wall_us;
        int64_t took_ns = -1;
        struct fan_metrics table = { .size = sizeof(table),
                                     .context = &took_ns,
                                     .event_processed = note_duration };
        struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
        options.env = &env;
        options.metrics = &table;
        struct fan_broker *broker = broker_with(&place, &options);
        struct fan_store *store = fan_broker_store(broker);
        make_group(store, "mail");
        publish(broker, "a.b.c", NULL);
        struct fan_group_name name = { "mail", "" };
        struct fan_claim_options asked = { .size = FAN_CLAIM_OPTIONS_SIZE, .owner = "member" };
        struct fan_claim claim;
        struct fan_batch *batch = NULL;
        assert_ok(fan_batch_new(NULL, &batch));
        assert_ok(fan_group_claim(store, &name, &asked, batch, &claim));
        atomic_fetch_add(&wall_skew_us, INT64_C(7200) * 1000000);
        struct fan_settle item = {
            .seq = claim.seq, .token = claim.token, .verdict = verdicts[i], .delay_ms = 3600 * 1000
        };
        assert_ok(fan_group_settle(store, &name, &item, 1));
        fan__metrics_settled(broker, &name, &item, 1);
        assert_true(took_ns >= 0 && took_ns < INT64_C(1800) * 1000000000);
        fan_batch_free(batch);
        fan_broker_free(broker);
        place_remove(&place);
    }
}

static void test_R06_types_and_groups_past_a_bound_become_other(void **state)
{
    struct place *place = *state;
    struct fan_prometheus *prometheus;
    assert_ok(fan_prometheus_new(NULL, &prometheus));
    struct fan_broker *broker = counted_broker(place, prometheus);
    const struct fan_metrics *table = fan_prometheus_metrics(prometheus);
    char name[32];
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "kind.%u", i);
        table->event_published(table->context, FAN_SOURCE_SYSTEM, name);
        struct fan_metrics_processed processed = {
            .size = sizeof(processed),
            .source = FAN_SOURCE_SYSTEM,
            .type = name,
            .group = name,
            .handler = "",
            .status = FAN_PROCESSED_RETRIED,
            .waited_ns = -1,
        };
        table->event_processed(table->context, &processed);
    }
    for (unsigned i = 0; i < 210; i++) {
        snprintf(name, sizeof(name), "group.%u", i);
        struct fan_group_name group = { name, "" };
        struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
        assert_ok(fan_group_create(fan_broker_store(broker), &group, &options, NULL));
    }
    publish(broker, "other", NULL);
    char *text = written(prometheus, broker, FAN_METRICS_PROMETHEUS);
    assert_line(text, "eventbroker_events_published_total{source=\"system\",type=\"kind.199\"} 1");
    assert_line(text, "eventbroker_events_published_total{source=\"system\",type=\"other\"} 800");
    assert_line(text, "eventbroker_events_published_total{source=\"internal\",type=\"other\"} 1");
    assert_line(text, "eventbroker_group_retries_total{group=\"kind.199\",handler=\"\"} 1");
    assert_line(text, "eventbroker_group_retries_total{group=\"other\",handler=\"\"} 800");
    assert_line(text, "eventbroker_group_lag_events{group=\"other\",handler=\"\"} 10");
    size_t lines = 0;
    for (const char *at = text; (at = strstr(at, "\neventbroker_group_lag_events{")); at++)
        lines++;
    assert_int_equal(lines, 201);
    free(text);
    fan_broker_free(broker);
    fan_prometheus_free(prometheus);
}

struct refusing {
    size_t calls;
};

static enum fan_status refuse(void *context, const char *bytes, size_t size)
{
    struct refusing *refusing = context;
    (void)bytes;
    refusing->calls += size > 0;
    return FAN_IO;
}

static size_t allocations_left;

static void *scarce_resize(void *context, void *pointer, size_t size)
{
    (void)context;
    if (allocations_left == 0)
        return NULL;
    allocations_left--;
    return realloc(pointer, size);
}

static void test_H14_a_sink_that_refuses_and_memory_that_ends(void **state)
{
    struct place *place = *state;
    struct fan_env env = *fan_env_default();
    env.resize = scarce_resize;
    struct fan_broker *broker = broker_started(place);
    struct fan_prometheus *prometheus = NULL;
    allocations_left = 0;
    assert_int_equal(fan_prometheus_new(&env, &prometheus), FAN_NO_MEMORY);
    assert_null(prometheus);
    allocations_left = 1;
    assert_ok(fan_prometheus_new(&env, &prometheus));

    /* Without memory for its labels, an event is counted as other. */
    const struct fan_metrics *table = fan_prometheus_metrics(prometheus);
    table->event_published(table->context, FAN_SOURCE_SYSTEM, "a.b.c");
    struct fan__buffer text;
    fan__buffer_init(&text, NULL);
    enum fan_status status = FAN_NO_MEMORY;
    size_t tries = 0;
    for (; status == FAN_NO_MEMORY; tries++) {
        assert_int_equal(text.size, 0);
        allocations_left = tries;
        status = fan_prometheus_write(prometheus, broker, FAN_METRICS_PROMETHEUS, take, &text);
    }
    assert_ok(status);
    assert_true(tries > 3);
    fan__buffer_add(&text, "", 1);
    assert_line(text.data,
                "eventbroker_events_published_total{source=\"system\",type=\"other\"} 1");
    fan__buffer_deinit(&text);

    allocations_left = SIZE_MAX;
    struct refusing refusing = { 0 };
    assert_int_equal(
        fan_prometheus_write(prometheus, broker, FAN_METRICS_OPENMETRICS, refuse, &refusing),
        FAN_IO);
    assert_int_equal(refusing.calls, 1);
    fan_broker_free(broker);
    fan_prometheus_free(prometheus);
    fan_prometheus_free(NULL);
}

/* ---- A store that fails ---- */

static struct fan__number failing_stats;
static struct fan__number failing_settles;

static enum fan_status shaky_stats(void *self, struct fan_store_stats *ret_stats)
{
    return fan__number_get(&failing_stats) ? FAN_IO : fan__memory_provider.stats(self, ret_stats);
}

/* For one thread: the one that claims. */
static enum fan_status shaky_settle(void *self, const struct fan_group_name *name,
                                    struct fan_settle *items, size_t count)
{
    uint32_t left = fan__number_get(&failing_settles);
    if (left == 0)
        return fan__memory_provider.settle(self, name, items, count);
    fan__number_set(&failing_settles, left - 1);
    return FAN_IO;
}

static void test_H14_a_log_that_fails_is_told_and_counted_once(void **state)
{
    (void)state;
    struct fan_provider provider = fan__memory_provider;
    provider.stats = shaky_stats;
    provider.settle = shaky_settle;
    struct fan_prometheus *prometheus;
    assert_ok(fan_prometheus_new(NULL, &prometheus));
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.metrics = fan_prometheus_metrics(prometheus);
    options.provider = &provider;
    struct place place = { .uri = "memory:" };
    struct fan_broker *broker = broker_with(&place, &options);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    fan__number_set(&failing_settles, 2);
    fan__number_set(&failing_stats, 1);
    publish(broker, "a.b.c", NULL);
    wait_for_stats(broker, processed, 1);
    char *text = written(prometheus, broker, FAN_METRICS_PROMETHEUS);
    assert_line(text, "eventbroker_log_up 0");
    assert_line(text, "eventbroker_events_processed_total{source=\"internal\",type=\"a.b.c\","
                      "status=\"completed\"} 1");
    assert_null(strstr(text, "eventbroker_log_events"));
    assert_null(strstr(text, "eventbroker_group_lag_events"));
    free(text);
    struct fan_store_stats store = { .size = sizeof(store) };
    struct fan_broker_stats stats = FAN_BROKER_STATS_INIT;
    stats.store = &store;
    fan_broker_stats(broker, &stats);
    assert_int_equal(stats.store_status, FAN_IO);
    assert_int_equal(stats.processed, 1);
    fan__number_set(&failing_stats, 0);
    text = written(prometheus, broker, FAN_METRICS_PROMETHEUS);
    assert_line(text, "eventbroker_log_up 1");
    assert_line(text, "eventbroker_log_events 1");
    free(text);
    fan_broker_free(broker);
    fan_prometheus_free(prometheus);
}

/* ---- Many at once ---- */

static uint64_t sum_of(const char *text, const char *name)
{
    uint64_t sum = 0;
    size_t size = strlen(name);
    for (const char *at = text; (at = strstr(at, name)); at += size)
        if (at[-1] == '\n' && (at[size] == '{' || at[size] == ' '))
            sum += strtoull(strchr(at, ' ') + 1, NULL, 10);
    return sum;
}

#define STORM_EVENTS 500

static void *storm(void *context)
{
    static const char *const types[] = { "a.b.c", "a.b.d", "a.b.e" };
    for (int i = 0; i < STORM_EVENTS; i++)
        publish(context, types[i % 3], NULL);
    return NULL;
}

static void test_H14_each_scrape_is_one_moment(void **state)
{
    struct place *place = *state;
    struct fan_prometheus *prometheus;
    assert_ok(fan_prometheus_new(NULL, &prometheus));
    struct fan_broker *broker = counted_broker(place, prometheus);
    struct probe probe;
    probe_init(&probe);
    probe_handle(&probe, broker, "mail");
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, storm, broker), 0);
    uint64_t published = 0;
    uint64_t processed = 0;
    while (processed < 2 * STORM_EVENTS) {
        char *text = written(prometheus, broker, FAN_METRICS_PROMETHEUS);
        uint64_t now = sum_of(text, "eventbroker_events_processed_total");
        assert_true(now >= processed);
        assert_int_equal(now, sum_of(text, "eventbroker_event_processing_duration_seconds_count"));
        assert_int_equal(now, sum_of(text, "eventbroker_work_queue_wait_seconds_count"));
        processed = now;
        now = sum_of(text, "eventbroker_events_published_total");
        /* Not `processed` at least: who handles an event may be done before it is counted. */
        assert_true(now >= published);
        published = now;
        free(text);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    char *text = written(prometheus, broker, FAN_METRICS_PROMETHEUS);
    assert_int_equal(sum_of(text, "eventbroker_events_published_total"), 2 * STORM_EVENTS);
    free(text);
    fan_broker_free(broker);
    fan_prometheus_free(prometheus);
}

static void test_R03_a_forks_child_gets_no_metrics(void **state)
{
    struct place *place = *state;
    struct fan_prometheus *prometheus;
    assert_ok(fan_prometheus_new(NULL, &prometheus));
    struct fan_broker *broker = counted_broker(place, prometheus);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct refusing refusing = { 0 };
        enum fan_status status =
            fan_prometheus_write(prometheus, broker, FAN_METRICS_PROMETHEUS, refuse, &refusing);
        fan_prometheus_free(prometheus);
        _exit(status == FAN_FORKED && refusing.calls == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    fan_broker_free(broker);
    fan_prometheus_free(prometheus);
}

/* ---- The same in every mode ---- */

static void test_L13_every_mode_counts_alike(void **state)
{
    char *texts[3];
    for (int mode = 0; mode < 3; mode++) {
        struct place place;
        place_make(&place, *state);
        texts[mode] = counters_of(place.uri, (enum counters_mode)mode);
        place_remove(&place);
    }
    assert_line(texts[0], "eventbroker_events_processed_total{source=\"internal\",type=\"a.retry\","
                          "status=\"retried\"} 3");
    assert_string_equal(texts[0], texts[1]);
    assert_string_equal(texts[0], texts[2]);
    for (int mode = 0; mode < 3; mode++)
        free(texts[mode]);
}

/* ---- Traces ---- */

struct relay {
    struct fan_broker *broker;
    struct fan__mutex mutex;
    struct fan__cond changed;
    char first[FAN_TRACEPARENT_SIZE];
    char second[FAN_TRACEPARENT_SIZE];
};

/* Publishes what an order leads to, as its child. */
static enum fan_verdict follow(void *context, const struct fan_event *event,
                               const struct fan_handling *handling)
{
    struct relay *relay = context;
    (void)handling;
    bool order = strcmp(fan_event_type(event), "shop.orders.create") == 0;
    fan__mutex_lock(&relay->mutex);
    snprintf(order ? relay->first : relay->second, FAN_TRACEPARENT_SIZE, "%s",
             fan_event_traceparent(event));
    fan__cond_broadcast(&relay->changed);
    fan__mutex_unlock(&relay->mutex);
    if (!order)
        return FAN_VERDICT_DONE;
    char trace[FAN_TRACEPARENT_SIZE];
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "shop.parcels.create",
                                     .traceparent = trace };
    if (fan_trace_child(fan_event_traceparent(event), NULL, trace) != FAN_OK ||
        fan_broker_publish_async(relay->broker, &draft, NULL, NULL, NULL) != FAN_OK)
        return FAN_VERDICT_RETRY;
    return FAN_VERDICT_DONE;
}

static void test_P01_what_a_handler_publishes_is_a_child_in_the_trace(void **state)
{
    static const char parent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    struct place *place = *state;
    struct relay relay = { .broker = broker_started(place) };
    fan__mutex_init(&relay.mutex);
    fan__cond_init(&relay.changed);
    struct fan_handler_options handler = {
        .size = FAN_HANDLER_OPTIONS_SIZE, .group = "parcels", .handle = follow, .context = &relay
    };
    assert_ok(fan_broker_handle(relay.broker, &handler, NULL, NULL));
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                     .type = "shop.orders.create",
                                     .traceparent = parent };
    assert_ok(fan_broker_publish(relay.broker, &draft, NULL, NULL));
    fan__mutex_lock(&relay.mutex);
    while (!*relay.second)
        fan__cond_wait(&relay.changed, &relay.mutex);
    fan__mutex_unlock(&relay.mutex);
    fan_broker_free(relay.broker);
    assert_string_equal(relay.first, parent);
    assert_int_equal(strlen(relay.second), strlen(parent));
    assert_memory_equal(relay.second, parent, 36);
    assert_memory_not_equal(relay.second + 36, parent + 36, 16);
    assert_string_equal(relay.second + 52, "-01");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_H14_histograms_equal_a_plain_model),
        cmocka_unit_test(test_R06_labels_are_bounded_in_number),
        on_every_store(test_H18_a_table_of_ones_own_counts_everything),
        on_every_store(test_H18_what_a_waiting_publisher_was_told_is_counted),
        on_every_store(test_H18_functions_may_be_left_out),
        on_every_store(test_H17_one_struct_tells_how_a_broker_is),
        on_every_store(test_H14_names_labels_and_both_formats),
        on_every_store(test_H14_H13_feeds_are_told_each_under_a_name_of_its_own),
        on_every_store(test_R06_types_and_groups_past_a_bound_become_other),
        cmocka_unit_test(test_H14_R01_tries_of_a_log_that_is_down_are_no_commits),
        on_every_scheme(test_H14_R02_how_long_a_member_took_goes_by_the_stores_clock),
        on_every_store(test_H14_a_sink_that_refuses_and_memory_that_ends),
        cmocka_unit_test(test_H14_a_log_that_fails_is_told_and_counted_once),
        on_every_store(test_H14_each_scrape_is_one_moment),
        on_every_store(test_R03_a_forks_child_gets_no_metrics),
        on_every_scheme(test_L13_every_mode_counts_alike),
        on_every_store(test_P01_what_a_handler_publishes_is_a_child_in_the_trace),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
