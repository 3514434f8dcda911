/* See task.h. */
#include "cli/task.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define READ_SIZE 4096

static bool is_command(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

bool fan__task_exists(const char *command)
{
    if (*command == '\0' || strchr(command, '/'))
        return *command && is_command(command);
    const char *folder = getenv("PATH");
    if (!folder)
        folder = "/bin:/usr/bin";
    bool found = false;
    for (bool more = true; more && !found;) {
        size_t size = strcspn(folder, ":");
        struct fan__text path = { NULL, 0, 0 };
        fan__text_add(&path, folder, size);
        fan__text_add_format(&path, "%s%s", size > 0 ? "/" : "", command);
        found = is_command(path.data);
        fan__text_deinit(&path);
        more = folder[size] == ':';
        folder += size + more;
    }
    return found;
}

static void close_one(int *descriptor)
{
    if (*descriptor >= 0)
        close(*descriptor);
    *descriptor = -1;
}

static int spawn(pid_t *ret_pid, char **argv, char **environment, const sigset_t *mask,
                 const int *ends)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGINT);
    sigaddset(&defaults, SIGTERM);
    sigaddset(&defaults, SIGPIPE);
    int failed = posix_spawn_file_actions_init(&actions);
    if (failed)
        return failed;
    failed = posix_spawnattr_init(&attributes);
    if (!failed) {
        posix_spawnattr_setpgroup(&attributes, 0);
        posix_spawnattr_setsigdefault(&attributes, &defaults);
        posix_spawnattr_setsigmask(&attributes, mask);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF |
                                                  POSIX_SPAWN_SETSIGMASK);
        failed = posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO);
        if (!failed)
            failed = posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
        if (!failed)
            failed = posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
        if (!failed)
            failed = posix_spawnp(ret_pid, argv[0], &actions, &attributes, argv, environment);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return failed;
}

int fan__task_start(struct fan__task *task, char **argv, char **environment, const sigset_t *mask)
{
    int in[2] = { -1, -1 };
    int out[2] = { -1, -1 };
    int failed = 0;
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0)
        failed = errno;
    task->process = -1;
    task->killed = false;
    if (!failed)
        failed = spawn(&task->pid, argv, environment, mask, (const int[]){ in[0], out[1] });
    if (!failed) {
        task->process = pidfd_open(task->pid, 0);
        if (task->process < 0) {
            failed = errno;
            kill(-task->pid, SIGKILL);
            waitpid(task->pid, NULL, 0);
        }
    }
    close_one(&in[0]);
    close_one(&out[1]);
    if (failed) {
        close_one(&in[1]);
        close_one(&out[0]);
        task->pid = 0;
        return failed;
    }
    task->input = in[1];
    task->words = out[0];
    fcntl(task->input, F_SETFL, O_NONBLOCK);
    fcntl(task->words, F_SETFL, O_NONBLOCK);
    task->written = 0;
    fan__text_clear(&task->line);
    fan__text_clear(&task->last);
    return 0;
}

/* ---- While it runs ---- */

static void write_input(struct fan__task *task)
{
    while (task->input >= 0) {
        size_t left = task->text.size - task->written;
        ssize_t count = left > 0 ? write(task->input, task->text.data + task->written, left) : 0;
        if (count > 0)
            task->written += (size_t)count;
        else if (count < 0 && errno == EINTR)
            continue;
        else if (count < 0 && errno == EAGAIN)
            return;
        else
            close_one(&task->input); /* all is written, or nobody reads it */
    }
}

static void end_line(struct fan__task *task)
{
    struct fan__text *line = &task->line;
    while (line->size > 0 && strchr(" \t\r", line->data[line->size - 1]))
        line->data[--line->size] = '\0';
    if (line->size > 0) {
        fan__text_clear(&task->last);
        fan__text_add(&task->last, line->data, line->size);
    }
    fan__text_clear(line);
}

static void take_words(struct fan__task *task, const char *bytes, size_t size)
{
    while (size > 0) {
        const char *end = memchr(bytes, '\n', size);
        size_t part = end ? (size_t)(end - bytes) : size;
        size_t room = FAN__TASK_WORDS_SIZE_MAX - task->line.size;
        fan__text_add(&task->line, bytes, part < room ? part : room);
        if (end)
            end_line(task);
        part += end != NULL;
        bytes += part;
        size -= part;
    }
}

/* What it says goes on to our standard error, as far as somebody takes it there. */
static void pass_on(const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t count = write(STDERR_FILENO, bytes, size);
        if (count < 0 && errno != EINTR)
            return;
        if (count > 0) {
            bytes += count;
            size -= (size_t)count;
        }
    }
}

static void read_words(struct fan__task *task)
{
    char bytes[READ_SIZE];
    while (task->words >= 0) {
        ssize_t count = read(task->words, bytes, sizeof(bytes));
        if (count > 0) {
            pass_on(bytes, (size_t)count);
            take_words(task, bytes, (size_t)count);
        } else if (count < 0 && errno == EINTR) {
            continue;
        } else if (count < 0 && errno == EAGAIN) {
            return;
        } else {
            close_one(&task->words);
        }
    }
}

void fan__task_move(struct fan__task *task)
{
    if (task->pid == 0)
        return;
    write_input(task);
    read_words(task);
}

size_t fan__task_polls(const struct fan__task *task, struct pollfd *polls)
{
    size_t count = 0;
    if (task->pid == 0)
        return 0;
    polls[count++] = (struct pollfd){ .fd = task->process, .events = POLLIN };
    if (task->input >= 0)
        polls[count++] = (struct pollfd){ .fd = task->input, .events = POLLOUT };
    if (task->words >= 0)
        polls[count++] = (struct pollfd){ .fd = task->words, .events = POLLIN };
    return count;
}

void fan__task_kill(struct fan__task *task, int number)
{
    if (task->pid == 0)
        return;
    task->killed = true;
    kill(-task->pid, number);
}

bool fan__task_ended(struct fan__task *task, int *ret_status)
{
    siginfo_t info = { .si_pid = 0 };
    if (task->pid == 0 || waitid(P_PID, (id_t)task->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
        info.si_pid == 0)
        return false;
    /* What it started must not outlive its time; its number is not given anew before the wait. */
    if (task->killed)
        kill(-task->pid, SIGKILL);
    waitpid(task->pid, ret_status, 0);
    read_words(task);
    end_line(task);
    close_one(&task->process);
    close_one(&task->input);
    close_one(&task->words);
    task->pid = 0;
    return true;
}

void fan__task_deinit(struct fan__task *task)
{
    fan__text_deinit(&task->text);
    fan__text_deinit(&task->line);
    fan__text_deinit(&task->last);
}
