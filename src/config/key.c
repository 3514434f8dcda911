/* The table of keys, and what follows from it: names, words, the nearest key to a wrong one. */
#include "config/key.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MS UINT64_C(1)
#define S (1000 * MS)
#define MINUTE (60 * S)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define YEARS_100 (36525 * DAY)
#define TIB (UINT64_C(1) << 40)

const struct fan__section fan__sections[] = {
    { "server", "What fanfared serves, and where; other programs do not look at it." },
    { "event_broker",
      "The broker: the default broker, and that of fanfared, which runs no handlers itself." },
    { "event_broker.retry_policy", "How often, and when, an event comes again to a handler that "
                                   "asked for it; not for fanfared, whose members decide." },
    { "event_broker.retention", "What is removed from the log; only what is finished goes." },
    { "event_broker.redis", "The provider `redis`." },
    { "event_broker.nats", "The provider `nats`." },
    { "event_broker.database", "The provider `database`: SQLite or PostgreSQL, by its URI." },
};
const size_t fan__section_count = sizeof(fan__sections) / sizeof(*fan__sections);

const struct fan__key fan__keys[] = {
    { .path = "server.listen",
      .type = FAN__KEY_TEXT,
      .standard = "127.0.0.1:8080",
      .min = 1,
      .max = 255,
      .help = "Where to listen, as HOST:PORT, on loopback alone; port 0 takes a free one." },
    { .path = "server.store",
      .type = FAN__KEY_URI,
      .none = "what event_broker says, else sqlite:fanfare.db",
      .min = 1,
      .max = 4096,
      .help = "The log, by URI (docs/stores.md); it wins over event_broker.provider." },
    { .path = "server.loops",
      .type = FAN__KEY_NUMBER,
      .none = "one a core",
      .min = 1,
      .max = 64,
      .help = "Threads that serve." },
    { .path = "server.connections",
      .type = FAN__KEY_NUMBER,
      .standard = "10000",
      .min = 1,
      .max = 1000000,
      .reloads = true,
      .help = "The most connections at once; above it, 503." },
    { .path = "server.keep_alive",
      .type = FAN__KEY_DURATION,
      .standard = "15s",
      .unit = "s",
      .min = S,
      .max = HOUR,
      .reloads = true,
      .help = "An idle stream is sent a comment after it." },
    { .path = "server.log_level",
      .type = FAN__KEY_CHOICE,
      .standard = "warning",
      .choices = "debug|info|warning|error",
      .reloads = true,
      .help = "The least of what is written to standard error." },
    { .path = "event_broker.enabled",
      .type = FAN__KEY_FLAG,
      .standard = "false",
      .help = "Whether there is a default broker; fanfared always has one." },
    { .path = "event_broker.provider",
      .type = FAN__KEY_CHOICE,
      .standard = "memory",
      .choices = "memory|redis|nats|database",
      .help = "What keeps the log." },
    { .path = "event_broker.mode",
      .type = FAN__KEY_CHOICE,
      .standard = "async",
      .choices = "async|sync",
      .help = "Whether publishing waits for the first verdicts of this process's handlers (sync); "
              "not for fanfared." },
    { .path = "event_broker.worker_count",
      .type = FAN__KEY_NUMBER,
      .standard = "10",
      .min = 1,
      .max = 1000,
      .help = "Threads that run durable handlers; not for fanfared." },
    { .path = "event_broker.buffer_size",
      .type = FAN__KEY_NUMBER,
      .standard = "1000",
      .min = 1,
      .max = 1000000,
      .help = "What is claimed from the log ahead of its turn; the rest waits there. Not for "
              "fanfared." },
    { .path = "event_broker.instance_id",
      .type = FAN__KEY_TEXT,
      .none = "one that is unique to the process",
      .min = 1,
      .max = 255,
      .help = "Stamped on events." },
    { .path = "event_broker.retry_policy.max_retries",
      .type = FAN__KEY_NUMBER,
      .standard = "3",
      .max = 1000,
      .help = "After so many the event is a dead letter." },
    { .path = "event_broker.retry_policy.initial_delay",
      .others = "initial_interval",
      .type = FAN__KEY_DURATION,
      .standard = "1s",
      .min = MS,
      .max = DAY,
      .help = "Before the first retry." },
    { .path = "event_broker.retry_policy.max_delay",
      .others = "max_interval",
      .type = FAN__KEY_DURATION,
      .standard = "30s",
      .min = MS,
      .max = DAY,
      .help = "No retry waits longer." },
    { .path = "event_broker.retry_policy.factor",
      .others = "multiplier|backoff_factor",
      .type = FAN__KEY_FACTOR,
      .standard = "2",
      .min = 1,
      .max = 100,
      .help = "By which the delay grows from one retry to the next." },
    { .path = "event_broker.retry_policy.jitter",
      .type = FAN__KEY_NUMBER,
      .standard = "0%",
      .unit = "%",
      .max = 100,
      .help = "How far a delay may differ by chance, so that not all come at once." },
    { .path = "event_broker.retention.age",
      .type = FAN__KEY_DURATION,
      .none = "no bound",
      .min = S,
      .max = YEARS_100,
      .reloads = true,
      .help = "Older events go." },
    { .path = "event_broker.retention.count",
      .type = FAN__KEY_NUMBER,
      .none = "no bound",
      .min = 1,
      .max = INT64_MAX,
      .reloads = true,
      .help = "The oldest events above this number go." },
    { .path = "event_broker.retention.bytes",
      .type = FAN__KEY_SIZE,
      .none = "no bound",
      .min = 1,
      .max = 1024 * TIB,
      .reloads = true,
      .help = "The oldest events go when the log holds more." },
    { .path = "event_broker.retention.owed_age",
      .type = FAN__KEY_DURATION,
      .none = "no bound",
      .min = S,
      .max = YEARS_100,
      .reloads = true,
      .help = "What is owed to a group for longer becomes a dead letter, `expired`." },
    { .path = "event_broker.retention.dead_age",
      .type = FAN__KEY_DURATION,
      .none = "no bound",
      .min = S,
      .max = YEARS_100,
      .reloads = true,
      .help = "Dead letters that are older are discarded." },
    { .path = "event_broker.retention.group_age",
      .type = FAN__KEY_DURATION,
      .none = "no bound",
      .min = 2 * MINUTE,
      .max = YEARS_100,
      .reloads = true,
      .help = "A group that nobody joined or worked on for longer, while this ran, expires." },
    { .path = "event_broker.retention.interval",
      .type = FAN__KEY_DURATION,
      .standard = "1m",
      .min = 100 * MS,
      .max = DAY,
      .reloads = true,
      .help = "How often retention looks." },
    { .path = "event_broker.redis.host",
      .type = FAN__KEY_TEXT,
      .standard = "localhost",
      .min = 1,
      .max = 255,
      .help = "Where Redis listens." },
    { .path = "event_broker.redis.port",
      .type = FAN__KEY_NUMBER,
      .standard = "6379",
      .min = 1,
      .max = 65535,
      .help = "And on which port." },
    { .path = "event_broker.redis.user",
      .others = "username",
      .type = FAN__KEY_TEXT,
      .standard = "",
      .max = 255,
      .help = "Who logs in." },
    { .path = "event_broker.redis.password",
      .type = FAN__KEY_TEXT,
      .standard = "",
      .max = 1024,
      .secret = true,
      .help = "With which password." },
    { .path = "event_broker.redis.db",
      .others = "database",
      .type = FAN__KEY_NUMBER,
      .standard = "0",
      .max = 65535,
      .help = "The number of the database." },
    { .path = "event_broker.redis.stream_name",
      .others = "stream",
      .type = FAN__KEY_TEXT,
      .standard = "fanfare:events",
      .min = 1,
      .max = 255,
      .help = "The stream that is the log." },
    { .path = "event_broker.redis.consumer_group",
      .type = FAN__KEY_TEXT,
      .standard = "fanfare",
      .min = 1,
      .max = 255,
      .help = "What names of consumer groups begin with." },
    { .path = "event_broker.redis.max_len",
      .type = FAN__KEY_NUMBER,
      .none = "no bound",
      .max = INT64_MAX,
      .help = "How many events the stream keeps; 0 is no bound." },
    { .path = "event_broker.nats.url",
      .others = "uri",
      .type = FAN__KEY_URI,
      .standard = "nats://localhost:4222",
      .min = 1,
      .max = 4096,
      .help = "Where NATS listens." },
    { .path = "event_broker.nats.stream_name",
      .others = "stream",
      .type = FAN__KEY_TEXT,
      .standard = "FANFARE",
      .min = 1,
      .max = 255,
      .help = "The stream that is the log." },
    { .path = "event_broker.nats.subjects",
      .type = FAN__KEY_LIST,
      .standard = "events.>",
      .min = 1,
      .max = 255,
      .help = "What the stream takes." },
    { .path = "event_broker.nats.storage",
      .type = FAN__KEY_CHOICE,
      .standard = "file",
      .choices = "file|memory",
      .help = "Where NATS keeps the stream." },
    { .path = "event_broker.nats.max_age",
      .type = FAN__KEY_DURATION,
      .none = "no bound",
      .max = YEARS_100,
      .help = "How long the stream keeps an event; 0 is no bound." },
    { .path = "event_broker.database.uri",
      .others = "url",
      .type = FAN__KEY_URI,
      .none = "must be given for this provider",
      .min = 1,
      .max = 4096,
      .help = "`sqlite:PATH` or `postgres://USER:PASSWORD@HOST/NAME`." },
    { .path = "event_broker.database.table_name",
      .type = FAN__KEY_TEXT,
      .none = "the provider's own",
      .min = 1,
      .max = 63,
      .help = "The table of the events (PostgreSQL)." },
    { .path = "event_broker.database.channel",
      .type = FAN__KEY_TEXT,
      .none = "the provider's own",
      .min = 1,
      .max = 63,
      .help = "The channel on which instances tell each other (PostgreSQL)." },
    { .path = "event_broker.database.poll_interval",
      .type = FAN__KEY_DURATION,
      .none = "the provider's own",
      .min = MS,
      .max = HOUR,
      .help = "How often other processes' events are looked for where nobody tells." },
};
const size_t fan__key_count = sizeof(fan__keys) / sizeof(*fan__keys);

int fan__word_index(const char *words, const char *word, size_t size)
{
    for (int index = 0; words; index++) {
        size_t length = strcspn(words, "|");
        if (length == size && memcmp(words, word, size) == 0)
            return index;
        words = words[length] ? words + length + 1 : NULL;
    }
    return -1;
}

/* Where the last word of a path begins. */
static const char *last_word(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot ? dot + 1 : path;
}

int fan__key_find(const char *path)
{
    const char *word = last_word(path);
    for (size_t i = 0; i < fan__key_count; i++) {
        const struct fan__key *key = &fan__keys[i];
        if (strcmp(key->path, path) == 0)
            return (int)i;
        size_t parent = (size_t)(last_word(key->path) - key->path);
        if (key->others && parent == (size_t)(word - path) &&
            memcmp(key->path, path, parent) == 0 &&
            fan__word_index(key->others, word, strlen(word)) >= 0)
            return (int)i;
    }
    return -1;
}

int fan__section_find(const char *path)
{
    for (size_t i = 0; i < fan__section_count; i++)
        if (strcmp(fan__sections[i].path, path) == 0)
            return (int)i;
    return -1;
}

int fan__key_section(const struct fan__key *key)
{
    char path[FAN__KEY_NAME_SIZE];
    snprintf(path, sizeof(path), "%.*s", (int)(last_word(key->path) - key->path - 1), key->path);
    return fan__section_find(path);
}

void fan__key_path(const struct fan__key *key, char name[FAN__KEY_NAME_SIZE])
{
    snprintf(name, FAN__KEY_NAME_SIZE, "%s", key->path);
}

/* Whatever the locale makes of letters. */
static char lower(char letter)
{
    return letter >= 'A' && letter <= 'Z' ? (char)(letter - 'A' + 'a') : letter;
}

void fan__key_variable(const struct fan__key *key, char name[FAN__KEY_NAME_SIZE])
{
    snprintf(name, FAN__KEY_NAME_SIZE, "FANFARE_%s", key->path);
    for (char *at = name; *at; at++)
        *at = *at == '.' ? '_' : *at >= 'a' && *at <= 'z' ? (char)(*at - 'a' + 'A') : *at;
}

void fan__key_flag(const struct fan__key *key, char name[FAN__KEY_NAME_SIZE])
{
    snprintf(name, FAN__KEY_NAME_SIZE, "%s", strchr(key->path, '.') + 1);
    for (char *at = name; *at; at++)
        if (*at == '.' || *at == '_')
            *at = '-';
}

const char *fan__key_default(const struct fan__key *key)
{
    return key->standard ? key->standard : key->none ? key->none : "";
}

/* "1d", in the largest unit that leaves nothing over. */
static void duration_words(uint64_t ms, char words[FAN__KEY_NAME_SIZE])
{
    static const struct {
        uint64_t ms;
        const char *name;
    } units[] = { { DAY, "d" }, { HOUR, "h" }, { MINUTE, "m" }, { S, "s" }, { MS, "ms" } };
    size_t i = 0;
    while (ms % units[i].ms != 0)
        i++;
    snprintf(words, FAN__KEY_NAME_SIZE, "%" PRIu64 "%s", ms / units[i].ms, units[i].name);
}

static void choice_words(const char *choices, char words[FAN__KEY_WORDS_SIZE])
{
    size_t size = (size_t)snprintf(words, FAN__KEY_WORDS_SIZE, "one of ");
    for (const char *at = choices; *at && size + 3 < FAN__KEY_WORDS_SIZE; at++) {
        words[size++] = *at == '|' ? ',' : *at;
        if (*at == '|')
            words[size++] = ' ';
    }
    words[size] = '\0';
}

void fan__key_expected(const struct fan__key *key, char words[FAN__KEY_WORDS_SIZE])
{
    char least[FAN__KEY_NAME_SIZE];
    char most[FAN__KEY_NAME_SIZE];
    switch (key->type) {
    case FAN__KEY_FLAG:
        snprintf(words, FAN__KEY_WORDS_SIZE, "true or false");
        break;
    case FAN__KEY_NUMBER:
        snprintf(words, FAN__KEY_WORDS_SIZE, "a number from %" PRIu64 "%s to %" PRIu64 "%s",
                 key->min, key->unit ? key->unit : "", key->max, key->unit ? key->unit : "");
        break;
    case FAN__KEY_FACTOR:
        snprintf(words, FAN__KEY_WORDS_SIZE,
                 "a number from %" PRIu64 " to %" PRIu64 ", such as 2 or 1.5", key->min, key->max);
        break;
    case FAN__KEY_DURATION:
        duration_words(key->min, least);
        duration_words(key->max, most);
        snprintf(words, FAN__KEY_WORDS_SIZE,
                 "a duration from %s to %s, such as 250ms, 30s, 5m, 1h30m or 7d",
                 key->min ? least : "0", most);
        break;
    case FAN__KEY_SIZE:
        snprintf(words, FAN__KEY_WORDS_SIZE,
                 "a size from %" PRIu64 " byte to %" PRIu64 "TiB, such as 64KiB, 1MiB or 10GiB",
                 key->min, key->max / TIB);
        break;
    case FAN__KEY_CHOICE:
        choice_words(key->choices, words);
        break;
    case FAN__KEY_LIST:
        snprintf(words, FAN__KEY_WORDS_SIZE, "a list of texts of %" PRIu64 " to %" PRIu64 " bytes",
                 key->min, key->max);
        break;
    default:
        snprintf(words, FAN__KEY_WORDS_SIZE, "%s of %" PRIu64 " to %" PRIu64 " bytes",
                 key->type == FAN__KEY_URI ? "a URI" : "text", key->min, key->max);
        break;
    }
}

/* The distance of Levenshtein, twice, where a wrong case is half a change; over 63 bytes is cut. */
static unsigned distance(const char *one, const char *two)
{
    unsigned row[FAN__KEY_NAME_SIZE];
    size_t width = strnlen(two, FAN__KEY_NAME_SIZE - 1);
    for (size_t j = 0; j <= width; j++)
        row[j] = 2 * (unsigned)j;
    for (size_t i = 0; one[i] && i < FAN__KEY_NAME_SIZE - 1; i++) {
        unsigned diagonal = row[0];
        row[0] += 2;
        for (size_t j = 0; j < width; j++) {
            unsigned cost = one[i] == two[j] ? 0 : lower(one[i]) == lower(two[j]) ? 1 : 2;
            unsigned best = diagonal + cost;
            diagonal = row[j + 1];
            if (row[j] + 2 < best)
                best = row[j] + 2;
            if (diagonal + 2 < best)
                best = diagonal + 2;
            row[j + 1] = best;
        }
    }
    return row[width];
}

void fan__key_nearest(const char *written, fan__key_name naming, char name[FAN__KEY_NAME_SIZE])
{
    unsigned least = UINT32_MAX;
    for (size_t i = 0; naming == fan__key_path && i < fan__section_count; i++) {
        unsigned far = distance(written, fan__sections[i].path);
        /* The section that it stands in is no advice. */
        size_t size = strlen(fan__sections[i].path);
        bool inside = strncmp(written, fan__sections[i].path, size) == 0 && written[size] == '.';
        if (!inside && far < least) {
            least = far;
            snprintf(name, FAN__KEY_NAME_SIZE, "%s", fan__sections[i].path);
        }
    }
    for (size_t i = 0; i < fan__key_count; i++) {
        char known[FAN__KEY_NAME_SIZE];
        naming(&fan__keys[i], known);
        unsigned far = distance(written, known);
        /* A key in the wrong section is nearer than one that merely looks like it. */
        if (naming == fan__key_path && strcmp(last_word(written), last_word(known)) == 0)
            far = far > 8 ? 8 : far;
        if (far < least) {
            least = far;
            snprintf(name, FAN__KEY_NAME_SIZE, "%s", known);
        }
    }
}
