/*
 * SIGKILL at every step of publish, claim, handle and record (H06, H09, L8). A child process works
 * on a log whose provider kills it before or after a call, or it dies inside a handler; the parent
 * keeps the ledger of publishes, acknowledgements and effects, which come through a pipe, and
 * starts it again until all is settled. No life publishes what was acknowledged to an earlier one.
 *
 *     after each crash what was acknowledged is in the log, once, and nothing is there that nobody
 *     tried to publish;
 *     each event ends as completed, but those that are failed; within one life no handler sees an
 *     event twice, but those that are retried; what the log says is completed or dead is not run
 *     again. So a second effect is that of a crash between the effect and its record, and of
 *     nothing else.
 *
 * Some events are retried after their first attempt, whose record is a step like any other, and
 * one is failed.
 *
 * FANFARE_SOAK=1 runs 200 crashes at random, FANFARE_SEED chooses them; else each point once.
 */
#include "../seed.h"
#include "probe.h"

#include "store/sqlite/sqlite.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>

#define EVENT_COUNT 40
#define HANDLER_COUNT 2
#define LEASE_MS 1500
#define LIVES_MAX 8
#define POISON 7
#define FAILED 11
#define RETRIED(number) ((number) % 8 == 5)
/*
 * Each life has so many of each: what is retried is claimed and settled twice by each handler, and
 * a call waits for renewals where they are to be met.
 */
#define PASSES_MIN 3

enum point {
    POINT_NONE,
    POINT_APPEND_BEFORE,
    POINT_APPEND_AFTER,
    POINT_CLAIM_BEFORE,
    POINT_CLAIM_AFTER,
    POINT_SETTLE_BEFORE,
    POINT_SETTLE_AFTER,
    POINT_RENEW_BEFORE,
    POINT_RENEW_AFTER,
    POINT_EFFECT_BEFORE,
    POINT_EFFECT_AFTER,
    POINT_COUNT,
};

static const char *const groups[HANDLER_COUNT] = { "mail", "audit" };

/* What goes through the pipe, whole. */
enum told {
    TOLD_EFFECT,
    TOLD_ATTEMPT, /* a publish begins */
    TOLD_ACKNOWLEDGED,
    TOLD_SETTLED, /* the child saw all of it settled */
};

struct record {
    enum told told;
    int32_t handler;
    int32_t number;
};

/* The child's, set before its threads start but the counter. */
static struct {
    enum point point;
    unsigned at; /* the how manieth pass of the point */
    bool poisoned;
    int pipe;
    struct fan__mutex mutex;
    struct fan__cond changed;
    unsigned passed;
    unsigned renewed;
} child;

static void pass(enum point point)
{
    fan__mutex_lock(&child.mutex);
    if (point == child.point && ++child.passed == child.at)
        kill(getpid(), SIGKILL);
    fan__mutex_unlock(&child.mutex);
}

static enum fan_status kill_append(void *self, struct fan_append *items, size_t count,
                                   struct fan_error *error)
{
    pass(POINT_APPEND_BEFORE);
    enum fan_status status = fan__sqlite_provider.append(self, items, count, error);
    pass(POINT_APPEND_AFTER);
    return status;
}

static enum fan_status kill_claim(void *self, const struct fan_group_name *name,
                                  const struct fan_claim_options *options, struct fan_batch *batch,
                                  struct fan_claim *claims)
{
    pass(POINT_CLAIM_BEFORE);
    enum fan_status status = fan__sqlite_provider.claim(self, name, options, batch, claims);
    if (status == FAN_OK)
        pass(POINT_CLAIM_AFTER);
    return status;
}

static enum fan_status kill_settle(void *self, const struct fan_group_name *name,
                                   struct fan_settle *items, size_t count)
{
    pass(POINT_SETTLE_BEFORE);
    enum fan_status status = fan__sqlite_provider.settle(self, name, items, count);
    pass(POINT_SETTLE_AFTER);
    return status;
}

static enum fan_status kill_renew(void *self, const struct fan_group_name *name,
                                  struct fan_settle *items, size_t count, uint32_t lease_ms)
{
    pass(POINT_RENEW_BEFORE);
    enum fan_status status = fan__sqlite_provider.renew(self, name, items, count, lease_ms);
    pass(POINT_RENEW_AFTER);
    fan__mutex_lock(&child.mutex);
    child.renewed++;
    fan__cond_broadcast(&child.changed);
    fan__mutex_unlock(&child.mutex);
    return status;
}

static void say(enum told told, int handler, int number)
{
    struct record record = { told, handler, number };
    if (write(child.pipe, &record, sizeof(record)) != (ssize_t)sizeof(record))
        _exit(3);
}

static enum fan_verdict on_event(void *context, const struct fan_event *event,
                                 const struct fan_handling *handling)
{
    const int *handler = context;
    int number = atoi(fan_event_id(event) + strlen("event-"));
    pass(POINT_EFFECT_BEFORE);
    /* A first attempt without effect: whoever died of it has made the next one. */
    if (RETRIED(number) && handling->attempt == 1)
        return FAN_VERDICT_RETRY;
    if (child.poisoned && number == POISON)
        kill(getpid(), SIGKILL);
    /* Where a renewal is to be met, one call lasts until there were so many. */
    fan__mutex_lock(&child.mutex);
    bool waits = child.point == POINT_RENEW_BEFORE || child.point == POINT_RENEW_AFTER;
    while (waits && number == 0 && child.renewed < child.at)
        fan__cond_wait(&child.changed, &child.mutex);
    fan__mutex_unlock(&child.mutex);
    say(TOLD_EFFECT, *handler, number);
    pass(POINT_EFFECT_AFTER);
    return number == FAILED ? FAN_VERDICT_FAIL : FAN_VERDICT_DONE;
}

/* Publishes what no life before was told to be in the log. */
static void publish_rest(struct fan_broker *broker, const bool *acknowledged)
{
    for (int number = 0; number < EVENT_COUNT; number++) {
        char id[32];
        if (acknowledged[number])
            continue;
        snprintf(id, sizeof(id), "event-%d", number);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = "kill.test.create",
                                         .id = id };
        say(TOLD_ATTEMPT, 0, number);
        if (fan_broker_publish(broker, &draft, NULL, NULL) != FAN_OK)
            _exit(4);
        say(TOLD_ACKNOWLEDGED, 0, number);
    }
}

static bool add_owed(void *context, const struct fan_group_stats *stats)
{
    uint64_t *owed = context;
    *owed += stats->pending + stats->processing;
    return true;
}

/* By group: an event counts as failed when one of its deliveries is, whatever the others are. */
static void wait_until_settled(struct fan_broker *broker)
{
    uint64_t owed;
    fan__mutex_lock(&child.mutex);
    do {
        fan__cond_wait_until(&child.changed, &child.mutex, fan__deadline_ns(5));
        owed = 0;
        if (fan_store_groups(fan_broker_store(broker), add_owed, &owed) != FAN_OK)
            _exit(5);
    } while (owed > 0);
    fan__mutex_unlock(&child.mutex);
}

/* One life: publishes the rest, handles all, and says so. It never returns. */
static void live(const struct place *place, const bool *acknowledged)
{
    static struct fan_provider provider;
    static int numbers[HANDLER_COUNT] = { 0, 1 };
    provider = fan__sqlite_provider;
    provider.append = kill_append;
    provider.claim = kill_claim;
    provider.settle = kill_settle;
    provider.renew = kill_renew;
    fan__mutex_init(&child.mutex);
    fan__cond_init(&child.changed);
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    options.provider = &provider;
    options.lease_ms = LEASE_MS;
    options.retry = (struct fan_retry_policy){ .delay_ms = 1 };
    struct fan_broker *broker = NULL;
    if (fan_broker_open(place->uri, &options, &broker, NULL) != FAN_OK)
        _exit(2);
    for (int i = 0; i < HANDLER_COUNT; i++) {
        struct fan_handler_options handler = { .size = FAN_HANDLER_OPTIONS_SIZE,
                                               .group = groups[i],
                                               .handle = on_event,
                                               .context = &numbers[i] };
        if (fan_broker_handle(broker, &handler, NULL, NULL) != FAN_OK)
            _exit(2);
    }
    if (fan_broker_start(broker) != FAN_OK)
        _exit(2);
    publish_rest(broker, acknowledged);
    wait_until_settled(broker);
    say(TOLD_SETTLED, 0, 0);
    if (fan_broker_stop(broker, 10000) != FAN_OK)
        _exit(6);
    fan_broker_free(broker);
    _exit(0);
}

/* The parent's ledger. */
struct ledger {
    bool attempted[EVENT_COUNT];
    bool acknowledged[EVENT_COUNT];
    unsigned stored[EVENT_COUNT];
    unsigned effects[HANDLER_COUNT][EVENT_COUNT];
    unsigned this_life[HANDLER_COUNT][EVENT_COUNT];
    enum fan_event_status status[HANDLER_COUNT][EVENT_COUNT];
    enum fan_dead_reason reason[HANDLER_COUNT][EVENT_COUNT];
    unsigned attempts[HANDLER_COUNT][EVENT_COUNT];
    int number;
};

static bool see_delivery(void *context, const struct fan_delivery *delivery)
{
    struct ledger *ledger = context;
    int handler = strcmp(delivery->group, groups[1]) == 0;
    ledger->status[handler][ledger->number] = delivery->status;
    ledger->reason[handler][ledger->number] = delivery->reason;
    ledger->attempts[handler][ledger->number] = delivery->attempts;
    return true;
}

/* What the log says between two lives: what was acknowledged is part of what was attempted. */
static void read_log(const struct place *place, struct ledger *ledger)
{
    struct fan_store *store = NULL;
    struct fan_batch *batch = NULL;
    struct fan_read_result result;
    assert_ok(fan_store_open(place->uri, NULL, &store, NULL));
    assert_ok(fan_batch_new(NULL, &batch));
    assert_ok(fan_store_read(store, 0, NULL, batch, &result));
    memset(ledger->stored, 0, sizeof(ledger->stored));
    for (size_t i = 0; i < fan_batch_count(batch); i++) {
        const struct fan_event *event = fan_batch_event(batch, i);
        ledger->number = atoi(fan_event_id(event) + strlen("event-"));
        assert_in_range(ledger->number, 0, EVENT_COUNT - 1);
        ledger->stored[ledger->number]++;
        assert_ok(fan_store_deliveries(store, fan_event_seq(event), 0, see_delivery, ledger));
    }
    fan_batch_free(batch);
    fan_store_close(store);
    for (int number = 0; number < EVENT_COUNT; number++) {
        if (ledger->acknowledged[number] && ledger->stored[number] == 0)
            fail_msg("event %d was acknowledged, and is not in the log", number);
        if (ledger->stored[number] > 0 && !ledger->attempted[number])
            fail_msg("event %d is in the log, and nobody published it", number);
        if (ledger->stored[number] > 1)
            fail_msg("event %d is in the log %u times", number, ledger->stored[number]);
    }
}

static void see_effect(struct ledger *ledger, const struct record *record)
{
    int handler = record->handler;
    int number = record->number;
    /* What was settled when this life began is not run again, nor anything twice in it. */
    if (ledger->status[handler][number] == FAN_EVENT_COMPLETED ||
        ledger->status[handler][number] == FAN_EVENT_FAILED ||
        ledger->this_life[handler][number] > 0)
        fail_msg("event %d came to handler %d again", number, handler);
    ledger->this_life[handler][number]++;
    ledger->effects[handler][number]++;
}

/* Starts one life and follows it. Returns: whether it came to its end. */
static bool follow(const struct place *place, struct ledger *ledger, int *ret_result)
{
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(pipes[0]);
        child.pipe = pipes[1];
        live(place, ledger->acknowledged);
    }
    close(pipes[1]);
    memset(ledger->this_life, 0, sizeof(ledger->this_life));
    bool whole = false;
    struct record record;
    while (read(pipes[0], &record, sizeof(record)) == (ssize_t)sizeof(record)) {
        assert_in_range(record.number, 0, EVENT_COUNT - 1);
        switch (record.told) {
        case TOLD_EFFECT:
            see_effect(ledger, &record);
            break;
        case TOLD_ATTEMPT:
            ledger->attempted[record.number] = true;
            break;
        case TOLD_ACKNOWLEDGED:
            ledger->acknowledged[record.number] = true;
            break;
        case TOLD_SETTLED:
            whole = true;
            break;
        }
    }
    close(pipes[0]);
    assert_int_equal(waitpid(pid, ret_result, 0), pid);
    return whole;
}

static void check_end(const struct place *place, struct ledger *ledger, bool poisoned)
{
    read_log(place, ledger);
    for (int number = 0; number < EVENT_COUNT; number++)
        assert_true(ledger->acknowledged[number]);
    for (int handler = 0; handler < HANDLER_COUNT; handler++) {
        for (int number = 0; number < EVENT_COUNT; number++) {
            bool dead = poisoned && number == POISON;
            bool failed = number == FAILED;
            assert_int_equal(ledger->status[handler][number],
                             dead || failed ? FAN_EVENT_FAILED : FAN_EVENT_COMPLETED);
            assert_int_equal(ledger->reason[handler][number], dead     ? FAN_DEAD_LAPSES
                                                              : failed ? FAN_DEAD_FAILED
                                                                       : FAN_DEAD_NONE);
            assert_true((ledger->effects[handler][number] > 0) == !dead);
            assert_true(ledger->attempts[handler][number] >= (RETRIED(number) ? 2 : 1));
        }
    }
}

/* One crash at a point, which must come, and a life without one until all is settled. */
static void crash_at(enum point point, unsigned at)
{
    struct place place;
    place_make(&place, scheme_sqlite);
    struct ledger ledger = { .number = 0 };
    child.point = point;
    child.at = at;
    int result;
    follow(&place, &ledger, &result);
    if (!WIFSIGNALED(result) || WTERMSIG(result) != SIGKILL)
        fail_msg("point %d, pass %u: the child ended with %d", point, at, result);
    read_log(&place, &ledger);
    child.point = POINT_NONE;
    assert_true(follow(&place, &ledger, &result));
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    check_end(&place, &ledger, false);
    place_remove(&place);
}

static void test_L08_H06_every_step_may_be_the_last_of_a_process(void **state)
{
    (void)state;
    child.poisoned = false;
    for (int point = POINT_APPEND_BEFORE; point < POINT_COUNT; point++)
        crash_at((enum point)point, PASSES_MIN);
    if (!test_is_soak())
        return;
    uint64_t random = test_seed();
    print_message("# FANFARE_SEED=%" PRIu64 "\n", random);
    for (int i = 0; i < 200; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        enum point point = (enum point)(1 + (random >> 33) % (POINT_COUNT - 1));
        bool often = point >= POINT_EFFECT_BEFORE || point <= POINT_APPEND_AFTER;
        crash_at(point, 1 + (unsigned)((random >> 48) % (often ? EVENT_COUNT : PASSES_MIN)));
    }
}

static void test_L08_H06_what_kills_three_processes_is_a_dead_letter_alone(void **state)
{
    (void)state;
    struct place place;
    place_make(&place, scheme_sqlite);
    struct ledger ledger = { .number = 0 };
    child.point = POINT_NONE;
    child.poisoned = true;
    int deaths = 0;
    int result;
    while (!follow(&place, &ledger, &result)) {
        assert_true(WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL);
        assert_true(++deaths <= LIVES_MAX);
        read_log(&place, &ledger);
    }
    child.poisoned = false;
    /* Three for each handler; where both were under way in one process, one death is of both. */
    assert_true(deaths >= 3 && deaths <= 3 * HANDLER_COUNT);
    check_end(&place, &ledger, true);
    place_remove(&place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_L08_H06_every_step_may_be_the_last_of_a_process),
        cmocka_unit_test(test_L08_H06_what_kills_three_processes_is_a_dead_letter_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
