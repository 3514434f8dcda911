/*
 * Everything at once from eight threads. Some publish. The others subscribe, wait and read in every
 * way, end themselves and each other by all three means, and close the bus under all who use it:
 * these meet again in the next one. Whatever happens, what is read rises and is whole, every
 * subscription ends once, and the books of each bus add up when the last has left it. FANFARE_SOAK
 * runs the full counts.
 */
#include "../seed.h"
#include "bus_test.h"

#include "base/thread.h"
#include "bus/bus.h"

#include <sched.h>
#include <stdio.h>

enum { MEMBERS = 8, BATCH_COUNT_MAX = 16 };

/* A bus, and those who use it. Who leaves last looks through its books and frees it. */
struct house {
    struct fan_bus *bus;
    unsigned holders;
    uint64_t published; /* by those who have left */
};

struct crowd {
    struct test_memory memory;
    struct fan_bus_options options;
    uint64_t publish_count;  /* by each publisher, in all */
    uint64_t house_count;    /* of publishes, after which a bus is closed */
    size_t blocking_one_in;  /* of those who subscribe */
    struct fan__mutex mutex; /* of what follows */
    struct house *house;
    struct fan_cancel *cancel;
    struct fan_subscription *open[MEMBERS]; /* may be ended by the others, but not freed */
    bool over;
};

struct member {
    struct fan__thread thread;
    struct crowd *crowd;
    size_t number;
    uint64_t random_state;
    uint64_t published;
    uint64_t begun;
    uint64_t ended;
    const char *wrong; /* the first thing that was */
};

/* One subscription of a member. */
struct stay {
    struct member *member;
    struct fan_subscription *subscription;
    uint64_t last_seq;
    size_t batch_count;
    int descriptor; /* -1 unless that is what it waits on */
};

static void want(struct member *member, bool right, const char *wrong)
{
    if (!right && !member->wrong)
        member->wrong = wrong;
}

static size_t pick(struct member *member, size_t count)
{
    return test_pick(&member->random_state, count);
}

/* No memory for the test itself ends it at once. */
static struct house *open_house(const struct crowd *crowd)
{
    struct house *house = calloc(1, sizeof(*house));
    if (!house || fan_bus_open(&crowd->options, &house->bus, NULL) != FAN_OK)
        abort();
    house->holders = 1;
    return house;
}

static struct fan_cancel *open_token(const struct crowd *crowd)
{
    struct fan_cancel *cancel;
    if (fan_cancel_new(crowd->options.env, &cancel) != FAN_OK)
        abort();
    return cancel;
}

static struct house *enter(struct crowd *crowd)
{
    fan__mutex_lock(&crowd->mutex);
    struct house *house = crowd->house;
    house->holders++;
    fan__mutex_unlock(&crowd->mutex);
    return house;
}

/* False when the books are wrong. */
static bool leave(struct crowd *crowd, struct house *house, uint64_t published)
{
    fan__mutex_lock(&crowd->mutex);
    house->published += published;
    bool last = --house->holders == 0;
    fan__mutex_unlock(&crowd->mutex);
    if (!last)
        return true;
    struct fan_bus_counters counters = bus_counters_of(house->bus);
    bool right = counters.published == house->published && counters.subscriptions == 0 &&
                 counters.topics == 0 && counters.queued == 0 && bus_adds_up(house->bus) &&
                 house->bus->held_size == 0 && house->bus->ring_count == 0;
    fan_bus_free(house->bus);
    free(house);
    return right;
}

/* Closes the bus under all who use it, the caller among them, once its time has come. */
static void move_on(struct member *member, struct house *house)
{
    struct crowd *crowd = member->crowd;
    if (bus_counters_of(house->bus).published < crowd->house_count)
        return;
    fan__mutex_lock(&crowd->mutex);
    bool moves = crowd->house == house && !crowd->over;
    if (moves)
        crowd->house = open_house(crowd);
    fan__mutex_unlock(&crowd->mutex);
    if (!moves)
        return;
    fan_bus_close(house->bus);
    want(member, leave(crowd, house, 0), "books");
}

/* The token that is given to others, too; a holder. */
static struct fan_cancel *take_token(struct crowd *crowd)
{
    fan__mutex_lock(&crowd->mutex);
    struct fan_cancel *cancel = fan_cancel_ref(crowd->cancel);
    fan__mutex_unlock(&crowd->mutex);
    return cancel;
}

/* Some take it still when it has fired, until there is another. */
static void fire_token(struct crowd *crowd, struct fan_cancel *cancel)
{
    fan_cancel_fire(cancel);
    fan__mutex_lock(&crowd->mutex);
    bool renews = crowd->cancel == cancel;
    if (renews)
        crowd->cancel = open_token(crowd);
    fan__mutex_unlock(&crowd->mutex);
    if (renews)
        fan_cancel_unref(cancel);
}

static void show(struct member *member, struct fan_subscription *subscription)
{
    fan__mutex_lock(&member->crowd->mutex);
    member->crowd->open[member->number] = subscription;
    fan__mutex_unlock(&member->crowd->mutex);
}

/* Ends, or counts, what another reads meanwhile. */
static void meddle(struct member *member)
{
    struct crowd *crowd = member->crowd;
    size_t way = pick(member, 3);
    fan__mutex_lock(&crowd->mutex);
    struct fan_subscription *other = crowd->open[pick(member, MEMBERS)];
    if (other && way == 0)
        fan_subscription_unsubscribe(other);
    else if (other && way == 1)
        fan_subscription_cancel(other);
    else if (other)
        (void)counters_of(other);
    fan__mutex_unlock(&crowd->mutex);
}

/* All its words are i: a torn copy shows. */
static struct fan_message message_number(uint64_t i, uint64_t *words, size_t count)
{
    for (size_t k = 0; k < count; k++)
        words[k] = i;
    struct fan_message message = message_of(i % 3 ? "t" : NULL, i % 5 ? "a.b" : "c", NULL);
    message.time_us = 1;
    message.payload = (struct fan_str){ (const char *)words, count * sizeof(*words) };
    return message;
}

static void publish_all(void *context)
{
    enum { MANY = 40 };
    struct member *member = context;
    struct crowd *crowd = member->crowd;
    struct house *house = enter(crowd);
    uint64_t published = 0; /* in this house */
    uint64_t words[200];
    for (uint64_t i = 0; i < crowd->publish_count;) {
        struct fan_message many[MANY];
        size_t count = i % 64 == 0 ? MANY : 1;
        size_t done = 0;
        many[0] = message_number(i, words, i % 512 == 0 ? 200 : 9);
        for (size_t k = 1; k < count; k++)
            many[k] = many[0];
        enum fan_status status = count == 1 ? fan_bus_publish(house->bus, &many[0], NULL)
                                            : fan_bus_publish_many(house->bus, many, count, &done);
        done = count == 1 ? status == FAN_OK : done;
        published += done;
        member->published += done;
        want(member, (status == FAN_OK) == (done == count), "count of publish");
        if (status == FAN_CLOSED) {
            want(member, leave(crowd, house, published), "books");
            house = enter(crowd);
            published = 0;
        } else {
            want(member, status == FAN_OK || status == FAN_TIMED_OUT, "publish");
        }
        i += status == FAN_OK;
        if (i % 128 == 0) {
            meddle(member);
            sched_yield();
        }
    }
    want(member, leave(crowd, house, published), "books");
}

static bool is_torn(const struct fan_message *message)
{
    const uint64_t *words = (const uint64_t *)(const void *)message->payload.data;
    for (size_t i = 1; i < message->payload.size / sizeof(*words); i++)
        if (words[i] != words[0])
            return true;
    return false;
}

/* Waits, then reads until there is nothing, or to the end; what it gets must rise. */
static enum fan_status read_on(struct stay *stay, uint32_t timeout_ms)
{
    const struct fan_message *many[BATCH_COUNT_MAX];
    bool sure = timeout_ms == FAN_TIMEOUT_FOREVER; /* that there is something, or an end */
    if (stay->descriptor >= 0) {
        struct pollfd one = { .fd = stay->descriptor, .events = POLLIN };
        sure = poll(&one, 1, sure ? -1 : (int)timeout_ms) == 1;
        timeout_ms = 0;
    }
    for (;; sure = false, timeout_ms = 0) {
        size_t count = 0;
        enum fan_status status = fan_subscription_next_many(stay->subscription, timeout_ms, many,
                                                            stay->batch_count, &count);
        want(stay->member, !sure || status != FAN_AGAIN, "wait");
        if (status == FAN_GAP) {
            struct fan_gap gap;
            fan_subscription_gap(stay->subscription, &gap);
            want(stay->member, gap.after >= stay->last_seq && gap.before > gap.after + gap.count,
                 "gap");
            stay->last_seq = gap.before - 1;
            continue;
        }
        if (status != FAN_OK)
            return status;
        for (size_t i = 0; i < count; i++) {
            want(stay->member, many[i]->seq > stay->last_seq, "order");
            want(stay->member, !is_torn(many[i]), "payload");
            stay->last_seq = many[i]->seq;
        }
    }
}

/*
 * Reads for a while, one in three asleep in between, and ends in one of several ways. Descriptors
 * are rarer: a publish that finds one waited on takes microseconds.
 */
static void read_and_end(struct stay *stay, struct house *house, struct fan_cancel *cancel)
{
    struct member *member = stay->member;
    uint32_t timeout_ms = pick(member, 2) ? FAN_TIMEOUT_FOREVER : 1;
    bool watches = pick(member, 24) == 0;
    if (!watches && pick(member, 3) > 0)
        timeout_ms = 0;
    if (watches && fan_subscription_fd(stay->subscription, &stay->descriptor) != FAN_OK)
        want(member, false, "descriptor");
    for (size_t left = pick(member, 12); left > 0; left--) {
        (void)read_on(stay, timeout_ms);
        sched_yield();
    }
    if (pick(member, 8) == 0)
        meddle(member);
    move_on(member, house);
    if (cancel && pick(member, 2) == 0)
        fire_token(member->crowd, cancel);
    else if (pick(member, 3) == 0)
        fan_subscription_cancel(stay->subscription);
    else
        fan_subscription_unsubscribe(stay->subscription);
    stay->batch_count = BATCH_COUNT_MAX;
    bool closed = read_on(stay, FAN_TIMEOUT_FOREVER) == FAN_CLOSED;
    stay->batch_count = 1;
    member->ended += closed && read_on(stay, FAN_TIMEOUT_FOREVER) == FAN_CLOSED;
}

static void stay_for_a_while(struct member *member, struct house *house, struct fan_cancel *cancel)
{
    static const enum fan_policy policies[] = { FAN_POLICY_DROP_NEWEST, FAN_POLICY_DROP_OLDEST,
                                                FAN_POLICY_LATEST };
    bool blocks = pick(member, member->crowd->blocking_one_in) == 0;
    struct stay stay = { .member = member,
                         .batch_count = 1 + pick(member, BATCH_COUNT_MAX),
                         .descriptor = -1 };
    enum fan_status status =
        fan_bus_subscribe(house->bus,
                          OPTIONS(.topic = pick(member, 3) == 0 ? "t" : NULL,
                                  .pattern = pick(member, 4) == 0 ? "a.*" : NULL,
                                  .policy = blocks ? FAN_POLICY_BLOCK : policies[pick(member, 3)],
                                  .buffer_count = pick(member, 2) ? 4 : 200, .cancel = cancel,
                                  .yield_us = pick(member, 2) ? 50 : 0),
                          &stay.subscription, NULL);
    if (status != FAN_OK) {
        want(member, status == FAN_CLOSED, "subscribe");
        return;
    }
    member->begun++;
    show(member, stay.subscription);
    read_and_end(&stay, house, cancel);
    show(member, NULL);
    struct fan_subscription_counters counters = counters_of(stay.subscription);
    want(member, adds_up(&counters) && counters.queued == 0, "counters");
    fan_subscription_free(stay.subscription);
}

static void come_and_go(void *context)
{
    struct member *member = context;
    struct crowd *crowd = member->crowd;
    for (bool over = false; !over;) {
        struct house *house = enter(crowd);
        struct fan_cancel *cancel = pick(member, 4) == 0 ? take_token(crowd) : NULL;
        stay_for_a_while(member, house, cancel);
        fan_cancel_unref(cancel);
        want(member, leave(crowd, house, 0), "books");
        fan__mutex_lock(&crowd->mutex);
        over = crowd->over;
        fan__mutex_unlock(&crowd->mutex);
    }
}

/* Nobody opens another; who reads in the last one hears of its end. */
static void end(struct crowd *crowd)
{
    fan__mutex_lock(&crowd->mutex);
    crowd->over = true;
    fan__mutex_unlock(&crowd->mutex);
    fan_bus_close(crowd->house->bus);
}

static void run_crowd(bool single_publisher, uint32_t block_timeout_ms, uint64_t count,
                      size_t blocking_one_in)
{
    unsigned writers = single_publisher ? 1 : 3;
    struct crowd crowd = { .options = FAN_BUS_OPTIONS_INIT,
                           .publish_count = count / writers,
                           .house_count = 1 + count / 200,
                           .blocking_one_in = blocking_one_in };
    test_memory_init(&crowd.memory);
    crowd.options.env = &crowd.memory.env;
    crowd.options.single_publisher = single_publisher;
    crowd.options.block_timeout_ms = block_timeout_ms;
    fan__mutex_init(&crowd.mutex);
    crowd.house = open_house(&crowd);
    crowd.cancel = open_token(&crowd);
    struct member members[MEMBERS];
    for (size_t i = 0; i < MEMBERS; i++) {
        members[i] =
            (struct member){ .crowd = &crowd, .number = i, .random_state = test_seed() + i * 1000 };
        assert_ok(fan__thread_start(&members[i].thread, "member",
                                    i < writers ? publish_all : come_and_go, &members[i]));
    }
    uint64_t published = 0;
    for (size_t i = 0; i < MEMBERS; i++) {
        if (i == writers)
            end(&crowd);
        fan__thread_join(&members[i].thread);
        if (members[i].wrong)
            fail_msg("member %zu: wrong %s", i, members[i].wrong);
        assert_int_equal(members[i].ended, members[i].begun);
        published += members[i].published;
    }
    assert_true(published >= crowd.publish_count * writers);
    assert_true(leave(&crowd, crowd.house, 0));
    fan_cancel_unref(crowd.cancel);
    fan__mutex_deinit(&crowd.mutex);
    assert_int_equal(atomic_load(&crowd.memory.blocks), 0);
}

static uint64_t publish_count(void)
{
    if (test_is_soak())
        return TEST_SANITIZED ? 1000000 : 10000000;
    return TEST_SANITIZED ? 30000 : 1000000;
}

enum { BLOCK_TIMEOUT_MS = 20 };

static void test_B14_L5_a_million_publishes_among_those_who_come_and_go(void **state)
{
    (void)state;
    run_crowd(false, BLOCK_TIMEOUT_MS, publish_count(), 50);
}

static void test_B14_L5_one_publisher_among_those_who_come_and_go(void **state)
{
    (void)state;
    run_crowd(true, BLOCK_TIMEOUT_MS, publish_count(), 50);
}

/* Many make publishers wait, each until it reads or is gone. */
static void test_B14_B18_publishers_wait_for_some_who_come_and_go(void **state)
{
    (void)state;
    run_crowd(false, FAN_TIMEOUT_FOREVER, publish_count() / 10, 4);
    run_crowd(true, FAN_TIMEOUT_FOREVER, publish_count() / 10, 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_B14_L5_a_million_publishes_among_those_who_come_and_go),
        cmocka_unit_test(test_B14_L5_one_publisher_among_those_who_come_and_go),
        cmocka_unit_test(test_B14_B18_publishers_wait_for_some_who_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
