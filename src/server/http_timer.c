/*
 * Deadlines. All connections of a list have the same time-out, so the list is in the order of its
 * deadlines by appending; one uv timer per loop looks at the heads. Setting and clearing is O(1).
 */
#include "server/http_inside.h"

#define TICK_MS 20

static void unlink_timer(struct fan__http_connection *connection)
{
    if (connection->timer == FAN__HTTP_TIMER_NONE)
        return;
    struct fan__http_timer_list *list = &connection->loop->timers[connection->timer];
    if (connection->timer_previous)
        connection->timer_previous->timer_next = connection->timer_next;
    else
        list->first = connection->timer_next;
    if (connection->timer_next)
        connection->timer_next->timer_previous = connection->timer_previous;
    else
        list->last = connection->timer_previous;
    connection->timer = FAN__HTTP_TIMER_NONE;
}

/* Waits for the first deadline, but for TICK_MS at least, so that a busy server seldom looks. */
static void arm(struct fan__http_loop *loop)
{
    uint64_t due = UINT64_MAX;
    for (int i = 0; i < FAN__HTTP_TIMERS; i++) {
        const struct fan__http_connection *first = loop->timers[i].first;
        if (first && first->deadline < due)
            due = first->deadline;
    }
    uint64_t now = uv_now(&loop->uv);
    if (due < now + TICK_MS)
        due = now + TICK_MS;
    loop->timer_due = due;
    if (due == UINT64_MAX)
        uv_timer_stop(&loop->timer);
    else
        uv_timer_start(&loop->timer, fan__http_timer_fire, due - now, 0);
}

void fan__http_timer_set(struct fan__http_connection *connection, enum fan__http_timer timer)
{
    struct fan__http_loop *loop = connection->loop;
    unlink_timer(connection);
    connection->moved = 0;
    if (timer == FAN__HTTP_TIMER_NONE)
        return;
    struct fan__http_timer_list *list = &loop->timers[timer];
    connection->timer = (uint8_t)timer;
    connection->deadline = uv_now(&loop->uv) + loop->timeouts_ms[timer];
    connection->timer_next = NULL;
    connection->timer_previous = list->last;
    if (list->last)
        list->last->timer_next = connection;
    else
        list->first = connection;
    list->last = connection;
    if (connection->deadline < loop->timer_due)
        arm(loop);
}

void fan__http_timer_fire(uv_timer_t *timer)
{
    struct fan__http_loop *loop = timer->data;
    uint64_t now = uv_now(&loop->uv);
    for (int i = 0; i < FAN__HTTP_TIMERS; i++) {
        struct fan__http_timer_list *list = &loop->timers[i];
        /* Each call takes the first off the list. */
        while (list->first && list->first->deadline <= now)
            fan__http_connection_expire(list->first);
    }
    arm(loop);
}

void fan__http_timer_init(struct fan__http_loop *loop)
{
    const struct fan__http_options *options = &loop->server->options;
    loop->timeouts_ms[FAN__HTTP_TIMER_IDLE] = options->idle_timeout_ms;
    loop->timeouts_ms[FAN__HTTP_TIMER_HEAD] = options->head_timeout_ms;
    loop->timeouts_ms[FAN__HTTP_TIMER_BODY] = options->body_timeout_ms;
    loop->timeouts_ms[FAN__HTTP_TIMER_WRITE] = options->write_timeout_ms;
    loop->timeouts_ms[FAN__HTTP_TIMER_LINGER] = options->linger_timeout_ms;
    loop->timer_due = UINT64_MAX;
}
