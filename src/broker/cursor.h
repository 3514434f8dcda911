/*
 * The mind of a reader, without threads or storage: a pure step function over a transition table.
 *
 *     BEHIND --page reaches the head--> LIVE
 *       ^----------ring was lapped-------'        both --end--> CLOSED
 *
 * The invariant: everything up to `seq` was delivered, told as lost, or did not match. The ring was
 * attached before the first read of the log; so what the log showed comes again from the ring and
 * is skipped, and what the log did not show must come from the ring.
 */
#ifndef FAN_BROKER_CURSOR_H
#define FAN_BROKER_CURSOR_H

#include <fanfare/cursor.h>
#include <fanfare/store.h>

enum fan__cursor_state {
    FAN__CURSOR_BEHIND,
    FAN__CURSOR_LIVE,
    FAN__CURSOR_CLOSED,
};

/* What the reader is to do. */
enum fan__cursor_action {
    FAN__CURSOR_READ_LOG,
    FAN__CURSOR_READ_RING,
    FAN__CURSOR_DELIVER,
    FAN__CURSOR_SKIP,
    FAN__CURSOR_TELL_GAP, /* it stands in `gap` */
    FAN__CURSOR_END,
};

struct fan__cursor {
    enum fan__cursor_state state;
    uint64_t seq;
    bool refill;  /* a lapped ring sends it back to the log; otherwise the loss is told */
    bool foreign; /* the place came from another log */
    struct fan_gap gap;
    uint64_t refills;
};

/* Starts live at `seq`, which is then the head, or behind it. */
void fan__cursor_init(struct fan__cursor *cursor, uint64_t seq, bool live, bool refill);

/* What to do when there is nothing in hand. */
enum fan__cursor_action fan__cursor_next(const struct fan__cursor *cursor);

/*
 * A page was read after `seq`: DELIVER its events one by one, or TELL_GAP first. After a gap of
 * reason epoch the place has changed, and the page must be read anew.
 */
enum fan__cursor_action fan__cursor_page(struct fan__cursor *cursor,
                                         const struct fan_read_result *result);

/* An event came, from a page or from the ring: DELIVER or SKIP. */
enum fan__cursor_action fan__cursor_event(struct fan__cursor *cursor, uint64_t seq);

/* All events of a page were taken. */
void fan__cursor_page_end(struct fan__cursor *cursor, const struct fan_read_result *result);

/* The ring lost messages: SKIP (they were seen, or will be read from the log) or TELL_GAP. */
enum fan__cursor_action fan__cursor_ring_gap(struct fan__cursor *cursor, const struct fan_gap *gap);

/*
 * Of what the ring was to give, some up to torn_seq was removed from the log before: SKIP (it was
 * seen, or the log is read and tells the gap) or TELL_GAP.
 */
enum fan__cursor_action fan__cursor_torn(struct fan__cursor *cursor, uint64_t torn_seq);

void fan__cursor_close(struct fan__cursor *cursor);

#endif
