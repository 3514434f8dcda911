/*
 * Random operations on a bus and on a model of it that is too plain to be wrong: for each
 * subscription one list of what matched, in order, each entry waiting or lost. A read takes the
 * first waiting entry, or the run of lost ones before it. Results, gaps, counters, descriptors and
 * ends are compared after every operation, and what was lent is looked at again. FANFARE_SEED
 * repeats a run, FANFARE_SOAK lengthens it.
 */
#include "../seed.h"
#include "bus_test.h"

#include "bus/bus.h"

#include <stdio.h>

enum { SUBSCRIPTIONS_MAX = 8, ENTRIES_MAX = 32768, PAYLOAD_SIZE_MAX = 1500, LENT_MAX = 96 };

static const char *const topics[] = { NULL, "t", "u", "v" };
static const char *const types[] = { "a.b", "a.c", "b", "a.b.c" };
static const char *const patterns[] = { NULL, "*", "a.*", "a.>", "b", "*.c" };

/* Which type matches which pattern, written down by hand. */
static const bool matches[][4] = {
    { true, true, true, true },  { true, true, true, true },    { true, true, false, false },
    { true, true, false, true }, { false, false, true, false }, { false, true, false, false },
};

/* The same types as a closed set, for a bus with kinds. */
static const struct fan_kind kinds[] = {
    { "a.b", 8 }, { "a.c", 13 }, { "b", 0 }, { "a.b.c", 300 }
};

struct entry {
    uint64_t seq;
    size_t topic;
    size_t type;
    size_t size;
    int64_t time_us;
    bool lost;
};

struct model {
    struct fan_subscription *real;
    int descriptor; /* -1 unless it was asked for */
    enum fan_policy policy;
    size_t capacity;
    size_t topic; /* index, 0 for every topic */
    size_t pattern;
    bool deaf[4]; /* to a type, which is a kind it did not ask for */
    bool ended;
    struct entry entries[ENTRIES_MAX];
    size_t entry_count;
    struct fan_subscription_counters counters;
    const struct fan_message *lent[LENT_MAX]; /* by the last read, and what each must be */
    struct entry lent_entries[LENT_MAX];
    size_t lent_count;
};

static struct model models[SUBSCRIPTIONS_MAX];
static struct fan_bus_counters departed;
static struct fan_bus *bus;
static struct fan_env env;
static int64_t wall; /* the time by its clock */
static uint64_t next_seq;
static uint64_t unheard;
static bool closed;
static bool typed;
static unsigned holds[4]; /* of each topic */
static uint64_t random_state;
static size_t large_one_in;

static size_t pick(size_t count)
{
    return test_pick(&random_state, count);
}

static int64_t wall_us(void *context)
{
    return *(const int64_t *)context;
}

static void erase(struct model *model, size_t index)
{
    model->entry_count--;
    memmove(&model->entries[index], &model->entries[index + 1],
            (model->entry_count - index) * sizeof(struct entry));
}

static size_t waiting(const struct model *model)
{
    size_t count = 0;
    for (size_t i = 0; i < model->entry_count; i++)
        count += !model->entries[i].lost;
    return count;
}

static bool model_wants(const struct model *model, size_t topic, size_t type)
{
    return model->real && !model->ended && (model->topic == 0 || model->topic == topic) &&
           matches[model->pattern][type] && !model->deaf[type];
}

static void model_give(struct model *model, struct entry entry)
{
    model->counters.matched++;
    for (size_t i = 0; model->policy == FAN_POLICY_LATEST && i < model->entry_count; i++) {
        struct entry *at = &model->entries[i];
        if (!at->lost && at->topic == entry.topic && at->type == entry.type) {
            model->counters.conflated++;
            erase(model, i);
            break;
        }
    }
    if (waiting(model) == model->capacity) {
        model->counters.dropped++;
        if (model->policy == FAN_POLICY_DROP_NEWEST) {
            entry.lost = true;
        } else {
            size_t first = 0;
            while (model->entries[first].lost)
                first++;
            model->entries[first].lost = true;
        }
    }
    assert_true(model->entry_count < ENTRIES_MAX);
    model->entries[model->entry_count++] = entry;
    if (waiting(model) > model->counters.queued_max)
        model->counters.queued_max = waiting(model);
}

static enum fan_status model_publish(struct entry entry)
{
    bool heard = false;
    if (closed)
        return FAN_CLOSED;
    for (size_t i = 0; i < SUBSCRIPTIONS_MAX; i++) {
        if (models[i].policy == FAN_POLICY_BLOCK &&
            model_wants(&models[i], entry.topic, entry.type) &&
            waiting(&models[i]) == models[i].capacity)
            return FAN_TIMED_OUT;
    }
    entry.seq = ++next_seq;
    for (size_t i = 0; i < SUBSCRIPTIONS_MAX; i++) {
        if (model_wants(&models[i], entry.topic, entry.type)) {
            model_give(&models[i], entry);
            heard = true;
        }
    }
    unheard += !heard;
    return FAN_OK;
}

static enum fan_status model_state(const struct model *model)
{
    if (model->entry_count > 0)
        return model->entries[0].lost ? FAN_GAP : FAN_OK;
    return model->ended ? FAN_CLOSED : FAN_AGAIN;
}

static void check_gap(struct model *model)
{
    struct fan_gap gap;
    fan_subscription_gap(model->real, &gap);
    uint64_t count = 0;
    uint64_t first = model->entries[0].seq;
    uint64_t last = 0;
    while (model->entry_count > 0 && model->entries[0].lost) {
        last = model->entries[0].seq;
        count++;
        erase(model, 0);
    }
    assert_int_equal(gap.after, first - 1);
    assert_int_equal(gap.before, last + 1);
    assert_int_equal(gap.count, count);
}

/* What a message of this number has in it. */
static char byte_of(uint64_t seq, size_t index)
{
    return (char)((seq * 31 + index * 7) & 0xff);
}

static void check_message(const struct fan_message *message, struct entry entry)
{
    assert_int_equal(message->seq, entry.seq);
    assert_string_equal(message->topic, topics[entry.topic] ? topics[entry.topic] : "");
    assert_string_equal(message->type, types[entry.type]);
    assert_int_equal(message->kind, typed ? entry.type : 0);
    assert_int_equal(message->time_us, entry.time_us);
    assert_int_equal(message->payload.size, entry.size);
    for (size_t i = 0; i < entry.size; i++)
        assert_int_equal(message->payload.data[i], byte_of(entry.seq, i));
}

/* What was lent stays as it was until the next read, whatever happens to the subscription. */
static void check_lent(const struct model *model)
{
    for (size_t i = 0; i < model->lent_count; i++)
        check_message(model->lent[i], model->lent_entries[i]);
}

static void take(struct model *model, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_false(model->entries[0].lost);
        model->lent_entries[i] = model->entries[0];
        erase(model, 0);
    }
    model->lent_count = count;
    model->counters.delivered += count;
    check_lent(model);
}

static void do_read(struct model *model)
{
    enum fan_status expected = model_state(model);
    uint32_t timeout_ms = expected == FAN_AGAIN ? 0 : FAN_TIMEOUT_FOREVER;
    size_t count = 1;
    enum fan_status status;
    size_t count_max = pick(pick(4) == 0 ? LENT_MAX : 16);
    model->lent_count = 0;
    if (count_max == 0) {
        status = fan_subscription_next(model->real, timeout_ms, model->lent);
    } else {
        status =
            fan_subscription_next_many(model->real, timeout_ms, model->lent, count_max, &count);
    }
    assert_int_equal(status, expected);
    if (status == FAN_GAP)
        check_gap(model);
    if (status != FAN_OK)
        return;
    take(model, count);
    /* It stopped for a reason. */
    assert_true(count_max == 0 || count == count_max || model_state(model) != FAN_OK);
}

/* Small ones for the slots of a ring, and some that fit none. */
static size_t pick_size(void)
{
    static const size_t sizes[] = { 0, 1, 8, 13, 40, 64, 90, 300, PAYLOAD_SIZE_MAX };
    return sizes[pick(pick(large_one_in) == 0 ? 9 : 6)];
}

/* Any time there is, also before 1970; or none: then it is that of the clock. */
static int64_t pick_time(void)
{
    return pick(3) == 0 ? 0 : (int64_t)test_random(&random_state);
}

/* What is published of an entry, all but its payload. */
static struct fan_message message_of_entry(const struct entry *entry)
{
    const char *type = typed && pick(2) ? NULL : types[entry->type];
    struct fan_message message = message_of(topics[entry->topic], type, NULL);
    message.kind = typed ? (unsigned)entry->type : 0;
    message.time_us = entry->time_us;
    return message;
}

static enum fan_status do_publish(size_t count_max)
{
    enum { BATCH_COUNT_MAX = 48 };
    static char bytes[BATCH_COUNT_MAX][PAYLOAD_SIZE_MAX];
    size_t count = pick(4) == 0 ? pick(12) : 1;
    /* Some batches are of one kind, and long. */
    bool alike = pick(16) == 0;
    struct fan_message batch[BATCH_COUNT_MAX];
    enum fan_status expected = closed ? FAN_CLOSED : FAN_OK;
    size_t expected_count = 0;
    struct entry entry = { .seq = 0 };
    wall += 1 + (int64_t)pick(1000);
    if (alike)
        count = pick(BATCH_COUNT_MAX);
    if (count > count_max)
        count = count_max;
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || !alike || pick(30) == 0) {
            entry.topic = pick(4);
            entry.type = pick(4);
            entry.size = typed ? kinds[entry.type].payload_size : pick_size();
        }
        entry.time_us = pick_time();
        batch[i] = message_of_entry(&entry);
        if (entry.time_us == 0)
            entry.time_us = wall;
        if (expected == FAN_OK)
            expected = model_publish(entry);
        expected_count += expected == FAN_OK;
        batch[i].payload = (struct fan_str){ bytes[i], entry.size };
        for (size_t k = 0; k < entry.size; k++)
            bytes[i][k] = byte_of(next_seq, k);
    }
    if (count == 1) {
        uint64_t seq = 0;
        assert_int_equal(fan_bus_publish(bus, &batch[0], &seq), expected);
        assert_int_equal(seq, expected == FAN_OK ? next_seq : 0);
    } else {
        size_t published = 99;
        assert_int_equal(fan_bus_publish_many(bus, batch, count, &published), expected);
        assert_int_equal(published, expected_count);
    }
    return expected;
}

/* Enough to go round a ring more than once. */
static void do_burst(void)
{
    for (size_t left = pick(200); left > 0 && do_publish(SIZE_MAX) == FAN_OK; left--)
        ;
}

/* A kind or more, some of them twice, or all. */
static void pick_kinds(struct fan_subscription_options *options, unsigned *list, bool *deaf)
{
    options->all_kinds = pick(3) == 0;
    if (options->all_kinds)
        return;
    options->kinds = list;
    options->kind_count = 1 + pick(4);
    for (size_t i = 0; i < 4; i++)
        deaf[i] = true;
    for (size_t i = 0; i < options->kind_count; i++) {
        list[i] = (unsigned)pick(4);
        deaf[list[i]] = false;
    }
}

static void do_subscribe(struct model *model)
{
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST,
                                                FAN_POLICY_LATEST, FAN_POLICY_BLOCK };
    struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE };
    size_t policy = pick(13); /* those that block are rare: they cost a time-out each */
    options.policy = policies[policy == 12 ? 3 : policy % 3];
    options.buffer_count = 1 + pick(pick(2) ? 3 : pick(4) ? 20 : 100);
    options.yield_us = (unsigned)pick(2);
    size_t topic = pick(4);
    size_t pattern = pick(6);
    options.topic = topics[topic];
    options.pattern = patterns[pattern];
    unsigned list[4];
    bool deaf[4] = { false };
    if (typed)
        pick_kinds(&options, list, deaf);
    struct fan_subscription *real = NULL;
    enum fan_status status = fan_bus_subscribe(bus, &options, &real, NULL);
    assert_int_equal(status, closed ? FAN_CLOSED : FAN_OK);
    if (closed)
        return;
    *model = (struct model){ .real = real,
                             .descriptor = -1,
                             .policy = options.policy,
                             .capacity = options.buffer_count,
                             .topic = topic,
                             .pattern = pattern };
    memcpy(model->deaf, deaf, sizeof(deaf));
    if (pick(2) == 0)
        assert_ok(fan_subscription_fd(real, &model->descriptor));
}

static void do_unsubscribe(struct model *model)
{
    fan_subscription_unsubscribe(model->real);
    model->ended = true;
    model->counters.discarded += waiting(model);
    model->entry_count = 0;
}

static void do_free(struct model *model)
{
    do_unsubscribe(model);
    fan_subscription_free(model->real);
    departed.matched += model->counters.matched;
    departed.delivered += model->counters.delivered;
    departed.dropped += model->counters.dropped;
    departed.conflated += model->counters.conflated;
    departed.discarded += model->counters.discarded;
    *model = (struct model){ .real = NULL };
}

static void check_subscription(const struct model *model)
{
    struct fan_subscription_counters expected = model->counters;
    expected.size = sizeof(expected);
    expected.queued = waiting(model);
    struct fan_subscription_counters counters = counters_of(model->real);
    assert_memory_equal(&counters, &expected, sizeof(counters));
    assert_true(adds_up(&counters));
    check_lent(model);
    if (model->descriptor >= 0)
        assert_int_equal(is_readable(model->descriptor), model_state(model) != FAN_AGAIN);
}

static void check_all(void)
{
    struct fan_bus_counters expected = departed;
    bool listed[4] = { true, holds[1] > 0, holds[2] > 0, holds[3] > 0 };
    expected.size = sizeof(expected);
    expected.published = next_seq;
    expected.unheard = unheard;
    expected.topics = (uint64_t)listed[1] + listed[2] + listed[3];
    for (size_t i = 0; i < SUBSCRIPTIONS_MAX; i++) {
        const struct model *model = &models[i];
        if (!model->real)
            continue;
        check_subscription(model);
        expected.matched += model->counters.matched;
        expected.delivered += model->counters.delivered;
        expected.dropped += model->counters.dropped;
        expected.conflated += model->counters.conflated;
        expected.discarded += model->counters.discarded;
        expected.queued += waiting(model);
        if (model->ended)
            continue;
        expected.subscriptions++;
        expected.topics += !listed[model->topic];
        listed[model->topic] = true;
    }
    struct fan_bus_counters counters = bus_counters_of(bus);
    assert_memory_equal(&counters, &expected, sizeof(counters));
}

static void do_hold_or_release(void)
{
    size_t topic = 1 + pick(3);
    if (pick(2) == 0) {
        assert_int_equal(fan_bus_topic_hold(bus, topics[topic]), closed ? FAN_CLOSED : FAN_OK);
        holds[topic] += !closed;
    } else {
        enum fan_status expected = holds[topic] > 0 ? FAN_OK : FAN_NOT_FOUND;
        assert_int_equal(fan_bus_topic_release(bus, topics[topic]), expected);
        holds[topic] -= expected == FAN_OK;
    }
}

static void do_something(void)
{
    struct model *model = &models[pick(SUBSCRIPTIONS_MAX)];
    size_t choice = pick(1000);
    if (choice < 490) {
        do_publish(SIZE_MAX);
    } else if (choice < 500) {
        do_burst();
    } else if (choice < 510) {
        do_hold_or_release();
    } else if (!model->real) {
        do_subscribe(model);
    } else if (choice < 950) {
        do_read(model);
    } else if (choice < 965) {
        do_unsubscribe(model);
    } else if (choice < 980) {
        fan_subscription_cancel(model->real);
        model->ended = true;
    } else if (choice < 999 || next_seq < 300) {
        do_free(model);
    } else {
        fan_bus_close(bus);
        closed = true;
        for (size_t i = 0; i < SUBSCRIPTIONS_MAX; i++)
            models[i].ended = true;
    }
    check_all();
}

static void open_anew(uint64_t seed, bool with_kinds)
{
    random_state = seed;
    typed = with_kinds;
    memset(holds, 0, sizeof(holds));
    large_one_in = 20;
    memset(models, 0, sizeof(models));
    departed = (struct fan_bus_counters){ .size = 0 };
    next_seq = 0;
    unheard = 0;
    closed = false;
    struct fan_bus_options options = FAN_BUS_OPTIONS_INIT;
    env = *fan_env_default();
    env.context = &wall;
    env.wall_us = wall_us;
    options.env = &env;
    options.block_timeout_ms = 1;
    options.single_publisher = pick(2);
    options.by_reference = pick(6) == 0;
    options.slot_size = pick(3) * 64;
    options.kinds = typed ? kinds : NULL;
    options.kind_count = typed ? 4 : 0;
    assert_ok(fan_bus_open(&options, &bus, NULL));
    bus->touch = pick(2); /* whatever processor this is */
}

static void finish(void)
{
    fan_bus_close(bus);
    closed = true;
    for (size_t i = 0; i < SUBSCRIPTIONS_MAX; i++) {
        models[i].ended = true;
        while (models[i].real && model_state(&models[i]) != FAN_CLOSED)
            do_read(&models[i]);
        if (models[i].real)
            do_free(&models[i]);
    }
    check_all();
    fan_bus_free(bus);
}

static void play_on(void)
{
    for (int i = 0; i < 1500; i++)
        do_something();
    finish();
}

static void play(uint64_t seed)
{
    open_anew(seed, false);
    play_on();
}

static void play_typed(uint64_t seed)
{
    open_anew(seed, true);
    play_on();
}

/* One who keeps up for a while, then does not: on the ring, off it, forgotten, and back. */
static void play_slow(uint64_t seed)
{
    open_anew(seed, false);
    struct model *slow = &models[0];
    while (!slow->real || slow->policy != FAN_POLICY_DROP_NEWEST || slow->topic != 0 ||
           slow->pattern > 1) {
        if (slow->real)
            do_free(slow);
        do_subscribe(slow);
    }
    for (int i = 0; i < 300; i++) {
        bool keeps_up = pick(2) == 0;
        for (size_t left = pick(2 * slow->capacity + 80); left > 0; left--) {
            assert_ok(do_publish(SIZE_MAX));
            if (keeps_up || pick(8) == 0)
                do_read(slow);
            check_subscription(slow);
        }
        while (pick(4) == 0 && model_state(slow) != FAN_AGAIN)
            do_read(slow);
        check_all();
    }
    finish();
}

static void subscribe_to_all(struct model *model)
{
    struct fan_subscription_options options = { .size = FAN_SUBSCRIPTION_OPTIONS_SIZE };
    options.policy = pick(4) == 0 ? FAN_POLICY_DROP_OLDEST : FAN_POLICY_BLOCK;
    options.buffer_count = pick(3) == 0 ? 32 : 1 + pick(40);
    *model = (struct model){ .descriptor = -1,
                             .policy = options.policy,
                             .capacity = options.buffer_count };
    assert_ok(fan_bus_subscribe(bus, &options, &model->real, NULL));
}

/* How many messages those that block have room for. */
static size_t room(void)
{
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < SUBSCRIPTIONS_MAX; i++) {
        const struct model *model = &models[i];
        if (model->real && !model->ended && model->policy == FAN_POLICY_BLOCK &&
            model->capacity - waiting(model) < least)
            least = model->capacity - waiting(model);
    }
    return least;
}

/*
 * Readers of one lane that block, and so read in its ring, end with messages in their hands while
 * the others go on, round the ring and further; what is too large for it takes all off it now and
 * then.
 */
static void play_lent(uint64_t seed)
{
    open_anew(seed, false);
    large_one_in = 3000;
    for (int i = 0; i < 6000; i++) {
        struct model *model = &models[pick(4)];
        size_t choice = pick(1000);
        if (!model->real)
            subscribe_to_all(model);
        else if (choice < 600 && room() > 0)
            do_publish(room());
        else if (choice < 960 && !model->ended)
            do_read(model);
        else if (choice >= 960 && choice < 980 && model->ended)
            do_free(model);
        else if (choice >= 960 && choice < 980 && model->lent_count > 0) {
            while (pick(4) > 0 && model_state(model) == FAN_OK)
                do_read(model);
            fan_subscription_cancel(model->real);
            model->ended = true;
        } else if (choice >= 980 && choice < 990) {
            do_unsubscribe(model);
        }
        check_all();
    }
    finish();
}

static void play_many(void (*play_one)(uint64_t seed), uint64_t rounds)
{
    uint64_t seed = test_seed();
    rounds *= test_is_soak() ? 10 : 1;
    for (uint64_t i = 0; i < rounds; i++) {
        print_message("# seed %llu\n", (unsigned long long)(seed + i));
        play_one(seed + i);
    }
}

static void test_L3_L4_L5_random_operations_agree_with_the_model(void **state)
{
    (void)state;
    play_many(play, 40);
}

static void test_L3_B09_random_operations_with_kinds_agree_with_the_model(void **state)
{
    (void)state;
    play_many(play_typed, 20);
}

static void test_B06_an_intermittently_slow_reader_keeps_what_it_should(void **state)
{
    (void)state;
    play_many(play_slow, 10);
}

static void test_B19_what_was_lent_stays_until_the_next_read(void **state)
{
    (void)state;
    play_many(play_lent, 60);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L3_L4_L5_random_operations_agree_with_the_model),
        cmocka_unit_test(test_L3_B09_random_operations_with_kinds_agree_with_the_model),
        cmocka_unit_test(test_B06_an_intermittently_slow_reader_keeps_what_it_should),
        cmocka_unit_test(test_B19_what_was_lent_stays_until_the_next_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
