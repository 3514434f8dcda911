/*
 * Waiting for the head: at once for commits of this process, by looking every poll_ms for those of
 * others. What is told here is a hint; truth is reading.
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
    if (head_seq > store->tail_seq) {
        store->tail_seq = head_seq;
        fan__cond_broadcast(&store->tail_moved);
    }
    fan__mutex_unlock(&store->tail_mutex);
}

void fan__sqlite_wake(void *self)
{
    struct fan__sqlite *store = self;
    fan__mutex_lock(&store->tail_mutex);
    store->wakes++;
    fan__cond_broadcast(&store->tail_moved);
    fan__mutex_unlock(&store->tail_mutex);
}

/* Sleeps until the head is known to be past after_seq, a wake, or the time. */
static enum fan_status sleep_until(struct fan__sqlite *store, uint64_t after_seq, uint64_t wakes,
                                   int64_t until_ns)
{
    enum fan_status status = FAN_TIMED_OUT;
    fan__mutex_lock(&store->tail_mutex);
    bool in_time = true;
    for (;;) {
        if (store->tail_seq > after_seq)
            status = FAN_OK;
        else if (store->wakes != wakes)
            status = FAN_AGAIN;
        if (status != FAN_TIMED_OUT || !in_time)
            break;
        in_time = fan__cond_wait_until(&store->tail_moved, &store->tail_mutex, until_ns);
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
        int64_t poll_ns = fan__deadline_ns(store->poll_ms);
        bool last = deadline_ns <= poll_ns;
        uint64_t head_seq;
        enum fan_status status = fan__sqlite_head(store, &head_seq);
        if (status != FAN_OK)
            return status;
        fan__sqlite_tail_moved(store, head_seq);
        status = sleep_until(store, after_seq, wakes, last ? deadline_ns : poll_ns);
        if (status != FAN_TIMED_OUT)
            return status;
        if (last)
            return FAN_AGAIN;
    }
}
