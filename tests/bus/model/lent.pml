/*
 * Slots that are lent to a reader in the ring, as src/bus/read.c and lane.c do it: it says from
 * where on, moves its place by compare-and-swap, looks at them for a while, and takes back what it
 * said. A publisher goes on as far as the gate. At any time the reader may be ended, which leaves it
 * on the ring with a gate by its slots, or its place be taken from it; then its slots are kept by
 * what it said, and not written before it took that back.
 *
 * Nobody may find another position in a slot that is lent to him. Each MISTAKE_… must be found.
 */
#define CAPACITY 4
#define BUFFER 2 /* and the messages of a batch, at most */
#define POSITIONS 9
#define NONE 255
#define WRITING 254

byte slots[CAPACITY];
byte tail;
byte place;
bool marked;
byte lent_from = NONE;
bool live = true;

proctype reader()
{
    byte from, count, at;
    bool taken;
    do
    :: marked -> break
    :: !live && place == tail -> break
    :: !marked && tail > place ->
        from = place;
        if
        :: count = 1
        :: tail - from > 1 -> count = 2
        fi
#ifndef MISTAKE_SAID_BEHIND
        lent_from = from;
#endif
        atomic {
            taken = !marked;
            if
            :: taken -> place = from + count
            :: else
            fi
        }
#ifdef MISTAKE_SAID_BEHIND
        lent_from = from;
#endif
        if
        :: taken ->
#ifdef MISTAKE_BACK_BEFORE
            lent_from = NONE;
#endif
            at = from;
            do
            :: at < from + count ->
                assert(slots[at % CAPACITY] == at);
                at++
            :: else -> break
            od
            lent_from = NONE
        :: else ->
            lent_from = NONE
        fi
    od
}

byte gate;
byte first;
bool lending;

inline write()
{
    slots[tail % CAPACITY] = WRITING;
    slots[tail % CAPACITY] = tail;
    tail++
}

/* Takes its place from the reader, and keeps what is lent to it. */
inline mark()
{
#ifdef MISTAKE_LOOK_BEFORE_MARK
    first = lent_from;
#endif
    marked = true;
#ifndef MISTAKE_LOOK_BEFORE_MARK
    first = lent_from;
#endif
    lending = first != NONE
}

/* One that has ended is never full, but needs its slots. */
inline find_gate()
{
#ifdef MISTAKE_LENT_BEFORE_PLACE
    first = lent_from;
#endif
    gate = place;
#ifndef MISTAKE_LENT_BEFORE_PLACE
    first = lent_from;
#endif
#ifndef MISTAKE_BY_PLACE
    if
    :: first != NONE -> gate = first
    :: else
    fi
#endif
    gate = gate + CAPACITY
}

proctype publisher()
{
    do
    :: tail == POSITIONS -> break
    :: tail < POSITIONS && !marked && live ->
        if
        :: tail < place + BUFFER -> write()
        :: live = false
        :: mark()
        fi
    :: tail < POSITIONS && !marked && !live ->
        find_gate();
        if
        :: tail < gate -> write()
        :: else -> mark()
        fi
    :: tail < POSITIONS && marked ->
        if
        :: lending ->
            first = lent_from;
            lending = first != NONE
        :: else
        fi
        if
#ifdef MISTAKE_WRITE_LENT
        :: true -> write()
#else
        :: !lending || tail < first + CAPACITY -> write()
        :: else -> tail++ /* by reference, to whoever else wants it */
#endif
        fi
    od
    live = false
}

init {
    atomic {
        run reader();
        run publisher()
    }
}
