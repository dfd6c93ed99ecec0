/*
 * Load for a xenstored, whichever: many connections from one thread, each with so many requests outstanding as the case
 * says, and one write() per message.
 *
 *     load SOCKET CASE NR_CONNECTIONS SECONDS
 *
 * A case is a row of `cases`: the steps that make one operation, in nodes of the connection's own, /benchmark/N/... .
 * In the case `watch` one more connection writes a node that all the others watch, and writes again when its answer and
 * each event have come. The result is one line of JSON. An answer that is wrong in any way ends it with status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

/* io/xs_wire.h, enum xsd_sockmsg_type */
enum { DIRECTORY = 1, READ, WATCH = 4, START = 6, END, WRITE = 11, MKDIR, RM, EVENT = 15, ERROR };

#define VALUE           "a value of exactly 32 characters"
#define STEPS_MAX       4
#define CONNECTIONS_MAX 512
#define HEADER_BYTES    16
#define PAYLOAD_MAX     4096
#define ANSWER_S        10
#define NR_BUCKETS      1000000

static const struct load_case {
    const char *name;
    int nr_outstanding, nr_names, nr_steps;
    struct step { unsigned type; const char *node, *value; } steps[STEPS_MAX];
} cases[] = {
    {"read", 1, 0, 1, {{READ, "value", NULL}}},
    {"write", 1, 0, 1, {{WRITE, "value", VALUE}}},
    {"transaction", 1, 0, 4, {{START, NULL, ""}, {READ, "value", NULL}, {WRITE, "value", VALUE}, {END, NULL, "T"}}},
    {"directory10", 1, 10, 1, {{DIRECTORY, "names", NULL}}},
    {"directory100", 1, 100, 1, {{DIRECTORY, "names", NULL}}},
    {"read-pipelined", 32, 0, 1, {{READ, "value", NULL}}},
    {"create-remove", 1, 0, 2, {{WRITE, "new", VALUE}, {RM, "new", NULL}}},
    {"watch", 1, 0, 1, {{WRITE, "value", VALUE}}},
};

struct message {
    unsigned type, req_id, tx_id, length;
    char payload[PAYLOAD_MAX];
};

struct connection {
    int number, fd, step;
    unsigned nr_sent, nr_answered, tx_id;
    struct message requests[STEPS_MAX], received;
    size_t begin, end;
    char input[1 << 16];
};

static const struct load_case *the_case;
static struct connection *connections;
static int nr_connections, nr_busy, epoll_fd;
static bool is_watch, over;
static unsigned long operations, retries;
static double sent_s;
static unsigned long buckets[NR_BUCKETS]; /* events by latency, a tenth of a microsecond each; the last has the rest */

static void __attribute__((noreturn, format(printf, 2, 3))) fail(const struct connection *c, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "load: %s, connection %d: ", the_case->name, c->number);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(1);
}

static double now_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* A value to write has no NUL at its end; every other string has. */
static struct message make_message(int number, const struct step *step)
{
    struct message m = {.type = step->type};
    char *end = m.payload;

    if (step->node)
        end += sprintf(end, "/benchmark/%d%s%s", number, *step->node ? "/" : "", step->node) + 1;
    if (step->value)
        end += sprintf(end, "%s", step->value) + (step->type != WRITE);
    m.length = end - m.payload;
    return m;
}

static void send_message(struct connection *c, struct message *m)
{
    ssize_t size = HEADER_BYTES + m->length;

    m->req_id = ++c->nr_sent;
    m->tx_id = c->tx_id;
    sent_s = now_s();
    if (send(c->fd, m, size, MSG_NOSIGNAL) != size)
        fail(c, "a request could not be sent: %s", strerror(errno));
}

/* Whatever is there, at least one byte. */
static void receive(struct connection *c)
{
    ssize_t n;

    memmove(c->input, c->input + c->begin, c->end - c->begin);
    c->end -= c->begin;
    c->begin = 0;
    n = recv(c->fd, c->input + c->end, sizeof(c->input) - c->end, 0);
    if (n <= 0)
        fail(c, "nothing more comes: %s", n == 0 ? "the server closed the connection" : strerror(errno));
    c->end += n;
}

/* Moves the next message to c->received; false if it is not there in full. */
static bool next_message(struct connection *c)
{
    size_t have = c->end - c->begin;

    if (have < HEADER_BYTES)
        return false;
    memcpy(&c->received, c->input + c->begin, HEADER_BYTES);
    if (c->received.length > PAYLOAD_MAX)
        fail(c, "a message has at most %d bytes, this one claims %u", PAYLOAD_MAX, c->received.length);
    if (have < HEADER_BYTES + c->received.length)
        return false;
    memcpy(c->received.payload, c->input + c->begin + HEADER_BYTES, c->received.length);
    c->begin += HEADER_BYTES + c->received.length;
    return true;
}

/* False for a commit that has to be tried again. */
static bool check_answer(struct connection *c, unsigned type)
{
    const struct message *m = &c->received;

    if (m->req_id != ++c->nr_answered)
        fail(c, "the answer to request %u was due, one to %u came", c->nr_answered, m->req_id);
    if (m->type == ERROR && type == END && m->length == 7 && !memcmp(m->payload, "EAGAIN", 7))
        return false;
    if (m->type != type)
        fail(c, "a request of type %u was answered with type %u: %.*s", type, m->type, (int)m->length, m->payload);
    return true;
}

/* One request that is not measured, and its answer. */
static void ask(struct connection *c, int number, struct step step)
{
    struct message m = make_message(number, &step);

    send_message(c, &m);
    while (!next_message(c))
        receive(c);
    check_answer(c, step.type);
}

static void connect_to(struct connection *c, int number, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};

    c->number = number;
    c->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        fail(c, "nobody listens at %s: %s", address.sun_path, strerror(errno));
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
}

/* The connection's own nodes, as if nothing had been there before, and the messages that it will send. */
static void prepare(struct connection *c)
{
    char name[32];

    ask(c, c->number, (struct step){MKDIR, "", NULL});
    ask(c, c->number, (struct step){RM, "", NULL});
    ask(c, c->number, (struct step){WRITE, "value", VALUE});
    for (int i = 0; i < the_case->nr_names; i++) {
        sprintf(name, "names/name-%02d", i);
        ask(c, c->number, (struct step){MKDIR, name, NULL});
    }
    for (int i = 0; i < the_case->nr_steps; i++)
        c->requests[i] = make_message(c->number, &the_case->steps[i]);
    if (is_watch && c->number > 0) {
        ask(c, 0, (struct step){WATCH, "value", "token"});
        while (!next_message(c))
            receive(c);
    }
}

/* The answer to the step that the connection is at. */
static void take_answer(struct connection *c)
{
    unsigned type = c->requests[c->step].type;
    bool taken = check_answer(c, type), finished = taken && c->step == the_case->nr_steps - 1;

    if (type == START || type == END) /* answered by a number, or by a word that is none */
        c->tx_id = strtoul(c->received.payload, NULL, 10);
    c->step = taken && !finished ? c->step + 1 : 0;
    operations += finished;
    retries += !taken;
    if (finished && over)
        nr_busy--;
    else
        send_message(c, &c->requests[c->step]);
}

/* The answer to the write that is watched, or an event of it. */
static void take_event(struct connection *c)
{
    double bucket = (now_s() - sent_s) * 1e7;

    if (c == connections)
        check_answer(c, WRITE);
    else if (c->received.type != EVENT)
        fail(c, "an event was due, a message of type %u came", c->received.type);
    else
        buckets[bucket < NR_BUCKETS ? (int)bucket : NR_BUCKETS - 1]++;
    operations += --nr_busy == 0;
    if (nr_busy == 0 && !over) {
        nr_busy = nr_connections;
        send_message(connections, connections->requests);
    }
}

static double percentile_us(double share)
{
    unsigned long seen = 0, nr_events = operations * (nr_connections - 1);
    int i = 0;

    while (i < NR_BUCKETS && (seen += buckets[i]) < share * nr_events)
        i++;
    return i / 10.0;
}

/* For `seconds`, and then until all that is outstanding was answered; how long that took. */
static double run(double seconds)
{
    struct epoll_event ready[CONNECTIONS_MAX];
    double begin_s = now_s();

    nr_busy = nr_connections * the_case->nr_outstanding;
    for (int i = 0; i < (is_watch ? 1 : nr_busy); i++)
        send_message(&connections[i % nr_connections], connections[i % nr_connections].requests);
    while (nr_busy) {
        int n = epoll_wait(epoll_fd, ready, CONNECTIONS_MAX, ANSWER_S * 1000);

        if (n <= 0)
            fail(connections, "no answer for %d seconds", ANSWER_S);
        over = now_s() - begin_s >= seconds;
        for (int i = 0; i < n; i++) {
            receive(ready[i].data.ptr);
            while (next_message(ready[i].data.ptr))
                (is_watch ? take_event : take_answer)(ready[i].data.ptr);
        }
    }
    return now_s() - begin_s;
}

int main(int argc, char **argv)
{
    int nr_wanted = argc == 5 ? atoi(argv[3]) : 0;
    double seconds = argc == 5 ? atof(argv[4]) : 0;

    for (size_t i = 0; argc == 5 && i < sizeof(cases) / sizeof(*cases); i++)
        if (!strcmp(argv[2], cases[i].name))
            the_case = &cases[i];
    if (!the_case || nr_wanted < 1 || nr_wanted >= CONNECTIONS_MAX || seconds <= 0) {
        fprintf(stderr, "usage: load SOCKET CASE NR_CONNECTIONS SECONDS, fewer than %d connections\n", CONNECTIONS_MAX);
        return 2;
    }
    is_watch = !strcmp(the_case->name, "watch");
    nr_connections = nr_wanted + is_watch;
    connections = calloc(nr_connections, sizeof(*connections));
    epoll_fd = epoll_create1(0);
    for (int i = 0; i < nr_connections; i++) {
        connect_to(&connections[i], i, argv[1]);
        prepare(&connections[i]);
    }
    seconds = run(seconds);
    printf("{\"case\": \"%s\", \"connections\": %d, \"operations\": %lu, \"seconds\": %.6f, \"per_s\": %.1f",
           the_case->name, nr_wanted, operations, seconds, operations / seconds);
    if (is_watch)
        printf(", \"p50_us\": %.1f, \"p99_us\": %.1f", percentile_us(0.5), percentile_us(0.99));
    printf(", \"retries\": %lu}\n", retries);
    return 0;
}
