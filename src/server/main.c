/*
 * fanfared: signals, and what is said on standard output. One sentence on standard error for each
 * mistake in its settings and exit 2, exit 1 for a start that failed (whatever a store says when it
 * is opened is that, a typo in its URI too) or accepted events that could not be kept.
 */
#include "base/env.h"
#include "config/key.h"
#include "config/open.h"
#include "server/daemon.h"
#include "server/notify.h"
#include "server/settings.h"
#include "store/uri.h"

#include <fanfare/config.h>

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define STORE_DEFAULT "sqlite:fanfare.db"
#define STOP_TIMEOUT_MS 10000
#define URI_SHOWN_SIZE 512

/*
 * started: how it was started, for what cannot change. current: as last read. store and store_key:
 * the log, and the key that says so.
 */
struct program {
    struct fan__settings settings;
    struct fan_config *started;
    struct fan_config *current;
    struct fan_env env;
    struct fan__buffer store;
    const char *store_key;
    bool opens; /* the settings are good, and the world is next */
    struct fan__daemon *daemon;
};

/* The least level that is written. */
static struct fan__number log_level;

/* The daemon's own log, a line each. */
static void log_line(void *context, enum fan_log_level level, const char *message)
{
    static const char *const names[] = { "debug", "info", "warning", "error" };
    (void)context;
    if (level < fan__number_get(&log_level))
        return;
    struct timespec now;
    struct tm parts;
    char text[40];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    fprintf(stderr, "%s.%03ldZ %s: %s\n", text, now.tv_nsec / 1000000, names[level], message);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static uint64_t number_of(const struct fan_config *config, const char *key)
{
    return fan__config_value(config, key)->number;
}

static bool is_given(const struct fan_config *config, const char *key)
{
    return fan__config_value(config, key)->place.source != FAN_CONFIG_DEFAULT;
}

/* Whether the log is that of a provider, which server.store wins over. */
static bool has_provider(const struct fan_config *config)
{
    return !fan__config_value(config, "server.store")->text &&
           (is_given(config, "event_broker.provider") || number_of(config, "event_broker.enabled"));
}

/* The log: what server.store says, else the provider where one is wanted, else a file here. */
static enum fan_status choose_store(struct program *program, struct fan_error *error)
{
    const struct fan_config *config = program->current;
    const char *store = fan__config_value(config, "server.store")->text;
    program->store_key = "server.store";
    if (has_provider(config))
        return fan__config_provider(config, &program->store, &program->store_key, error);
    fan__buffer_add_text(&program->store, store ? store : STORE_DEFAULT);
    fan__buffer_add(&program->store, "", 1);
    return program->store.failed ? FAN_NO_MEMORY : FAN_OK;
}

/* Says why the start failed, and gives the code to exit with. */
static int complain(const struct program *program, enum fan_status status,
                    const struct fan_error *error)
{
    const char *message = error->message[0] ? error->message : fan_status_text(status);
    size_t size = strlen(message);
    const char *stop = size > 0 && message[size - 1] == '.' ? "" : ".";
    fprintf(stderr, "fanfared: %s%s\n", message, stop);
    bool listening = strcmp(error->field, "server.listen") == 0;
    if (listening)
        return status == FAN_INVALID || status == FAN_DENIED ? 2 : 1;
    return status == FAN_INVALID && !program->opens ? 2 : 1;
}

/* What speaks of another log than the one that was chosen. */
static bool is_of_other_log(const struct fan_config *config, const char *path)
{
    static const char *const sections[] = { "", "event_broker.redis.", "event_broker.nats.",
                                            "event_broker.database." };
    bool chosen = has_provider(config);
    uint64_t provider = number_of(config, "event_broker.provider");
    for (size_t i = 1; i < sizeof(sections) / sizeof(*sections); i++)
        if (strncmp(path, sections[i], strlen(sections[i])) == 0)
            return !chosen || i != provider;
    return !chosen && strcmp(path, "event_broker.provider") == 0;
}

/* What is there for brokers with handlers, which this one has not. */
static bool is_for_handlers(const char *path)
{
    static const char *const keys[] = { "event_broker.mode", "event_broker.worker_count",
                                        "event_broker.buffer_size" };
    static const char policy[] = "event_broker.retry_policy.";
    bool found = strncmp(path, policy, sizeof(policy) - 1) == 0;
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        found |= strcmp(path, keys[i]) == 0;
    return found;
}

/* What was given and changes nothing, for a start and for --check-config. */
static void warn(const struct program *program)
{
    const struct fan_config *config = program->current;
    for (size_t i = 0; i < fan__key_count; i++) {
        const char *path = fan__keys[i].path;
        struct fan_config_value value = { .size = FAN_CONFIG_VALUE_SIZE };
        if (fan_config_get(config, path, &value) != FAN_OK || value.source == FAN_CONFIG_DEFAULT)
            continue;
        /* A broker that is switched off by name and runs all the same is told. */
        if (strcmp(path, "event_broker.enabled") == 0 && !value.number)
            fprintf(stderr,
                    "fanfared: %s: event_broker.enabled is false, which switches the default "
                    "broker of other programs off; fanfared always has its broker.\n",
                    value.place);
        else if (is_for_handlers(path))
            fprintf(stderr,
                    "fanfared: %s: %s has no effect here: it is for a broker with handlers, and "
                    "fanfared runs none.\n",
                    value.place, path);
        else if (is_of_other_log(config, path))
            fprintf(stderr, "fanfared: %s: %s has no effect here: the log is what %s says.\n",
                    value.place, path, program->store_key);
    }
}

static enum fan_status start(struct program *program, struct fan_error *error)
{
    const struct fan_config *config = program->current;
    struct fan_error reason = FAN_ERROR_INIT;
    struct fan_broker_options broker_options = FAN_BROKER_OPTIONS_INIT;
    enum fan_status status = choose_store(program, error);
    if (status != FAN_OK)
        return status;
    warn(program);
    struct fan_retention retention;
    fan__config_apply(config, &broker_options, &retention);
    struct fan__daemon_options options = {
        .env = &program->env,
        .listen = fan__config_value(config, "server.listen")->text,
        .store = program->store.data,
        .loop_count = (unsigned)number_of(config, "server.loops"),
        .connection_count_max = (size_t)number_of(config, "server.connections"),
        .keep_alive_ms = (uint32_t)number_of(config, "server.keep_alive"),
        .broker = &broker_options,
    };
    program->opens = true;
    status = fan__daemon_open(&options, &program->daemon, &reason);
    if (status != FAN_OK)
        return fan__config_blame(config, program->store_key, status, &reason, error);
    status = fan__daemon_start(program->daemon, &reason);
    if (status != FAN_OK)
        return fan__config_blame(config, "server.listen", status, &reason, error);
    return FAN_OK;
}

static void apply(struct program *program)
{
    const struct fan_config *config = program->current;
    struct fan__daemon_changes changes = {
        .connection_count_max = (size_t)number_of(config, "server.connections"),
        .keep_alive_ms = (uint32_t)number_of(config, "server.keep_alive"),
    };
    struct fan_broker_options options = FAN_BROKER_OPTIONS_INIT;
    struct fan_retention retention;
    fan__config_apply(config, &options, &retention);
    fan__number_set(&log_level, (uint32_t)number_of(config, "server.log_level"));
    fan__daemon_change(program->daemon, &changes);
    enum fan_status status = fan_broker_set_retention(program->daemon->broker, options.retention,
                                                      options.retention_interval_ms);
    if (status != FAN_OK)
        fan__log(&program->env, FAN_LOG_ERROR, "retention stays as it was: %s",
                 fan_status_text(status));
}

/* SIGHUP: what may change becomes as the settings say now, all of it or, when one is bad, none. */
static void reload(struct program *program)
{
    struct fan_config *loaded = NULL;
    struct fan__buffer changed;
    fan__notify_reloading();
    fan__buffer_init(&changed, NULL);
    if (fan__settings_load(&program->settings, &loaded)) {
        fan__settings_compare(program->started, program->current, loaded, &changed);
        if (program->current != program->started)
            fan_config_free(program->current);
        program->current = loaded;
        apply(program);
        printf("fanfared has read its settings again: %.*s.\n",
               changed.size > 0 ? (int)changed.size : 100,
               changed.size > 0 ? changed.data : "nothing has changed");
    } else {
        fputs("fanfared: the settings stay as they were.\n", stderr);
    }
    fflush(stdout);
    fan__buffer_deinit(&changed);
    fan__notify("READY=1");
}

static int serve(struct program *program, const sigset_t *signals)
{
    char uri[URI_SHOWN_SIZE];
    struct fan__daemon *daemon = program->daemon;
    fan__uri_redact(daemon->options.store, uri, sizeof(uri));
    printf("fanfared listens on http://%s and keeps its log in %s (epoch %016" PRIx64 ").\n",
           fan__daemon_address(daemon), uri, daemon->epoch);
    fflush(stdout);
    fan__notify("READY=1");
    int signal_number = 0;
    while (sigwait(signals, &signal_number) != 0 || signal_number == SIGHUP)
        if (signal_number == SIGHUP)
            reload(program);
    printf("fanfared stops on %s.\n", signal_number == SIGINT ? "SIGINT" : "SIGTERM");
    fflush(stdout);
    fan__notify("STOPPING=1");
    if (fan__daemon_stop(daemon, STOP_TIMEOUT_MS) == FAN_TIMED_OUT) {
        fputs("fanfared: some accepted events could not be written and were refused.\n", stderr);
        return 1;
    }
    return 0;
}

static int run(struct program *program)
{
    raise_descriptor_limit();
    /* Reads of the log for streams must not keep those for queries waiting. */
    setenv("UV_THREADPOOL_SIZE", "12", 0);

    /* Every thread inherits this mask; signals are waited for here alone. */
    sigset_t all;
    sigset_t signals;
    sigfillset(&all);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &all, NULL);

    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = start(program, &error);
    return status == FAN_OK ? serve(program, &signals) : complain(program, status, &error);
}

/* --check-config: opens nothing. */
static int check(struct program *program)
{
    struct fan_error error = FAN_ERROR_INIT;
    enum fan_status status = choose_store(program, &error);
    if (status != FAN_OK)
        return complain(program, status, &error);
    warn(program);
    fan__settings_print(program->current, program->store.data, program->store_key);
    return 0;
}

int main(int argc, char **argv)
{
    struct program program = { .env = *fan_env_default() };
    /* To be asked to read the settings again while they are read kills nobody: it is done after. */
    sigset_t hangup;
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &hangup, NULL);
    program.env.log = log_line;
    fan__buffer_init(&program.store, NULL);
    int code = fan__settings_read(&program.settings, argc, argv);
    if (code < 0 && !fan__settings_load(&program.settings, &program.started))
        code = 2;
    program.current = program.started;
    if (code < 0 && program.settings.check)
        code = check(&program);
    if (code < 0) {
        fan__number_init(&log_level, (uint32_t)number_of(program.current, "server.log_level"));
        code = run(&program);
    }
    fan__daemon_free(program.daemon);
    fan__buffer_deinit(&program.store);
    if (program.current != program.started)
        fan_config_free(program.current);
    fan_config_free(program.started);
    fan__settings_deinit(&program.settings);
    return code;
}
