/*
 * A member of a consumer group over HTTP: it claims as many events as it has room for, keeps their
 * leases while it works, and settles how they ended. It survives a server that goes and comes back.
 *
 *     work:  free --claimed--> held --fan__member_end--> ended --settled--> free
 *                               |  lost: another has it; its end is told to nobody
 *
 * It runs on the caller's thread: step, then wait. No verdict is forgotten while the server is
 * away, and no event is claimed without room, so none waits here for its turn.
 */
#ifndef FAN_CLI_MEMBER_H
#define FAN_CLI_MEMBER_H

#include "cli/groups.h"
#include "cli/wait.h"

#define FAN__WORK_COUNT_MAX 256

enum fan__work_state {
    FAN__WORK_FREE,
    FAN__WORK_FRESH, /* claimed, not begun */
    FAN__WORK_HELD,
    FAN__WORK_ENDED,
    FAN__WORK_SETTLING,
};

/* An event that the member has. event is its JSON on one line. */
struct fan__work {
    enum fan__work_state state;
    bool lost;
    uint64_t seq;
    char token[24];
    unsigned attempt;
    unsigned lapses;
    struct fan__text event;
    const char *verdict; /* "done", "retry", "fail", "hand_back" */
    const char *reason;  /* with fail, or NULL */
    uint32_t delay_ms;
    struct fan__text error;
};

/* One kind of call, and when it may be tried again. */
struct fan__wire {
    struct fan__text target;
    struct fan__text body;
    struct fan__call call;
    struct fan__answer answer;
    struct fan__pending *pending;
    struct fan__backoff backoff;
    int64_t next_ms; /* 0: there is nothing to wait for */
    bool repeats;    /* what the last call said may have been heard */
};

/* owner: a name that no other member has, of letters, digits, `-`, `.` and `:`. */
struct fan__member {
    struct fan__client *client;
    const struct fan__group *group;
    const char *owner;
    uint32_t lease_ms;
    bool ordered;
    struct fan__work *works;
    size_t work_count;
    struct fan__wire claim;
    struct fan__wire settle;
    struct fan__wire renew;
    uint64_t settled[4]; /* done, retry, fail, hand_back */
    uint64_t lost;
    bool away;   /* the server does not answer */
    bool failed; /* it refuses for good, and that was said */
};

/* The first five fields are set already. */
void fan__member_init(struct fan__member *member, size_t work_count);
void fan__member_deinit(struct fan__member *member);

/*
 * Takes what came and sends what is due. claim_count is how many events are wanted at most; 0
 * claims no more, and hangs up on what is under way. Fresh works are the caller's, to begin (HELD)
 * or to end; none is claimed while there are some.
 */
void fan__member_step(struct fan__member *member, size_t claim_count);

/* A fresh or held work has ended: verdict, reason, delay_ms and error are set. */
void fan__member_end(struct fan__work *work, const char *verdict);

/* Works in a state. */
size_t fan__member_count(const struct fan__member *member, enum fan__work_state state);

/* How long it may be left alone, at most. */
int64_t fan__member_pause_ms(const struct fan__member *member);

#endif
