/* Sleeping on descriptors and on a bell, without losing a ring that came before the sleep. */
#include "broker/dispatch.h"

#include "base/env.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum fan_status fan__waker_init(struct fan__waker *waker)
{
    *waker = (struct fan__waker){ .epoll_fd = epoll_create1(EPOLL_CLOEXEC),
                                  .bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
    if (waker->epoll_fd < 0 || waker->bell_fd < 0)
        return FAN_IO;
    return fan__waker_watch(waker, waker->bell_fd);
}

void fan__waker_deinit(struct fan__waker *waker)
{
    if (waker->epoll_fd >= 0)
        close(waker->epoll_fd);
    if (waker->bell_fd >= 0)
        close(waker->bell_fd);
}

enum fan_status fan__waker_watch(struct fan__waker *waker, int fd)
{
    struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
    return epoll_ctl(waker->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? FAN_OK : FAN_IO;
}

/* A fork's child may hold the descriptor open; closing it would then not end the watch. */
void fan__waker_unwatch(struct fan__waker *waker, int fd)
{
    if (fd >= 0)
        epoll_ctl(waker->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

bool fan__waker_mute(struct fan__waker *waker, int fd, bool muted)
{
    struct epoll_event event = { .events = muted ? 0 : EPOLLIN, .data.fd = fd };
    return epoll_ctl(waker->epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0;
}

void fan__waker_ring(struct fan__waker *waker)
{
    waker->rung = true;
    if (!waker->sleeps)
        return;
    waker->sleeps = false;
    uint64_t one = 1;
    /* A full counter is rung already. */
    if (write(waker->bell_fd, &one, sizeof(one)) < 0)
        return;
}

static int left_ms(int64_t deadline_ns)
{
    if (deadline_ns == FAN__FOREVER)
        return -1;
    int64_t left_ns = deadline_ns - fan__deadline_ns(0);
    if (left_ns <= 0)
        return 0;
    int64_t ms = (left_ns + FAN__NS_PER_MS - 1) / FAN__NS_PER_MS;
    return ms < 60000 ? (int)ms : 60000;
}

void fan__waker_sleep(struct fan__waker *waker, struct fan__mutex *mutex, int64_t deadline_ns)
{
    int timeout_ms = waker->rung ? 0 : left_ms(deadline_ns);
    waker->rung = false;
    if (timeout_ms == 0)
        return;
    waker->sleeps = true;
    fan__mutex_unlock(mutex);
    struct epoll_event event;
    epoll_wait(waker->epoll_fd, &event, 1, timeout_ms);
    uint64_t rings;
    ssize_t size = read(waker->bell_fd, &rings, sizeof(rings));
    (void)size; /* woken by a descriptor, or by the clock */
    fan__mutex_lock(mutex);
    waker->sleeps = false;
    /* Whoever rang did so for what the sleeper looks at now, with the lock. */
    waker->rung = false;
}
