/*
 * libcurl's multi interface with one transfer: it lets us poll for a signal beside it, and hang up
 * from outside its call-backs.
 */
#include "cli/client.h"

#include "cli/say.h"
#include "cli/wait.h"

#include <ctype.h>
#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 10000
#define SILENCE_MS 30000
#define POLL_MS_MAX 1000
#define RECEIVE_SIZE (256 * 1024)

struct fan__client {
    CURLM *multi;
    CURL *easy;
    char *url;
    char *url_shown;
    bool is_local;
};

/* One call while it runs. */
struct transfer {
    CURL *easy;
    const struct fan__call *call;
    struct fan__answer *answer;
    int64_t moved_ms;
    curl_off_t sent;
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
    client->easy = curl_easy_init();
    if (!wrong && (!client->multi || !client->easy))
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
    curl_easy_cleanup(client->easy);
    curl_multi_cleanup(client->multi);
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
    struct transfer *transfer = context;
    transfer->moved_ms = fan__now_ms();
    static const char name[] = "content-type:";
    size_t length = size * count;
    struct fan__answer *answer = transfer->answer;
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
    struct transfer *transfer = context;
    const struct fan__call *call = transfer->call;
    struct fan__answer *answer = transfer->answer;
    size_t length = size * count;
    transfer->moved_ms = fan__now_ms();
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &answer->status);
    if (call->piece && answer->status == 200 && strcmp(answer->type, call->piece_type) == 0) {
        if (call->piece(call->context, bytes, length))
            return length;
        transfer->hung_up = true;
        return 0;
    }
    if (length > FAN__ANSWER_SIZE_MAX - answer->body.size) {
        transfer->too_long = true;
        return 0;
    }
    fan__text_add(&answer->body, bytes, length);
    return length;
}

static int on_progress(void *context, curl_off_t total_in, curl_off_t in, curl_off_t total_out,
                       curl_off_t out)
{
    (void)total_in, (void)in, (void)total_out;
    struct transfer *transfer = context;
    if (out != transfer->sent)
        transfer->moved_ms = fan__now_ms();
    transfer->sent = out;
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

static void set_options(struct fan__client *client, struct transfer *transfer, const char *url)
{
    CURL *easy = client->easy;
    /* Connections stay with the multi handle; only the options of the last call go. */
    curl_easy_reset(easy);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    /* An id may be "..", which is no way up. */
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "fanfare/" FANFARE_VERSION);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)RECEIVE_SIZE);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, transfer);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    /* A proxy of the environment is for the world outside, and cannot reach our own loopback. */
    if (client->is_local)
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
    if (transfer->call->content_type) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, transfer->call->body.data);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)transfer->call->body.size);
    }
}

/* Runs until curl is done, a signal, or silence. Gives false for the latter two. */
static bool run(struct fan__client *client, struct transfer *transfer, CURLcode *ret_code)
{
    int64_t silence_ms = transfer->call->silence_ms;
    if (silence_ms <= 0)
        silence_ms = SILENCE_MS;
    for (;;) {
        int running = 0;
        CURLMcode code = curl_multi_perform(client->multi, &running);
        int left;
        CURLMsg *message = curl_multi_info_read(client->multi, &left);
        if (message && message->msg == CURLMSG_DONE) {
            *ret_code = message->data.result;
            return true;
        }
        struct curl_waitfd wake = { .fd = fan__wait_descriptor(), .events = CURL_WAIT_POLLIN };
        if (code == CURLM_OK)
            code = curl_multi_poll(client->multi, &wake, 1, POLL_MS_MAX, NULL);
        if (code != CURLM_OK) {
            snprintf(transfer->answer->why, sizeof(transfer->answer->why), "%s",
                     curl_multi_strerror(code));
            return false;
        }
        if (fan__interrupted()) {
            transfer->answer->outcome = FAN__STOPPED;
            return false;
        }
        if (fan__now_ms() - transfer->moved_ms > silence_ms) {
            snprintf(transfer->answer->why, sizeof(transfer->answer->why),
                     "nothing came for %lld s", (long long)(silence_ms + 999) / 1000);
            return false;
        }
    }
}

static void finish(struct transfer *transfer, CURLcode code)
{
    struct fan__answer *answer = transfer->answer;
    curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &answer->status);
    curl_off_t seconds = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &seconds);
    if (seconds > 0)
        answer->retry_after_ms = (int64_t)seconds * 1000;
    if (code == CURLE_OK) {
        answer->outcome = FAN__ANSWERED;
        return;
    }
    if (transfer->hung_up) {
        answer->outcome = FAN__HUNG_UP;
        return;
    }
    bool never_there = code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
                       code == CURLE_COULDNT_RESOLVE_PROXY || code == CURLE_SSL_CONNECT_ERROR ||
                       code == CURLE_PEER_FAILED_VERIFICATION;
    curl_off_t connected_us = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_CONNECT_TIME_T, &connected_us);
    if (code == CURLE_OPERATION_TIMEDOUT && connected_us == 0)
        never_there = true;
    answer->outcome = never_there ? FAN__UNREACHED : FAN__LOST;
    const char *why = transfer->error[0] ? transfer->error : curl_easy_strerror(code);
    if (transfer->too_long)
        why = "the answer is too long";
    snprintf(answer->why, sizeof(answer->why), "%s", why);
}

void fan__client_call(struct fan__client *client, const struct fan__call *call,
                      struct fan__answer *answer)
{
    fan__text_clear(&answer->body);
    answer->outcome = FAN__LOST;
    answer->status = 0;
    answer->type[0] = answer->why[0] = '\0';
    answer->retry_after_ms = -1;
    struct transfer transfer = { .easy = client->easy, .call = call, .answer = answer };
    transfer.moved_ms = fan__now_ms();
    struct fan__text url = { NULL, 0, 0 };
    fan__text_add_format(&url, "%s%s", client->url, call->target);
    set_options(client, &transfer, url.data);
    struct curl_slist *headers = make_headers(call);
    curl_easy_setopt(client->easy, CURLOPT_HTTPHEADER, headers);
    CURLcode code = CURLE_OUT_OF_MEMORY;
    if (!headers || curl_multi_add_handle(client->multi, client->easy) != CURLM_OK) {
        answer->outcome = FAN__UNREACHED;
        snprintf(answer->why, sizeof(answer->why), "out of memory");
    } else {
        if (run(client, &transfer, &code))
            finish(&transfer, code);
        curl_multi_remove_handle(client->multi, client->easy);
    }
    curl_easy_reset(client->easy);
    curl_slist_free_all(headers);
    fan__text_deinit(&url);
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

bool fan__client_get(struct fan__client *client, const char *target, struct fan__answer *answer)
{
    struct fan__call call = { .target = target };
    fan__client_call(client, &call, answer);
    if (answer->outcome != FAN__ANSWERED || answer->status != 200) {
        fan__say_answer(client, answer);
        return false;
    }
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
