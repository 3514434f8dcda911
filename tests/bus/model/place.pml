/*
 * One subscription with drop_newest that goes from the ring to a queue of its own, is parked, and
 * comes back, as src/bus/lane.c (pass, move_off, attend), deliver.c and read.c do it: one
 * publisher, one reader, a buffer of BUFFER messages, a ring of twice that. Operations on the
 * place, the tail and the locks are steps of their own; writing a slot takes two, so that a reader may
 * find it half written.
 *
 * The reader must get each message once, in order, whole, and be told exactly which it lost; the
 * publisher may only lose one that found BUFFER messages unread. Each MISTAKE_… must be found.
 */
#define BUFFER 2
#define RING 4
#ifndef MESSAGES
#define MESSAGES 7
#endif
#define PARK 2

bool turn;
bool lock;
bool done;
byte tail;
byte slot[RING]; /* the number in it, 255 while it is written */

/* The reader's place: the position, and whether it reads from its queue. */
byte position;
bool queued;

/* Under the lock. What was lost before a message stands with it. */
chan queue = [BUFFER] of { byte, byte }; /* lost before it, number */
byte lost_behind;
bool parked;
byte parked_at;

byte gate = BUFFER; /* in the turn */
byte in_a_row;
bool asked;
byte delivered, accepted; /* what a plain bus would count */

inline acquire(word)
{
    atomic { !word -> word = true }
}

inline fold()
{
    if
    :: parked ->
        if
        :: tail > parked_at ->
            lost_behind = lost_behind + (tail - parked_at);
            parked_at = tail
        :: else
        fi
    :: else
    fi
}

proctype publisher()
{
    byte at, from, end, copied;
    bool was_queued, keep;
    byte segment[RING];
    do
    :: tail < MESSAGES ->
        acquire(turn);
        /* attend */
        if
        :: asked ->
            asked = false;
            acquire(lock);
            if
            :: parked -> d_step { fold(); parked = false; in_a_row = 0 }
            :: else
            fi;
            lock = false
        :: else
        fi;
        /* pass */
        if
        :: !queued && tail >= gate ->
            at = position;
            if
            :: tail < at + BUFFER -> gate = at + BUFFER
            :: else ->
                /* The words are copied before the place is taken. */
                from = at;
                end = tail;
                copied = from;
                do
                :: copied < end -> segment[copied % RING] = slot[copied % RING]; copied++
                :: else -> break
                od;
                acquire(lock);
                atomic { queued = true; from = position }
                d_step {
                    do
                    :: from < end -> queue!0, segment[from % RING]; from++
                    :: else -> break
                    od
                }
                lock = false
            fi
        :: else
        fi;
        /* prepare and give, or write the slot */
        was_queued = queued;
        if
        :: was_queued && !parked ->
            acquire(lock);
            atomic {
                keep = len(queue) < BUFFER;
                /* Kept or lost as by a plain bus. */
                assert(keep == (accepted - delivered < BUFFER));
                accepted = accepted + keep
            }
            lock = false;
            acquire(lock);
            d_step {
                if
                :: keep -> queue!lost_behind, tail; lost_behind = 0; in_a_row = 0
                :: else ->
                    lost_behind++;
                    in_a_row++;
                    if
                    :: in_a_row >= PARK && len(queue) == BUFFER ->
                        parked = true;
                        parked_at = tail + 1
                    :: else
                    fi
                fi
            }
            lock = false
        :: was_queued && parked
        :: !was_queued ->
            slot[tail % RING] = 255;
            atomic { assert(accepted - delivered < BUFFER); accepted++ }
            slot[tail % RING] = tail
        fi;
        tail++;
        turn = false
    :: else -> break
    od;
    done = true
}

/* The next one must be what follows the last, after what was told to be lost. */
inline deliver(number)
{
    d_step {
        assert(number == next);
        next++;
        delivered++
    }
}

inline leave_queue()
{
#ifndef MISTAKE_LEAVE_WITHOUT_TURN
    acquire(turn);
#endif
    acquire(lock);
#ifndef MISTAKE_NO_FOLD
    d_step { fold() }
#endif
    if
#ifdef MISTAKE_LOOK_ONCE
    :: true ->
#else
    :: len(queue) == 0 ->
#endif
        again = lost_behind == 0;
        next = next + lost_behind;
        lost_behind = 0;
        parked = false;
        in_a_row = 0;
        gate = tail + BUFFER;
        atomic { position = tail; queued = false }
#ifndef MISTAKE_LOOK_ONCE
    :: else
#endif
    fi;
    lock = false;
#ifndef MISTAKE_LEAVE_WITHOUT_TURN
    turn = false
#endif
}

/* One read; `again` when there was nothing. */
inline read()
{
    again = false;
    atomic { at = position; in_queue = queued }
    if
    :: !in_queue ->
        end = tail;
        if
        :: end == at -> again = true
        :: end > at && end - at > BUFFER /* moved just now: look again */
        :: end > at && end - at <= BUFFER ->
            /* Not overwritten as long as nobody has taken its place from it. */
            number = slot[at % RING];
#ifdef MISTAKE_NO_COMPARE
            atomic { position = at + 1; queued = false; deliver(number) }
#else
            atomic {
                if
                :: position == at && !queued -> position = at + 1; deliver(number)
                :: else
                fi
            }
#endif
        fi
    :: in_queue ->
        acquire(lock);
        was_parked = parked;
        if
        :: len(queue) == 0 && (was_parked || lost_behind == 0) ->
            lock = false;
            leave_queue()
        :: len(queue) == 0 && !(was_parked || lost_behind == 0) ->
            next = next + lost_behind;
            lost_behind = 0;
            lock = false
        :: len(queue) > 0 ->
            atomic { queue?lost, number -> next = next + lost; deliver(number) }
            lock = false;
            if
            :: was_parked -> asked = true
            :: else
            fi
        fi
    fi
}

proctype reader()
{
    byte at, end, number, lost, next;
    bool in_queue, again, was_parked, last;
    do
    :: true ->
        last = done;
        read();
        if
        :: last && again -> break
        :: else
        fi
    od;
    /* All that was published was delivered, or told as lost. */
    assert(next == MESSAGES && accepted == delivered)
}

init
{
    atomic {
        run publisher();
        run reader()
    }
}
