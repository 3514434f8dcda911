/*
 * Memory of messages that is used again, as src/bus/arena.c does it: whoever lets go of a piece
 * pushes it by compare-and-swap; one at a time, in the turn, pops. Looking at the head, at what is
 * behind it, and swapping are steps of their own.
 *
 * No piece may be given out while it is in use, and none may get lost. Each MISTAKE_… must be
 * found: that of two who pop is the one that this stack is known for (ABA).
 */
#define PIECES 3
#define READERS 2
#define NONE 0
#define ROUNDS 5 /* messages in all */

byte head;
byte next[PIECES + 1];
bool used[PIECES + 1];
chan lent = [PIECES] of { byte };
byte given;
byte done;
#ifdef MISTAKE_TWO_POP
#define PUBLISHERS 2
#else
#define PUBLISHERS 1
#endif

inline put()
{
    do
    :: true ->
        seen = head;
#ifdef MISTAKE_LINK_BEHIND
        atomic {
            if
            :: head == seen -> head = piece; swapped = true
            :: else
            fi
        }
        next[piece] = seen;
#else
        next[piece] = seen;
#ifdef MISTAKE_PLAIN_STORE
        head = piece;
        swapped = true;
#else
        atomic {
            if
            :: head == seen -> head = piece; swapped = true
            :: else
            fi
        }
#endif
#endif
        if
        :: swapped -> swapped = false; seen = NONE; break
        :: else
        fi
    od
}

/* The turn of a publisher: a message is given to a reader, if there is memory. */
proctype publisher()
{
    byte seen, behind;
    do
    :: given >= ROUNDS -> break
    :: given < ROUNDS ->
        seen = head;
        if
        :: seen == NONE
        :: seen != NONE ->
            behind = next[seen];
            atomic {
                if
                :: head == seen ->
                    head = behind;
                    assert(!used[seen]);
                    used[seen] = true;
                    given++;
                    lent!seen
                :: else
                fi
            }
        fi;
        seen = NONE;
        behind = NONE
    od;
    done++
}

proctype reader()
{
    byte piece, seen;
    bool swapped;
    do
    :: lent?piece ->
        used[piece] = false;
        put();
        piece = NONE
    :: done == PUBLISHERS && empty(lent) -> break
    od
}

init
{
    byte count, at;
    atomic {
        next[1] = NONE;
        next[2] = 1;
        next[3] = 2;
        head = 3;
        run publisher();
#ifdef MISTAKE_TWO_POP
        run publisher();
#endif
        run reader();
        run reader()
    }
    _nr_pr == 1;
    at = head;
    do
    :: at != NONE -> count++; at = next[at]
    :: else -> break
    od;
    assert(count == PIECES)
}
