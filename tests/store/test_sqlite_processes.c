/* Two processes on one file: one order, one truth about keys, leases and claims (P05, L10). */
#include "sqlite_support.h"

#include <sys/socket.h>
#include <sys/wait.h>

#define EVENT_COUNT 300

/* The other process, which does what it is told, one letter at a time, on a store of its own. */
struct other {
    pid_t child;
    int socket;
};

/* Letters in, one number out for each. */
static uint64_t obey(struct fan_store *store, char order, uint64_t argument)
{
    uint64_t answer = 0;
    if (order == 'a') { /* append that many events */
        for (uint64_t i = 0; i < argument; i++) {
            struct fan_append item = { 0 };
            struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                             .type = "a.b.c",
                                             .topic = "child" };
            if (store_add(store, &draft, &item) != FAN_OK)
                return UINT64_MAX;
            answer = item.ret_seq;
        }
    } else if (order == 'e') { /* append to "t", expecting that last sequence */
        struct fan_event *event = event_of(&(struct fan_event_draft){
            .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c", .topic = "t" });
        struct fan_expectation expectation = { .size = sizeof(expectation),
                                               .key = "t",
                                               .last_seq = argument };
        struct fan_append item = { .event = event, .expectation = &expectation };
        if (fan_store_append(store, &item, 1, NULL) != FAN_OK)
            return UINT64_MAX;
        answer = item.ret_status == FAN_OK ? item.ret_seq : 0;
        fan_event_free(event, NULL);
    } else if (order == 'l') { /* acquire the lease */
        if (fan_lease_acquire(store, "leader", "child", 60000, &answer) != FAN_OK)
            answer = 0;
    } else if (order == 'c') { /* claim up to that many, settle them as done */
        struct fan_claim claims[16];
        struct fan_settle settles[16];
        struct fan_batch *batch = batch_new();
        const struct fan_group_name name = { "g", "" };
        struct fan_claim_options options = { .size = FAN_CLAIM_OPTIONS_SIZE,
                                             .owner = "child",
                                             .limit = argument };
        if (fan_group_claim(store, &name, &options, batch, claims) == FAN_OK)
            answer = fan_batch_count(batch);
        for (uint64_t i = 0; i < answer; i++)
            settles[i] = (struct fan_settle){ .seq = claims[i].seq, .token = claims[i].token };
        if (answer > 0 && fan_group_settle(store, &name, settles, answer) != FAN_OK)
            answer = UINT64_MAX;
        fan_batch_free(batch);
    }
    return answer;
}

struct message {
    char order;
    uint64_t number;
};

static void send_message(int socket, char order, uint64_t number)
{
    struct message message = { 0 };
    message.order = order;
    message.number = number;
    assert_int_equal(write(socket, &message, sizeof(message)), sizeof(message));
}

static uint64_t receive_number(int socket)
{
    struct message message;
    assert_int_equal(read(socket, &message, sizeof(message)), sizeof(message));
    return message.number;
}

/* Forks before this process has a store of its own. */
static void other_start(struct other *other, const struct place *place)
{
    int sockets[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
    other->child = fork();
    assert_true(other->child >= 0);
    other->socket = sockets[0];
    if (other->child > 0) {
        close(sockets[1]);
        return;
    }
    close(sockets[0]);
    /* A failing assertion ends the child instead of going on with the parent's tests. */
    setenv("CMOCKA_TEST_ABORT", "1", 1);
    struct message message;
    struct fan_store *store = store_open(place->uri);
    while (read(sockets[1], &message, sizeof(message)) == (ssize_t)sizeof(message)) {
        message.number = obey(store, message.order, message.number);
        if (write(sockets[1], &message, sizeof(message)) != (ssize_t)sizeof(message))
            _exit(1);
    }
    fan_store_close(store);
    _exit(0);
}

static uint64_t ask(struct other *other, char order, uint64_t argument)
{
    send_message(other->socket, order, argument);
    return receive_number(other->socket);
}

static void other_end(struct other *other)
{
    int result = 0;
    close(other->socket);
    assert_int_equal(waitpid(other->child, &result, 0), other->child);
    assert_int_equal(result, 0);
}

static void test_L10_two_processes_append_in_one_order(void **state)
{
    struct place *place = *state;
    struct other other;
    other_start(&other, place);
    assert_int_equal(ask(&other, 'a', 1), 1);
    struct fan_store *store = store_open(place->uri);
    send_message(other.socket, 'a', EVENT_COUNT);
    for (int i = 0; i < EVENT_COUNT; i++)
        store_say(store, "a.b.c", "parent");
    receive_number(other.socket);

    struct fan_batch *batch = batch_new();
    struct fan_read_result result = { 0 };
    uint64_t expected = 1;
    uint64_t mine = 0;
    do {
        assert_ok(fan_store_read(store, result.scanned_seq, NULL, batch, &result));
        for (size_t i = 0; i < fan_batch_count(batch); i++, expected++) {
            const struct fan_event *event = fan_batch_event(batch, i);
            assert_int_equal(fan_event_seq(event), expected);
            mine += strcmp(fan_event_topic(event), "parent") == 0;
        }
    } while (result.scanned_seq < result.head_seq);
    assert_int_equal(expected - 1, 2 * EVENT_COUNT + 1);
    assert_int_equal(mine, EVENT_COUNT);
    fan_batch_free(batch);
    fan_store_close(store);
    other_end(&other);
}

static void test_P05_wait_is_woken_by_another_process(void **state)
{
    struct place *place = *state;
    struct other other;
    other_start(&other, place);
    struct fan_store *store = store_open(place->uri);
    assert_int_equal(fan_store_wait(store, 0, 0), FAN_AGAIN);
    send_message(other.socket, 'a', 1);
    assert_ok(fan_store_wait(store, 0, 60000));
    receive_number(other.socket);
    uint64_t head = 0;
    assert_ok(fan_store_head(store, &head));
    assert_int_equal(head, 1);
    fan_store_close(store);
    other_end(&other);
}

static void test_P23_expectations_hold_across_processes(void **state)
{
    struct place *place = *state;
    struct other other;
    other_start(&other, place);
    struct fan_store *store = store_open(place->uri);
    /* This process knows the series of "t" before anybody expects something of it. */
    assert_int_equal(store_say(store, "a.b.c", "t"), 1);
    assert_int_equal(ask(&other, 'e', 0), 0);
    assert_int_equal(ask(&other, 'e', 1), 2);
    assert_int_equal(store_say(store, "a.b.c", "t"), 3);
    assert_int_equal(ask(&other, 'e', 2), 0);
    assert_int_equal(ask(&other, 'e', 3), 4);
    /* A series that the other process has not met. */
    assert_int_equal(store_say(store, "x.y.z", "t"), 5);
    assert_int_equal(ask(&other, 'e', 4), 0);
    assert_int_equal(ask(&other, 'e', 5), 6);
    uint64_t fence = 0;
    uint64_t theirs = ask(&other, 'l', 0);
    assert_true(theirs > 0);
    assert_int_equal(fan_lease_acquire(store, "leader", "parent", 60000, &fence), FAN_EXISTS);
    assert_int_equal(fan_lease_renew(store, "leader", "parent", theirs, 1000), FAN_LOST);
    fan_store_close(store);
    other_end(&other);
}

static void test_P09_a_group_is_shared_by_processes(void **state)
{
    struct place *place = *state;
    struct other other;
    other_start(&other, place);
    struct fan_store *store = store_open(place->uri);
    const struct fan_group_name name = { "g", "" };
    struct fan_group_options options = { .size = FAN_GROUP_OPTIONS_SIZE };
    assert_ok(fan_group_create(store, &name, &options, NULL));
    for (int i = 0; i < 40; i++)
        store_say(store, "a.b.c", "t");
    uint64_t done = 0;
    uint64_t count;
    do {
        send_message(other.socket, 'c', 4);
        count = obey(store, 'c', 3);
        assert_true(count != UINT64_MAX);
        uint64_t theirs = receive_number(other.socket);
        assert_true(theirs != UINT64_MAX);
        count += theirs;
        done += count;
    } while (count > 0);
    assert_int_equal(done, 40);
    struct fan_store_stats stats = { .size = sizeof(stats) };
    assert_ok(fan_store_stats(store, &stats));
    assert_int_equal(stats.completed, 40);
    fan_store_close(store);
    other_end(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        at_a_place(test_L10_two_processes_append_in_one_order),
        at_a_place(test_P05_wait_is_woken_by_another_process),
        at_a_place(test_P23_expectations_hold_across_processes),
        at_a_place(test_P09_a_group_is_shared_by_processes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
