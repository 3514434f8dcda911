/*
 * What was read and is not acknowledged yet: event lines, each with an id, that are sent until the
 * server has answered for each of them. As the ids stay the same, sending again never doubles.
 *
 *     added --sent--> stored, there already, or refused: the line goes
 *       ^       |
 *       +-------+  the connection or its answer was lost, or the server asks to come again
 *
 * Bounded: at most FAN__OUTBOX_LINES_MAX lines, and FAN__OUTBOX_SIZE_MAX bytes unless one line
 * alone is longer.
 */
#ifndef FAN_CLI_OUTBOX_H
#define FAN_CLI_OUTBOX_H

#include "cli/client.h"
#include "cli/wait.h"

#define FAN__OUTBOX_LINES_MAX 1000
#define FAN__OUTBOX_SIZE_MAX ((size_t)1 << 20)

/*
 * number      of the line in its file
 * size        of its text, the line end included
 * was_unsure  sent, and the answer was lost: "there already" then means by that try of ours
 * done        has its answer
 */
struct fan__owed {
    uint64_t number;
    size_t size;
    bool has_own_id;
    bool was_unsure;
    bool done;
};

/*
 * text     the lines, one behind the other as `lines` says
 * single   one event, that may lie on several lines and is sent as it is
 * json     results as JSON, one a line, on standard output; else refusals on standard error
 * tries_max  without any progress
 * silence_ms after which a request without an answer counts as lost
 * answered   lines of the present request that have their answer, settled: for good
 */
struct fan__outbox {
    struct fan__client *client;
    struct fan__text text;
    struct fan__owed lines[FAN__OUTBOX_LINES_MAX];
    size_t count;
    bool single;
    bool json;
    unsigned tries_max;
    int64_t silence_ms;

    uint64_t stored;
    uint64_t duplicates;
    uint64_t refused;

    struct fan__backoff backoff;
    bool server_was_there;
    size_t lines_at_once;
    size_t asked;
    size_t answered;
    size_t settled;
    bool answer_ended;
    bool answer_broken;
    bool output_failed;
    struct fan__text answer_line;
    struct fan__text out;
};

void fan__outbox_init(struct fan__outbox *outbox, struct fan__client *client);
void fan__outbox_deinit(struct fan__outbox *outbox);

/* Whether a line of `size` bytes must wait until what is there was delivered. */
bool fan__outbox_is_full(const struct fan__outbox *outbox, size_t size);

/*
 * Adds an event's JSON object, read from line `number`, with an id of its own and the source
 * "system" where it has none. Where it is no JSON object, it is refused here.
 */
void fan__outbox_add(struct fan__outbox *outbox, uint64_t number, struct fan_str line);

/* Tells a line's refusal and counts it. `field` may be "". */
void fan__outbox_refuse(struct fan__outbox *outbox, uint64_t number, const char *field,
                        const char *reason);

enum fan__delivery {
    FAN__DELIVERED, /* every line has its answer; the outbox is empty */
    FAN__GAVE_UP,   /* and said why; what is left is owed */
    FAN__CUT_SHORT, /* a signal */
};

/* Sends and sends again until all is answered, up to tries_max tries without any progress. */
enum fan__delivery fan__outbox_deliver(struct fan__outbox *outbox);

#endif
