/*
 * Calls to the server over connections that are kept, each ended by its answer, by silence that
 * lasts too long, or by Ctrl-C. Who waits for other things too has several under way at once.
 */
#ifndef FAN_CLI_CLIENT_H
#define FAN_CLI_CLIENT_H

#include "cli/text.h"

#include <stdint.h>

struct fan__client;

/* What an answer that is not a stream may hold at most. */
#define FAN__ANSWER_SIZE_MAX ((size_t)256 << 20)

/*
 * Takes the server's address, http or https, a path in front of ours included. NULL, and said why,
 * when it is none.
 */
struct fan__client *fan__client_new(const char *url);
void fan__client_free(struct fan__client *client);

/* The address without a password, for messages. */
const char *fan__client_url(const struct fan__client *client);

/*
 * method        NULL for a POST where there is a content_type, else a GET
 * target        path and query, escaped: "/v1/events?limit=1"
 * body          sent if it has a content_type
 * accept        or NULL
 * last_event_id or NULL
 * piece         takes the body of a 200 of the type `piece_type` as it comes, false to hang up;
 *               every other body goes into the answer
 * silence_ms    how long nothing may move in either direction
 */
struct fan__call {
    const char *method;
    const char *target;
    const char *content_type;
    struct fan_str body;
    const char *accept;
    const char *last_event_id;
    const char *piece_type;
    bool (*piece)(void *context, const char *bytes, size_t size);
    void *context;
    int64_t silence_ms;
};

enum fan__outcome {
    FAN__ANSWERED,
    FAN__UNREACHED, /* no connection came about: certainly nothing was done */
    FAN__LOST,      /* it broke, fell silent or made no sense: nobody knows what was done */
    FAN__STOPPED,   /* a signal */
    FAN__HUNG_UP,   /* `piece` wanted no more */
};

/*
 * status          of HTTP, 0 before there is one
 * type            the media type, lower case, without parameters
 * retry_after_ms  -1 without
 * why             words for UNREACHED and LOST
 */
struct fan__answer {
    enum fan__outcome outcome;
    long status;
    char type[64];
    int64_t retry_after_ms;
    struct fan__text body;
    char why[320];
};

/* Fills an answer that is all zero or was used before; end it with fan__answer_deinit. */
void fan__client_call(struct fan__client *client, const struct fan__call *call,
                      struct fan__answer *answer);
void fan__answer_deinit(struct fan__answer *answer);

/* A call that is under way. */
struct fan__pending;

/* Begins a call; it, what it points to and the answer are borrowed until its end. */
struct fan__pending *fan__client_begin(struct fan__client *client, const struct fan__call *call,
                                       struct fan__answer *answer);

struct pollfd;

/*
 * Moves the calls that are under way, and waits until one of them moves on or one of `others` is
 * ready (which of them is not told), up to timeout_ms. A signal is not looked for.
 */
void fan__client_wait(struct fan__client *client, const struct pollfd *others, size_t count,
                      int64_t timeout_ms);

/* Whether a call has come to its end. */
bool fan__pending_done(const struct fan__pending *pending);

/* Ends a call and fills its answer: FAN__STOPPED for one that is hung up before it is done. */
void fan__client_end(struct fan__pending *pending);

/* Says why a call brought no result: the server is not there, or its problem+json in words. */
void fan__say_answer(const struct fan__client *client, const struct fan__answer *answer);

/* The member of a problem+json as words into `text`: field and reason, or the detail. */
void fan__answer_describe(const struct fan__answer *answer, struct fan__text *text);

/* Whether to ask again later can help: 408, 425, 429 and 5xx but 501 and 505. */
bool fan__answer_is_passing(const struct fan__answer *answer);

/* A call whose answer must be 200 or 201 with JSON, or 204; false, and said why, else. */
bool fan__client_ask(struct fan__client *client, const struct fan__call *call,
                     struct fan__answer *answer);

/* A GET whose answer must be 200 with JSON; false, and said why, else. */
bool fan__client_get(struct fan__client *client, const char *target, struct fan__answer *answer);

#endif
