/*
 * JSON text, against jansson. The first byte is the depth that is allowed; what surely is legal
 * must be legal, and an event that is read without jansson must be the one that is read with it.
 */
#include <fanfare/batch.h>
#include <fanfare/env.h>
#include <fanfare/event.h>
#include <fanfare/json.h>

#include "event/event.h"
#include "event/jsonscan.h"
#include "event/jsontext.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static int64_t fixed_clock(void *context)
{
    (void)context;
    return 1;
}

/* All that is stamped is the same each time, but for the id. */
static void must_be_same(const struct fan_event *a, const struct fan_event *b)
{
    struct fan_event_draft drafts[2];
    fan_event_to_draft(a, &drafts[0]);
    fan_event_to_draft(b, &drafts[1]);
    drafts[0].id = drafts[1].id = "i";
    size_t size = fan__event_draft_size(&drafts[0]);
    must(size == fan__event_draft_size(&drafts[1]));
    char *blocks = malloc(2 * size);
    must(blocks != NULL);
    must(fan__event_write(&drafts[0], 0, blocks) == size);
    must(fan__event_write(&drafts[1], 0, blocks + size) == size);
    must(memcmp(blocks, blocks + size, size) == 0);
    free(blocks);
}

/* An escaped name in the second event sends the whole array to jansson. */
static void read_by_jansson(struct fan_str text, const struct fan_json_options *options,
                            const struct fan_event *event)
{
    static const char rest[] = ",{\"\\u0074ype\":\"a\"}]";
    char *array = malloc(1 + text.size + sizeof(rest));
    must(array != NULL);
    array[0] = '[';
    memcpy(array + 1, text.data, text.size);
    memcpy(array + 1 + text.size, rest, sizeof(rest));
    struct fan_batch *batch;
    must(fan_batch_new(NULL, &batch) == FAN_OK);
    struct fan_str whole = { array, text.size + sizeof(rest) };
    must(fan_events_from_json(whole, options, batch, NULL) == FAN_OK);
    must(fan_batch_count(batch) == 2);
    must_be_same(event, fan_batch_event(batch, 0));
    fan_batch_free(batch);
    free(array);
}

static void try_event(struct fan_str text, unsigned depth_max)
{
    struct fan_env env = *fan_env_default();
    env.wall_us = fixed_clock;
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.env = &env;
    defaults.instance_id = "i";
    defaults.json_depth_max = depth_max;
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    options.defaults = &defaults;
    options.accept_read_only = true;
    struct fan_event *event;
    if (fan_event_from_json(text, &options, &event, NULL) != FAN_OK)
        return;
    read_by_jansson(text, &options, event);
    fan_event_free(event, &env);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    /* 48 is the digit 0, so that a corpus can be written by hand: `4{"a":[]}`. */
    unsigned depth_max = (unsigned)(data[0] + 256 - '0') % 256;
    struct fan_str text = { (const char *)data + 1, size - 1 };
    if (fan__json_surely_legal(text, depth_max)) {
        json_t *value = NULL;
        must(fan__json_load(text, depth_max, "text", &value, NULL) == FAN_OK);
        bool empty = false;
        bool object = fan__json_scan_is_object(text, &empty);
        must(object == json_is_object(value));
        must(!object || empty == (json_object_size(value) == 0));
        json_decref(value);
    }
    try_event(text, depth_max);
    return 0;
}
