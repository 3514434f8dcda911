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

/*
 * Sums since open, but queued, running, the last sequence that subscribers were told, handlers,
 * workers (threads), workers_active (in a handler now), work_queued (claimed, not begun) and
 * unhandled (groups that are owed events and that nobody handles for, as last looked). handled
 * counts calls, retried and dead how they ended, late verdicts after the time limit, lost those for
 * which another held the lease by then.
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
};

/* Reads the counters; set ret_stats->size first. Thread: any. Blocks: short locks only. */
FAN_API void fan_broker_stats(struct fan_broker *broker, struct fan_broker_stats *ret_stats);

#ifdef __cplusplus
}
#endif

#endif
