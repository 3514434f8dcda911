/*
 * The cursor's step function without threads: a world of a log, a ring and a publisher, moved at
 * random from seeds, in which everything must arrive exactly once and in order (L7), or be told.
 */
#include "../test.h"

#include "broker/cursor.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MAX 400
#define RING 8

/* Sequences are indices plus 1. What is appended is visible; what is notified is in the ring. */
struct world {
    unsigned seed;
    bool matches[LOG_MAX + 1];
    uint64_t head;
    uint64_t notified;
    uint64_t trimmed;
    uint64_t ring[RING];
    size_t ring_count;
    struct fan_gap ring_gap; /* before is 0 when there is none */
    uint64_t seen[LOG_MAX + 1];
    size_t seen_count;
    uint64_t told_until; /* events up to here may be missing: a gap said so */
};

static unsigned roll(struct world *world, unsigned sides)
{
    world->seed = world->seed * 1103515245u + 12345u;
    return (world->seed >> 16) % sides;
}

static void append(struct world *world)
{
    if (world->head == LOG_MAX)
        return;
    world->head++;
    world->matches[world->head] = roll(world, 3) > 0;
}

static void notify(struct world *world)
{
    if (world->notified == world->head)
        return;
    uint64_t seq = ++world->notified;
    if (!world->matches[seq])
        return;
    if (world->ring_count == RING) {
        if (world->ring_gap.before == 0)
            world->ring_gap = (struct fan_gap){ .after = world->ring[0] - 1,
                                                .count = 0,
                                                .reason = FAN_GAP_OVERFLOW };
        world->ring_gap.count++;
        memmove(world->ring, world->ring + 1, (RING - 1) * sizeof(world->ring[0]));
        world->ring_count--;
        world->ring_gap.before = world->ring_count > 0 ? world->ring[0] : seq;
    }
    world->ring[world->ring_count++] = seq;
}

static void see(struct world *world, uint64_t seq)
{
    if (world->seen_count > 0)
        assert_true(seq > world->seen[world->seen_count - 1]);
    world->seen[world->seen_count++] = seq;
}

static void take_page(struct world *world, struct fan__cursor *cursor)
{
    uint64_t page[LOG_MAX];
    size_t count = 0;
    uint64_t seq = cursor->seq > world->trimmed ? cursor->seq : world->trimmed;
    struct fan_read_result result = { .trimmed_seq = world->trimmed, .head_seq = world->head };
    unsigned limit = 1 + roll(world, 10);
    while (seq < world->head && count < limit)
        if (world->matches[++seq])
            page[count++] = seq;
    result.scanned_seq = seq;
    if (fan__cursor_page(cursor, &result) == FAN__CURSOR_TELL_GAP) {
        assert_int_equal(cursor->gap.reason, FAN_GAP_RETENTION);
        assert_int_equal(cursor->gap.before, world->trimmed + 1);
        world->told_until = world->trimmed;
    }
    for (size_t i = 0; i < count; i++) {
        /* The world goes on while the page is delivered. */
        if (roll(world, 2))
            append(world);
        if (roll(world, 2))
            notify(world);
        if (fan__cursor_event(cursor, page[i]) == FAN__CURSOR_DELIVER)
            see(world, page[i]);
    }
    fan__cursor_page_end(cursor, &result);
}

static bool take_ring(struct world *world, struct fan__cursor *cursor)
{
    if (world->ring_gap.before != 0) {
        struct fan_gap gap = world->ring_gap;
        world->ring_gap.before = 0;
        if (fan__cursor_ring_gap(cursor, &gap) == FAN__CURSOR_TELL_GAP)
            world->told_until = cursor->gap.before - 1;
        return true;
    }
    if (world->ring_count == 0)
        return false;
    uint64_t seq = world->ring[0];
    memmove(world->ring, world->ring + 1, (RING - 1) * sizeof(world->ring[0]));
    world->ring_count--;
    if (fan__cursor_event(cursor, seq) == FAN__CURSOR_DELIVER)
        see(world, seq);
    return true;
}

static void step(struct world *world, struct fan__cursor *cursor)
{
    if (fan__cursor_next(cursor) == FAN__CURSOR_READ_LOG)
        take_page(world, cursor);
    else
        take_ring(world, cursor);
}

/* Runs one world; gives how often the reader went back to the log. */
static uint64_t run(unsigned seed, bool refill, bool retention)
{
    struct world world = { .seed = seed };
    for (unsigned before = roll(&world, 50); before > 0; before--)
        append(&world);
    uint64_t start = roll(&world, (unsigned)world.head + 1);
    bool live = roll(&world, 2);
    if (live)
        start = world.head;
    for (unsigned lag = roll(&world, 5); world.notified + lag < world.head;)
        world.notified++;
    struct fan__cursor cursor;
    fan__cursor_init(&cursor, start, live, refill);
    world.told_until = start;
    while (world.head < LOG_MAX) {
        switch (roll(&world, 4)) {
        case 0:
            append(&world);
            break;
        case 1:
            for (unsigned burst = roll(&world, 20); burst > 0; burst--) {
                append(&world);
                notify(&world);
            }
            break;
        case 2:
            if (retention && world.head > 20 && world.trimmed < world.head - 20 &&
                roll(&world, 8) == 0)
                world.trimmed += roll(&world, 20);
            break;
        default:
            step(&world, &cursor);
        }
    }
    while (world.notified < world.head)
        notify(&world);
    while (fan__cursor_next(&cursor) == FAN__CURSOR_READ_LOG || take_ring(&world, &cursor))
        if (fan__cursor_next(&cursor) == FAN__CURSOR_READ_LOG)
            take_page(&world, &cursor);
    size_t index = 0;
    uint64_t missing = 0;
    for (uint64_t seq = start + 1; seq <= world.head; seq++) {
        if (!world.matches[seq])
            continue;
        if (index < world.seen_count && world.seen[index] == seq)
            index++;
        else
            missing += seq > world.told_until;
    }
    assert_int_equal(index, world.seen_count);
    assert_int_equal(missing, 0);
    if (refill && !retention)
        assert_int_equal(world.told_until, start);
    return cursor.refills;
}

static void test_L07_replay_meets_live_without_gap_or_duplicate(void **state)
{
    (void)state;
    uint64_t refills = 0;
    for (unsigned seed = 1; seed <= 2000; seed++)
        refills += run(seed, true, false);
    /* The worlds must have lapped their readers, or they showed nothing. */
    assert_true(refills > 1000);
}

static void test_L07_what_retention_removed_is_told(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 2000; seed++)
        run(seed, true, true);
}

static void test_L04_a_lossy_reader_is_told_every_loss(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 2000; seed++)
        run(seed, false, false);
}

static void test_P13_a_place_of_another_log_or_past_the_head_is_told(void **state)
{
    (void)state;
    struct fan_read_result result = { .scanned_seq = 100, .trimmed_seq = 40, .head_seq = 100 };
    struct fan__cursor cursor;
    fan__cursor_init(&cursor, 500, false, true);
    assert_int_equal(fan__cursor_page(&cursor, &result), FAN__CURSOR_TELL_GAP);
    assert_int_equal(cursor.gap.reason, FAN_GAP_EPOCH);
    assert_int_equal(cursor.gap.after, 500);
    assert_int_equal(cursor.gap.before, 41);
    assert_true(cursor.gap.count == FAN_GAP_COUNT_UNKNOWN);
    assert_int_equal(fan__cursor_page(&cursor, &result), FAN__CURSOR_DELIVER);
    assert_int_equal(fan__cursor_event(&cursor, 41), FAN__CURSOR_DELIVER);

    fan__cursor_init(&cursor, 70, false, true);
    cursor.foreign = true;
    assert_int_equal(fan__cursor_page(&cursor, &result), FAN__CURSOR_TELL_GAP);
    assert_int_equal(cursor.gap.reason, FAN_GAP_EPOCH);
    assert_int_equal(fan__cursor_page(&cursor, &result), FAN__CURSOR_DELIVER);
}

static void test_L05_a_closed_cursor_stays_closed(void **state)
{
    (void)state;
    struct fan__cursor cursor;
    fan__cursor_init(&cursor, 0, false, true);
    fan__cursor_close(&cursor);
    fan__cursor_close(&cursor);
    assert_int_equal(fan__cursor_next(&cursor), FAN__CURSOR_END);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L07_replay_meets_live_without_gap_or_duplicate),
        cmocka_unit_test(test_L07_what_retention_removed_is_told),
        cmocka_unit_test(test_L04_a_lossy_reader_is_told_every_loss),
        cmocka_unit_test(test_P13_a_place_of_another_log_or_past_the_head_is_told),
        cmocka_unit_test(test_L05_a_closed_cursor_stays_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
