/* What a broker counts. */
#ifndef FANFARE_BROKER_STATS_H
#define FANFARE_BROKER_STATS_H

#include <fanfare/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct fan_broker;
struct fan_store_stats;

/* Whether fan_broker_publish waits for this process's handlers too. */
enum fan_mode {
    FAN_MODE_ASYNC = 0,
    FAN_MODE_SYNC = 1,
};

/*
 * Sums since open, but queued, running, the last sequence that subscribers were told, handlers,
 * workers (threads), workers_active (in a handler now), work_queued (claimed, not begun) and
 * unhandled (groups that are owed events and that nobody handles for, as last looked). handled
 * counts calls, retried and dead how they ended, late verdicts after the time limit, lost those for
 * which another held the lease by then.
 *
 * processed counts verdicts that the store knows, given in this process or, by members of others,
 * through it: done, retried or failed. failed are dead letters and, of live handlers, whatever was
 * not DONE. subscriptions are readers, live handlers among them, and durable handlers.
 *
 * instance_id and provider (the store's name) live as long as the broker. Where `store` is given
 * (yours, with its size set), the log's sums go there, and store_status tells how that went.
 */
struct fan_broker_stats {
    size_t size;
    uint64_t published;
    uint64_t duplicates;
    uint64_t refused;
    uint64_t commits;
    uint64_t commit_failures;
    uint64_t queued;
    uint64_t handled;
    uint64_t notified_seq;
    uint64_t readers;
    uint64_t handlers;
    bool running;
    uint64_t workers;
    uint64_t workers_active;
    uint64_t work_queued;
    uint64_t retried;
    uint64_t dead;
    uint64_t late;
    uint64_t lost;
    uint64_t unhandled;
    uint64_t removed;
    uint64_t expired;
    uint64_t discarded;
    uint64_t groups_expired;
    uint64_t retention_failures;
    const char *instance_id;
    enum fan_mode mode;
    uint64_t processed;
    uint64_t failed;
    uint64_t subscriptions;
    const char *provider;
    struct fan_store_stats *store;
    enum fan_status store_status;
};

#define FAN_BROKER_STATS_INIT                                                                      \
    {                                                                                              \
        .size = sizeof(struct fan_broker_stats)                                                    \
    }

/*
 * Reads the counters; set ret_stats->size first, and store: FAN_BROKER_STATS_INIT does.
 *
 * Thread: any. Blocks: short locks only; for the storage where `store` is given.
 */
FAN_API void fan_broker_stats(struct fan_broker *broker, struct fan_broker_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
