/* A subscription in an epoll loop, beside a timer: no thread, no call-back of the bus. */
#include <fanfare/subscription.h>

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* Reads all that is there, losses included. Returns false at the end of the subscription. */
static bool drain(struct fan_subscription *subscription)
{
    const struct fan_message *message;
    struct fan_gap gap;
    enum fan_status status;
    while ((status = fan_subscription_next(subscription, 0, &message)) != FAN_AGAIN) {
        if (status == FAN_OK) {
            printf("%llu %s\n", (unsigned long long)message->seq, message->type);
        } else if (status == FAN_GAP) {
            fan_subscription_gap(subscription, &gap);
            printf("lost %llu\n", (unsigned long long)gap.count);
        } else {
            return false;
        }
    }
    return true;
}

int main(void)
{
    struct fan_bus *bus;
    struct fan_subscription *subscription;
    struct fan_subscription_options small = { FAN_SUBSCRIPTION_OPTIONS_SIZE, .buffer_count = 2 };
    int fd;
    if (fan_bus_open(NULL, &bus, NULL) != FAN_OK ||
        fan_bus_subscribe(bus, &small, &subscription, NULL) != FAN_OK ||
        fan_subscription_fd(subscription, &fd) != FAN_OK)
        return 1;
    int timer = timerfd_create(CLOCK_MONOTONIC, 0);
    timerfd_settime(timer, 0, &(struct itimerspec){ { 0, 1000000 }, { 0, 1000000 } }, NULL);
    int loop = epoll_create1(0);
    epoll_ctl(loop, EPOLL_CTL_ADD, timer, &(struct epoll_event){ EPOLLIN, { .fd = timer } });
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &(struct epoll_event){ EPOLLIN, { .fd = fd } });

    /* The first tick publishes three into a buffer of two, the second one closes. */
    struct epoll_event event;
    struct fan_message tick = { FAN_MESSAGE_SIZE, .type = "tick" };
    unsigned long long expired, ticks = 0;
    for (bool open = true; open && epoll_wait(loop, &event, 1, -1) == 1;) {
        if (event.data.fd == fd)
            open = drain(subscription);
        else if (read(timer, &expired, sizeof(expired)) > 0 && ++ticks > 1)
            fan_bus_close(bus);
        else if (fan_bus_publish_many(bus, (struct fan_message[]){ tick, tick, tick }, 3, NULL))
            return 1;
    }
    fan_subscription_free(subscription);
    fan_bus_free(bus);
    return 0;
}
