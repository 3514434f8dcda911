/*
 * The server: NDJSON over HTTP into a durable log, held against the same events published in
 * process in the same run; and events to 1,000 streams, held against a bare loop that sends each of
 * them the same bytes. fanfared runs as a process of its own; its CPU time is read from its clock.
 */
#include "bench.h"

#include <fanfare/broker.h>
#include <fanfare/fanfare.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define INGEST_COUNT 200000
#define CONNECTION_COUNT 4
#define FLIGHT_COUNT_MAX 16384
#define TOPIC_COUNT 50
#define PAYLOAD_SIZE 400
#define STREAM_COUNT 1000
#define PACED_COUNT 300
#define PACED_NS 10000000L /* 100 a second */
#define BURST_COUNT 1000

static struct {
    char program[512];
    char folder[64];
    char uri[128];
    char payload[PAYLOAD_SIZE + 1];
    size_t frame_size; /* of one event to one stream, as it was last measured */
} place;

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    (void)info;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void place_end(void)
{
    nftw(place.folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void place_begin(void)
{
    snprintf(place.folder, sizeof(place.folder), "/tmp/fanfare-bench-XXXXXX");
    bench_must(mkdtemp(place.folder) != NULL, "no folder under /tmp");
    snprintf(place.uri, sizeof(place.uri), "sqlite:%s/log.db", place.folder);
}

static void fill_payload(void)
{
    int size = snprintf(place.payload, sizeof(place.payload),
                        "{\"user\":{\"id\":4711,\"name\":\"Ada\"},\"items\":[1,2,3],\"note\":\"");
    memset(place.payload + size, 'x', (size_t)(PAYLOAD_SIZE - size - 2));
    memcpy(place.payload + PAYLOAD_SIZE - 2, "\"}", 3);
}

/* ---- fanfared, and connections to it ---- */

struct server {
    pid_t pid;
    uint16_t port;
    clockid_t clock;
};

static struct server server_begin(void)
{
    struct server server;
    int said[2] = { -1, -1 };
    bench_must(pipe(said) == 0, "no pipe");
    server.pid = fork();
    if (server.pid == 0) {
        dup2(said[1], STDOUT_FILENO);
        execl(place.program, "fanfared", "--listen", "127.0.0.1:0", "--store", place.uri, NULL);
        _exit(127);
    }
    close(said[1]);
    char line[512] = "";
    ssize_t size = read(said[0], line, sizeof(line) - 1);
    const char *port = size > 0 ? strstr(line, "127.0.0.1:") : NULL;
    bench_must(port != NULL, "%s does not start", place.program);
    close(said[0]);
    server.port = (uint16_t)strtoul(port ? port + strlen("127.0.0.1:") : "", NULL, 10);
    bench_must(clock_getcpuclockid(server.pid, &server.clock) == 0, "no clock of the server");
    return server;
}

static void server_end(const struct server *server)
{
    int status = 0;
    kill(server->pid, SIGTERM);
    waitpid(server->pid, &status, 0);
    bench_must(WIFEXITED(status), "the server did not stop by itself");
}

static double cpu_seconds(clockid_t clock)
{
    struct timespec time;
    bench_must(clock_gettime(clock, &time) == 0, "the server has gone");
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int dial(uint16_t port)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_port = htons(port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bench_must(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0,
               "no connection to port %u: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

static void say(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        bench_must(sent > 0, "the server closed a connection");
        bytes += sent;
        size -= (size_t)sent;
    }
}

/* ---- Ingest ---- */

struct body {
    char *bytes;
    size_t size;
    uint16_t port;
    int count;
};

static void body_begin(struct body *body, int count)
{
    size_t line_size = PAYLOAD_SIZE + 128;
    body->count = count;
    body->bytes = malloc((size_t)count * line_size);
    bench_must(body->bytes != NULL, "out of memory");
    body->size = 0;
    for (int i = 0; i < count; i++)
        body->size += (size_t)snprintf(body->bytes + body->size, line_size,
                                       "{\"type\":\"shop.order.create\",\"topic\":\"order/"
                                       "%d\",\"user_id\":%d,\"payload\":%s}\n",
                                       i % TOPIC_COUNT, 1 + i % 1000, place.payload);
}

static void *post_body(void *context)
{
    const struct body *body = context;
    char text[512];
    int fd = dial(body->port);
    int size = snprintf(text, sizeof(text),
                        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nPrefer: return=minimal\r\n"
                        "Content-Type: application/x-ndjson\r\nContent-Length: %zu\r\n\r\n",
                        body->size);
    say(fd, text, (size_t)size);
    say(fd, body->bytes, body->size);
    size_t got = 0;
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "{\"stored\":%d,", body->count);
    do {
        ssize_t more = recv(fd, text + got, sizeof(text) - 1 - got, 0);
        bench_must(more > 0, "no answer");
        got += (size_t)more;
        text[got] = '\0';
    } while (!strstr(text, "]}"));
    bench_must(strstr(text, wanted) != NULL, "not all was stored: %s", text);
    close(fd);
    return NULL;
}

static double ingest_http(void *context)
{
    struct body *body = context;
    pthread_t threads[CONNECTION_COUNT];
    place_begin();
    struct server server = server_begin();
    body->port = server.port;
    double start = bench_now();
    for (int i = 0; i < CONNECTION_COUNT; i++)
        bench_must(pthread_create(&threads[i], NULL, post_body, body) == 0, "no thread");
    for (int i = 0; i < CONNECTION_COUNT; i++)
        pthread_join(threads[i], NULL);
    double seconds = bench_now() - start;
    server_end(&server);
    place_end();
    return INGEST_COUNT / seconds;
}

/* How many are published and not yet answered. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t room;
    int count;
} flight = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 };

static void on_done(void *context, const struct fan_published *published)
{
    (void)context;
    bench_must(published->status == FAN_OK, "publish: %s", fan_status_text(published->status));
    pthread_mutex_lock(&flight.mutex);
    if (--flight.count == FLIGHT_COUNT_MAX / 2 || flight.count == 0)
        pthread_cond_signal(&flight.room);
    pthread_mutex_unlock(&flight.mutex);
}

/* Waits until at most `count` are left, once there are too many. */
static void flight_wait(int count)
{
    pthread_mutex_lock(&flight.mutex);
    while (flight.count > count)
        pthread_cond_wait(&flight.room, &flight.mutex);
    pthread_mutex_unlock(&flight.mutex);
}

static bool flight_add(void)
{
    pthread_mutex_lock(&flight.mutex);
    bool full = ++flight.count >= FLIGHT_COUNT_MAX;
    pthread_mutex_unlock(&flight.mutex);
    return full;
}

static double ingest_in_process(void *context)
{
    (void)context;
    struct fan_error error = FAN_ERROR_INIT;
    struct fan_broker *broker = NULL;
    place_begin();
    bench_must(fan_broker_open(place.uri, NULL, &broker, &error) == FAN_OK, "%s", error.message);
    bench_must(fan_broker_start(broker) == FAN_OK, "the broker does not start");
    double start = bench_now();
    for (int i = 0; i < INGEST_COUNT; i++) {
        char topic[32];
        snprintf(topic, sizeof(topic), "order/%d", i % TOPIC_COUNT);
        struct fan_event_draft draft = { .size = FAN_EVENT_DRAFT_SIZE,
                                         .type = "shop.order.create",
                                         .topic = topic,
                                         .user_id = 1 + i % 1000,
                                         .payload = { place.payload, PAYLOAD_SIZE } };
        if (flight_add())
            flight_wait(FLIGHT_COUNT_MAX / 2);
        bench_must(fan_broker_publish_async(broker, &draft, on_done, NULL, &error) == FAN_OK, "%s",
                   error.message);
    }
    flight_wait(0);
    double seconds = bench_now() - start;
    fan_broker_free(broker);
    place_end();
    return INGEST_COUNT / seconds;
}

/* ---- Streams ---- */

struct listeners {
    int epoll_fd;
    int fds[STREAM_COUNT];
    bool after_line_end[STREAM_COUNT]; /* the last byte ended a line */
    uint64_t frames;
    uint64_t bytes;
};

static void listeners_begin(struct listeners *listeners, uint16_t port)
{
    static const char request[] = "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
    *listeners = (struct listeners){ .epoll_fd = epoll_create1(EPOLL_CLOEXEC) };
    for (uint32_t i = 0; i < STREAM_COUNT; i++) {
        struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };
        int fd = dial(port);
        say(fd, request, sizeof(request) - 1);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(listeners->epoll_fd, EPOLL_CTL_ADD, fd, &event);
        listeners->fds[i] = fd;
    }
}

static void listeners_end(const struct listeners *listeners)
{
    for (int i = 0; i < STREAM_COUNT; i++)
        close(listeners->fds[i]);
    close(listeners->epoll_fd);
}

/*
 * Counts empty lines, which end frames; those of chunks and heads end with CR LF and do not count.
 */
static void count_frames(struct listeners *listeners, uint32_t index, const char *bytes,
                         size_t size)
{
    bool after = listeners->after_line_end[index];
    const char *end = bytes + size;
    for (const char *at = bytes; at < end;) {
        if (after && *at == '\n')
            listeners->frames++;
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        after = line_end != NULL && (line_end == bytes || line_end[-1] != '\r');
        if (!line_end)
            break;
        at = line_end + 1;
    }
    listeners->after_line_end[index] = after;
    listeners->bytes += size;
}

/* Reads what there is, waiting up to timeout_ms for it. */
static void listen_once(struct listeners *listeners, int timeout_ms)
{
    static char bytes[1 << 18];
    struct epoll_event events[256];
    int count = epoll_wait(listeners->epoll_fd, events, 256, timeout_ms);
    for (int i = 0; i < count; i++) {
        uint32_t index = events[i].data.u32;
        ssize_t got = recv(listeners->fds[index], bytes, sizeof(bytes), 0);
        bench_must(got > 0 || errno == EAGAIN, "a stream was closed");
        if (got > 0)
            count_frames(listeners, index, bytes, (size_t)got);
    }
}

static void listen_until(struct listeners *listeners, uint64_t frames)
{
    while (listeners->frames < frames)
        listen_once(listeners, 1000);
}

/* Calls `publish` PACED_COUNT times at its pace, and listens to the end. */
static void listen_paced(struct listeners *listeners, void (*publish)(int fd), int fd)
{
    uint64_t frames = listeners->frames;
    double start = bench_now();
    for (int i = 0; i < PACED_COUNT; i++) {
        double due = start + (double)i * (double)PACED_NS * 1e-9;
        for (double left; (left = due - bench_now()) > 0;)
            listen_once(listeners, (int)(left * 1000) + 1);
        publish(fd);
    }
    listen_until(listeners, frames + (uint64_t)PACED_COUNT * STREAM_COUNT);
}

static void publish_one(int fd)
{
    char text[1024];
    char body[PAYLOAD_SIZE + 128];
    int size = snprintf(body, sizeof(body),
                        "{\"type\":\"shop.order.create\",\"topic\":\"order/1\",\"payload\":%s}",
                        place.payload);
    size =
        snprintf(text, sizeof(text),
                 "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 "Content-Length: %d\r\n\r\n%s",
                 size, body);
    /* The answers to those before. */
    char answers[4096];
    while (recv(fd, answers, sizeof(answers), MSG_DONTWAIT) > 0)
        ;
    say(fd, text, (size_t)size);
}

static double stream_paced(void *context)
{
    static struct listeners listeners;
    (void)context;
    place_begin();
    struct server server = server_begin();
    listeners_begin(&listeners, server.port);
    listen_until(&listeners, STREAM_COUNT); /* each begins with one that tells `retry` */
    int fd = dial(server.port);
    uint64_t bytes = listeners.bytes;
    double before = cpu_seconds(server.clock);
    listen_paced(&listeners, publish_one, fd);
    double spent = cpu_seconds(server.clock) - before;
    place.frame_size = (size_t)((listeners.bytes - bytes) / PACED_COUNT / STREAM_COUNT);
    close(fd);
    listeners_end(&listeners);
    server_end(&server);
    place_end();
    return spent * 1e6 / PACED_COUNT / STREAM_COUNT;
}

/* ---- The bare loop ---- */

static void serve_bare(int listen_fd, int go_fd)
{
    static int fds[STREAM_COUNT];
    char *frame = malloc(place.frame_size);
    if (!frame)
        _exit(1);
    memset(frame, 'x', place.frame_size);
    memcpy(frame + place.frame_size - 2, "\n\n", 2);
    for (int i = 0; i < STREAM_COUNT; i++)
        fds[i] = accept(listen_fd, NULL, NULL);
    for (char go; read(go_fd, &go, 1) == 1;)
        for (int i = 0; i < STREAM_COUNT; i++)
            if (send(fds[i], frame, place.frame_size, MSG_NOSIGNAL) < 0)
                _exit(1);
    _exit(0);
}

static void publish_bare(int fd)
{
    bench_must(write(fd, "g", 1) == 1, "the bare loop has gone");
}

static double stream_bare(void *context)
{
    static struct listeners listeners;
    (void)context;
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof(address);
    int go[2] = { -1, -1 };
    int listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bench_must(bind(listen_fd, (struct sockaddr *)&address, size) == 0 &&
                   listen(listen_fd, STREAM_COUNT) == 0 && pipe(go) == 0 &&
                   getsockname(listen_fd, (struct sockaddr *)&address, &size) == 0,
               "no bare loop");
    pid_t pid = fork();
    if (pid == 0) {
        close(go[1]);
        serve_bare(listen_fd, go[0]);
    }
    close(go[0]);
    clockid_t clock;
    bench_must(clock_getcpuclockid(pid, &clock) == 0, "no clock of the bare loop");
    listeners_begin(&listeners, ntohs(address.sin_port));
    /* One round, so that all are accepted. */
    publish_bare(go[1]);
    listen_until(&listeners, STREAM_COUNT);
    double before = cpu_seconds(clock);
    listen_paced(&listeners, publish_bare, go[1]);
    double spent = cpu_seconds(clock) - before;
    close(go[1]);
    close(listen_fd);
    listeners_end(&listeners);
    waitpid(pid, NULL, 0);
    return spent * 1e6 / PACED_COUNT / STREAM_COUNT;
}

/* ---- A burst: one request of many events, to all streams ---- */

static double burst_cpu;

static double stream_burst(void)
{
    static struct listeners listeners;
    struct body body;
    pthread_t thread;
    place_begin();
    struct server server = server_begin();
    body_begin(&body, BURST_COUNT);
    body.port = server.port;
    listeners_begin(&listeners, server.port);
    listen_until(&listeners, STREAM_COUNT);
    double before = cpu_seconds(server.clock);
    double start = bench_now();
    bench_must(pthread_create(&thread, NULL, post_body, &body) == 0, "no thread");
    listen_until(&listeners, (uint64_t)(BURST_COUNT + 1) * STREAM_COUNT);
    double seconds = bench_now() - start;
    burst_cpu = (cpu_seconds(server.clock) - before) * 1e6 / BURST_COUNT / STREAM_COUNT;
    pthread_join(thread, NULL);
    listeners_end(&listeners);
    server_end(&server);
    place_end();
    free(body.bytes);
    return (double)BURST_COUNT * STREAM_COUNT / seconds;
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    bench_begin(argc, argv);
    ssize_t size = readlink("/proc/self/exe", place.program, sizeof(place.program) - 40);
    bench_must(size > 0, "/proc/self/exe cannot be read");
    place.program[size] = '\0';
    strcpy(strrchr(place.program, '/'), "/../src/server/fanfared");
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    signal(SIGPIPE, SIG_IGN);
    fill_payload();

    struct body body;
    body_begin(&body, INGEST_COUNT / CONNECTION_COUNT);
    bench_compare(&(struct bench_case){ "NDJSON over HTTP into the log", "events/s",
                                        "published in process", 0.5, false },
                  ingest_http, ingest_in_process, &body);
    free(body.bytes);
    bench_compare(&(struct bench_case){ "1,000 streams, 100 events/s, server CPU", "us/delivery",
                                        "a bare loop of send()", 0, true },
                  stream_paced, stream_bare, NULL);
    double paced = bench_last();
    double rate = stream_burst();
    bench_value(&(struct bench_case){ "1,000 streams, a burst, server CPU", "us/delivery",
                                      "at 100 events/s", 0, true },
                burst_cpu, paced);
    bench_value(&(struct bench_case){ "1,000 streams, a burst", "deliveries/s", "at 100 events/s",
                                      0, false },
                rate, 100.0 * STREAM_COUNT);
    return bench_end();
}
