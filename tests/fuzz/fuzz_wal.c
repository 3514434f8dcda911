/*
 * Whatever a server sends as a stream of changes: messages of pgoutput, each behind its length in
 * two bytes. What is read twice gives the same events, none larger than what was sent allows; each
 * can be made into one, or is refused by field; and so can its key alone.
 *
 * The corpus began with the messages of a real server: every type, updates with old keys and whole
 * old rows, large values that were not sent again, truncates, partitions, columns that come and go.
 */
#include "base/env.h"
#include "base/status.h"
#include "hook/wal.h"

#include <fanfare/env.h>

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define OVERHEAD 1024 /* of an event, beside its names and values */

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* The first column is a key. */
static enum fan_status mark_keys(void *context, struct fan__wal_relation *relation,
                                 struct fan_error *error)
{
    size_t *marked = context;
    ++*marked;
    if (relation->count == 0)
        return fan__fail(error, FAN_NOT_FOUND, "", "nothing to mark");
    for (size_t i = 0; i < relation->count; i++)
        relation->columns[i].key = i == 0;
    return FAN_OK;
}

/* All messages, until one cannot be read. */
static void feed(struct fan__wal *wal, const uint8_t *data, size_t size)
{
    for (size_t at = 0; at + 2 <= size;) {
        size_t length = (size_t)data[at] << 8 | data[at + 1];
        at += 2;
        length = length < size - at ? length : size - at;
        struct fan_error error = FAN_ERROR_INIT;
        /* As large as it is, so that a read behind it is seen. */
        char *message = malloc(length > 0 ? length : 1);
        must(message != NULL);
        memcpy(message, data + at, length);
        size_t before = wal->count;
        enum fan_status status = fan__wal_feed(wal, (struct fan_str){ message, length }, &error);
        free(message);
        must(status == FAN_OK || status == FAN_CORRUPT || status == FAN_NOT_FOUND);
        must((status == FAN_OK) == (error.status == FAN_OK));
        must(status == FAN_OK || *error.message != '\0');
        must(wal->count >= before);
        if (status != FAN_OK)
            return;
        at += length;
    }
}

static void must_be_same(struct fan_str one, struct fan_str two)
{
    must(one.size == two.size && memcmp(one.data, two.data, one.size) == 0);
}

/* Makes it into an event, which copies every text to its end. */
static void try_draft(const struct fan_event_draft *draft)
{
    struct fan_event *event = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = fan_event_new(draft, NULL, &event, &error);
    must(status == FAN_OK || (status == FAN_INVALID && *error.message != '\0'));
    /* Names become segments whatever they are, if they are text at all and not too long. */
    must(status == FAN_OK || strcmp(error.field, "id") != 0);
    fan_event_free(event, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const ids_of = "7012345678901234567/fan/fanfare";
    struct fan__wal wals[2];
    size_t marked[2] = { 0, 0 };
    for (int i = 0; i < 2; i++) {
        fan__wal_init(&wals[i], fan_env_default(), (struct fan_str){ ids_of, strlen(ids_of) });
        wals[i].mark_keys = mark_keys;
        wals[i].context = &marked[i];
        feed(&wals[i], data, size);
    }
    must(marked[0] == marked[1] && wals[0].count == wals[1].count);
    must(wals[0].text.size <= (wals[0].count + 1) * OVERHEAD + wals[0].count * 32 * size);
    for (size_t i = 0; i < wals[0].count; i++) {
        struct fan_event_draft drafts[2];
        for (int w = 0; w < 2; w++)
            fan__wal_show(&wals[w], i, &drafts[w]);
        must_be_same(drafts[0].payload, drafts[1].payload);
        must_be_same(drafts[0].metadata, drafts[1].metadata);
        must(strcmp(drafts[0].id, drafts[1].id) == 0 && strlen(drafts[0].id) == 36);
        must(strcmp(drafts[0].type, drafts[1].type) == 0);
        try_draft(&drafts[0]);
        fan__wal_show_key(&wals[0], i, &drafts[0]);
        try_draft(&drafts[0]);
    }
    for (int i = 0; i < 2; i++) {
        fan__wal_clear(&wals[i]);
        must(wals[i].count == 0);
        fan__wal_deinit(&wals[i]);
    }
    return 0;
}
