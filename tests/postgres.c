/* Starts postgres.py (POSTGRES_PY) with a pipe either way. */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void become(int words, int answers, const char *setting)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(words, STDIN_FILENO);
    dup2(answers, STDOUT_FILENO);
    execlp("python3", "python3", POSTGRES_PY, setting, (char *)NULL);
    _exit(127);
}

bool test_postgres_start(struct test_postgres *server, const char *setting)
{
    int words[2];
    int answers[2];
    *server = (struct test_postgres){ .pid = -1 };
    if (pipe2(words, O_CLOEXEC) != 0)
        return false;
    if (pipe2(answers, O_CLOEXEC) != 0) {
        close(words[0]);
        close(words[1]);
        return false;
    }
    server->pid = fork();
    if (server->pid == 0)
        become(words[0], answers[1], setting);
    close(words[0]);
    close(answers[1]);
    server->words = fdopen(words[1], "w");
    server->answers = fdopen(answers[0], "r");
    char line[128] = "";
    bool ready = server->words && server->answers && fgets(line, sizeof(line), server->answers) &&
                 sscanf(line, "ready %63s %u", server->folder, &server->port) == 2;
    if (!ready)
        test_postgres_end(server);
    return ready;
}

bool test_postgres_say(struct test_postgres *server, const char *word)
{
    return fprintf(server->words, "%s\n", word) > 0 && fflush(server->words) == 0;
}

bool test_postgres_answered(struct test_postgres *server)
{
    char line[64] = "";
    return fgets(line, sizeof(line), server->answers) && strcmp(line, "done\n") == 0;
}

bool test_postgres_tell(struct test_postgres *server, const char *word)
{
    return test_postgres_say(server, word) && test_postgres_answered(server);
}

void test_postgres_end(struct test_postgres *server)
{
    if (server->words)
        fclose(server->words);
    if (server->answers)
        fclose(server->answers);
    if (server->pid > 0)
        waitpid(server->pid, NULL, 0);
    *server = (struct test_postgres){ .pid = -1 };
}

void test_postgres_uri(const struct test_postgres *server, const char *options, char *uri,
                       size_t size)
{
    snprintf(uri, size, "postgres://fan@/fan?host=%s&port=%u%s%s", server->folder, server->port,
             *options ? "&" : "", options);
}
