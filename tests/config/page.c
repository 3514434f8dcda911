/* Writes the tables of docs/config.md, one a section, from the table of keys. */
#include "config/key.h"

#include <stdio.h>
#include <string.h>

/* A | ends a cell of a table. */
static void put_cell(const char *text)
{
    for (; *text; text++)
        printf(*text == '|' ? "\\|" : "%c", *text);
}

static void put_name(const struct fan__key *key)
{
    const char *word = strrchr(key->path, '.') + 1;
    printf("| `%s`", word);
    for (const char *at = key->others; at;) {
        int size = (int)strcspn(at, "|");
        printf(", `%.*s`", size, at);
        at = at[size] ? at + size + 1 : NULL;
    }
}

static void put_default(const struct fan__key *key)
{
    const char *quote = key->standard ? "`" : "";
    const char *text = fan__key_default(key);
    if (key->standard && !*key->standard)
        text = "\"\"";
    printf(" | %s", quote);
    put_cell(text);
    printf("%s", quote);
}

static void put_key(const struct fan__key *key)
{
    char expected[FAN__KEY_WORDS_SIZE];
    char flag[FAN__KEY_NAME_SIZE];
    fan__key_expected(key, expected);
    fan__key_flag(key, flag);
    put_name(key);
    put_default(key);
    printf(" | ");
    put_cell(expected);
    if (key->unit && key->type == FAN__KEY_DURATION)
        printf("; a number alone is of %s", key->unit);
    printf(" | `--%s` | %s | %s |\n", flag, key->reloads ? "yes" : "no", key->help);
}

int main(void)
{
    for (size_t i = 0; i < fan__section_count; i++) {
        printf("%s### %s\n\n%s\n\n", i > 0 ? "\n" : "", fan__sections[i].path,
               fan__sections[i].help);
        printf("| key | default | value | flag | on SIGHUP | |\n|---|---|---|---|---|---|\n");
        for (size_t j = 0; j < fan__key_count; j++)
            if (fan__key_section(&fan__keys[j]) == (int)i)
                put_key(&fan__keys[j]);
    }
    return 0;
}
