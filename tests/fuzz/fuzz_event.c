/*
 * Whatever comes as an event: JSON text, an array of it, CloudEvents, a flat block. The first byte
 * chooses which. What is accepted must come back the same from its own output.
 */
#include <fanfare/batch.h>
#include <fanfare/cloudevents.h>
#include <fanfare/env.h>
#include <fanfare/event.h>
#include <fanfare/json.h>

#include "event/event.h"

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

/* Everything that is stamped is the same each time, but for ids. */
static struct fan_event_defaults fixed_defaults(struct fan_env *env)
{
    *env = *fan_env_default();
    env->wall_us = fixed_clock;
    struct fan_event_defaults defaults = FAN_EVENT_DEFAULTS_INIT;
    defaults.env = env;
    defaults.instance_id = "i";
    return defaults;
}

static void must_be_same(const struct fan_event *a, const struct fan_event *b)
{
    must(fan_event_size(a) == fan_event_size(b) && memcmp(a, b, fan_event_size(a)) == 0);
}

static void try_json(struct fan_str text, const struct fan_event_defaults *defaults)
{
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    options.defaults = defaults;
    struct fan_event *event;
    struct fan_event *again;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_event_from_json(text, &options, &event, &error) != FAN_OK) {
        must(error.status == FAN_INVALID && error.message[0] != '\0');
        return;
    }
    struct fan_text out = FAN_TEXT_INIT;
    must(fan_event_to_json(event, NULL, 0, &out) == FAN_OK);
    struct fan_str written = { out.data, out.size };
    must(fan_event_from_json(written, &options, &again, NULL) == FAN_OK);
    must_be_same(event, again);
    fan_event_free(again, defaults->env);

    const struct fan_event *parsed;
    must(fan_event_parse(event, fan_event_size(event), &parsed) == FAN_OK);
    must(fan_event_to_cloudevent_json(event, FAN_JSON_ONE_LINE, &out) == FAN_OK);
    written = (struct fan_str){ out.data, out.size };
    must(fan_event_from_cloudevent_json(written, defaults, &again, NULL) == FAN_OK);
    fan_event_free(again, defaults->env);
    fan_event_free(event, defaults->env);
    fan_text_deinit(&out);
}

static void try_batches(struct fan_str text, const struct fan_event_defaults *defaults)
{
    struct fan_json_options options = FAN_JSON_OPTIONS_INIT;
    options.defaults = defaults;
    options.accept_read_only = true;
    struct fan_batch *batch;
    must(fan_batch_new(NULL, &batch) == FAN_OK);
    if (fan_events_from_json(text, &options, batch, NULL) != FAN_OK)
        must(fan_batch_count(batch) == 0);
    fan_batch_clear(batch);
    if (fan_events_from_cloudevent_json(text, defaults, batch, NULL) != FAN_OK)
        must(fan_batch_count(batch) == 0);
    fan_batch_free(batch);
}

static void try_cloudevent(struct fan_str text, const struct fan_event_defaults *defaults)
{
    struct fan_event *event;
    struct fan_event *again;
    struct fan_error error = FAN_ERROR_INIT;
    if (fan_event_from_cloudevent_json(text, defaults, &event, &error) != FAN_OK) {
        must(error.status == FAN_INVALID && error.message[0] != '\0');
        return;
    }
    struct fan_text out = FAN_TEXT_INIT;
    must(fan_event_to_cloudevent_json(event, 0, &out) == FAN_OK);
    struct fan_str written = { out.data, out.size };
    must(fan_event_from_cloudevent_json(written, defaults, &again, NULL) == FAN_OK);
    must_be_same(event, again);
    fan_event_free(again, defaults->env);

    struct fan_cloudevent *parts;
    must(fan_event_to_cloudevent(event, NULL, &parts) == FAN_OK);
    must(fan_event_from_cloudevent(parts, defaults, &again, NULL) == FAN_OK);
    must(strcmp(fan_event_id(event), fan_event_id(again)) == 0);
    fan_cloudevent_free(parts, NULL);
    fan_event_free(again, defaults->env);
    fan_event_free(event, defaults->env);
    fan_text_deinit(&out);
}

/* A parsed block has one possible form: writing its draft must give the same bytes. */
static void use_block(const struct fan_event *event)
{
    struct fan_event_draft draft;
    fan_event_to_draft(event, &draft);
    size_t size = fan__event_draft_size(&draft);
    must(size == fan_event_size(event));
    void *again = malloc(size);
    must(again != NULL);
    must(fan__event_write(&draft, fan_event_seq(event), again) == size);
    must(memcmp(again, event, size) == 0);
    free(again);
    struct fan_text out = FAN_TEXT_INIT;
    must(fan_event_to_json(event, NULL, FAN_JSON_ONE_LINE, &out) == FAN_OK);
    must(fan_event_to_cloudevent_json(event, 0, &out) == FAN_OK);
    fan_text_deinit(&out);
}

static void try_block(const uint8_t *data, size_t size)
{
    const struct fan_event *event;
    size &= ~(size_t)7;
    void *block = malloc(size + 8);
    must(block != NULL);
    memcpy(block, data, size);
    if (fan_event_parse(block, size, &event) == FAN_OK)
        use_block(event);
    /* As a forger would: magic, size and check fit whatever the rest is. */
    struct fan_event_draft draft = { FAN_EVENT_DRAFT_SIZE, .type = "a", .id = "a" };
    size_t head = fan__event_draft_size(&draft);
    if (size >= head) {
        void *model = malloc(head);
        must(model != NULL && fan__event_write(&draft, 0, model) == head);
        memcpy(block, model, sizeof(uint32_t));
        free(model);
        uint32_t size32 = (uint32_t)size;
        memcpy((char *)block + sizeof(uint32_t), &size32, sizeof(size32));
        fan__event_forge_check(block);
        if (fan_event_parse(block, size, &event) == FAN_OK)
            use_block(event);
    }
    free(block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct fan_env env;
    struct fan_event_defaults defaults = fixed_defaults(&env);
    struct fan_str text = { (const char *)data + 1, size - 1 };
    switch (data[0]) {
    case 'j':
        try_json(text, &defaults);
        break;
    case 'a':
        try_batches(text, &defaults);
        break;
    case 'c':
        try_cloudevent(text, &defaults);
        break;
    default:
        try_block(data + 1, size - 1);
    }
    return 0;
}
