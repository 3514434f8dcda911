/* An eventfd carries a signal from its handler to the polls. */
#include "cli/wait.h"

#include <fanfare/env.h>

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define GRACE_MS 1000
#define SPREAD_MS 1000

static int wake = -1;

static void on_signal(int number)
{
    (void)number;
    int saved = errno;
    uint64_t one = 1;
    /* It can only fail by being readable already. */
    ssize_t ignored = write(wake, &one, sizeof(one));
    (void)ignored;
    errno = saved;
}

bool fan__wait_open(void)
{
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0) {
        fprintf(stderr, "fanfare: no descriptor: %s\n", strerror(errno));
        return false;
    }
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    /* A server that goes must not kill; a reader of our output that goes shall: see write_all. */
    signal(SIGPIPE, SIG_IGN);
    return true;
}

int fan__wait_descriptor(void)
{
    return wake;
}

bool fan__interrupted(void)
{
    struct pollfd entry = { .fd = wake, .events = POLLIN };
    return poll(&entry, 1, 0) > 0;
}

bool fan__wait_ms(int64_t ms)
{
    int64_t until = fan__now_ms() + ms;
    for (;;) {
        int64_t left = until - fan__now_ms();
        struct pollfd entry = { .fd = wake, .events = POLLIN };
        if (poll(&entry, 1, left > 0 ? (int)left : 0) > 0)
            return false;
        if (left <= 0)
            return true;
    }
}

enum fan__ready fan__wait_readable(int descriptor, int timeout_ms)
{
    for (;;) {
        struct pollfd entries[] = { { .fd = wake, .events = POLLIN },
                                    { .fd = descriptor, .events = POLLIN } };
        int count = poll(entries, 2, timeout_ms);
        if (count < 0 && errno == EINTR)
            continue;
        if (entries[0].revents)
            return FAN__INTERRUPTED;
        return count == 0 ? FAN__NOT_YET : FAN__READY;
    }
}

static void die_of_pipe(void)
{
    signal(SIGPIPE, SIG_DFL);
    raise(SIGPIPE);
}

size_t fan__write_all(int descriptor, const char *bytes, size_t size)
{
    size_t written = 0;
    while (written < size) {
        struct pollfd entries[] = { { .fd = wake, .events = POLLIN },
                                    { .fd = descriptor, .events = POLLOUT } };
        if (poll(entries, 2, -1) < 0 && errno == EINTR)
            continue;
        /* Who still reads after a signal is still served, so that no line ends in its middle. */
        if (!entries[1].revents && poll(&entries[1], 1, GRACE_MS) <= 0)
            break;
        /*
         * A pipe that can be written to takes as much without waiting. A longer write could wait,
         * and a signal that came just before it would not end that.
         */
        size_t part = size - written < PIPE_BUF ? size - written : PIPE_BUF;
        ssize_t count = write(descriptor, bytes + written, part);
        if (count >= 0)
            written += (size_t)count;
        else if (errno == EPIPE)
            die_of_pipe();
        else if (errno != EINTR && errno != EAGAIN)
            break;
    }
    return written;
}

int64_t fan__now_ms(void)
{
    const struct fan_env *env = fan_env_default();
    return env->monotonic_ns(env->context) / 1000000;
}

int64_t fan__random_ms(int64_t most_ms)
{
    const struct fan_env *env = fan_env_default();
    uint64_t random;
    env->random(env->context, &random, sizeof(random));
    return (int64_t)(random % ((uint64_t)most_ms + 1));
}

int64_t fan__backoff_next(struct fan__backoff *backoff, int64_t least_ms)
{
    int64_t pause = backoff->base_ms > 0 ? backoff->base_ms : 1;
    for (unsigned i = 0; i < backoff->tries && pause < backoff->cap_ms; i++)
        pause *= 2;
    if (pause > backoff->cap_ms)
        pause = backoff->cap_ms;
    backoff->tries++;
    /* Servers name whole seconds, and the same ones to many: these come within another second. */
    if (least_ms >= 0)
        return least_ms + fan__random_ms(SPREAD_MS);
    return pause / 2 + fan__random_ms(pause / 2);
}
