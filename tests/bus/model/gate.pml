/*
 * A publisher that waits for a reader who blocks, as src/bus/publish.c (wait_at_gate) and read.c
 * (read_ring, fan__bus_open_gate) do it: he announces himself, looks once more, and sleeps on the
 * gate's word; the reader moves its place and then looks for waiters. Memory as in wake.pml: plain
 * stores of the reader go through a buffer, locked instructions empty it.
 *
 * A wake that is lost shows as an end in which the publisher sleeps. Each MISTAKE_… must be found.
 */
#define BUFFER 1
#define MESSAGES 4

byte tail;
byte place;
byte waiters;
byte word;
bool asleep;
chan stored = [2] of { byte }; /* places that the reader has stored and nobody sees yet */

proctype drain()
{
end:
    do
    :: atomic { stored?place }
    od
}

proctype publisher()
{
    byte seen;
    bool announced;
    do
    :: tail == MESSAGES -> break
    :: tail < MESSAGES ->
        if
        :: tail - place < BUFFER ->
            atomic { waiters = waiters - announced; announced = false }
            tail++
        :: tail - place == BUFFER && !announced ->
#ifdef MISTAKE_SLEEP_WITHOUT_LOOKING
            seen = word;
            waiters++;
            atomic { asleep = word == seen }
            !asleep;
            waiters--
#else
            waiters++; /* seq_cst; what follows is behind it */
            announced = true;
            seen = word
#endif
        :: tail - place == BUFFER && announced ->
#ifdef MISTAKE_WORD_NOT_COMPARED
            asleep = true;
#else
            atomic { asleep = word == seen }
#endif
            !asleep;
            atomic { waiters--; announced = false }
        fi
    od
}

proctype reader()
{
    byte own;
    do
    :: own == MESSAGES -> break
    :: own < MESSAGES ->
        tail > own; /* its own sleep is that of wake.pml */
        own++;
#ifdef MISTAKE_PLACE_IN_BUFFER
        stored!own;
#else
        place = own; /* a locked instruction */
#endif
        if
        :: waiters > 0 ->
            empty(stored);
            word++;
            asleep = false
        :: waiters == 0
        fi
    od
}

init
{
    atomic {
        run drain();
        run publisher();
        run reader()
    }
}
