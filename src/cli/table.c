/* See table.h. */
#include "cli/table.h"

#include "cli/say.h"
#include "cli/slice.h"

#include <jansson.h>
#include <string.h>

void fan__add_value(struct fan__text *text, struct fan_str value)
{
    json_t *string = NULL;
    if (value.size > 0 && value.data[0] == '"')
        string = json_loadb(value.data, value.size, JSON_DECODE_ANY, NULL);
    if (string)
        value = (struct fan_str){ json_string_value(string), json_string_length(string) };
    fan__text_add_shown(text, value);
    json_decref(string);
}

static const char *colour_of(const struct fan__column *column)
{
    return column->colour ? fan__colour(column->colour) : "";
}

static const char *colour_end(const struct fan__column *column)
{
    return column->colour ? fan__colour("off") : "";
}

static void end_row(struct fan__text *text)
{
    while (text->size > 0 && text->data[text->size - 1] == ' ')
        text->data[--text->size] = '\0';
    fan__text_add_text(text, "\n");
}

void fan__add_heading(struct fan__text *text, const struct fan__column *columns)
{
    fan__text_add_text(text, fan__colour("bold"));
    for (; columns->name; columns++)
        fan__text_add_format(text, "%-*s%s", columns->width, columns->heading,
                             columns[1].name ? "  " : "");
    fan__text_add_text(text, fan__colour("off"));
    end_row(text);
}

void fan__add_row(struct fan__text *text, const struct fan__column *columns, struct fan_str object)
{
    for (; columns->name; columns++) {
        struct fan_str value = { "", 0 };
        struct fan__text words = { NULL, 0, 0 };
        fan__text_add_text(&words, "");
        if (fan__slice_find(object, columns->name, &value) &&
            !(value.size == 4 && value.data[0] == 'n'))
            fan__add_value(&words, value);
        fan__text_add_format(text, "%s%-*s%s%s", colour_of(columns), columns->width, words.data,
                             colour_end(columns), columns[1].name ? "  " : "");
        fan__text_deinit(&words);
    }
    end_row(text);
}

bool fan__print_list(const struct fan__text *body, const char *name,
                     const struct fan__column *columns, bool json)
{
    struct fan_str list;
    struct fan_str whole = { body->data, body->size };
    if (!fan__slice_find(whole, name, &list) || list.data[0] != '[') {
        fan__say("the server's answer has no list of %s", name);
        return false;
    }
    struct fan__text text = { NULL, 0, 0 };
    if (!json)
        fan__add_heading(&text, columns);
    struct fan__slice slice = fan__slice_open(list);
    struct fan_str key;
    struct fan_str item;
    while (fan__slice_next(&slice, &key, &item)) {
        if (!json) {
            fan__add_row(&text, columns, item);
            continue;
        }
        fan__text_add_one_line(&text, item);
        fan__text_add_text(&text, "\n");
    }
    bool good = fan__print(&text);
    fan__text_deinit(&text);
    return good;
}
