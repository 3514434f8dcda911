/*
 * libcurl's multi interface: it lets us poll for a signal and other things beside the transfers,
 * and hang up from outside their call-backs.
 */
#include "cli/client.h"

#include "cli/say.h"
#include "cli/wait.h"

#include <ctype.h>
#include <curl/curl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 10000
#define SILENCE_MS 30000
#define POLL_MS_MAX 1000
#define RECEIVE_SIZE (256 * 1024)

struct fan__client {
    CURLM *multi;
    struct fan__pending *pendings;
    struct curl_waitfd *others;
    size_t others_capacity;
    char *url;
    char *url_shown;
    bool is_local;
};

/* One call while it runs. */
struct fan__pending {
    struct fan__pending *next;
    struct fan__client *client;
    CURL *easy;
    struct curl_slist *headers;
    const struct fan__call *call;
    struct fan__answer *answer;
    int64_t moved_ms;
    curl_off_t sent;
    bool done;
    bool hung_up;
    bool too_long;
    char error[CURL_ERROR_SIZE];
};

static bool is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 ||
           strcmp(host, "[::1]") == 0 || strcmp(host, "::1") == 0;
}

/* Writes why an address is refused, or NULL when it is fine. */
static const char *read_url(struct fan__client *client, CURLU *parsed, const char *url)
{
    char *part = NULL;
    CURLUcode code = curl_url_set(parsed, CURLUPART_URL, url, 0);
    if (code == CURLUE_UNSUPPORTED_SCHEME)
        return "expected http:// or https://";
    if (code != CURLUE_OK)
        return curl_url_strerror(code);
    if (curl_url_get(parsed, CURLUPART_SCHEME, &part, 0) != CURLUE_OK)
        return "expected http:// or https://";
    bool known = strcmp(part, "http") == 0 || strcmp(part, "https") == 0;
    curl_free(part);
    if (!known)
        return "expected http:// or https://";
    if (curl_url_get(parsed, CURLUPART_QUERY, &part, 0) == CURLUE_OK ||
        curl_url_get(parsed, CURLUPART_FRAGMENT, &part, 0) == CURLUE_OK) {
        curl_free(part);
        return "expected no ? and no # in it";
    }
    if (curl_url_get(parsed, CURLUPART_HOST, &part, 0) == CURLUE_OK) {
        client->is_local = is_loopback(part);
        curl_free(part);
    }
    if (curl_url_get(parsed, CURLUPART_URL, &client->url, 0) != CURLUE_OK ||
        curl_url_set(parsed, CURLUPART_USER, NULL, 0) != CURLUE_OK ||
        curl_url_set(parsed, CURLUPART_PASSWORD, NULL, 0) != CURLUE_OK ||
        curl_url_get(parsed, CURLUPART_URL, &client->url_shown, 0) != CURLUE_OK)
        return "out of memory";
    for (size_t size = strlen(client->url); size > 0 && client->url[size - 1] == '/'; size--)
        client->url[size - 1] = '\0';
    return NULL;
}

struct fan__client *fan__client_new(const char *url)
{
    struct fan__client *client = fan__cli_resize(NULL, 1, sizeof(*client));
    *client = (struct fan__client){ .multi = NULL };
    curl_global_init(CURL_GLOBAL_DEFAULT);
    CURLU *parsed = curl_url();
    const char *wrong = parsed ? read_url(client, parsed, url) : "out of memory";
    curl_url_cleanup(parsed);
    client->multi = curl_multi_init();
    if (!wrong && !client->multi)
        wrong = "out of memory";
    if (wrong) {
        /* Not the address itself: it may hold a password, and could not be taken apart. */
        fan__say("the server's address (--url, or FANFARE_URL) is not a good one: %s", wrong);
        fan__client_free(client);
        return NULL;
    }
    return client;
}

void fan__client_free(struct fan__client *client)
{
    if (!client)
        return;
    curl_multi_cleanup(client->multi);
    free(client->others);
    curl_free(client->url);
    curl_free(client->url_shown);
    free(client);
    curl_global_cleanup();
}

const char *fan__client_url(const struct fan__client *client)
{
    return client->url_shown;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *context)
{
    struct fan__pending *pending = context;
    pending->moved_ms = fan__now_ms();
    static const char name[] = "content-type:";
    size_t length = size * count;
    struct fan__answer *answer = pending->answer;
    /* A status line opens the head, and a head before it (100 Continue) is forgotten. */
    if (length > 5 && strncmp(bytes, "HTTP/", 5) == 0)
        answer->type[0] = '\0';
    if (length < sizeof(name) || strncasecmp(bytes, name, sizeof(name) - 1) != 0)
        return length;
    size_t at = sizeof(name) - 1;
    while (at < length && (bytes[at] == ' ' || bytes[at] == '\t'))
        at++;
    size_t written = 0;
    while (at < length && written + 1 < sizeof(answer->type) && !strchr("; \t\r\n", bytes[at]))
        answer->type[written++] = (char)tolower((unsigned char)bytes[at++]);
    answer->type[written] = '\0';
    return length;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context)
{
    struct fan__pending *pending = context;
    const struct fan__call *call = pending->call;
    struct fan__answer *answer = pending->answer;
    size_t length = size * count;
    pending->moved_ms = fan__now_ms();
    curl_easy_getinfo(pending->easy, CURLINFO_RESPONSE_CODE, &answer->status);
    if (call->piece && answer->status == 200 && strcmp(answer->type, call->piece_type) == 0) {
        if (call->piece(call->context, bytes, length))
            return length;
        pending->hung_up = true;
        return 0;
    }
    if (length > FAN__ANSWER_SIZE_MAX - answer->body.size) {
        pending->too_long = true;
        return 0;
    }
    fan__text_add(&answer->body, bytes, length);
    return length;
}

static int on_progress(void *context, curl_off_t total_in, curl_off_t in, curl_off_t total_out,
                       curl_off_t out)
{
    (void)total_in, (void)in, (void)total_out;
    struct fan__pending *pending = context;
    if (out != pending->sent)
        pending->moved_ms = fan__now_ms();
    pending->sent = out;
    return 0;
}

static struct curl_slist *add_header(struct curl_slist *headers, const char *name,
                                     const char *value)
{
    if (!value)
        return headers;
    struct fan__text line = { NULL, 0, 0 };
    fan__text_add_format(&line, "%s: %s", name, value);
    struct curl_slist *longer = curl_slist_append(headers, line.data);
    fan__text_deinit(&line);
    /* Without a header the call would mean something else; none of them may be left out. */
    if (!longer)
        curl_slist_free_all(headers);
    return longer;
}

static struct curl_slist *make_headers(const struct fan__call *call)
{
    /* "Expect:" with nothing behind it keeps curl from asking first, which costs a round trip. */
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    if (headers)
        headers = add_header(headers, "Accept", call->accept ? call->accept : "application/json");
    if (headers)
        headers = add_header(headers, "Content-Type", call->content_type);
    if (headers)
        headers = add_header(headers, "Last-Event-ID", call->last_event_id);
    return headers;
}

static void set_options(struct fan__pending *pending, const char *url)
{
    CURL *easy = pending->easy;
    const struct fan__call *call = pending->call;
    curl_easy_setopt(easy, CURLOPT_URL, url);
    /* An id may be "..", which is no way up. */
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "fanfare/" FANFARE_VERSION);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)RECEIVE_SIZE);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, pending->error);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, pending);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, pending->headers);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, pending);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, pending);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, pending);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    /* A proxy of the environment is for the world outside, and cannot reach our own loopback. */
    if (pending->client->is_local)
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
    if (call->content_type) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->body.data);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body.size);
    }
    if (call->method)
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->method);
}

static void finish(struct fan__pending *pending, CURLcode code)
{
    struct fan__answer *answer = pending->answer;
    pending->done = true;
    curl_easy_getinfo(pending->easy, CURLINFO_RESPONSE_CODE, &answer->status);
    curl_off_t seconds = 0;
    curl_easy_getinfo(pending->easy, CURLINFO_RETRY_AFTER, &seconds);
    if (seconds > 0)
        answer->retry_after_ms = (int64_t)seconds * 1000;
    if (code == CURLE_OK) {
        answer->outcome = FAN__ANSWERED;
        return;
    }
    if (pending->hung_up) {
        answer->outcome = FAN__HUNG_UP;
        return;
    }
    bool never_there = code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
                       code == CURLE_COULDNT_RESOLVE_PROXY || code == CURLE_SSL_CONNECT_ERROR ||
                       code == CURLE_PEER_FAILED_VERIFICATION;
    curl_off_t connected_us = 0;
    curl_easy_getinfo(pending->easy, CURLINFO_CONNECT_TIME_T, &connected_us);
    if (code == CURLE_OPERATION_TIMEDOUT && connected_us == 0)
        never_there = true;
    answer->outcome = never_there ? FAN__UNREACHED : FAN__LOST;
    const char *why = pending->error[0] ? pending->error : curl_easy_strerror(code);
    if (pending->too_long)
        why = "the answer is too long";
    snprintf(answer->why, sizeof(answer->why), "%s", why);
}

/* Ends a call without curl: nobody knows what became of it. */
static void lose(struct fan__pending *pending, const char *why)
{
    pending->done = true;
    pending->answer->outcome = FAN__LOST;
    snprintf(pending->answer->why, sizeof(pending->answer->why), "%s", why);
}

struct fan__pending *fan__client_begin(struct fan__client *client, const struct fan__call *call,
                                       struct fan__answer *answer)
{
    fan__text_clear(&answer->body);
    answer->outcome = FAN__UNREACHED;
    answer->status = 0;
    answer->type[0] = answer->why[0] = '\0';
    answer->retry_after_ms = -1;
    struct fan__pending *pending = fan__cli_resize(NULL, 1, sizeof(*pending));
    *pending = (struct fan__pending){
        .next = client->pendings,
        .client = client,
        .easy = curl_easy_init(),
        .headers = make_headers(call),
        .call = call,
        .answer = answer,
        .moved_ms = fan__now_ms(),
    };
    client->pendings = pending;
    if (pending->easy && pending->headers) {
        struct fan__text url = { NULL, 0, 0 };
        fan__text_add_format(&url, "%s%s", client->url, call->target);
        set_options(pending, url.data);
        fan__text_deinit(&url);
    }
    if (!pending->easy || !pending->headers ||
        curl_multi_add_handle(client->multi, pending->easy) != CURLM_OK) {
        pending->done = true;
        snprintf(answer->why, sizeof(answer->why), "out of memory");
    }
    return pending;
}

bool fan__pending_done(const struct fan__pending *pending)
{
    return pending->done;
}

void fan__client_end(struct fan__pending *pending)
{
    struct fan__client *client = pending->client;
    if (!pending->done)
        pending->answer->outcome = FAN__STOPPED;
    struct fan__pending **link = &client->pendings;
    while (*link != pending)
        link = &(*link)->next;
    *link = pending->next;
    if (pending->easy) {
        curl_multi_remove_handle(client->multi, pending->easy);
        curl_easy_cleanup(pending->easy);
    }
    curl_slist_free_all(pending->headers);
    free(pending);
}

static CURLMcode perform(struct fan__client *client)
{
    int running = 0;
    int left;
    CURLMcode code = curl_multi_perform(client->multi, &running);
    CURLMsg *message;
    while ((message = curl_multi_info_read(client->multi, &left))) {
        struct fan__pending *pending = NULL;
        CURLcode result = message->data.result;
        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&pending);
        finish(pending, result);
    }
    return code;
}

static bool any_done(const struct fan__client *client)
{
    const struct fan__pending *pending = client->pendings;
    while (pending && !pending->done)
        pending = pending->next;
    return pending != NULL;
}

static void check_silence(struct fan__client *client)
{
    int64_t now_ms = fan__now_ms();
    for (struct fan__pending *pending = client->pendings; pending; pending = pending->next) {
        int64_t silence_ms = pending->call->silence_ms > 0 ? pending->call->silence_ms : SILENCE_MS;
        if (pending->done || now_ms - pending->moved_ms <= silence_ms)
            continue;
        char why[64];
        snprintf(why, sizeof(why), "nothing came for %lld s", (long long)(silence_ms + 999) / 1000);
        lose(pending, why);
    }
}

void fan__client_wait(struct fan__client *client, const struct pollfd *others, size_t count,
                      int64_t timeout_ms)
{
    if (count > client->others_capacity) {
        client->others = fan__cli_resize(client->others, count, sizeof(*client->others));
        client->others_capacity = count;
    }
    for (size_t i = 0; i < count; i++)
        client->others[i] = (struct curl_waitfd){
            .fd = others[i].fd,
            .events = (short)((others[i].events & POLLIN ? CURL_WAIT_POLLIN : 0) |
                              (others[i].events & POLLOUT ? CURL_WAIT_POLLOUT : 0)),
        };
    if (timeout_ms > POLL_MS_MAX)
        timeout_ms = POLL_MS_MAX;
    CURLMcode code = perform(client);
    if (code == CURLM_OK && !any_done(client)) {
        code =
            curl_multi_poll(client->multi, client->others, (unsigned)count, (int)timeout_ms, NULL);
        if (code == CURLM_OK)
            code = perform(client);
    }
    for (struct fan__pending *pending = client->pendings; pending; pending = pending->next)
        if (code != CURLM_OK && !pending->done)
            lose(pending, curl_multi_strerror(code));
    check_silence(client);
}

void fan__client_call(struct fan__client *client, const struct fan__call *call,
                      struct fan__answer *answer)
{
    struct pollfd wake = { .fd = fan__wait_descriptor(), .events = POLLIN };
    struct fan__pending *pending = fan__client_begin(client, call, answer);
    while (!fan__pending_done(pending)) {
        fan__client_wait(client, &wake, 1, POLL_MS_MAX);
        if (fan__interrupted())
            break;
    }
    fan__client_end(pending);
}

void fan__answer_deinit(struct fan__answer *answer)
{
    fan__text_deinit(&answer->body);
}

bool fan__answer_is_passing(const struct fan__answer *answer)
{
    long status = answer->status;
    return status == 408 || status == 425 || status == 429 ||
           (status >= 500 && status != 501 && status != 505);
}

static void add_member(struct fan__text *text, const json_t *problem, const char *name)
{
    const char *words = json_string_value(json_object_get(problem, name));
    if (words)
        fan__text_add_shown(text, (struct fan_str){ words, strlen(words) });
}

void fan__answer_describe(const struct fan__answer *answer, struct fan__text *text)
{
    json_t *problem = NULL;
    if (answer->body.size > 0 && strstr(answer->type, "json"))
        problem = json_loadb(answer->body.data, answer->body.size, 0, NULL);
    if (json_is_string(json_object_get(problem, "reason"))) {
        if (json_is_string(json_object_get(problem, "field"))) {
            add_member(text, problem, "field");
            fan__text_add_text(text, ": ");
        }
        add_member(text, problem, "reason");
    } else if (json_is_string(json_object_get(problem, "detail"))) {
        add_member(text, problem, "detail");
    } else if (json_is_string(json_object_get(problem, "title"))) {
        add_member(text, problem, "title");
    } else {
        fan__text_add_format(text, "an answer without an explanation (%s)",
                             answer->type[0] ? answer->type : "no type");
    }
    json_decref(problem);
}

void fan__say_answer(const struct fan__client *client, const struct fan__answer *answer)
{
    struct fan__text words = { NULL, 0, 0 };
    switch (answer->outcome) {
    case FAN__UNREACHED:
        fan__say("no server at %s: %s", client->url_shown, answer->why);
        break;
    case FAN__LOST:
        fan__say("lost the server at %s: %s", client->url_shown, answer->why);
        break;
    case FAN__ANSWERED:
        fan__answer_describe(answer, &words);
        fan__say("the server answers %ld: %s", answer->status, words.data);
        break;
    case FAN__STOPPED:
    case FAN__HUNG_UP:
        break;
    }
    fan__text_deinit(&words);
}

bool fan__client_ask(struct fan__client *client, const struct fan__call *call,
                     struct fan__answer *answer)
{
    fan__client_call(client, call, answer);
    if (answer->outcome != FAN__ANSWERED ||
        (answer->status != 200 && answer->status != 201 && answer->status != 204)) {
        fan__say_answer(client, answer);
        return false;
    }
    if (answer->status == 204)
        return true;
    json_t *value = NULL;
    if (strcmp(answer->type, "application/json") == 0)
        value = json_loadb(answer->body.data ? answer->body.data : "", answer->body.size,
                           JSON_DECODE_INT_AS_REAL, NULL);
    bool good = json_is_object(value);
    json_decref(value);
    if (!good)
        fan__say("%s answers, but with no JSON object: is it a Fanfare server?", client->url_shown);
    return good;
}

bool fan__client_get(struct fan__client *client, const char *target, struct fan__answer *answer)
{
    struct fan__call call = { .target = target };
    return fan__client_ask(client, &call, answer);
}
