/*
 * One subscription with drop_oldest that is lapped on its ring and catches up, as src/bus/lane.c
 * (lap, attend), read.c (read_ring, read_behind_the_gate) and slot.h do it: one publisher, one
 * reader, a buffer of BUFFER messages, a ring of RING. A slot has a stamp and two words, each
 * written and read in a step of its own, so that a copy may be torn. The tail moves behind each
 * message, or, as in publish_alike, behind a run of up to RUN: less than half a ring, and not past
 * the gate.
 *
 * The reader must get whole messages, in order, and be told exactly which it lost, however it
 * interleaves with the writer. Each MISTAKE_… must be found.
 */
#define BUFFER 2
#ifdef MISTAKE_RUN_PAST_THE_GATE
#define RUNS
#endif
#ifdef RUNS
#define RING 8
#define MESSAGES 12
#else
#define RING 4
#define MESSAGES 9
#endif
#define RUN (RING / 2 - 1)
#define NONE 255 /* the stamp of a slot that is being written */

bool lock;
bool done;
byte tail;
byte stamp[RING];
byte word[RING];
byte other_word[RING];

/* The reader's place: its position, and whether the gate has stopped to look after it. */
byte position;
bool lapped;
byte lapped_seq; /* under the lock: what was at its position, or what follows what it knows */

bool ringed = true; /* in the turn */
byte gate = RING;
bool asks;  /* the reader wants to be looked after again */
bool asked; /* the publisher sees it, at some time: he loads it relaxed */

proctype drain()
{
end:
    do
    :: atomic { asks -> asks = false; asked = true }
    od
}

inline acquire(it)
{
    atomic { !it -> it = true }
}

inline attend()
{
    if
    :: asked ->
        asked = false;
        acquire(lock);
        if
#ifdef MISTAKE_ATTEND_BLINDLY
        :: lapped ->
#else
        :: lapped && tail < position + RING ->
#endif
            atomic { lapped = false; ringed = true; gate = position + RING }
        :: else
        fi;
        lock = false
    :: else
    fi
}

/* The slot of `tail` is about to be overwritten: whoever needs it is marked first. */
inline pass()
{
    do
    :: ringed && tail >= gate ->
        at = position;
        if
        :: tail < at + RING -> gate = at + RING
        :: else ->
            acquire(lock);
            atomic {
                if
                :: position == at ->
                    assert(stamp[at % RING] == at);
                    lapped = true;
                    lapped_seq = at;
                    ringed = false
                :: else
                fi
            }
            lock = false
        fi
    :: else -> break
    od
}

inline write(where)
{
    stamp[where % RING] = NONE;
    word[where % RING] = where;
    other_word[where % RING] = where;
    stamp[where % RING] = where
}

/* At the first there is room: pass() has seen to it. */
inline write_run()
{
    count = 0;
    do
    :: true ->
        write((tail + count));
        count++;
        if
        :: count == RUN || tail + count == MESSAGES -> break
#ifndef MISTAKE_RUN_PAST_THE_GATE
        :: ringed && tail + count == gate -> break
#endif
        :: else ->
            if
            :: break
            :: skip
            fi
        fi
    od;
    tail = tail + count;
    count = 0
}

proctype publisher()
{
    byte at, count;
    do
    :: tail < MESSAGES ->
        attend();
#ifdef MISTAKE_MARK_BEHIND
        write(tail);
        pass();
        tail++
#else
        pass();
        write_run()
#endif
    :: else -> break
    od;
    done = true
}

inline copy()
{
    number = word[at % RING];
    other = other_word[at % RING]
}

inline deliver()
{
    assert(number == at && other == at && at == next);
    next++
}

/* Whether the slot of a position had it, before and after its word was read; and the word. */
inline read_seq(where)
{
    there = stamp[where % RING] == where;
    number = word[where % RING];
    there = there && stamp[where % RING] == where
}

/* All but the last buffer's worth is lost. */
inline tell()
{
    read_seq((end - BUFFER - 1));
    if
    :: !there
    :: else ->
        last = number;
        read_seq(at);
        if
        :: !there && !was_lapped
        :: else ->
            if
            :: there
            :: else -> number = lapped_seq
            fi;
            assert(number == next && last == end - BUFFER - 1);
            next = last + 1;
#ifndef MISTAKE_OLD_SEQ
            lapped_seq = next;
#endif
            position = end - BUFFER;
            told = true
        fi
    fi
}

/* It is marked, so its slot may be overwritten at any time. */
inline read_by_stamps()
{
    there = stamp[at % RING] == at;
    copy();
#ifndef MISTAKE_NO_STAMP_AFTER
    there = there && stamp[at % RING] == at;
#endif
    if
    :: !there
    :: else ->
        lapped_seq = number + 1;
        deliver();
        position = at + 1;
        told = true
    fi
}

inline read_behind_the_gate()
{
    told = false;
    acquire(lock);
    atomic { at = position; was_lapped = lapped; end = tail }
    if
    :: end > at + BUFFER -> tell()
    :: was_lapped && end > at && end <= at + BUFFER -> read_by_stamps()
    :: was_lapped && end == at -> again = true; told = true
    :: !was_lapped && end <= at + BUFFER
    fi;
    lock = false;
    if
    :: told && was_lapped -> asks = true
    :: else
    fi
}

inline read()
{
    again = false;
    atomic { at = position; was_lapped = lapped }
    end = tail;
    if
    :: !was_lapped && end == at -> again = true
    :: !was_lapped && end > at && end - at <= BUFFER ->
        copy();
        /* By compare-and-swap; who fails throws the copy away. */
        atomic {
            if
#ifdef MISTAKE_NO_COMPARE
            :: true ->
#else
            :: position == at && !lapped ->
#endif
                position = at + 1;
                deliver()
            :: else
            fi
        }
    :: else -> read_behind_the_gate()
    fi
}

proctype reader()
{
    byte at, end, number, other, last, next;
    bool was_lapped, again, there, told, was_done;
    do
    :: true ->
        was_done = done;
        read();
        if
        :: was_done && again -> break
        :: else
        fi
    od;
    assert(next == MESSAGES)
}

init
{
    atomic {
        stamp[0] = NONE;
        stamp[1] = NONE;
        stamp[2] = NONE;
        stamp[3] = NONE;
#ifdef RUNS
        stamp[4] = NONE;
        stamp[5] = NONE;
        stamp[6] = NONE;
        stamp[7] = NONE;
#endif
        run drain();
        run publisher();
        run reader()
    }
}
