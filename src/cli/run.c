/*
 * run: a command for each event. The command's exit code is the verdict; the group, its leases and
 * the attempts are the server's, so that another run goes on where this one ends, however it ends.
 *
 *     claimed -> command runs -> exit code -> settled
 *
 * One thread moves it all: pipes and ends of commands, calls to the server, and signals.
 */
#include "cli/cli.h"
#include "cli/groups.h"
#include "cli/member.h"
#include "cli/slice.h"
#include "cli/task.h"
#include "cli/wait.h"

#include <fanfare/env.h>

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* Codes of sysexits.h. */
#define EXIT_FAIL 65
/* From SIGTERM to SIGKILL for a command that takes too long. */
#define GRACE_MS 5000
/* How long the verdicts of killed commands are offered to a server that does not answer. */
#define LAST_MS 5000
/* After the system had no room for a process. */
#define SPAWN_PAUSE_MS 1000
/* With as many lapses an event runs alone; with one more the server buries it. */
#define ALONE_LAPSES 2
#define LEASE_MS 30000
#define RETRIES 3
#define DELAY_MS 1000
#define DELAY_MS_MAX 30000
/* Up to a fourth of a delay is taken off at random. */
#define JITTER_SHARE 4
#define HOUR_MS 3600000

enum {
    RUN_TYPE = 0x100,
    RUN_TOPIC,
    RUN_GROUP,
    RUN_START,
    RUN_AFTER,
    RUN_JOBS,
    RUN_ORDERED,
    RUN_RETRIES,
    RUN_DELAY,
    RUN_DELAY_MAX,
    RUN_LEASE,
    RUN_TIMEOUT,
    RUN_COUNT,
    RUN_ONCE
};

/* A command at work: the task of the member's work with the same index. */
struct job {
    struct fan__task task;
    int64_t kill_at_ms; /* 0: never */
    bool late;
};

struct run {
    struct fan__common *common;
    struct fan__group group;
    struct fan__text group_name;
    char **command;
    uint64_t jobs_max;
    uint64_t retries;
    uint64_t delay_ms;
    uint64_t delay_ms_max;
    uint64_t timeout_ms;
    uint64_t count; /* 0: no end */
    uint64_t lease_ms;
    bool ordered;

    struct fan__member member;
    struct job *jobs;
    struct pollfd *polls;
    char owner[96];
    int signals;
    sigset_t mask; /* of the commands */
    unsigned signal_count;
    uint64_t started;
    int64_t pause_until_ms;
    int64_t last_until_ms;
    struct fan__work *alone; /* that runs with nothing else, or waits for that */
    bool broken;             /* the command cannot be run any more */
};

static const struct argp_option options[] = {
    { "type", RUN_TYPE, "PATTERN", 0, "Types that match: `*` is a segment, a last `>` more", 1 },
    { "topic", RUN_TOPIC, "TOPIC", 0, "Of one topic", 1 },
    { "group", RUN_GROUP, "NAME", 0,
      "The consumer group, shared by all its members (run:COMMAND:PATTERN)", 1 },
    { "from-start", RUN_START, NULL, 0,
      "A group that is made begins with all that the log has (else with what comes)", 1 },
    { "after", RUN_AFTER, "CURSOR", 0, "... with what follows SEQ@EPOCH, or SEQ", 1 },
    { "jobs", RUN_JOBS, "N", 0, "Commands at once (1)", 2 },
    { "ordered", RUN_ORDERED, NULL, 0, "One event of a topic at a time, in their order", 2 },
    { "retries", RUN_RETRIES, "N", 0, "How often an event is tried again (3)", 3 },
    { "delay", RUN_DELAY, "TIME", 0,
      "Before the first retry, doubled for each further one, up to a fourth less (1s)", 3 },
    { "delay-max", RUN_DELAY_MAX, "TIME", 0, "The longest such pause (30s)", 3 },
    { "timeout", RUN_TIMEOUT, "TIME", 0, "A command that takes longer is killed: a retry (none)",
      3 },
    { "lease", RUN_LEASE, "TIME", 0,
      "After which an event of a member that was lost is given to another (30s)", 3 },
    { "count", RUN_COUNT, "N", 0, "End after so many commands", 4 },
    { "once", RUN_ONCE, NULL, 0, "End after one", 4 },
    { 0 },
};

static uint64_t read_time(const struct argp_state *state, const char *option, const char *text,
                          uint64_t least_ms, uint64_t most_ms)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = { { "ms", 1 }, { "", 1000 }, { "s", 1000 }, { "m", 60000 }, { "h", HOUR_MS } };
    size_t digits = strspn(text, "0123456789");
    uint64_t number = digits > 0 && digits < 10 ? strtoull(text, NULL, 10) : UINT64_MAX;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (number != UINT64_MAX && strcmp(units[i].unit, text + digits) == 0 &&
            number * units[i].ms >= least_ms && number * units[i].ms <= most_ms)
            return number * units[i].ms;
    argp_error(state,
               "--%s: expected a time from %" PRIu64 "ms to %" PRIu64
               "s, such as 500ms, 30s, 5m, 1h; not '%s'",
               option, least_ms, most_ms / 1000, text);
    return 0;
}

static error_t parse_time_or_number(int key, const char *value, struct argp_state *state)
{
    struct run *run = state->input;
    switch (key) {
    case RUN_JOBS:
        run->jobs_max = fan__read_number(state, "jobs", value, 1, FAN__WORK_COUNT_MAX);
        return 0;
    case RUN_RETRIES:
        run->retries = fan__read_number(state, "retries", value, 0, 1000);
        return 0;
    case RUN_DELAY:
        run->delay_ms = read_time(state, "delay", value, 0, 24 * HOUR_MS);
        return 0;
    case RUN_DELAY_MAX:
        run->delay_ms_max = read_time(state, "delay-max", value, 0, 24 * HOUR_MS);
        return 0;
    case RUN_TIMEOUT:
        run->timeout_ms = read_time(state, "timeout", value, 1, 24 * HOUR_MS);
        return 0;
    case RUN_LEASE:
        run->lease_ms = read_time(state, "lease", value, 100, HOUR_MS);
        return 0;
    case RUN_COUNT:
        run->count = fan__read_number(state, "count", value, 1, UINT64_MAX);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void check_command(struct run *run, struct argp_state *state)
{
    if (!run->command)
        argp_error(state, "which command? Give it behind --");
    else if (!run->group.type)
        argp_error(state, "which events? Give --type; '*' is all");
    else if (!fan__task_exists(run->command[0]))
        argp_error(state, "there is no command '%s'", run->command[0]);
    if (run->group.name || !run->command)
        return;
    const char *slash = strrchr(run->command[0], '/');
    fan__text_add_format(&run->group_name, "run:%s:%s", slash ? slash + 1 : run->command[0],
                         run->group.type);
    if (run->group.topic)
        fan__text_add_format(&run->group_name, ":%s", run->group.topic);
    if (run->group_name.size > FAN_TEXT_SIZE_MAX)
        argp_error(state, "the group needs a name: give --group");
    run->group.name = run->group_name.data;
}

static error_t parse(int key, char *value, struct argp_state *state)
{
    struct run *run = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = run->common;
        return 0;
    case RUN_TYPE:
        fan__group_take_type(state, value, &run->group);
        return 0;
    case RUN_TOPIC:
        run->group.topic = value;
        return 0;
    case RUN_GROUP:
        fan__group_take_name(state, value, &run->group.name);
        return 0;
    case RUN_START:
        fan__group_take_start(state, "beginning", &run->group);
        return 0;
    case RUN_AFTER:
        fan__group_take_start(state, value, &run->group);
        return 0;
    case RUN_ORDERED:
        run->ordered = true;
        return 0;
    case RUN_ONCE:
        run->count = 1;
        return 0;
    case ARGP_KEY_ARG:
        /* What follows is the command's. */
        run->command = state->argv + state->next - 1;
        state->next = state->argc;
        return 0;
    case ARGP_KEY_END:
        check_command(run, state);
        return 0;
    default:
        return parse_time_or_number(key, value, state);
    }
}

static const struct argp_child children[] = { { &fan__common_argp, 0, NULL, 0 }, { 0 } };

static const struct argp run_argp = {
    options,
    parse,
    "--type PATTERN -- COMMAND [ARG...]",
    "Runs a command for each event, which it is given as JSON on standard input, for a consumer "
    "group: each event is handled by one of the group's members, across crashes.\v"
    "The command's exit code is the verdict: 0 done, 65 failed for good (a dead letter), any "
    "other, "
    "or a signal, a retry. The last line on its standard error becomes the event's error. Its "
    "environment has FANFARE_ID, FANFARE_SEQ, FANFARE_TYPE, FANFARE_TOPIC, FANFARE_GROUP, "
    "FANFARE_ATTEMPT and FANFARE_LAPSES.\n"
    "Ctrl-C lets running commands finish; a second one kills them and hands their events back.",
    children,
    NULL,
    NULL,
};

/* ---- Commands ---- */

static void add_variable(struct fan__text *text, const char *name, struct fan_str value)
{
    fan__text_add_format(text, "%s=", name);
    fan__text_add(text, value.data, value.size);
    fan__text_add(text, "", 1);
}

static void add_member(struct fan__text *text, const char *name, const struct fan__work *work,
                       const char *member)
{
    struct fan_str event = { work->event.data, work->event.size };
    struct fan_str value = { "", 0 };
    json_t *string = NULL;
    if (fan__slice_find(event, member, &value))
        string =
            json_loadb(value.data, value.size, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);
    value = (struct fan_str){ "", 0 };
    if (json_is_string(string))
        value = (struct fan_str){ json_string_value(string), json_string_length(string) };
    add_variable(text, name, value);
    json_decref(string);
}

static void add_number(struct fan__text *text, const char *name, uint64_t number)
{
    char digits[24];
    int size = snprintf(digits, sizeof(digits), "%" PRIu64, number);
    add_variable(text, name, (struct fan_str){ digits, (size_t)size });
}

/* Starts with our own variables, each with its NUL, in `text`; then those that we were given. */
static char **make_environment(const struct run *run, const struct fan__work *work,
                               struct fan__text *text)
{
    const char *group = run->group.name;
    add_member(text, "FANFARE_ID", work, "id");
    add_number(text, "FANFARE_SEQ", work->seq);
    add_member(text, "FANFARE_TYPE", work, "type");
    add_member(text, "FANFARE_TOPIC", work, "topic");
    add_variable(text, "FANFARE_GROUP", (struct fan_str){ group, strlen(group) });
    add_number(text, "FANFARE_ATTEMPT", work->attempt);
    add_number(text, "FANFARE_LAPSES", work->lapses);
    size_t count = 0;
    size_t own = 0;
    while (environ[count])
        count++;
    char **environment = fan__cli_resize(NULL, count + 16, sizeof(*environment));
    for (char *at = text->data; at < text->data + text->size; at += strlen(at) + 1)
        environment[own++] = at;
    size_t size = own;
    for (size_t i = 0; i < count; i++) {
        size_t name = strcspn(environ[i], "=") + 1;
        bool ours = false;
        for (size_t j = 0; j < own && !ours; j++)
            ours = strncmp(environ[i], environment[j], name) == 0;
        if (!ours)
            environment[size++] = environ[i];
    }
    environment[size] = NULL;
    return environment;
}

static void start_one(struct run *run, struct fan__work *work, struct job *job)
{
    struct fan__text variables = { NULL, 0, 0 };
    char **environment = make_environment(run, work, &variables);
    fan__text_clear(&job->task.text);
    fan__text_add(&job->task.text, work->event.data, work->event.size);
    fan__text_add_text(&job->task.text, "\n");
    int failed = fan__task_start(&job->task, run->command, environment, &run->mask);
    free(environment);
    fan__text_deinit(&variables);
    if (failed == 0) {
        work->state = FAN__WORK_HELD;
        job->late = false;
        job->kill_at_ms = run->timeout_ms > 0 ? fan__now_ms() + (int64_t)run->timeout_ms : 0;
        run->started++;
        fan__task_move(&job->task);
        return;
    }
    /* It was not the event's fault: the attempt does not count. */
    fan__say("cannot run '%s': %s", run->command[0], strerror(failed));
    bool passing = failed == EAGAIN || failed == ENOMEM || failed == EMFILE || failed == ENFILE;
    run->broken = run->broken || !passing;
    run->pause_until_ms = fan__now_ms() + SPAWN_PAUSE_MS;
    fan__member_end(work, "hand_back");
}

static bool is_stopping(const struct run *run)
{
    return run->signal_count > 0 || run->broken || run->member.failed;
}

/*
 * What came is begun, but one that two members were lost with waits until nothing else runs: should
 * it be what they died of, it takes nobody along. True when something was begun or ended.
 */
static bool start_fresh(struct run *run)
{
    struct fan__work *end = run->member.works + run->member.work_count;
    bool any = false;
    for (struct fan__work *work = run->member.works; work < end && !run->alone; work++)
        if (work->state == FAN__WORK_FRESH && work->lapses >= ALONE_LAPSES)
            run->alone = work;
    for (struct fan__work *work = run->member.works; work < end; work++) {
        if (work->state != FAN__WORK_FRESH)
            continue;
        if (is_stopping(run) || (run->alone && work != run->alone))
            fan__member_end(work, "hand_back");
        else if (!run->alone || fan__member_count(&run->member, FAN__WORK_HELD) == 0)
            start_one(run, work, &run->jobs[work - run->member.works]);
        else
            continue;
        any = true;
    }
    return any;
}

static void set_error(struct run *run, struct fan__work *work, const struct job *job, int status)
{
    struct fan__text *error = &work->error;
    fan__text_clear(error);
    if (job->late)
        fan__text_add_format(error, "took longer than %" PRIu64 " ms", run->timeout_ms);
    if (job->late && job->task.last.size > 0)
        fan__text_add_text(error, ": ");
    if (job->task.last.size > 0)
        fan__text_add(error, job->task.last.data, job->task.last.size);
    else if (!job->late && WIFSIGNALED(status))
        fan__text_add_format(error, "signal %d (%s)", WTERMSIG(status),
                             strsignal(WTERMSIG(status)));
    else if (!job->late)
        fan__text_add_format(error, "exit code %d", WEXITSTATUS(status));
}

/* What failed together, as what it needs is down, does not come again together. */
static uint32_t delay_of(const struct run *run, unsigned asked)
{
    uint64_t delay_ms = run->delay_ms;
    for (unsigned i = 1; i < asked && delay_ms < run->delay_ms_max; i++)
        delay_ms *= 2;
    if (delay_ms > run->delay_ms_max)
        delay_ms = run->delay_ms_max;
    return (uint32_t)(delay_ms - (uint64_t)fan__random_ms((int64_t)delay_ms / JITTER_SHARE));
}

static void judge(struct run *run, struct fan__work *work, const struct job *job, int status)
{
    bool exited = WIFEXITED(status) && !job->late;
    work->reason = NULL;
    work->delay_ms = 0;
    fan__text_clear(&work->error);
    if (exited && WEXITSTATUS(status) == 0) {
        fan__member_end(work, "done");
        return;
    }
    if (job->task.killed && !job->late) {
        fan__member_end(work, "hand_back");
        return;
    }
    set_error(run, work, job, status);
    if (exited && WEXITSTATUS(status) == EXIT_FAIL) {
        fan__member_end(work, "fail");
        return;
    }
    /* What ended with its holder was no attempt that a command answered. */
    unsigned asked = work->attempt > work->lapses ? work->attempt - work->lapses : 1;
    if (asked > run->retries) {
        work->reason = "retries";
        fan__member_end(work, "fail");
        return;
    }
    work->delay_ms = delay_of(run, asked);
    fan__member_end(work, "retry");
}

static void step_job(struct run *run, struct fan__work *work, struct job *job)
{
    int status = 0;
    fan__task_move(&job->task);
    if (fan__task_ended(&job->task, &status)) {
        judge(run, work, job, status);
        return;
    }
    int64_t now_ms = fan__now_ms();
    if (work->lost && !job->task.killed) {
        /* Another handles it already. */
        fan__task_kill(&job->task, SIGTERM);
        job->kill_at_ms = now_ms + GRACE_MS;
        return;
    }
    if (job->kill_at_ms == 0 || now_ms < job->kill_at_ms)
        return;
    job->late = job->late || !job->task.killed;
    fan__task_kill(&job->task, job->task.killed ? SIGKILL : SIGTERM);
    job->kill_at_ms = now_ms + GRACE_MS;
}

/* ---- The loop ---- */

static void take_signals(struct run *run)
{
    struct signalfd_siginfo info;
    while (read(run->signals, &info, sizeof(info)) == sizeof(info)) {
        run->signal_count++;
        size_t busy = fan__member_count(&run->member, FAN__WORK_HELD);
        if (run->signal_count == 1 && busy > 0)
            fan__say("stopping: %zu still running; again to kill", busy);
        if (run->signal_count != 2)
            continue;
        run->last_until_ms = fan__now_ms() + LAST_MS;
        for (size_t i = 0; i < run->member.work_count; i++)
            fan__task_kill(&run->jobs[i].task, SIGKILL);
    }
}

/* How many events are wanted. */
static size_t wanted(const struct run *run)
{
    if (is_stopping(run) || run->alone)
        return 0;
    if (run->count > 0 && run->started >= run->count)
        return 0;
    uint64_t left = run->count > 0 ? run->count - run->started : run->jobs_max;
    return left < run->jobs_max ? (size_t)left : (size_t)run->jobs_max;
}

static bool is_over(const struct run *run)
{
    bool ends = is_stopping(run) || (run->count > 0 && run->started >= run->count);
    bool idle = fan__member_count(&run->member, FAN__WORK_FREE) == run->member.work_count;
    bool running = fan__member_count(&run->member, FAN__WORK_HELD) > 0;
    bool given_up = run->last_until_ms > 0 && fan__now_ms() > run->last_until_ms;
    return ends && (idle || ((run->member.failed || given_up) && !running));
}

static void wait_for_something(struct run *run)
{
    size_t count = 0;
    int64_t now_ms = fan__now_ms();
    int64_t pause_ms = fan__member_pause_ms(&run->member);
    run->polls[count++] = (struct pollfd){ .fd = run->signals, .events = POLLIN };
    for (size_t i = 0; i < run->member.work_count; i++) {
        const struct job *job = &run->jobs[i];
        count += fan__task_polls(&job->task, run->polls + count);
        if (job->task.pid != 0 && job->kill_at_ms > 0 && job->kill_at_ms - now_ms < pause_ms)
            pause_ms = job->kill_at_ms - now_ms;
    }
    fan__client_wait(run->member.client, run->polls, count, pause_ms > 0 ? pause_ms : 0);
}

static void work_on(struct run *run)
{
    do {
        take_signals(run);
        for (size_t i = 0; i < run->member.work_count; i++)
            if (run->member.works[i].state == FAN__WORK_HELD)
                step_job(run, &run->member.works[i], &run->jobs[i]);
        if (run->alone && run->alone->state != FAN__WORK_HELD &&
            run->alone->state != FAN__WORK_FRESH)
            run->alone = NULL;
        do {
            bool pauses = fan__now_ms() < run->pause_until_ms;
            fan__member_step(&run->member, pauses ? 0 : wanted(run));
        } while (start_fresh(run));
        if (!is_over(run))
            wait_for_something(run);
    } while (!is_over(run));
}

static void say_sums(const struct run *run)
{
    const uint64_t *settled = run->member.settled;
    fan__say("%" PRIu64 " done, %" PRIu64 " to be retried, %" PRIu64 " dead, %" PRIu64
             " handed back",
             settled[0], settled[1], settled[2], settled[3]);
}

/* A name that no other member has. */
static void name_owner(struct run *run)
{
    const struct fan_env *env = fan_env_default();
    char host[48] = "";
    uint32_t random;
    gethostname(host, sizeof(host) - 1);
    for (char *at = host; *at; at++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.", *at))
            *at = '-';
    env->random(env->context, &random, sizeof(random));
    snprintf(run->owner, sizeof(run->owner), "%s:%d:%08" PRIx32, host, (int)getpid(), random);
}

static int serve(struct run *run)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    /* The terminal has gone; under nohup it is ignored, and stays so. */
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, &run->mask);
    run->signals = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (run->signals < 0) {
        fan__say("no descriptor: %s", strerror(errno));
        return FAN__EXIT_FAILED;
    }
    fan__say("group %s: waiting for events", run->group.name);
    work_on(run);
    close(run->signals);
    say_sums(run);
    size_t open = run->member.work_count - fan__member_count(&run->member, FAN__WORK_FREE);
    if (open > 0)
        fan__say("%zu could not be told how they ended: they are given again when their leases end",
                 open);
    return run->broken || run->member.failed || open > 0 ? FAN__EXIT_FAILED : FAN__EXIT_OK;
}

static int run_all(struct run *run, struct fan__client *client)
{
    struct fan__answer answer = { .status = 0 };
    bool made = fan__group_create(client, &run->group, &answer);
    fan__answer_deinit(&answer);
    if (!made)
        return FAN__EXIT_FAILED;
    name_owner(run);
    run->member = (struct fan__member){ .client = client,
                                        .group = &run->group,
                                        .owner = run->owner,
                                        .lease_ms = (uint32_t)run->lease_ms,
                                        .ordered = run->ordered };
    fan__member_init(&run->member, run->jobs_max);
    run->jobs = fan__cli_resize(NULL, run->jobs_max, sizeof(*run->jobs));
    memset(run->jobs, 0, run->jobs_max * sizeof(*run->jobs));
    run->polls = fan__cli_resize(NULL, run->jobs_max * FAN__TASK_POLLS + 1, sizeof(*run->polls));
    int code = serve(run);
    for (size_t i = 0; i < run->jobs_max; i++)
        fan__task_deinit(&run->jobs[i].task);
    free(run->jobs);
    free(run->polls);
    fan__member_deinit(&run->member);
    return code;
}

int fan__cli_run(struct fan__common *common, int argc, char **argv)
{
    struct run run = {
        .common = common,
        .jobs_max = 1,
        .retries = RETRIES,
        .delay_ms = DELAY_MS,
        .delay_ms_max = DELAY_MS_MAX,
        .lease_ms = LEASE_MS,
    };
    argp_parse(&run_argp, argc, argv, ARGP_IN_ORDER, NULL, &run);
    struct fan__client *client = fan__client_new(common->url);
    int code = client ? run_all(&run, client) : FAN__EXIT_USAGE;
    fan__client_free(client);
    fan__text_deinit(&run.group_name);
    return code;
}
