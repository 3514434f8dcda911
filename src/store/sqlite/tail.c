/*
 * Waiting for the head, by looking every poll_ms. What is told here is a hint; truth is reading.
 *
 * Our own commits note the head and wake nobody: a wake costs the committer 30 to 90 us, beside a
 * commit of 200, and who appends through this store knows it already. No wake can be lost by this,
 * as no wait relies on one: each ends its sleep at the next look by itself, and compares then with
 * what was noted or what the look finds, whichever came while it slept.
 */
#include "store/sqlite/store.h"

#include "base/env.h"

enum fan_status fan__sqlite_head(void *self, uint64_t *ret_seq)
{
    struct fan__sqlite_connection *connection = NULL;
    enum fan_status status = fan__sqlite_read_begin(self, &connection);
    if (status != FAN_OK)
        return status;
    struct fan__sqlite_bounds bounds;
    fan__sqlite_bounds(connection, &bounds);
    status = fan__sqlite_read_end(connection);
    if (status == FAN_OK)
        *ret_seq = bounds.head_seq;
    return status;
}

void fan__sqlite_tail_moved(struct fan__sqlite *store, uint64_t head_seq)
{
    fan__mutex_lock(&store->tail_mutex);
    if (head_seq > store->tail_seq)
        store->tail_seq = head_seq;
    fan__mutex_unlock(&store->tail_mutex);
}

void fan__sqlite_wake(void *self)
{
    struct fan__sqlite *store = self;
    fan__mutex_lock(&store->tail_mutex);
    store->wakes++;
    fan__cond_broadcast(&store->tail_wake);
    fan__mutex_unlock(&store->tail_mutex);
}

/*
 * Looks at the log, if nobody has done so for poll_ms: each look is a snapshot that costs others.
 */
static enum fan_status poll_head(struct fan__sqlite *store, bool always)
{
    int64_t now_ns = fan__deadline_ns(0);
    fan__mutex_lock(&store->tail_mutex);
    bool due = always || now_ns >= store->tail_poll_ns;
    if (due)
        store->tail_poll_ns = now_ns + (int64_t)store->poll_ms * FAN__NS_PER_MS;
    fan__mutex_unlock(&store->tail_mutex);
    if (!due)
        return FAN_OK;
    uint64_t head_seq;
    enum fan_status status = fan__sqlite_head(store, &head_seq);
    if (status == FAN_OK)
        fan__sqlite_tail_moved(store, head_seq);
    return status;
}

/*
 * Sleeps until the head is known to be past after_seq, a wake, the deadline, or the next look.
 * Returns: FAN_TIMED_OUT for the last two.
 */
static enum fan_status sleep_until(struct fan__sqlite *store, uint64_t after_seq, uint64_t wakes,
                                   int64_t deadline_ns)
{
    enum fan_status status = FAN_TIMED_OUT;
    fan__mutex_lock(&store->tail_mutex);
    int64_t until_ns = deadline_ns < store->tail_poll_ns ? deadline_ns : store->tail_poll_ns;
    bool in_time = true;
    for (;;) {
        if (store->tail_seq > after_seq)
            status = FAN_OK;
        else if (store->wakes != wakes)
            status = FAN_AGAIN;
        if (status != FAN_TIMED_OUT || !in_time)
            break;
        in_time = fan__cond_wait_until(&store->tail_wake, &store->tail_mutex, until_ns);
    }
    fan__mutex_unlock(&store->tail_mutex);
    return status;
}

enum fan_status fan__sqlite_wait(void *self, uint64_t after_seq, uint32_t timeout_ms)
{
    struct fan__sqlite *store = self;
    int64_t deadline_ns = fan__deadline_ns(timeout_ms);
    fan__mutex_lock(&store->tail_mutex);
    uint64_t wakes = store->wakes;
    fan__mutex_unlock(&store->tail_mutex);
    for (;;) {
        enum fan_status status = poll_head(store, timeout_ms == 0);
        if (status != FAN_OK)
            return status;
        status = sleep_until(store, after_seq, wakes, deadline_ns);
        if (status != FAN_TIMED_OUT)
            return status;
        if (fan__deadline_ns(0) >= deadline_ns)
            return FAN_AGAIN;
    }
}
