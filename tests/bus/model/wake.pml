/*
 * Sleeping and waking on a bus, as src/bus/turn.c and sleep_until in src/bus/subscription.c do it:
 * one publisher (or, with MANY, two), two readers of one lane who sleep when it is empty, the turn,
 * the chain in which one who was woken wakes the next, and a wait that may time out.
 *
 * Memory is that of x86 at its weakest: stores go through a buffer of each thread in order, loads
 * pass them. fence() waits until the own buffer is empty, as locked instructions and system calls
 * do; barrier() until that of the publisher was empty, too (membarrier). With FENCES, both sides
 * fence instead. What C11 allows beyond that, the litmus tests look for.
 *
 * A wake that is lost shows as an end in which somebody sleeps; two at once in the turn, and a
 * reader who is armed and does not sleep, as an assertion. Each MISTAKE_… must be found.
 */
#ifdef MANY
#define PUBLISHERS 2
#define MESSAGES 1 /* of each */
#else
#define PUBLISHERS 1
#define MESSAGES 2
#endif
#define READERS 2
#define THREADS (PUBLISHERS + READERS)

#define TURN 0
#define WANTED 1
#define CHAIN_LOCK 2
#define TAIL 3
#define SLEEP 4 /* one for each reader */
#define ARMED 6 /* one for each reader */

byte memory[8];
chan buffer[THREADS] = [4] of { byte, byte };
bool mutex;
bool inside;                     /* somebody is in the turn */
chan chain = [READERS] of { byte };
bool asleep[READERS];            /* in the kernel */

proctype drain()
{
    byte at, value;
end:
    do
    :: atomic { buffer[0]?at, value -> memory[at] = value; at = 0; value = 0 }
    :: atomic { buffer[1]?at, value -> memory[at] = value; at = 0; value = 0 }
    :: atomic { buffer[2]?at, value -> memory[at] = value; at = 0; value = 0 }
#ifdef MANY
    :: atomic { buffer[3]?at, value -> memory[at] = value; at = 0; value = 0 }
#endif
    od
}

#define fence() empty(buffer[me])
#define store(at, value) buffer[me]!at, value

inline lock_word(at)
{
    atomic { fence() && memory[at] == 0 -> memory[at] = 1 }
}

inline lock_mutex()
{
    atomic { fence() && !mutex -> mutex = true }
}

inline unlock_mutex()
{
    atomic { fence() -> mutex = false }
}

inline barrier()
{
    fence();
#if !defined(FENCES) && !defined(MISTAKE_NO_BARRIER)
    empty(buffer[0])
#else
    skip
#endif
}

/* The publisher's way into the turn. */
inline turn_enter()
{
#ifdef MANY
    atomic { fence() && memory[TURN] == 0 -> memory[TURN] = 1; assert(!inside); inside = true }
#else
    store(TURN, 1);
#ifdef FENCES
    fence();
#endif
    if
    :: atomic { memory[WANTED] == 0 -> assert(!inside); inside = true }
    :: memory[WANTED] != 0 ->
        store(TURN, 0);
        lock_mutex();
        atomic { assert(!inside); inside = true }
        store(TURN, 1);
        unlock_mutex()
    fi
#endif
}

inline turn_leave()
{
    inside = false;
    store(TURN, 0)
}

/* Everybody else's. */
inline bus_enter()
{
    lock_mutex();
#ifdef MANY
    atomic { fence() && memory[TURN] == 0 -> memory[TURN] = 1; assert(!inside); inside = true }
#else
    store(WANTED, 1);
    barrier();
    atomic { memory[TURN] == 0 -> assert(!inside); inside = true }
#endif
}

inline bus_leave()
{
    inside = false;
#ifdef MANY
    store(TURN, 0);
#else
    store(WANTED, 0);
#endif
    unlock_mutex()
}

inline chain_wake()
{
    if
    :: empty(chain)
    :: nempty(chain) ->
        lock_word(CHAIN_LOCK);
        woken = READERS;
        if
        :: empty(chain)
        :: nempty(chain) ->
            chain?woken;
#ifdef MISTAKE_WAKE_BEFORE_WORD
            atomic { fence() -> asleep[woken] = false }
#endif
            store(SLEEP + woken, 0)
        fi;
        store(CHAIN_LOCK, 0);
#ifndef MISTAKE_WAKE_BEFORE_WORD
        if
        :: woken < READERS -> atomic { fence() -> asleep[woken] = false }
        :: else
        fi
#endif
    fi
}

inline touch(reader)
{
    if
    :: memory[ARMED + reader] == 1 ->
        assert(memory[SLEEP + reader] == 1);
        touched = true;
        store(ARMED + reader, 0);
        lock_word(CHAIN_LOCK);
        chain!reader;
        store(CHAIN_LOCK, 0)
    :: else
    fi
}

proctype publisher(byte me)
{
    byte count, woken;
    bool touched;
    do
    :: count < MESSAGES ->
#ifdef MISTAKE_LOOK_BEFORE_TURN
        bool nobody = memory[ARMED] == 0 && memory[ARMED + 1] == 0;
#endif
        turn_enter();
        count++;
#ifdef MANY
        store(TAIL, memory[TAIL] + 1);
        fence(); /* it would load its own store */
#else
        store(TAIL, count);
#endif
#ifdef MISTAKE_LOOK_BEFORE_TURN
        if
        :: nobody
        :: else -> touch(0); touch(1)
        fi;
#else
        touch(0);
        touch(1);
#endif
        turn_leave();
        /* Who told nobody looks for nobody. */
        if
        :: touched -> touched = false; chain_wake()
        :: else
        fi
    :: else -> break
    od
}

proctype reader(byte me; byte own)
{
    byte place, woken;
    bool may_time_out = true;
    bool nothing;
    do
    :: place == MESSAGES * PUBLISHERS -> break
    :: memory[TAIL] > place -> place++
    :: memory[TAIL] == place && place < MESSAGES * PUBLISHERS ->
        bus_enter();
#ifdef MISTAKE_CHECK_BEFORE_ARMING
        nothing = true; /* as it was before the turn */
#else
        nothing = memory[TAIL] == place;
#endif
        if
        :: nothing ->
            store(SLEEP + own, 1);
            store(ARMED + own, 1)
        :: else
        fi;
        bus_leave();
        if
        :: nothing ->
            do
            :: memory[SLEEP + own] == 0 -> break
            :: memory[SLEEP + own] == 1 ->
                atomic { asleep[own] = memory[SLEEP + own] == 1 }
                if
                :: !asleep[own]
                :: asleep[own] && may_time_out ->
                    may_time_out = false;
                    asleep[own] = false;
                    break
                fi
            od;
            if
            :: memory[SLEEP + own] == 1 ->
                bus_enter();
                store(SLEEP + own, 0);
                store(ARMED + own, 0);
                bus_leave()
            :: memory[SLEEP + own] == 0
            fi;
            lock_word(CHAIN_LOCK);
            if
            :: chain??[eval(own)] ->
                chain??eval(own);
                store(SLEEP + own, 0)
            :: else
            fi;
            store(CHAIN_LOCK, 0);
#ifndef MISTAKE_NO_CHAIN
            chain_wake()
#endif
        :: else
        fi
    od
}

init
{
    atomic {
        run drain();
        run publisher(0);
#ifdef MANY
        run publisher(1);
#endif
        run reader(PUBLISHERS, 0);
        run reader(PUBLISHERS + 1, 1)
    }
}
