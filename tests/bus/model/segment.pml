/*
 * A segment that two subscriptions share, as src/bus/read.c (take_words, copy_taken), queue.c and
 * deliver.c use it: a reader takes messages under its lock and copies them without it, while the
 * publisher drops or discards what is left, which gives up the queue's hold.
 *
 * Nobody may copy out of a segment that was freed, and it must be freed once, by the last. Each
 * MISTAKE_… must be found.
 */
#define SUBSCRIPTIONS 2
#define WORDS 2 /* messages of the segment */

bool lock[SUBSCRIPTIONS];
bool held[SUBSCRIPTIONS]; /* by the queue; under the lock */
byte left[SUBSCRIPTIONS];
byte holders = SUBSCRIPTIONS;
byte freed;

inline acquire(it)
{
    atomic { !it -> it = true }
}

inline release()
{
#ifdef MISTAKE_COUNT_IN_TWO_STEPS
    count = holders;
    holders = count - 1;
    count--;
#else
    atomic { holders--; count = holders }
#endif
    if
    :: count == 0 -> freed++; assert(freed == 1)
    :: else
    fi
}

proctype reader(byte own)
{
    byte count;
    bool took;
    do
    :: true ->
        took = false;
        acquire(lock[own]);
        if
        :: left[own] > 0 ->
            took = true;
#ifndef MISTAKE_NO_HOLD
            holders++; /* the queue holds it */
#endif
            left[own]--;
            if
            :: left[own] == 0 ->
                /* The queue lets go; we still hold it. */
                atomic { held[own] = false; holders--; assert(holders > 0) }
            :: else
            fi
        :: else
        fi;
        lock[own] = false;
        if
        :: !took -> break
        :: else ->
#ifdef MISTAKE_RELEASE_BEFORE_COPY
            release();
            assert(freed == 0)
#else
            assert(freed == 0); /* the copy, which takes as long as it takes */
            assert(freed == 0);
#ifndef MISTAKE_NO_HOLD
            release()
#endif
#endif
        fi
    od
}

proctype publisher()
{
    byte count, own;
    do
    :: own < SUBSCRIPTIONS ->
        acquire(lock[own]);
        if
        :: left[own] > 0 -> left[own]-- /* the oldest is dropped */
        :: left[own] = 0                /* all are discarded */
        :: true
        fi;
        if
        :: held[own] && left[own] == 0 -> held[own] = false; release()
        :: else
        fi;
        lock[own] = false;
        own++
    :: else -> break
    od
}

init
{
    atomic {
        held[0] = true;
        held[1] = true;
        left[0] = WORDS;
        left[1] = WORDS;
        run reader(0);
        run reader(1);
        run publisher()
    }
    _nr_pr == 1;
    assert(freed == 1 && holders == 0)
}
