/* The one file that knows libfyaml. Its diagnostics are collected, and never printed. */
#include "config/yaml.h"

#include <libfyaml.h>
#include <string.h>

enum fan_status fan__yaml_init(struct fan__yaml *yaml, const char *name, const char *text,
                               size_t size, struct fan__problems *problems)
{
    *yaml = (struct fan__yaml){
        .problems = problems, .name = name, .source = text, .source_size = size, .ended = size == 0
    };
    if (size == 0)
        return FAN_OK;
    struct fy_diag_cfg diag_options;
    fy_diag_cfg_default(&diag_options);
    diag_options.fp = NULL;
    diag_options.colorize = false;
    yaml->diag = fy_diag_create(&diag_options);
    if (!yaml->diag)
        return FAN_NO_MEMORY;
    fy_diag_set_collect_errors(yaml->diag, true);
    struct fy_parse_cfg options = { .search_path = "",
                                    .flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG |
                                             FYPCF_DEFAULT_VERSION_1_2 | FYPCF_JSON_NONE,
                                    .diag = yaml->diag };
    yaml->parser = fy_parser_create(&options);
    if (!yaml->parser || fy_parser_set_string(yaml->parser, text, size) != 0) {
        fan__yaml_deinit(yaml);
        return FAN_NO_MEMORY;
    }
    return FAN_OK;
}

static void release_event(struct fan__yaml *yaml)
{
    if (yaml->event)
        fy_parser_event_free(yaml->parser, yaml->event);
    yaml->event = NULL;
}

void fan__yaml_deinit(struct fan__yaml *yaml)
{
    release_event(yaml);
    if (yaml->parser)
        fy_parser_destroy(yaml->parser);
    if (yaml->diag)
        fy_diag_destroy(yaml->diag);
    yaml->parser = NULL;
    yaml->diag = NULL;
}

static enum fan__yaml_type end(struct fan__yaml *yaml)
{
    yaml->ended = true;
    yaml->type = FAN__YAML_END;
    return yaml->type;
}

static enum fan__yaml_type refuse(struct fan__yaml *yaml, const char *what)
{
    fan__problem(yaml->problems, &yaml->place, FAN_INVALID, "", "%s", what);
    return end(yaml);
}

/* The parser gave nothing: the text has ended, or libfyaml tells why it cannot go on. */
static enum fan__yaml_type finish(struct fan__yaml *yaml)
{
    void *at = NULL;
    struct fy_diag_error *error = fy_diag_errors_iterate(yaml->diag, &at);
    if (error) {
        if (error->line > 0 && error->column > 0) {
            yaml->place.line = (unsigned)error->line;
            yaml->place.column = (unsigned)error->column;
        }
        fan__problem(yaml->problems, &yaml->place, FAN_INVALID, "", "no YAML: %s", error->msg);
    } else if (!yaml->complete) {
        fan__problem(yaml->problems, &yaml->place, FAN_INVALID, "", "cannot be read to its end");
    }
    return end(yaml);
}

static bool is_null(const char *text, size_t size)
{
    static const char *const spellings[] = { "", "~", "null", "Null", "NULL" };
    for (size_t i = 0; i < sizeof(spellings) / sizeof(*spellings); i++)
        if (strlen(spellings[i]) == size && memcmp(spellings[i], text, size) == 0)
            return true;
    return false;
}

/* libfyaml 0.7 makes something else of two escaped quotes in a row, so that nobody may use them. */
static bool has_quotes_in_a_row(const struct fan__yaml *yaml, struct fy_token *token)
{
    const struct fy_mark *first = fy_token_start_mark(token);
    const struct fy_mark *end = fy_token_end_mark(token);
    return first && end && first->input_pos <= end->input_pos &&
           end->input_pos <= yaml->source_size &&
           memmem(yaml->source + first->input_pos, end->input_pos - first->input_pos, "''''", 4);
}

static enum fan__yaml_type take_scalar(struct fan__yaml *yaml)
{
    struct fy_token *token = yaml->event->scalar.value;
    enum fy_scalar_style style = token ? fy_scalar_token_get_style(token) : FYSS_PLAIN;
    /* libfyaml's mark stands behind the quote. */
    if (style == FYSS_SINGLE_QUOTED || style == FYSS_DOUBLE_QUOTED)
        yaml->place.column--;
    if (style == FYSS_SINGLE_QUOTED && has_quotes_in_a_row(yaml, token))
        return refuse(yaml, "two quotes in a row within single quotes; use double quotes");
    const char *text = token ? fy_token_get_text(token, &yaml->size) : NULL;
    if (!text)
        yaml->size = 0;
    yaml->text = text ? text : "";
    yaml->nothing = style == FYSS_PLAIN && is_null(yaml->text, yaml->size);
    if (memchr(yaml->text, '\0', yaml->size))
        return refuse(yaml, "a NUL has no place in a configuration");
    yaml->type = FAN__YAML_SCALAR;
    return yaml->type;
}

static enum fan__yaml_type go_in(struct fan__yaml *yaml, enum fan__yaml_type type)
{
    if (++yaml->depth > FAN__YAML_DEPTH_MAX)
        return refuse(yaml, "too deep: a configuration has at most 32 levels");
    yaml->type = type;
    return type;
}

static enum fan__yaml_type go_out(struct fan__yaml *yaml, enum fan__yaml_type type)
{
    yaml->depth--;
    yaml->type = type;
    return type;
}

/* Anchors and tags, which none of our values needs. */
static bool is_adorned(const struct fy_event *event)
{
    switch (event->type) {
    case FYET_SCALAR:
        return event->scalar.anchor || event->scalar.tag;
    case FYET_MAPPING_START:
        return event->mapping_start.anchor || event->mapping_start.tag;
    case FYET_SEQUENCE_START:
        return event->sequence_start.anchor || event->sequence_start.tag;
    default:
        return event->type == FYET_ALIAS;
    }
}

enum fan__yaml_type fan__yaml_next(struct fan__yaml *yaml)
{
    while (!yaml->ended) {
        release_event(yaml);
        yaml->event = fy_parser_parse(yaml->parser);
        if (!yaml->event)
            return finish(yaml);
        const struct fy_mark *mark = fy_event_start_mark(yaml->event);
        yaml->place.source = FAN_CONFIG_FILE;
        yaml->place.name = yaml->name;
        if (mark) {
            yaml->place.line = (unsigned)mark->line + 1;
            yaml->place.column = (unsigned)mark->column + 1;
        }
        if (is_adorned(yaml->event))
            return refuse(yaml, "anchors, aliases and tags have no place in a configuration");
        switch (yaml->event->type) {
        case FYET_SCALAR:
            return take_scalar(yaml);
        case FYET_MAPPING_START:
            return go_in(yaml, FAN__YAML_MAP);
        case FYET_MAPPING_END:
            return go_out(yaml, FAN__YAML_MAP_END);
        case FYET_SEQUENCE_START:
            return go_in(yaml, FAN__YAML_LIST);
        case FYET_SEQUENCE_END:
            return go_out(yaml, FAN__YAML_LIST_END);
        case FYET_DOCUMENT_START:
            if (++yaml->documents > 1)
                return refuse(yaml, "a second document; a configuration is one");
            break;
        case FYET_STREAM_END:
            yaml->complete = true;
            break;
        default:
            break;
        }
    }
    return end(yaml);
}

void fan__yaml_skip(struct fan__yaml *yaml)
{
    unsigned depth = yaml->depth;
    if (yaml->type != FAN__YAML_MAP && yaml->type != FAN__YAML_LIST)
        return;
    while (yaml->depth >= depth && fan__yaml_next(yaml) != FAN__YAML_END)
        ;
}
