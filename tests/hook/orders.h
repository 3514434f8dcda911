/*
 * An application that places orders, each with an event in its outbox, and is killed: what the
 * child says by a pipe, the parent's ledger, and what must agree. The includer chooses ORDERS.
 */
#ifndef TESTS_HOOK_ORDERS_H
#define TESTS_HOOK_ORDERS_H

#include "outbox_support.h"
#include "vfs_kill.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define LEASE_MS 20

/* What goes through the pipe: whole, as it is shorter than PIPE_BUF. */
struct line {
    int order;
    bool committed;
};

static inline void say(int pipe, int order, bool committed)
{
    struct line line = { order, committed };
    if (write(pipe, &line, sizeof(line)) != (ssize_t)sizeof(line))
        _exit(3);
}

static inline void must(bool good, int code)
{
    if (!good)
        _exit(code);
}

/* Every third order is rolled back, every other has a savepoint that is. */
static inline bool is_kept(int order)
{
    return order % 3 != 2;
}

static inline void move_some(struct fan_outbox_relay *relay)
{
    enum fan_status status;
    do
        status = fan_outbox_relay_step(relay, NULL);
    while (status == FAN_OK);
    must(status == FAN_AGAIN || status == FAN_EXISTS, 6);
}

static inline struct fan_outbox_relay *relay_open(struct fan_broker *broker, const char *database)
{
    struct fan_outbox_relay_options options = { .size = FAN_OUTBOX_RELAY_OPTIONS_SIZE,
                                                .database = database,
                                                .batch_count = 3,
                                                .poll_ms = 1,
                                                .lease_ms = LEASE_MS };
    struct fan_outbox_relay *relay = NULL;
    return fan_outbox_relay_open(broker, &options, &relay, NULL) == FAN_OK ? relay : NULL;
}

struct ledger {
    bool attempted[ORDERS];
    bool committed[ORDERS];
    int steps;
};

static inline void follow(int pipe, struct ledger *ledger)
{
    struct line line;
    ssize_t size;
    while ((size = read(pipe, &line, sizeof(line))) == (ssize_t)sizeof(line)) {
        if (line.order >= ORDERS)
            ledger->steps = line.order;
        else if (line.committed)
            ledger->committed[line.order] = true;
        else
            ledger->attempted[line.order] = true;
    }
    assert_int_equal(size, 0);
}

/* Which orders have their event in the log: each once, in their order. */
static inline void read_orders(struct fan_broker *broker, bool stored[ORDERS])
{
    struct fan_reader *reader = read_all(broker);
    const struct fan_event *event;
    int previous = -1;
    while (fan_reader_next(reader, 0, &event) == FAN_OK) {
        int order = 0;
        char id[48];
        assert_int_equal(sscanf(fan_event_id(event), "order-%d", &order), 1);
        snprintf(id, sizeof(id), "order-%d", order);
        assert_string_equal(fan_event_id(event), id);
        assert_true(order > previous && order < ORDERS);
        previous = order;
        stored[order] = true;
    }
    fan_reader_free(reader);
}

/* Whether an order's row, its event and the ledger say the same. */
static inline bool agrees(const struct ledger *ledger, int order, bool stored, bool kept)
{
    return stored == kept && (kept || !ledger->committed[order]) &&
           (!kept || (ledger->attempted[order] && is_kept(order)));
}

/* Ended by us, or with everything done. */
static inline void assert_ended(pid_t child, const struct ledger *ledger)
{
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    bool killed = WIFSIGNALED(result) && WTERMSIG(result) == SIGKILL;
    if (!killed && !(WIFEXITED(result) && WEXITSTATUS(result) == 0))
        fail_msg("the child ended with %d", result);
    assert_int_equal(killed, ledger->steps == 0);
}

#endif
