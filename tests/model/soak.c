#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ring/sring.h"
#include "xenblk/channel.h"
#include "xenblk/emulated/evtchn.h"

/* Two processes, a ring of one entry, no polling and no timeout: each request is a race between falling asleep and
 * being woken, twice. A wake-up that is lost is a hang, which the parent sees and describes.
 *
 *     soak REQUESTS [SEED [STALL_S]] */

#define PAGE_BYTES 4096
#define NR_ENTS 1
#define REPORT_S 10

enum { FRONT, BACK };

/* What the sides do where the parent can see it; it is no part of the protocol. */
struct side {
    uint64_t done; /* requests */
    uint64_t sleeps;
    uint64_t saved; /* final checks that found something */
    uint32_t asleep;
    struct xb_evtchn_port port;
};

struct shared {
    uint8_t page[PAGE_BYTES];
    uint32_t words[2];
    struct side side[2];
};

static struct shared *shared;
static uint64_t nr_requests, random_state = 1;
static int self;

static struct side *me(void)
{
    return &shared->side[self];
}

static void fail(const char *what)
{
    fprintf(stderr, "soak: %s: %s\n", what, strerror(errno));
    _exit(2);
}

/* The time between two operations varies, from nothing to what a wake-up takes: the sides meet at every place. */
static void dawdle(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    for (uint32_t turns = (random_state >> 32) & ((4 << (random_state >> 60)) - 1); turns > 0; turns--)
        __asm__ volatile("" ::: "memory");
}

static void notify(void)
{
    xb_evtchn_notify(&me()->port);
    dawdle();
}

static void wait_for_event(void)
{
    struct pollfd readable = {me()->port.fd, POLLIN, 0};

    me()->sleeps += poll(&readable, 1, 0) == 0;
    __atomic_store_n(&me()->asleep, 1, __ATOMIC_RELAXED);
    xb_evtchn_wait(&me()->port, -1);
    __atomic_store_n(&me()->asleep, 0, __ATOMIC_RELAXED);
    dawdle();
}

static void finish_one(uint64_t got, uint64_t expected)
{
    if (got != expected) {
        fprintf(stderr, "soak: the %s got %llx for %llx\n", self == FRONT ? "front" : "back", (unsigned long long)got,
                (unsigned long long)expected);
        _exit(2);
    }
    __atomic_store_n(&me()->done, me()->done + 1, __ATOMIC_RELAXED);
}

static void sleep_unless(int found)
{
    me()->saved += found;
    if (!found)
        wait_for_event();
}

static void run_front(struct xb_front_ring *ring)
{
    for (uint64_t i = 0; i < nr_requests; i++) {
        uint64_t response;

        xb_front_ring_put(ring, &i);
        if (xb_front_ring_push(ring))
            notify();
        dawdle();
        while (xb_front_ring_consume(ring, &response) == 0) {
            dawdle();
            sleep_unless(xb_front_ring_final_check(ring));
        }
        finish_one(response, ~i);
    }
}

static void run_back(struct xb_back_ring *ring)
{
    for (uint64_t i = 0; i < nr_requests; i++) {
        uint64_t request;

        while (xb_back_ring_consume(ring, &request) == 0) {
            dawdle();
            sleep_unless(xb_back_ring_final_check(ring));
        }
        finish_one(request, i);
        request = ~request;
        xb_back_ring_put(ring, &request);
        if (xb_back_ring_push(ring))
            notify();
        dawdle();
    }
}

static pid_t start(int side, struct xb_front_ring *front)
{
    struct xb_back_ring back;
    pid_t pid = fork();

    if (pid < 0)
        fail("fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    self = side;
    random_state += side;
    if (side == FRONT) {
        run_front(front);
    } else {
        if (xb_back_ring_attach(&back, shared->page, NR_ENTS, sizeof(uint64_t)) != 0)
            _exit(2);
        run_back(&back);
    }
    _exit(0);
}

static void describe(void)
{
    const uint32_t *sring = (const uint32_t *)shared->page;

    printf("req_prod %u, req_event %u, rsp_prod %u, rsp_event %u\n", sring[0], sring[1], sring[2], sring[3]);
    for (int side = FRONT; side <= BACK; side++) {
        const struct side *it = &shared->side[side];

        printf("%s: %llu requests; slept %llu times, %llu saved by final_check; %llu events sent, %llu coalesced; "
               "%llu taken, %llu waits without one; %s, pending %d\n",
               side == FRONT ? "front" : "back", (unsigned long long)it->done, (unsigned long long)it->sleeps,
               (unsigned long long)it->saved, (unsigned long long)it->port.sent, (unsigned long long)it->port.coalesced,
               (unsigned long long)it->port.delivered, (unsigned long long)it->port.spurious,
               it->asleep ? "asleep" : "awake", shared->words[side] != 0);
    }
}

static uint64_t done(void)
{
    return __atomic_load_n(&shared->side[FRONT].done, __ATOMIC_RELAXED);
}

/* Wait until both sides have ended; returns 0 if they did well. */
static int watch(const pid_t *pids, int stall_s)
{
    uint64_t last_done = 0;
    int running = 2, bad = 0, stalled_s = 0, second = 0;

    while (running && !bad && stalled_s < stall_s) {
        struct timespec one_second = {1, 0};
        int status;

        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0; running--)
            bad |= status != 0;
        if (!running || bad)
            break;
        nanosleep(&one_second, NULL); /* ends early when a side does: SIGCHLD is handled */
        stalled_s = done() == last_done ? stalled_s + 1 : 0;
        last_done = done();
        if (++second % REPORT_S == 0) {
            printf("%3d s: %llu requests\n", second, (unsigned long long)last_done);
            fflush(stdout);
        }
    }
    for (int side = FRONT; running && side <= BACK; side++)
        kill(pids[side], SIGKILL);
    if (running && !bad)
        printf("HANG: no request was finished for %d s\n", stalled_s);
    return running || bad;
}

static void ignore_signal(int number)
{
    (void)number;
}

static void share(void)
{
    int memory = memfd_create("ring", MFD_CLOEXEC);

    if (memory < 0 || ftruncate(memory, sizeof(*shared)) != 0)
        fail("memfd");
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (shared == MAP_FAILED)
        fail("mmap");
    for (int side = FRONT; side <= BACK; side++) {
        struct xb_evtchn_port *port = &shared->side[side].port;

        port->word = &shared->words[side];
        port->remote_word = &shared->words[1 - side];
        if ((port->fd = eventfd(0, 0)) < 0)
            fail("eventfd");
    }
    for (int side = FRONT; side <= BACK; side++)
        shared->side[side].port.remote_fd = shared->side[1 - side].port.fd;
}

int main(int argc, char **argv)
{
    struct sigaction on_child = {.sa_handler = ignore_signal};
    struct xb_front_ring front;
    pid_t pids[2];
    int bad;

    if (argc < 2 || argc > 4 || (nr_requests = strtoull(argv[1], NULL, 10)) == 0) {
        fprintf(stderr, "usage: %s REQUESTS [SEED [STALL_S]]\n", argv[0]);
        return 2;
    }
    if (argc > 2)
        random_state = strtoull(argv[2], NULL, 10) * 2 + 1;
    sigaction(SIGCHLD, &on_child, NULL);
    share();
    xb_front_ring_init(&front, shared->page, PAGE_BYTES, NR_ENTS, sizeof(uint64_t));
    for (int side = FRONT; side <= BACK; side++)
        pids[side] = start(side, &front);
    bad = watch(pids, argc > 3 ? atoi(argv[3]) : 10);
    describe();
    return bad;
}
