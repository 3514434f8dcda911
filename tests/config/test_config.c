/* Loading a configuration: what is taken, in which order, and what is said of every mistake. */
#include <fanfare/broker.h>
#include <fanfare/config.h>
#include <fanfare/store.h>

#include "../folder.h"
#include "../test.h"
#include "config/key.h"
#include "config/open.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#define SAID_SIZE 8192
#define SECRET "hunter2"

static const char *const nothing[] = { NULL };

/* What was told: a line for each mistake, "PLACE|KEY|MESSAGE". */
struct said {
    char text[SAID_SIZE];
    unsigned count;
};

static void hear(void *context, const struct fan_config_problem *problem)
{
    struct said *said = context;
    size_t size = strlen(said->text);
    assert_int_equal(problem->size, sizeof(*problem));
    said->count++;
    snprintf(said->text + size, SAID_SIZE - size, "%s|%s|%s\n", problem->place, problem->key,
             problem->message);
}

static struct fan_config_options options_for(const char *text, struct said *said)
{
    struct fan_config_options options = FAN_CONFIG_OPTIONS_INIT;
    options.text = text;
    options.environment = nothing;
    options.problem = hear;
    options.context = said;
    *said = (struct said){ .count = 0 };
    return options;
}

static struct fan_config *load(const char *text)
{
    struct said said;
    struct fan_config_options options = options_for(text, &said);
    struct fan_config *config = NULL;
    enum fan_status status = fan_config_load(&options, &config, NULL);
    if (status != FAN_OK)
        fail_msg("%s", said.text);
    assert_int_equal(said.count, 0);
    return config;
}

/* Fails to load, and gives what was said. */
static void refuse(const struct fan_config_options *options, struct fan_error *ret_error)
{
    struct fan_config *config = NULL;
    enum fan_status status = fan_config_load(options, &config, ret_error);
    assert_int_not_equal(status, FAN_OK);
    assert_int_equal(status, ret_error->status);
    assert_null(config);
}

static struct fan_config_value get(const struct fan_config *config, const char *key)
{
    struct fan_config_value value = { .size = FAN_CONFIG_VALUE_SIZE };
    assert_ok(fan_config_get(config, key, &value));
    return value;
}

static void assert_number(const struct fan_config *config, const char *key, uint64_t number)
{
    assert_int_equal(get(config, key).number, number);
}

static void assert_text(const struct fan_config *config, const char *key, const char *text)
{
    assert_string_equal(get(config, key).text, text);
}

/* ---- The table ---- */

static void test_H15_every_key_has_a_section_and_names_of_its_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < fan__key_count; i++) {
        char flag[FAN__KEY_NAME_SIZE];
        char variable[FAN__KEY_NAME_SIZE];
        const struct fan__key *key = &fan__keys[i];
        assert_true(fan__key_section(key) >= 0);
        assert_true(strlen(key->path) + strlen("FANFARE_") < FAN__KEY_NAME_SIZE);
        assert_int_equal(fan__key_find(key->path), i);
        fan__key_flag(key, flag);
        fan__key_variable(key, variable);
        assert_string_not_equal(flag, "config");
        for (size_t j = 0; j < i; j++) {
            char other[FAN__KEY_NAME_SIZE];
            fan__key_flag(&fan__keys[j], other);
            assert_string_not_equal(flag, other);
            fan__key_variable(&fan__keys[j], other);
            assert_string_not_equal(variable, other);
        }
    }
}

/* ---- What is taken ---- */

static void test_H19_defaults(void **state)
{
    (void)state;
    static const char *const empty[] = { "",      "# nothing\n",
                                         "---\n", "event_broker:\n",
                                         "{}",    "server: ~\nevent_broker: {redis: }\n" };
    for (size_t i = 0; i < sizeof(empty) / sizeof(*empty); i++) {
        struct fan_config *config = load(empty[i]);
        assert_number(config, "event_broker.enabled", 0);
        assert_text(config, "event_broker.provider", "memory");
        assert_number(config, "event_broker.provider", 0);
        assert_text(config, "event_broker.mode", "async");
        assert_number(config, "event_broker.worker_count", 10);
        assert_number(config, "event_broker.buffer_size", 1000);
        assert_number(config, "event_broker.retry_policy.max_retries", 3);
        assert_number(config, "event_broker.retry_policy.initial_delay", 1000);
        assert_number(config, "event_broker.retry_policy.max_delay", 30000);
        assert_true(get(config, "event_broker.retry_policy.factor").factor == 2.0);
        struct fan_config_value value = get(config, "event_broker.mode");
        assert_int_equal(value.source, FAN_CONFIG_DEFAULT);
        assert_string_equal(value.place, "");
        assert_null(get(config, "event_broker.instance_id").text);
        assert_string_equal(get(config, "event_broker.instance_id").shown, "");
        fan_config_free(config);
    }
    fan_config_free(NULL);
}

static void test_H19_the_seeds_yaml_loads_as_written(void **state)
{
    (void)state;
    static const char text[] = "event_broker:\n"
                               "  enabled: true\n"
                               "  provider: redis  # memory, redis, nats, database\n"
                               "  mode: async      # sync, async\n"
                               "  worker_count: 10\n"
                               "  buffer_size: 1000\n"
                               "  instance_id: \"${HOSTNAME}\"\n"
                               "\n"
                               "  redis:\n"
                               "    stream_name: \"shop:events\"\n"
                               "    consumer_group: \"shop-workers\"\n"
                               "    host: \"localhost\"\n"
                               "    port: 6379\n"
                               "    max_len: 0\n"
                               "  nats:\n"
                               "    url: \"nats://localhost:4222\"\n"
                               "    stream_name: \"SHOP_EVENTS\"\n"
                               "    subjects: [\"events.>\", \"audit.>\"]\n"
                               "    max_age: 24h\n"
                               "  database:\n"
                               "    table_name: \"events\"\n"
                               "    channel: \"shop_events\"\n"
                               "    poll_interval: 1s\n"
                               "  retry_policy:\n"
                               "    max_retries: 3\n"
                               "    initial_delay: 1s\n"
                               "    max_delay: 30s\n"
                               "    backoff_factor: 2.0  # exponential\n";
    struct fan_config *config = load(text);
    struct utsname host;
    assert_int_equal(uname(&host), 0);
    assert_number(config, "event_broker.enabled", 1);
    assert_text(config, "event_broker.provider", "redis");
    assert_text(config, "event_broker.instance_id", host.nodename);
    assert_string_equal(get(config, "event_broker.instance_id").place, "text:7:16");
    assert_text(config, "event_broker.redis.stream_name", "shop:events");
    assert_text(config, "event_broker.redis.consumer_group", "shop-workers");
    assert_text(config, "event_broker.redis.host", "localhost");
    assert_number(config, "event_broker.redis.port", 6379);
    assert_text(config, "event_broker.nats.subjects", "events.>,audit.>");
    assert_number(config, "event_broker.nats.max_age", 86400000);
    assert_number(config, "event_broker.database.poll_interval", 1000);
    assert_true(get(config, "event_broker.retry_policy.factor").factor == 2.0);
    fan_config_free(config);
}

static void test_H15_the_last_of_file_environment_and_settings_wins(void **state)
{
    (void)state;
    static const char *const environment[] = { "FANFARE_EVENT_BROKER_WORKER_COUNT=2",
                                               "FANFARE_EVENT_BROKER_BUFFER_SIZE=2",
                                               "FANFARE_STORES=memory:", "OTHER=1", NULL };
    static const struct fan_config_setting settings[] = {
        { "event_broker.buffer_size", "--buffer-size", "4" },
        { "event_broker.buffer_size", "--buffer-size", "3" },
    };
    struct said said;
    struct fan_config_options options = options_for("event_broker:\n"
                                                    "  worker_count: 1\n"
                                                    "  buffer_size: 1\n"
                                                    "  mode: sync\n",
                                                    &said);
    options.environment = environment;
    options.settings = settings;
    options.setting_count = 2;
    struct fan_config *config;
    assert_ok(fan_config_load(&options, &config, NULL));
    struct fan_config_value mode = get(config, "event_broker.mode");
    struct fan_config_value workers = get(config, "event_broker.worker_count");
    struct fan_config_value buffer = get(config, "event_broker.buffer_size");
    assert_int_equal(mode.number, 1);
    assert_int_equal(mode.source, FAN_CONFIG_FILE);
    assert_string_equal(mode.place, "text:4:9");
    assert_int_equal(workers.number, 2);
    assert_int_equal(workers.source, FAN_CONFIG_ENVIRONMENT);
    assert_string_equal(workers.place, "FANFARE_EVENT_BROKER_WORKER_COUNT");
    assert_int_equal(buffer.number, 3);
    assert_int_equal(buffer.source, FAN_CONFIG_SETTING);
    assert_string_equal(buffer.place, "--buffer-size");
    struct fan_config_value unknown = { .size = FAN_CONFIG_VALUE_SIZE };
    assert_int_equal(fan_config_get(config, "event_broker.size", &unknown), FAN_NOT_FOUND);
    fan_config_free(config);
}

/* A key's value as written, and the number that it is. */
struct reading {
    const char *key;
    const char *text;
    uint64_t number;
};

static void test_H15_values_of_every_kind(void **state)
{
    (void)state;
    static const struct reading readings[] = {
        { "retry_policy.max_delay", "250ms", 250 },
        { "retry_policy.max_delay", "1s", 1000 },
        { "retry_policy.max_delay", "5m", 300000 },
        { "retry_policy.max_delay", "1h30m", 5400000 },
        { "retry_policy.max_delay", "1m1s1ms", 61001 },
        { "retention.age", "7d", 604800000 },
        { "retention.bytes", "1MiB", 1048576 },
        { "retention.bytes", "64KiB", 65536 },
        { "retention.bytes", "10GiB", UINT64_C(10) << 30 },
        { "retention.bytes", "2TiB", UINT64_C(2) << 40 },
        { "retention.bytes", "12", 12 },
        { "retention.bytes", "12B", 12 },
        { "retention.count", "\"10\"", 10 },
        { "retry_policy.jitter", "10%", 10 },
        { "retry_policy.jitter", "10", 10 },
        { "retry_policy.max_retries", "0", 0 },
        { "retry_policy.initial_interval", "2s", 2000 },
        { "enabled", "true", 1 },
        { "enabled", "FALSE", 0 },
        { "provider", "database", 3 },
    };
    for (size_t i = 0; i < sizeof(readings) / sizeof(*readings); i++) {
        char text[256];
        char section[64] = "";
        const char *dot = strchr(readings[i].key, '.');
        if (dot)
            snprintf(section, sizeof(section), "%.*s: {", (int)(dot - readings[i].key),
                     readings[i].key);
        snprintf(text, sizeof(text), "event_broker: {%s%s: %s%s}", section,
                 dot ? dot + 1 : readings[i].key, readings[i].text, dot ? "}" : "");
        struct fan_config *config = load(text);
        snprintf(text, sizeof(text), "event_broker.%s", readings[i].key);
        assert_number(config, text, readings[i].number);
        fan_config_free(config);
    }
    struct fan_config *config = load("event_broker: {retry_policy: {multiplier: 1.25}}");
    assert_true(get(config, "event_broker.retry_policy.factor").factor == 1.25);
    fan_config_free(config);
    config = load("event_broker: {redis: {user: 'it''s ''u!', password: \"''''\"}}");
    assert_text(config, "event_broker.redis.user", "it's 'u!");
    assert_text(config, "event_broker.redis.password", "''''");
    fan_config_free(config);
    config = load("server: {keep_alive: 3}");
    assert_number(config, "server.keep_alive", 3000);
    fan_config_free(config);
}

static void test_H15_variables_are_expanded(void **state)
{
    (void)state;
    static const char *const environment[] = { "HOSTNAME=box", "PORT=7000", "A=x",
                                               "AB=y",         "EMPTY=",    NULL };
    struct said said;
    struct fan_config_options options =
        options_for("event_broker:\n"
                    "  instance_id: \"${HOSTNAME}-${A}${AB}${EMPTY}-$${A}-$$-$5-$\"\n"
                    "  redis: {port: \"${PORT}\", password: '${EMPTY}'}\n"
                    "  nats: {subjects: ['${A}.>', b]}\n",
                    &said);
    options.environment = environment;
    struct fan_config *config;
    assert_ok(fan_config_load(&options, &config, NULL));
    assert_text(config, "event_broker.instance_id", "box-xy-${A}-$-$5-$");
    assert_number(config, "event_broker.redis.port", 7000);
    assert_text(config, "event_broker.redis.password", "");
    assert_text(config, "event_broker.nats.subjects", "x.>,b");
    fan_config_free(config);
}

/* ---- Mistakes ---- */

/* A text with one mistake, where it is, at which key, and words of the message. */
struct mistake {
    const char *text;
    const char *place;
    const char *key;
    const char *words;
};

static const struct mistake mistakes[] = {
    /* Keys. */
    { "servers: 1\n", "text:1:1", "servers", "nearest is server" },
    { "event_broker:\n  worker_cuont: 1\n", "text:2:3", "event_broker.worker_cuont",
      "nearest is event_broker.worker_count" },
    { "event_broker:\n  max_retries: 1\n", "text:2:3", "event_broker.max_retries",
      "nearest is event_broker.retry_policy.max_retries" },
    { "event_broker: {Provider: redis}\n", "text:1:16", "event_broker.Provider",
      "nearest is event_broker.provider" },
    { "server: {k: 1}\n", "text:1:10", "server.k", "nearest is server." },
    { "event_broker.mode: sync\n", "text:1:1", "event_broker.mode", "no such key" },
    { "event_broker:\n  mode: sync\n  mode: sync\n", "text:3:3", "event_broker.mode",
      "stands twice, first on line 2" },
    { "event_broker:\n  retry_policy:\n    factor: 2\n    multiplier: 2\n", "text:4:5",
      "event_broker.retry_policy.factor", "stands twice, first on line 3" },
    { "server: {}\nevent_broker: {}\nserver: {}\n", "text:3:1", "server",
      "stands twice, first on line 1" },
    { "server: {? [a] : b}\n", "text:1:12", "server", "expected a key, not a list" },
    /* Kinds. */
    { "7\n", "text:1:1", "", "expected sections" },
    { "- server\n", "text:1:1", "", "expected sections" },
    { "server: 7\n", "text:1:9", "server", "expected a section" },
    { "server: [7]\n", "text:1:9", "server", "expected a section" },
    { "server: {loops: {a: 7}}\n", "text:1:17", "server.loops",
      "a number from 1 to 64, not a sec" },
    { "server: {loops: [7]}\n", "text:1:17", "server.loops", "a number from 1 to 64, not a list" },
    { "server:\n  loops:\n", NULL, "server.loops", "a number from 1 to 64, not nothing" },
    { "event_broker: {nats: {subjects: [a, [b]]}}\n", "text:1:37", "event_broker.nats.subjects",
      "items that are texts" },
    /* Values. */
    { "server: {loops: ten}\n", "text:1:17", "server.loops", "1 to 64, not \"ten\"" },
    { "server: {loops: 65}\n", "text:1:17", "server.loops", "1 to 64, not \"65\"" },
    { "server: {loops: 0}\n", "text:1:17", "server.loops", "1 to 64, not \"0\"" },
    { "server: {loops: -1}\n", "text:1:17", "server.loops", "1 to 64, not \"-1\"" },
    { "server: {loops: +1}\n", "text:1:17", "server.loops", "1 to 64, not \"+1\"" },
    { "server: {loops: 1.0}\n", "text:1:17", "server.loops", "1 to 64, not \"1.0\"" },
    { "server: {loops: 0x4}\n", "text:1:17", "server.loops", "1 to 64, not \"0x4\"" },
    { "server: {loops: 1_0}\n", "text:1:17", "server.loops", "1 to 64, not \"1_0\"" },
    { "server: {loops: ' 1'}\n", "text:1:17", "server.loops", "1 to 64, not \" 1\"" },
    { "server: {loops: 18446744073709551617}\n", "text:1:17", "server.loops", "not \"18446" },
    { "server: {loops: true}\n", "text:1:17", "server.loops", "1 to 64, not \"true\"" },
    { "event_broker: {enabled: yes}\n", "text:1:25", "event_broker.enabled",
      "expected true or false, not \"yes\"" },
    { "event_broker: {enabled: 1}\n", "text:1:25", "event_broker.enabled", "true or false" },
    { "event_broker: {provider: kafka}\n", "text:1:26", "event_broker.provider",
      "one of memory, redis, nats, database, not \"kafka\"" },
    { "event_broker: {provider: memory|redis}\n", "text:1:26", "event_broker.provider", "one of" },
    { "event_broker: {instance_id: ''}\n", "text:1:29", "event_broker.instance_id",
      "text of 1 to 255 bytes" },
    { "event_broker: {instance_id: \"a\\nb\"}\n", "text:1:29", "event_broker.instance_id",
      "text of 1 to 255 bytes" },
    { "server: {keep_alive: 5x}\n", "text:1:22", "server.keep_alive", "not \"5x\"" },
    { "server: {keep_alive: 1s1m}\n", "text:1:22", "server.keep_alive", "such as 250ms" },
    { "server: {keep_alive: 1s1s}\n", "text:1:22", "server.keep_alive", "such as 250ms" },
    { "server: {keep_alive: 1.5s}\n", "text:1:22", "server.keep_alive", "such as 250ms" },
    { "server: {keep_alive: s}\n", "text:1:22", "server.keep_alive", "such as 250ms" },
    { "server: {keep_alive: 10ms}\n", "text:1:22", "server.keep_alive", "from 1s to 1h" },
    { "event_broker: {retry_policy: {max_delay: 5}}\n", "text:1:42",
      "event_broker.retry_policy.max_delay", "such as 250ms" },
    { "event_broker: {retry_policy: {factor: 1e3}}\n", "text:1:39",
      "event_broker.retry_policy.factor", "from 1 to 100" },
    { "event_broker: {retry_policy: {factor: 0.5}}\n", "text:1:39",
      "event_broker.retry_policy.factor", "from 1 to 100" },
    { "event_broker: {retry_policy: {factor: 2.}}\n", "text:1:39",
      "event_broker.retry_policy.factor", "from 1 to 100" },
    { "event_broker: {retention: {bytes: 5MB}}\n", "text:1:35", "event_broker.retention.bytes",
      "such as 64KiB" },
    { "event_broker: {nats: {subjects: 'a,,b'}}\n", "text:1:33", "event_broker.nats.subjects",
      "a list of texts" },
    { "event_broker: {nats: {subjects: ['a,b']}}\n", "text:1:34", "event_broker.nats.subjects",
      "without commas" },
    /* Variables. */
    { "event_broker:\n  instance_id: a${NOPE}\n", "text:2:16", "event_broker.instance_id",
      "the environment to set NOPE" },
    { "event_broker: {instance_id: '${}'}\n", "text:1:29", "event_broker.instance_id",
      "expected ${NAME}" },
    { "event_broker: {instance_id: '${A'}\n", "text:1:29", "event_broker.instance_id",
      "expected ${NAME}" },
    { "event_broker: {instance_id: '${1A}'}\n", "text:1:29", "event_broker.instance_id",
      "expected ${NAME}" },
    { "event_broker: {nats: {subjects: [a, '${NOPE}']}}\n", "text:1:37",
      "event_broker.nats.subjects", "the environment to set NOPE" },
    /* YAML. */
    { "server: {listen: \"x\n", "text:1:19", "", "no YAML" },
    { "server:\n\tloops: 1\n", NULL, "", "no YAML" },
    { "server:\n  loops: 1: 2\n", "text:2:11", "", "no YAML" },
    { "server: {loops: 1\n", NULL, "", "no YAML" },
    { "server: {loops: &a 1}\n", NULL, "", "anchors, aliases and tags" },
    { "server: {loops: *a}\n", NULL, "", "anchors, aliases and tags" },
    { "server: {loops: !!int 1}\n", NULL, "", "anchors, aliases and tags" },
    { "server: {}\n---\nserver: {}\n", NULL, "", "a second document" },
    { "server: {listen: \"a\\0b\"}\n", NULL, "", "a NUL has no place" },
    { "event_broker:\n  redis:\n    password: 'a''''b'\n", "text:3:15", "", "two quotes in a row" },
    /* Bytes. */
    { "# caf\xc3\xa9\nserver: {listen: \xff}\n", "text:2:18", "", "UTF-8; there is the byte 0xff" },
    { "\xc3\xa9: \xe9\n", "text:1:4", "", "UTF-8; there is the byte 0xe9" },
    { "server: {listen: \xed\xa0\x80}\n", "text:1:18", "", "UTF-8" },
    { "server: \x01\n", "text:1:9", "", "control character 0x01" },
};

static void test_H15_a_mistake_is_told_with_place_key_and_what_was_expected(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(mistakes) / sizeof(*mistakes); i++) {
        const struct mistake *mistake = &mistakes[i];
        struct said said;
        struct fan_error error = FAN_ERROR_INIT;
        char wanted[256];
        struct fan_config_options options = options_for(mistake->text, &said);
        refuse(&options, &error);
        snprintf(wanted, sizeof(wanted), "%s|%s|", mistake->place ? mistake->place : "",
                 mistake->key);
        bool placed = mistake->place ? strncmp(said.text, wanted, strlen(wanted)) == 0
                                     : strstr(said.text, wanted) != NULL;
        if (said.count != 1 || !placed || !strstr(said.text, mistake->words))
            fail_msg("%s gives %u: %s", mistake->text, said.count, said.text);
        assert_int_equal(error.status, FAN_INVALID);
        assert_string_equal(error.field, mistake->key);
        assert_non_null(strstr(error.message, mistake->place ? mistake->place : "text:"));
    }
}

static void test_H15_mistakes_of_variables_and_settings_name_them(void **state)
{
    (void)state;
    static const char *const environment[] = { "FANFARE_SERVER_LOOP=1",
                                               "FANFARE_EVENT_BROKER_MODE=fast",
                                               "FANFARE_EVENT_BROKER_INSTANCE_ID=\xff", NULL };
    static const struct fan_config_setting settings[] = {
        { "server.loops", "--loops", "many" },
        { "server.lops", NULL, "1" },
    };
    struct said said;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_config_options options = options_for("", &said);
    options.environment = environment;
    options.settings = settings;
    options.setting_count = 2;
    refuse(&options, &error);
    assert_int_equal(said.count, 5);
    assert_non_null(strstr(said.text, "FANFARE_SERVER_LOOP||no such variable; the nearest is "
                                      "FANFARE_SERVER_LOOPS\n"));
    assert_non_null(strstr(said.text, "FANFARE_EVENT_BROKER_MODE|event_broker.mode|expected one "
                                      "of async, sync, not \"fast\"\n"));
    assert_non_null(strstr(said.text, "INSTANCE_ID|event_broker.instance_id|expected valid UTF-8"));
    assert_non_null(strstr(said.text, "--loops|server.loops|expected a number from 1 to 64, not"));
    assert_non_null(strstr(said.text, "server.lops|server.lops|no such key; the nearest is "
                                      "server.loops\n"));
}

static void test_H15_all_mistakes_are_told_up_to_ten(void **state)
{
    (void)state;
    char text[4096] = "server:\n";
    for (int i = 0; i < 12; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "  key%d: 1\n", i);
    struct said said;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_config_options options = options_for(text, &said);
    refuse(&options, &error);
    assert_int_equal(said.count, 11);
    for (int i = 0; i < 10; i++) {
        char wanted[64];
        snprintf(wanted, sizeof(wanted), "text:%d:3|server.key%d|", i + 2, i);
        assert_non_null(strstr(said.text, wanted));
    }
    assert_non_null(strstr(said.text, "||and 2 more mistakes\n"));
    assert_string_equal(error.field, "server.key0");
    assert_string_equal(error.message, "text:2:3: server.key0: no such key; the nearest is "
                                       "server.store (and 11 more)");
    /* What is good beside a mistake is not taken either. */
    options = options_for("event_broker: {mode: sync, x: 1}", &said);
    options.problem = NULL;
    refuse(&options, &error);
}

/* ---- Files ---- */

struct place {
    char folder[TEST_FOLDER_SIZE];
    char file[96];
};

static void make_place(struct place *place)
{
    assert_true(test_folder_make(place->folder));
    snprintf(place->file, sizeof(place->file), "%s/fanfare.yaml", place->folder);
}

static void write_file(const struct place *place, const char *text, size_t count)
{
    FILE *file = fopen(place->file, "w");
    assert_non_null(file);
    for (size_t i = 0; i < count; i++)
        fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void assert_file_refused(const char *path, enum fan_status status, const char *words)
{
    struct said said;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_config_options options = options_for(NULL, &said);
    options.path = path;
    refuse(&options, &error);
    if (error.status != status || !strstr(said.text, words) || !strstr(said.text, path))
        fail_msg("%s: %s", path, said.text);
}

static void test_H15_files_that_cannot_be(void **state)
{
    (void)state;
    struct place place;
    make_place(&place);
    assert_file_refused(place.file, FAN_IO, "No such file");
    assert_file_refused(place.folder, FAN_INVALID, "is a directory");
    assert_int_equal(mkfifo(place.file, 0600), 0);
    assert_file_refused(place.file, FAN_INVALID, "is a pipe");
    unlink(place.file);
    write_file(&place, "server: {loops: ten}\n", 1);
    assert_file_refused(place.file, FAN_INVALID, ":1:17|server.loops|");
    write_file(&place, "# a comment of 32 bytes, with end\n", 32768);
    assert_file_refused(place.file, FAN_INVALID, "too big");
    assert_file_refused("/dev/zero", FAN_INVALID, "too big");
    write_file(&place, "%%%%%%%%%%%%%%%%", 60000);
    assert_file_refused(place.file, FAN_INVALID, ":1:8194||too long");
    write_file(&place, "[", 100);
    assert_file_refused(place.file, FAN_INVALID, "too deep");
    if (geteuid() != 0) {
        assert_int_equal(chmod(place.file, 0), 0);
        assert_file_refused(place.file, FAN_IO, "Permission denied");
    }
    unlink(place.file);
    rmdir(place.folder);
}

static void test_H15_the_environment_may_name_the_file(void **state)
{
    (void)state;
    struct place place;
    char variable[128];
    make_place(&place);
    write_file(&place, "server: {loops: 7}\n", 1);
    snprintf(variable, sizeof(variable), "FANFARE_CONFIG=%s", place.file);
    const char *const environment[] = { variable, NULL };
    struct said said;
    struct fan_config_options options = options_for(NULL, &said);
    options.environment = environment;
    struct fan_config *config;
    assert_ok(fan_config_load(&options, &config, NULL));
    assert_number(config, "server.loops", 7);
    fan_config_free(config);
    unlink(place.file);
    struct fan_error error = FAN_ERROR_INIT;
    refuse(&options, &error);
    assert_non_null(strstr(said.text, "FANFARE_CONFIG||cannot read"));
    rmdir(place.folder);
    options.path = place.file;
    options.text = "";
    refuse(&options, &error);
    assert_string_equal(error.field, "options.text");
}

/* ---- Secrets ---- */

static void test_H15_secrets_are_in_no_message(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "event_broker: {redis: {password: \"" SECRET "\\n\"}}\n",
        "event_broker: {redis: {password: [" SECRET "]}}\n",
        "event_broker: {redis: {pasword: " SECRET "}}\n",
        "event_broker: {redis: {password: a, password: " SECRET "}}\n",
        "event_broker: {redis: {password: " SECRET ", port: 0}}\n",
        "event_broker: {redis: {port: '${TOKEN}'}}\n",
        "event_broker: {mode: 'x${TOKEN}'}\n",
        "event_broker: {redis: {password: \"" SECRET "}}\n",
        "event_broker: {database: {uri: \"postgres://u:" SECRET "@h/db\\n\"}}\n",
        "event_broker: {nats: {uri: \"nats://" SECRET "@h\\n\"}}\n",
    };
    static const char *const environment[] = { "TOKEN=" SECRET, NULL };
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct said said;
        struct fan_error error = FAN_ERROR_INIT;
        struct fan_config_options options = options_for(texts[i], &said);
        options.environment = environment;
        refuse(&options, &error);
        assert_true(said.count > 0);
        assert_null(strstr(said.text, SECRET));
        assert_null(strstr(error.message, SECRET));
    }
    struct fan_config *config =
        load("event_broker:\n"
             "  redis: {password: " SECRET "}\n"
             "  database: {uri: 'postgres://u:" SECRET "@h/db?password=" SECRET "'}\n");
    assert_text(config, "event_broker.redis.password", SECRET);
    assert_string_equal(get(config, "event_broker.redis.password").shown, "***");
    assert_string_equal(get(config, "event_broker.database.uri").shown,
                        "postgres://u:***@h/db?password=***");
    fan_config_free(config);
}

/* ---- Memory ---- */

struct quota {
    unsigned left;
};

static void *quota_resize(void *context, void *pointer, size_t size)
{
    struct quota *quota = context;
    if (quota->left == 0)
        return NULL;
    quota->left--;
    return realloc(pointer, size);
}

static void quota_release(void *context, void *pointer)
{
    (void)context;
    free(pointer);
}

static void test_R03_memory_that_ends_is_a_typed_error(void **state)
{
    (void)state;
    struct quota quota = { 0 };
    struct fan_env env = *fan_env_default();
    env.context = &quota;
    env.resize = quota_resize;
    env.release = quota_release;
    struct said said;
    struct fan_config_options options = options_for("event_broker:\n"
                                                    "  instance_id: ${HOSTNAME}\n"
                                                    "  nats: {subjects: [a, b]}\n",
                                                    &said);
    options.env = &env;
    enum fan_status status = FAN_NO_MEMORY;
    unsigned allowed = 0;
    for (; status != FAN_OK; allowed++) {
        struct fan_config *config = NULL;
        struct fan_error error = FAN_ERROR_INIT;
        quota.left = allowed;
        status = fan_config_load(&options, &config, &error);
        assert_true(status == FAN_OK || status == FAN_NO_MEMORY);
        assert_int_equal(error.status, status);
        fan_config_free(config);
    }
    assert_true(allowed > 20);
}

/* ---- Opening ---- */

static void assert_provider(const char *text, const char *uri, const char *key)
{
    struct fan_config *config = load(text);
    struct fan__buffer buffer;
    const char *blamed = NULL;
    fan__buffer_init(&buffer, NULL);
    assert_ok(fan__config_provider(config, &buffer, &blamed, NULL));
    assert_string_equal(buffer.data, uri);
    assert_string_equal(blamed, key);
    fan__buffer_deinit(&buffer);
    fan_config_free(config);
}

static void test_H15_the_provider_becomes_a_uri(void **state)
{
    (void)state;
    assert_provider("", "memory:", "event_broker.provider");
    assert_provider("event_broker: {provider: redis}",
                    "redis://localhost:6379/0?stream=fanfare:events&group=fanfare",
                    "event_broker.provider");
    assert_provider("event_broker:\n  provider: redis\n"
                    "  redis: {user: u, password: 'a/b@c', host: '::1', db: 2, stream: 'a&b',\n"
                    "          max_len: 5}\n",
                    "redis://u:a%2Fb%40c@[::1]:6379/2?stream=a%26b&group=fanfare&max_len=5",
                    "event_broker.provider");
    assert_provider("event_broker: {provider: nats, nats: {max_age: 1s}}",
                    "nats://localhost:4222?stream=FANFARE&subjects=events.%3E&storage=file&"
                    "max_age_ms=1000",
                    "event_broker.provider");
    assert_provider("event_broker: {provider: database, database: {uri: 'sqlite:a.db'}}",
                    "sqlite:a.db", "event_broker.database.uri");
    assert_provider("event_broker:\n  provider: database\n"
                    "  database: {uri: 'sqlite:a.db?synchronous=normal', poll_interval: 50ms}\n",
                    "sqlite:a.db?synchronous=normal&poll_ms=50", "event_broker.database.uri");
    assert_provider("event_broker:\n  provider: database\n"
                    "  database: {uri: 'postgres://h/d', table_name: t, channel: c}\n",
                    "postgres://h/d?table=t&channel=c", "event_broker.database.uri");
}

static void assert_open_refused(const char *text, enum fan_status status, const char *words)
{
    struct fan_config *config = load(text);
    struct fan_broker *broker = NULL;
    struct fan_error error = FAN_ERROR_INIT;
    assert_int_equal(fan_config_open_broker(config, NULL, &broker, &error), status);
    if (!strstr(error.message, words))
        fail_msg("%s: %s", text, error.message);
    assert_null(strstr(error.message, SECRET));
    assert_null(broker);
    fan_config_free(config);
}

static void test_H15_what_cannot_be_opened_is_told_at_open(void **state)
{
    (void)state;
    assert_open_refused("", FAN_UNAVAILABLE, "event_broker.enabled is false");
    assert_open_refused("event_broker:\n  enabled: true\n  provider: redis\n"
                        "  redis: {password: " SECRET "}\n",
                        FAN_INVALID, "text:3:13: event_broker.provider: redis://:***@");
    assert_open_refused("event_broker: {enabled: true, provider: database}", FAN_INVALID,
                        "must be given");
    assert_open_refused("event_broker: {enabled: true, provider: database, database: {uri: x}}",
                        FAN_INVALID, "expected sqlite:PATH or postgres://");
    assert_open_refused("event_broker:\n  enabled: true\n  provider: database\n"
                        "  database: {uri: 'sqlite:x', channel: c}\n",
                        FAN_INVALID, "SQLite takes no such setting");
    assert_open_refused("event_broker:\n  enabled: true\n  provider: database\n"
                        "  database: {uri: 'sqlite:x?colour=1'}\n",
                        FAN_INVALID, "text:4:19: event_broker.database.uri: sqlite:x?colour=1");
}

static void test_H15_a_broker_opens_as_configured(void **state)
{
    (void)state;
    struct fan_config *config = load("event_broker: {enabled: true, instance_id: box-7}");
    struct fan_broker *broker = NULL;
    struct fan_cursor cursor;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    assert_ok(fan_config_open_broker(config, NULL, &broker, NULL));
    fan_config_free(config);
    assert_string_equal(fan_store_name(fan_broker_store(broker)), "memory");
    assert_string_equal(fan_broker_defaults(broker)->instance_id, "box-7");
    assert_ok(fan_broker_start(broker));
    assert_ok(fan_broker_publish(broker, &draft, &cursor, NULL));
    fan_broker_free(broker);
}

static void test_H15_what_is_given_goes_over_the_options(void **state)
{
    (void)state;
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan_config *config = load("event_broker:\n"
                                     "  mode: sync\n"
                                     "  worker_count: 3\n"
                                     "  buffer_size: 50\n"
                                     "  retry_policy:\n"
                                     "    {max_retries: 5, initial_delay: 2ms, max_delay: 7ms,\n"
                                     "     factor: 1.5, jitter: 20%}\n");
    struct fan_retention retention;
    fan__config_apply(config, &options, &retention);
    assert_null(options.retention);
    assert_int_equal(options.mode, FAN_MODE_SYNC);
    assert_int_equal(options.worker_count, 3);
    assert_int_equal(options.work_queue_count, 50);
    assert_int_equal(options.retry.retries, 5);
    assert_int_equal(options.retry.delay_ms, 2);
    assert_int_equal(options.retry.delay_ms_max, 7);
    assert_true(options.retry.factor == 1.5);
    assert_int_equal(options.retry.jitter_percent, 20);
    assert_false(options.retry.none);
    fan_config_free(config);
    /* What is not given leaves them alone; no retries is something else than the default. */
    config = load("event_broker:\n"
                  "  retry_policy: {max_retries: 0}\n"
                  "  retention: {age: 1d, count: 2, bytes: 3KiB, owed_age: 4s, dead_age: 5s,\n"
                  "              group_age: 6m, interval: 7s}\n");
    fan__config_apply(config, &options, &retention);
    assert_ptr_equal(options.retention, &retention);
    assert_int_equal(retention.age_ms, 86400000);
    assert_int_equal(retention.count, 2);
    assert_int_equal(retention.bytes, 3072);
    assert_int_equal(retention.owed_age_ms, 4000);
    assert_int_equal(retention.dead_age_ms, 5000);
    assert_int_equal(retention.group_age_ms, 360000);
    assert_int_equal(options.retention_interval_ms, 7000);
    assert_true(options.retry.none);
    assert_int_equal(options.mode, FAN_MODE_SYNC);
    assert_int_equal(options.worker_count, 3);
    assert_int_equal(options.retry.delay_ms, 2);
    fan_config_free(config);
}

static enum fan_verdict fail_at_once(void *context, const struct fan_event *event,
                                     const struct fan_handling *handling)
{
    unsigned *attempts = context;
    (void)event;
    *attempts = handling->attempt;
    return FAN_VERDICT_FAIL;
}

static void test_H01_H15_a_configured_mode_waits_for_handlers(void **state)
{
    (void)state;
    struct fan_config *config = load("event_broker: {enabled: true, mode: sync, worker_count: 2}");
    struct fan_broker *broker = NULL;
    unsigned attempts = 0;
    struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE, .type = "a.b.c" };
    struct fan_handler_options handler = {
        .size = FAN_HANDLER_OPTIONS_SIZE, .group = "g", .handle = fail_at_once, .context = &attempts
    };
    assert_ok(fan_config_open_broker(config, NULL, &broker, NULL));
    fan_config_free(config);
    assert_ok(fan_broker_handle(broker, &handler, NULL, NULL));
    assert_ok(fan_broker_start(broker));
    assert_int_equal(fan_broker_publish(broker, &draft, NULL, NULL), FAN_HANDLER);
    assert_int_equal(attempts, 1);
    struct fan_broker_stats stats = { .size = sizeof(stats) };
    fan_broker_stats(broker, &stats);
    assert_int_equal(stats.workers, 2);
    fan_broker_free(broker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_H15_every_key_has_a_section_and_names_of_its_own),
        cmocka_unit_test(test_H19_defaults),
        cmocka_unit_test(test_H19_the_seeds_yaml_loads_as_written),
        cmocka_unit_test(test_H15_the_last_of_file_environment_and_settings_wins),
        cmocka_unit_test(test_H15_values_of_every_kind),
        cmocka_unit_test(test_H15_variables_are_expanded),
        cmocka_unit_test(test_H15_a_mistake_is_told_with_place_key_and_what_was_expected),
        cmocka_unit_test(test_H15_mistakes_of_variables_and_settings_name_them),
        cmocka_unit_test(test_H15_all_mistakes_are_told_up_to_ten),
        cmocka_unit_test(test_H15_files_that_cannot_be),
        cmocka_unit_test(test_H15_the_environment_may_name_the_file),
        cmocka_unit_test(test_H15_secrets_are_in_no_message),
        cmocka_unit_test(test_R03_memory_that_ends_is_a_typed_error),
        cmocka_unit_test(test_H15_the_provider_becomes_a_uri),
        cmocka_unit_test(test_H15_what_cannot_be_opened_is_told_at_open),
        cmocka_unit_test(test_H15_a_broker_opens_as_configured),
        cmocka_unit_test(test_H15_what_is_given_goes_over_the_options),
        cmocka_unit_test(test_H01_H15_a_configured_mode_waits_for_handlers),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
