/* See cursor.h. Every move of state goes through `move`, which asserts the table. */
#include "broker/cursor.h"

#include <assert.h>

static const bool may_move[3][3] = {
    [FAN__CURSOR_BEHIND] = { [FAN__CURSOR_BEHIND] = true,
                             [FAN__CURSOR_LIVE] = true,
                             [FAN__CURSOR_CLOSED] = true },
    [FAN__CURSOR_LIVE] = { [FAN__CURSOR_BEHIND] = true, [FAN__CURSOR_CLOSED] = true },
    [FAN__CURSOR_CLOSED] = { [FAN__CURSOR_CLOSED] = true },
};

static void move(struct fan__cursor *cursor, enum fan__cursor_state to)
{
    assert(may_move[cursor->state][to]);
    (void)may_move; /* without assertions nothing else names it */
    cursor->state = to;
}

void fan__cursor_init(struct fan__cursor *cursor, uint64_t seq, bool live, bool refill)
{
    *cursor = (struct fan__cursor){
        .state = live ? FAN__CURSOR_LIVE : FAN__CURSOR_BEHIND,
        .seq = seq,
        .refill = refill,
    };
}

enum fan__cursor_action fan__cursor_next(const struct fan__cursor *cursor)
{
    switch (cursor->state) {
    case FAN__CURSOR_BEHIND:
        return FAN__CURSOR_READ_LOG;
    case FAN__CURSOR_LIVE:
        return FAN__CURSOR_READ_RING;
    case FAN__CURSOR_CLOSED:
        break;
    }
    return FAN__CURSOR_END;
}

static enum fan__cursor_action tell(struct fan__cursor *cursor, uint64_t before,
                                    enum fan_gap_reason reason)
{
    cursor->gap = (struct fan_gap){
        .after = cursor->seq, .before = before, .count = FAN_GAP_COUNT_UNKNOWN, .reason = reason
    };
    cursor->seq = before - 1;
    return FAN__CURSOR_TELL_GAP;
}

enum fan__cursor_action fan__cursor_page(struct fan__cursor *cursor,
                                         const struct fan_read_result *result)
{
    assert(cursor->state == FAN__CURSOR_BEHIND);
    if (cursor->foreign || cursor->seq > result->head_seq) {
        cursor->foreign = false;
        return tell(cursor, result->trimmed_seq + 1, FAN_GAP_EPOCH);
    }
    if (cursor->seq < result->trimmed_seq)
        return tell(cursor, result->trimmed_seq + 1, FAN_GAP_RETENTION);
    return FAN__CURSOR_DELIVER;
}

enum fan__cursor_action fan__cursor_event(struct fan__cursor *cursor, uint64_t seq)
{
    if (seq <= cursor->seq)
        return FAN__CURSOR_SKIP;
    cursor->seq = seq;
    return FAN__CURSOR_DELIVER;
}

void fan__cursor_page_end(struct fan__cursor *cursor, const struct fan_read_result *result)
{
    if (cursor->seq < result->scanned_seq)
        cursor->seq = result->scanned_seq;
    if (cursor->seq >= result->head_seq)
        move(cursor, FAN__CURSOR_LIVE);
}

enum fan__cursor_action fan__cursor_ring_gap(struct fan__cursor *cursor, const struct fan_gap *gap)
{
    if (gap->before - 1 <= cursor->seq)
        return FAN__CURSOR_SKIP;
    if (cursor->refill) {
        move(cursor, FAN__CURSOR_BEHIND);
        cursor->refills++;
        return FAN__CURSOR_SKIP;
    }
    cursor->gap = *gap;
    if (gap->after < cursor->seq) {
        cursor->gap.after = cursor->seq;
        cursor->gap.count = FAN_GAP_COUNT_UNKNOWN;
    }
    cursor->seq = gap->before - 1;
    return FAN__CURSOR_TELL_GAP;
}

enum fan__cursor_action fan__cursor_torn(struct fan__cursor *cursor, uint64_t torn_seq)
{
    assert(cursor->state == FAN__CURSOR_LIVE);
    if (torn_seq <= cursor->seq)
        return FAN__CURSOR_SKIP;
    if (!cursor->refill)
        return tell(cursor, torn_seq + 1, FAN_GAP_RETENTION);
    move(cursor, FAN__CURSOR_BEHIND);
    cursor->refills++;
    return FAN__CURSOR_SKIP;
}

void fan__cursor_close(struct fan__cursor *cursor)
{
    move(cursor, FAN__CURSOR_CLOSED);
}
