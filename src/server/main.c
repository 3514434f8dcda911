/*
 * fanfared: flags, signals, and what is said on standard output. One sentence on standard error and
 * exit 2 for a wrong flag, exit 1 for a start that failed or accepted events that could not be
 * kept.
 */
#include "base/env.h"
#include "server/daemon.h"
#include "store/uri.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define LISTEN_DEFAULT "127.0.0.1:8080"
#define STORE_DEFAULT "sqlite:fanfare.db"
#define LOOP_COUNT_MAX 256
#define CONNECTION_COUNT_MAX 1000000
#define KEEP_ALIVE_S_MAX 3600
#define STOP_TIMEOUT_MS 10000
#define URI_SHOWN_SIZE 512

static const char help[] =
    "Usage: fanfared [OPTION]...\n"
    "Keeps events in a log and streams them over HTTP.\n"
    "\n"
    "  --listen HOST:PORT   where to listen, loopback only (" LISTEN_DEFAULT "); port 0 takes a\n"
    "                       free one\n"
    "  --store URI          the log (" STORE_DEFAULT "); memory: keeps none\n"
    "  --loops N            threads that serve (one a core)\n"
    "  --connections N      the most connections at once (10000)\n"
    "  --keep-alive S       seconds after which an idle stream is sent a comment (15)\n"
    "  --help, --version    say this, or the version, and end\n"
    "\n"
    "It ends on SIGTERM or SIGINT, once what it accepted is in the log.\n";

enum flag {
    FLAG_LISTEN = 1,
    FLAG_STORE,
    FLAG_LOOPS,
    FLAG_CONNECTIONS,
    FLAG_KEEP_ALIVE,
    FLAG_HELP,
    FLAG_VERSION,
};

static const struct option flags[] = {
    { "listen", required_argument, NULL, FLAG_LISTEN },
    { "store", required_argument, NULL, FLAG_STORE },
    { "loops", required_argument, NULL, FLAG_LOOPS },
    { "connections", required_argument, NULL, FLAG_CONNECTIONS },
    { "keep-alive", required_argument, NULL, FLAG_KEEP_ALIVE },
    { "help", no_argument, NULL, FLAG_HELP },
    { "version", no_argument, NULL, FLAG_VERSION },
    { NULL, 0, NULL, 0 },
};

/* The daemon's own log: warnings and errors, a line each. */
static void log_line(void *context, enum fan_log_level level, const char *message)
{
    (void)context;
    if (level < FAN_LOG_WARNING)
        return;
    struct timespec now;
    struct tm parts;
    char text[40];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    fprintf(stderr, "%s.%03ldZ %s: %s\n", text, now.tv_nsec / 1000000,
            level == FAN_LOG_ERROR ? "error" : "warning", message);
}

static bool read_number(const char *name, const char *text, unsigned long max,
                        unsigned long *ret_number)
{
    char *end = NULL;
    errno = 0;
    unsigned long number = text[0] >= '0' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;
    if (!end || *end != '\0' || errno != 0 || number == 0 || number > max) {
        fprintf(stderr, "fanfared: --%s must be a number from 1 to %lu, not \"%s\".\n", name, max,
                text);
        return false;
    }
    *ret_number = number;
    return true;
}

/* Gives the code to exit with, or -1 to go on. */
static int take_flag(int flag, const char *value, struct fan__daemon_options *options)
{
    unsigned long number = 0;
    switch (flag) {
    case FLAG_LISTEN:
        options->listen = value;
        return -1;
    case FLAG_STORE:
        options->store = value;
        return -1;
    case FLAG_LOOPS:
        if (!read_number("loops", value, LOOP_COUNT_MAX, &number))
            return 2;
        options->loop_count = (unsigned)number;
        return -1;
    case FLAG_CONNECTIONS:
        if (!read_number("connections", value, CONNECTION_COUNT_MAX, &number))
            return 2;
        options->connection_count_max = number;
        return -1;
    case FLAG_KEEP_ALIVE:
        if (!read_number("keep-alive", value, KEEP_ALIVE_S_MAX, &number))
            return 2;
        options->keep_alive_ms = (uint32_t)number * 1000;
        return -1;
    case FLAG_HELP:
        fputs(help, stdout);
        return 0;
    case FLAG_VERSION:
        puts("fanfared " FANFARE_VERSION);
        return 0;
    default:
        return 2;
    }
}

static int read_flags(int argc, char **argv, struct fan__daemon_options *options)
{
    opterr = 0;
    for (;;) {
        int at = optind;
        int flag = getopt_long(argc, argv, ":", flags, NULL);
        if (flag == -1)
            break;
        if (flag == ':') {
            fprintf(stderr, "fanfared: %s needs a value; --help lists the flags.\n", argv[at]);
            return 2;
        }
        if (flag == '?') {
            fprintf(stderr, "fanfared: there is no flag \"%s\"; --help lists them.\n", argv[at]);
            return 2;
        }
        int code = take_flag(flag, optarg, options);
        if (code >= 0)
            return code;
    }
    if (optind < argc) {
        fprintf(stderr, "fanfared: \"%s\" is no flag; --help lists them.\n", argv[optind]);
        return 2;
    }
    return -1;
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Says why the start failed, and gives the code to exit with. */
static int complain(enum fan_status status, const struct fan_error *error, bool listening)
{
    const char *message = error->message[0] ? error->message : fan_status_text(status);
    size_t size = strlen(message);
    const char *stop = size > 0 && message[size - 1] == '.' ? "" : ".";
    fprintf(stderr, "fanfared: --%s: %s%s\n", listening ? "listen" : "store", message, stop);
    /* A value that can never work is the caller's mistake; the rest is the world's. */
    bool flag = status == FAN_INVALID || (listening && status == FAN_DENIED);
    return flag ? 2 : 1;
}

static int serve(struct fan__daemon *daemon, const sigset_t *signals)
{
    char uri[URI_SHOWN_SIZE];
    fan__uri_redact(daemon->options.store, uri, sizeof(uri));
    printf("fanfared listens on http://%s and keeps its log in %s (epoch %016" PRIx64 ").\n",
           fan__daemon_address(daemon), uri, daemon->epoch);
    fflush(stdout);
    int signal_number = 0;
    while (sigwait(signals, &signal_number) != 0)
        ;
    printf("fanfared stops on %s.\n", signal_number == SIGINT ? "SIGINT" : "SIGTERM");
    fflush(stdout);
    if (fan__daemon_stop(daemon, STOP_TIMEOUT_MS) == FAN_TIMED_OUT) {
        fputs("fanfared: some accepted events could not be written and were refused.\n", stderr);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct fan_env env = *fan_env_default();
    env.log = log_line;
    struct fan__daemon_options options = { .env = &env,
                                           .listen = LISTEN_DEFAULT,
                                           .store = STORE_DEFAULT };
    int code = read_flags(argc, argv, &options);
    if (code >= 0)
        return code;
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
    pthread_sigmask(SIG_BLOCK, &all, NULL);

    struct fan_error error = FAN_ERROR_INIT;
    struct fan__daemon *daemon = NULL;
    enum fan_status status = fan__daemon_open(&options, &daemon, &error);
    bool opened = status == FAN_OK;
    if (opened)
        status = fan__daemon_start(daemon, &error);
    if (status == FAN_OK)
        code = serve(daemon, &signals);
    else
        code = complain(status, &error, opened);
    fan__daemon_free(daemon);
    return code;
}
