/* The thread that copies (tee.h): it never holds a lock while it calls a store. */
#include "store/tee/tee.h"

#include "base/env.h"
#include "base/status.h"
#include "store/handle.h"

#include <fanfare/batch.h>

#include <stdio.h>
#include <string.h>

#define WAIT_MS 1000
#define PAUSE_MS_MIN 20
#define PAUSE_MS_MAX 5000
#define WAKE_MS 5

struct fan_store *fan__tee_second(struct fan__tee *tee)
{
    fan__mutex_lock(&tee->mutex);
    struct fan_store *second = tee->second;
    fan__mutex_unlock(&tee->mutex);
    return second;
}

/* Looks for an event of the second in the first; 0 when it is not there, or is another by now. */
static uint64_t seq_in_first(struct fan__tee *tee, const struct fan_event *event,
                             enum fan_status *ret_status)
{
    *ret_status = fan_store_get(tee->first, fan_event_id(event), tee->look, NULL);
    if (*ret_status != FAN_OK) {
        *ret_status = *ret_status == FAN_NOT_FOUND ? FAN_OK : *ret_status;
        return 0;
    }
    const struct fan_event *found = fan_batch_event(tee->look, 0);
    bool same = fan_event_created_us(found) == fan_event_created_us(event);
    return same ? fan_event_seq(found) : 0;
}

/*
 * Events that the second has behind the place are nobody's, where retention cannot have taken them
 * from the first: somebody else writes there. It is said, and the copy goes on.
 */
static enum fan_status look_for_strays(struct fan__tee *tee, uint64_t seq, size_t count)
{
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = 1 };
    struct fan_read_result result;
    if (count == 0)
        return FAN_OK;
    enum fan_status status = fan_store_read(tee->first, seq, &query, tee->look, &result);
    if (status == FAN_OK && result.trimmed_seq <= seq)
        fan__log(tee->env, FAN_LOG_WARNING,
                 "tee: the second store has %zu events behind the copy that the first does not "
                 "have: is something else written to it?",
                 count);
    return status;
}

/*
 * The copy has the first's events in their order: the place is that of the last one there that the
 * first still has. Beginning too early would do no harm but cost.
 */
enum fan_status fan__tee_place(struct fan__tee *tee, struct fan_error *error)
{
    struct fan_store *second = fan__tee_second(tee);
    struct fan_query query = { .size = FAN_QUERY_SIZE,
                               .newest_first = true,
                               .limit = FAN__TEE_LOOK_COUNT };
    struct fan_event_state *states =
        fan__alloc_zero(tee->env, FAN__TEE_LOOK_COUNT, sizeof(*states));
    if (!states)
        return fan__fail(error, FAN_NO_MEMORY, NULL, "no memory for the copy");
    enum fan_status status = fan_store_list(second, &query, tee->page, states, error);
    fan__free(tee->env, states);
    size_t count = status == FAN_OK ? fan_batch_count(tee->page) : 0;
    uint64_t seq = 0;
    size_t strays = 0;
    for (size_t i = 0; i < count && status == FAN_OK && seq == 0; i++) {
        seq = seq_in_first(tee, fan_batch_event(tee->page, i), &status);
        strays += seq == 0;
    }
    if (status == FAN_OK && seq > 0)
        status = look_for_strays(tee, seq, strays);
    if (status != FAN_OK)
        return fan__fail(error, status, NULL, "%s", fan_status_text(status));
    if (count > 0 && seq == 0)
        return fan__fail(error, FAN_CONFLICT, "second",
                         "the second log has events, and none of its last %zu is in the first: "
                         "expected an empty log, or a copy of the first",
                         count);
    fan__mutex_lock(&tee->mutex);
    tee->stats.copied_seq = seq;
    fan__mutex_unlock(&tee->mutex);
    tee->placed = true;
    tee->page_is = FAN__TEE_DONE;
    return FAN_OK;
}

static bool is_stopping(struct fan__tee *tee)
{
    fan__mutex_lock(&tee->mutex);
    bool stopping = tee->stopping;
    fan__mutex_unlock(&tee->mutex);
    return stopping;
}

/* A second that was away when the tee was opened. */
static enum fan_status open_second(struct fan__tee *tee, struct fan_error *error)
{
    struct fan_store *second = NULL;
    if (fan__tee_second(tee))
        return FAN_OK;
    enum fan_status status = fan_store_open(tee->second_uri, tee->env, &second, error);
    if (status != FAN_OK)
        return status;
    fan__mutex_lock(&tee->mutex);
    tee->second = second;
    fan__mutex_unlock(&tee->mutex);
    return FAN_OK;
}

/* What the second will never take is counted and passed over. FAN_FULL: some of it is there. */
static enum fan_status take_answers(struct fan__tee *tee, size_t count, struct fan_error *error)
{
    uint64_t copied = 0;
    uint64_t refused = 0;
    for (size_t i = 0; i < count; i++) {
        enum fan_status status = tee->items[i].ret_status;
        if (status == FAN_FULL)
            return fan__fail(error, FAN_FULL, "second", "the second store is full");
        if (status == FAN_OK) {
            copied += !tee->items[i].ret_duplicate;
            continue;
        }
        refused++;
        fan__log(tee->env, FAN_LOG_WARNING, "tee: the second store does not take event %s: %s",
                 fan_event_id(tee->items[i].event), fan_status_text(status));
    }
    fan__mutex_lock(&tee->mutex);
    tee->stats.copied += copied;
    tee->stats.refused += refused;
    fan__mutex_unlock(&tee->mutex);
    return FAN_OK;
}

static enum fan_status append_page(struct fan__tee *tee, struct fan_error *error)
{
    size_t count = fan_batch_count(tee->page);
    enum fan_status status = FAN_OK;
    for (size_t i = 0; i < count; i++)
        tee->items[i] = (struct fan_append){ .event = fan_batch_event(tee->page, i) };
    if (count > 0)
        status = fan_store_append(fan__tee_second(tee), tee->items, count, error);
    if (status == FAN_OK)
        status = take_answers(tee, count, error);
    if (status == FAN_OK)
        tee->page_is = FAN__TEE_APPENDED;
    else if (status == FAN_UNKNOWN || status == FAN_FULL)
        tee->page_is = FAN__TEE_IN_DOUBT;
    else if (tee->page_is == FAN__TEE_READ)
        tee->page_is = FAN__TEE_DONE;
    return status;
}

/* Reads what follows the place. */
static enum fan_status read_page(struct fan__tee *tee, struct fan_error *error)
{
    const struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = FAN__TEE_LOOK_COUNT };
    struct fan_read_result result;
    uint64_t after_seq = tee->stats.copied_seq;
    enum fan_status status = fan_store_read(tee->first, after_seq, &query, tee->page, &result);
    if (status != FAN_OK)
        return fan__fail(error, status, "first", "%s", fan_status_text(status));
    tee->page_after = after_seq;
    tee->page_until = result.scanned_seq;
    tee->page_is = FAN__TEE_READ;
    if (result.trimmed_seq > after_seq) {
        fan__mutex_lock(&tee->mutex);
        tee->stats.torn_seq = result.trimmed_seq;
        fan__mutex_unlock(&tee->mutex);
    }
    return FAN_OK;
}

static enum fan_status take_away(struct fan_store *second, const struct fan_event *event,
                                 bool erased)
{
    const char *id = fan_event_id(event);
    enum fan_status status = erased ? fan_store_erase(second, id) : fan_store_delete(second, id);
    return status == FAN_NOT_FOUND ? FAN_OK : status;
}

/* What was removed or erased in the first since it was read goes from the second, too. */
static enum fan_status check_page(struct fan__tee *tee, struct fan_error *error)
{
    struct fan_query query = { .size = FAN_QUERY_SIZE, .limit = FAN__TEE_LOOK_COUNT };
    struct fan_store *second = fan__tee_second(tee);
    struct fan_read_result result = { .scanned_seq = tee->page_after };
    enum fan_status status = FAN_OK;
    size_t at = 0;
    size_t count = fan_batch_count(tee->page);
    while (count > 0 && status == FAN_OK && result.scanned_seq < tee->page_until) {
        status = fan_store_read(tee->first, result.scanned_seq, &query, tee->look, &result);
        size_t there = 0;
        for (; at < count && status == FAN_OK; at++) {
            const struct fan_event *event = fan_batch_event(tee->page, at);
            if (fan_event_seq(event) > result.scanned_seq)
                break;
            const struct fan_event *other = NULL;
            for (; there < fan_batch_count(tee->look); there++) {
                other = fan_batch_event(tee->look, there);
                if (fan_event_seq(other) >= fan_event_seq(event))
                    break;
            }
            bool is_there = other && fan_event_seq(other) == fan_event_seq(event);
            if (is_there && fan_event_size(other) == fan_event_size(event) &&
                memcmp(other, event, fan_event_size(event)) == 0)
                continue;
            if (is_there || fan_event_seq(event) > result.trimmed_seq)
                status = take_away(second, event, is_there);
        }
    }
    if (status != FAN_OK)
        return fan__fail(error, status, NULL, "%s", fan_status_text(status));
    tee->page_is = FAN__TEE_DONE;
    return FAN_OK;
}

/* One page, or a part of the way to it. */
static enum fan_status step(struct fan__tee *tee, struct fan_error *error)
{
    enum fan_status status = open_second(tee, error);
    if (status == FAN_OK && !tee->placed)
        status = fan__tee_place(tee, error);
    if (status == FAN_OK && tee->page_is == FAN__TEE_DONE)
        status = read_page(tee, error);
    if (status == FAN_OK && tee->page_is != FAN__TEE_APPENDED)
        status = append_page(tee, error);
    return status == FAN_OK ? check_page(tee, error) : status;
}

static void note(struct fan__tee *tee, enum fan_status status, const struct fan_error *error)
{
    fan__mutex_lock(&tee->mutex);
    bool news = status != tee->stats.status;
    tee->stats.status = status;
    snprintf(tee->stats.words, sizeof(tee->stats.words), "%s",
             status == FAN_OK ? "" : error->message);
    tee->stats.failures += status != FAN_OK;
    if (status == FAN_OK) {
        tee->stats.copied_seq = tee->page_until;
        fan__cond_broadcast(&tee->changed);
    }
    fan__mutex_unlock(&tee->mutex);
    if (news && status != FAN_OK)
        fan__log(tee->env, FAN_LOG_WARNING, "tee: the copy lags: %s: %s", fan_status_text(status),
                 error->message);
    else if (news)
        fan__log(tee->env, FAN_LOG_INFO, "tee: the second store takes events again");
}

static void pause_for(struct fan__tee *tee, uint32_t time_ms)
{
    int64_t until_ns = fan__deadline_ns(time_ms);
    fan__mutex_lock(&tee->mutex);
    while (!tee->stopping && fan__cond_wait_until(&tee->changed, &tee->mutex, until_ns))
        ;
    fan__mutex_unlock(&tee->mutex);
}

/* A hint: after it, or without it, the log is read. */
static void wait_for_news(struct fan__tee *tee)
{
    enum fan_status status = fan_store_wait(tee->first, tee->page_until, WAIT_MS);
    /* Who says so over and over, and has nothing, is not asked without end. */
    if (status != FAN_AGAIN && fan_batch_count(tee->page) == 0)
        pause_for(tee, PAUSE_MS_MIN);
}

static void copy_main(void *context)
{
    struct fan__tee *tee = context;
    while (!is_stopping(tee)) {
        struct fan_error error = FAN_ERROR_INIT;
        enum fan_status status = step(tee, &error);
        note(tee, status, &error);
        if (status == FAN_OK) {
            tee->pause_ms = PAUSE_MS_MIN;
            wait_for_news(tee);
            continue;
        }
        pause_for(tee, tee->pause_ms);
        tee->pause_ms = tee->pause_ms * 2 < PAUSE_MS_MAX ? tee->pause_ms * 2 : PAUSE_MS_MAX;
    }
    fan__mutex_lock(&tee->mutex);
    tee->ended = true;
    fan__cond_broadcast(&tee->changed);
    fan__mutex_unlock(&tee->mutex);
}

enum fan_status fan__tee_start(struct fan__tee *tee)
{
    tee->pause_ms = PAUSE_MS_MIN;
    return fan__thread_start(&tee->thread, "fan-tee", copy_main, tee);
}

void fan__tee_stop(struct fan__tee *tee)
{
    if (!tee->thread.started)
        return;
    fan__mutex_lock(&tee->mutex);
    tee->stopping = true;
    fan__cond_broadcast(&tee->changed);
    while (!tee->ended) {
        struct fan_store *second = tee->second;
        fan__mutex_unlock(&tee->mutex);
        /* Again and again: the thread may just be on its way into a wait. */
        fan_store_wake(tee->first);
        fan_store_wake(second);
        fan__mutex_lock(&tee->mutex);
        if (!tee->ended)
            fan__cond_wait_until(&tee->changed, &tee->mutex, fan__deadline_ns(WAKE_MS));
    }
    fan__mutex_unlock(&tee->mutex);
    fan__thread_join(&tee->thread);
}
