/*
 * The one table of the configuration: every key that a file, the environment or a flag may set.
 * The parser, `fanfared --help` and docs/config.md are made from it.
 *
 * A key's environment variable and flag follow from its path: `server.keep_alive` is
 * FANFARE_SERVER_KEEP_ALIVE and --keep-alive, `event_broker.redis.db` is --redis-db.
 */
#ifndef FAN_CONFIG_KEY_H
#define FAN_CONFIG_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAN__KEY_NAME_SIZE 64
#define FAN__KEY_WORDS_SIZE 256

enum fan__key_type {
    FAN__KEY_FLAG,
    FAN__KEY_NUMBER,
    FAN__KEY_FACTOR,
    FAN__KEY_DURATION, /* milliseconds */
    FAN__KEY_SIZE,     /* bytes */
    FAN__KEY_CHOICE,   /* the index into choices */
    FAN__KEY_TEXT,
    FAN__KEY_URI, /* shown without its secret */
    FAN__KEY_LIST,
};

/*
 * others    further spellings of the last word, with | between them; NULL for none
 * standard  the default as it would be written; NULL for none
 * none      what it means when there is none
 * unit      of a number without one; NULL: a duration must carry its own
 * min, max  of the number; of text, its bytes
 * choices   with | between them
 * secret    never shown
 * reloads   SIGHUP changes it in a running fanfared
 */
struct fan__key {
    const char *path;
    const char *others;
    enum fan__key_type type;
    const char *standard;
    const char *none;
    const char *unit;
    uint64_t min;
    uint64_t max;
    const char *choices;
    bool secret;
    bool reloads;
    const char *help;
};

struct fan__section {
    const char *path;
    const char *help;
};

extern const struct fan__key fan__keys[];
extern const size_t fan__key_count;
extern const struct fan__section fan__sections[];
extern const size_t fan__section_count;

/* Gives the index of a key or section, also by another spelling; -1 for none. */
int fan__key_find(const char *path);
int fan__section_find(const char *path);

/* The section of a key, by index: the one with the longest path. */
int fan__key_section(const struct fan__key *key);

void fan__key_variable(const struct fan__key *key, char name[FAN__KEY_NAME_SIZE]);
/* Without the two hyphens. */
void fan__key_flag(const struct fan__key *key, char name[FAN__KEY_NAME_SIZE]);

/* "a number from 1 to 256" */
void fan__key_expected(const struct fan__key *key, char words[FAN__KEY_WORDS_SIZE]);

/*
 * The text of the default, or what it means that there is none; "" when there is nothing to say.
 */
const char *fan__key_default(const struct fan__key *key);

/* How a name of a key is written: its path, its variable or its flag. */
typedef void (*fan__key_name)(const struct fan__key *key, char name[FAN__KEY_NAME_SIZE]);

void fan__key_path(const struct fan__key *key, char name[FAN__KEY_NAME_SIZE]);

/* Writes the name of the key (of paths: or section) that is nearest to what was written. */
void fan__key_nearest(const char *written, fan__key_name naming, char name[FAN__KEY_NAME_SIZE]);

/* How many words stand between the | of a list, and whether `word` is one; -1 when it is not. */
int fan__word_index(const char *words, const char *word, size_t size);

#endif
