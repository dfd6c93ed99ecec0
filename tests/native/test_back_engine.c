/* The native backend with its threads: a guest's, the ring's, a purge as fast as it can, and somebody who ends grants;
 * connections that end with requests in flight; records charged by several threads. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>

#include "tests/native/back_guest.h"

#define HANG_S 300
#define ROUNDS 300
#define AREA_SECTORS 88 /* 11 pages: the part of the disk that one request of a round has */
#define POISON 0xa5
#define NR_CHARGERS 3
#define NR_CHARGED 2000

/* Whose a reference is: nobody's, the guest's for a request, or the gardener's, who ends its grant. */
enum { NOBODY, GUEST, GARDENER };
static uint32_t owners[NR_REFS];
static uint32_t ended, nr_ended;
static uint64_t seed;

static int take(uint32_t ref, uint32_t owner)
{
    uint32_t nobody = NOBODY;

    return __atomic_compare_exchange_n(&owners[ref], &nobody, owner, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static void give(uint32_t ref)
{
    __atomic_store_n(&owners[ref], NOBODY, __ATOMIC_RELEASE);
}

static int is_over(void)
{
    return __atomic_load_n(&ended, __ATOMIC_ACQUIRE);
}

/* Threads */

static void *run_ring(void *result)
{
    *(int *)result = xb_back_run(guest.back);
    return NULL;
}

static void *purge_always(void *purged)
{
    while (!is_over())
        *(uint64_t *)purged += xb_back_purge(guest.back, clock_ns());
    return NULL;
}

/* Ends a grant when nobody uses it and nothing keeps it mapped; from then on nobody writes into the page. */
static void *end_grants(void *unused)
{
    uint64_t dice = seed + 1;

    (void)unused;
    while (!is_over()) {
        uint32_t ref = FIRST_REF + roll(&dice) % (NR_REFS - FIRST_REF);

        if (!take(ref, GARDENER))
            continue;
        if (xb_gnttab_end_access(&guest.shared[ref])) {
            memset(frame(ref), POISON, PAGE_SIZE);
            sched_yield();
            for (uint32_t i = 0; i < PAGE_SIZE; i++)
                XB_ASSERT(frame(ref)[i] == POISON);
            grant(ref, 0);
            __atomic_fetch_add(&nr_ended, 1, __ATOMIC_RELAXED);
        }
        give(ref);
    }
    return NULL;
}

/* The guest */

struct asked {
    uint32_t first, count; /* references of data; behind them one for the segments of an indirect request */
    uint8_t indirect;
    uint8_t operation;
    uint8_t wrong; /* one of them grants nothing */
};

static uint32_t versions[NR_ENTS]; /* of each area of the disk: how often it was written */
static uint32_t lengths[NR_ENTS];  /* pages that were written last */

static uint64_t word_of(uint32_t area, uint32_t page, uint32_t version)
{
    return ((uint64_t)version << 32 | (uint64_t)area << 8 | page) * 0x9e3779b97f4a7c15u + 1;
}

static void fill(uint32_t ref, uint64_t word)
{
    for (uint32_t at = 0; at < PAGE_SIZE; at += 8)
        memcpy(frame(ref) + at, &word, 8);
}

static void verify(uint32_t ref, uint64_t word)
{
    for (uint32_t at = 0; at < PAGE_SIZE; at += 8)
        XB_ASSERT(memcmp(frame(ref) + at, &word, 8) == 0);
}

/* As many references in a row as can be had; 0 if none. */
static uint32_t take_run(uint64_t *dice, uint32_t *first)
{
    uint32_t wanted = 1 + roll(dice) % 11, count = 0;

    *first = FIRST_REF + roll(dice) % (NR_REFS - FIRST_REF - 11);
    while (count < wanted && take(*first + count, GUEST))
        count++;
    return count;
}

static int ask_about(uint32_t area, struct asked *asked, uint64_t *dice)
{
    uint32_t first;

    asked->count = take_run(dice, &asked->first);
    if (asked->count == 0)
        return 0;
    asked->indirect = asked->count > 1 && roll(dice) % 3 == 0;
    asked->count -= asked->indirect;
    asked->operation = roll(dice) & 1 ? XB_BLKIF_READ : XB_BLKIF_WRITE;
    asked->wrong = roll(dice) % 16 == 0;
    if (versions[area] == 0)
        asked->operation = XB_BLKIF_WRITE;
    for (uint32_t i = 0; i < asked->count && asked->operation == XB_BLKIF_WRITE; i++)
        fill(asked->first + i, word_of(area, i, versions[area] + !asked->wrong));
    first = asked->wrong ? NR_REFS : asked->first;
    if (asked->indirect) {
        write_segments(frame(asked->first + asked->count), first, asked->count);
        ask_indirect(asked->operation, area, area * AREA_SECTORS, asked->first + asked->count,
                     (uint16_t)asked->count);
    } else
        ask(asked->operation, area, area * AREA_SECTORS, first, (uint8_t)asked->count);
    return 1;
}

static void answered(uint32_t area, const struct asked *asked, int16_t status)
{
    XB_ASSERT(status == (asked->wrong ? XB_BLKIF_ERROR : XB_BLKIF_OKAY));
    if (!asked->wrong && asked->operation == XB_BLKIF_WRITE) {
        versions[area]++;
        lengths[area] = asked->count;
    }
    if (!asked->wrong && asked->operation == XB_BLKIF_READ) {
        for (uint32_t i = 0; i < asked->count && i < lengths[area]; i++)
            verify(asked->first + i, word_of(area, i, versions[area]));
    }
    for (uint32_t i = 0; i < asked->count + asked->indirect; i++)
        give(asked->first + i);
}

static void play_guest(void)
{
    struct asked asked[NR_ENTS];
    uint64_t dice = seed + 2, area;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t nr_asked = 0;

        for (uint32_t i = 0; i < NR_ENTS; i++)
            nr_asked += (uint32_t)ask_about(i, &asked[i], &dice);
        publish();
        for (; nr_asked > 0; nr_asked--) {
            int16_t status = await_answer(&area);

            answered((uint32_t)area, &asked[area], status);
        }
    }
}

static void stop_ring(pthread_t ring, int *result)
{
    xb_back_stop(guest.back);
    ring_bell(guest.to_back);
    XB_ASSERT(pthread_join(ring, NULL) == 0 && *result == XB_BACK_STOPPED);
}

static void test_threads(uint32_t persistent, uint32_t limit, uint32_t poll_us)
{
    pthread_t ring, purger, gardener;
    uint64_t purged = 0;
    int result = 77;

    boot();
    memset(versions, 0, sizeof(versions));
    nr_ended = ended = 0;
    guest.config.persistent = persistent;
    guest.config.max_persistent_grants = limit;
    guest.config.unused_timeout_ns = 20000;
    guest.config.poll_us = poll_us;
    connect_back();
    XB_ASSERT(pthread_create(&ring, NULL, run_ring, &result) == 0);
    XB_ASSERT(pthread_create(&purger, NULL, purge_always, &purged) == 0);
    XB_ASSERT(pthread_create(&gardener, NULL, end_grants, NULL) == 0);
    play_guest();
    __atomic_store_n(&ended, 1, __ATOMIC_RELEASE);
    XB_ASSERT(pthread_join(purger, NULL) == 0 && pthread_join(gardener, NULL) == 0);
    stop_ring(ring, &result);
    printf("persistent %u, limit %u: %llu hits, %llu purged, %u grants ended\n", persistent, limit,
           (unsigned long long)guest.counters.persistent_hits, (unsigned long long)purged, nr_ended);
    XB_ASSERT(purged == guest.counters.persistent_purged);
    disconnect();
    shut_down();
}

/* Ends */

/* Each round another number of requests, which the disk may not be done with. */
static void test_requests_in_flight(uint32_t grant_copy)
{
    for (uint32_t round = 0; round < 60; round++) {
        boot();
        guest.config.grant_copy = grant_copy;
        guest.config.persistent = round & 1;
        connect_back();
        write_segments(frame(NR_REFS - 1), FIRST_REF, 40);
        for (uint32_t i = 0; i < 1 + round % NR_ENTS; i++) {
            if (i % 4 == 3)
                ask_indirect(i & 4 ? XB_BLKIF_READ : XB_BLKIF_WRITE, i, i * AREA_SECTORS, NR_REFS - 1, 40);
            else
                ask(i % 4 == 2 ? XB_BLKIF_WRITE_BARRIER + (i & 4) / 4 : i % 4, i, i * AREA_SECTORS, FIRST_REF + i,
                    i % 4 == 2 ? round & 2 : 1 + i % 11);
        }
        publish();
        XB_ASSERT(xb_back_serve(guest.back, clock_ns()) > 0);
        disconnect();
        shut_down();
    }
}

static void test_stop_while_polling(uint32_t asks)
{
    for (uint32_t round = 0; round < 20; round++) {
        pthread_t ring;
        int result = 77;

        boot();
        guest.config.poll_us = 1000000;
        connect_back();
        XB_ASSERT(pthread_create(&ring, NULL, run_ring, &result) == 0);
        for (uint32_t i = 0; i < asks; i++)
            ask(XB_BLKIF_READ, i, 0, FIRST_REF, 1);
        publish();
        usleep(round * 50);
        stop_ring(ring, &result);
        disconnect();
        shut_down();
    }
}

static void test_broken_ring(void)
{
    uint32_t bogus = NR_ENTS + 1;

    boot();
    connect_back();
    memcpy(guest.ring_page, &bogus, sizeof(bogus));
    XB_ASSERT(xb_back_serve(guest.back, 1) == XB_RING_BROKEN && xb_back_run(guest.back) == XB_RING_BROKEN);
    disconnect();
    shut_down();
}

/* Records */

static void *charge_many(void *context)
{
    uint64_t charger = (uintptr_t)context;

    for (uint64_t i = 0; i < NR_CHARGED; i++) {
        while (!xb_back_charge(guest.back, charger << 32 | i))
            sched_yield();
        ring_bell(guest.to_back);
    }
    return NULL;
}

static uint64_t nr_told[NR_CHARGERS]; /* charges of each thread that came back */

static void told(uint64_t user_id)
{
    uint64_t charger = user_id >> 32;

    XB_ASSERT(charger < NR_CHARGERS && (uint32_t)user_id == nr_told[charger]);
    nr_told[charger]++;
}

/* What xb_back_run is called in. */
static void *run_charged(void *result)
{
    uint64_t user_id;

    while ((*(int *)result = xb_back_run(guest.back)) == XB_BACK_LIVE) {
        while (xb_back_live(guest.back, &user_id))
            told(user_id);
    }
    return NULL;
}

/* A thread's charges go live in its order, each once; what is left can be taken back. With a single record too, which
 * goes round many times within a batch. */
static void test_charges(uint32_t nr_records)
{
    pthread_t ring, chargers[NR_CHARGERS];
    uint64_t user_id;
    int result = 77;

    boot();
    memset(nr_told, 0, sizeof(nr_told));
    guest.config.nr_records = nr_records;
    guest.config.charged_by_hand = 1;
    connect_back();
    XB_ASSERT(pthread_create(&ring, NULL, run_charged, &result) == 0);
    for (uintptr_t i = 0; i < NR_CHARGERS; i++)
        XB_ASSERT(pthread_create(&chargers[i], NULL, charge_many, (void *)i) == 0);
    for (uint32_t left = NR_CHARGERS * NR_CHARGED - 1; left > 0;) {
        uint32_t batch = left < NR_ENTS ? left : NR_ENTS;

        for (uint32_t i = 0; i < batch; i++)
            ask(XB_BLKIF_READ, i, 0, FIRST_REF, 1);
        publish();
        for (uint32_t i = 0; i < batch; i++)
            XB_ASSERT(await_answer(&user_id) == XB_BLKIF_OKAY && user_id == i);
        left -= batch;
    }
    for (uint32_t i = 0; i < NR_CHARGERS; i++)
        XB_ASSERT(pthread_join(chargers[i], NULL) == 0);
    stop_ring(ring, &result);
    XB_ASSERT(xb_back_discharge(guest.back, &user_id));
    told(user_id);
    XB_ASSERT(!xb_back_discharge(guest.back, &user_id));
    for (uint32_t i = 0; i < NR_CHARGERS; i++)
        XB_ASSERT(nr_told[i] == NR_CHARGED);
    disconnect();
    shut_down();
}

static void test_disk(const char *folder, int flags)
{
    if (!open_disk(folder, flags)) {
        XB_ASSERT(flags == O_DIRECT && errno == EINVAL);
        printf("test_back_engine: no O_DIRECT here\n");
        return;
    }
    test_threads(1, 1056, 50);
    test_threads(1, 20, 0);
    test_threads(0, 0, 50);
    test_requests_in_flight(0);
    test_requests_in_flight(1);
    close_disk();
}

/* With a seed as argument, that one. */
int main(int argc, char **argv)
{
    alarm(HANG_S);
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : clock_ns();
    printf("test_back_engine: seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    test_disk(NULL, 0);
    test_disk(".", 0);
    test_disk(".", O_DIRECT);
    guest.disk_fd = -1;
    test_stop_while_polling(0);
    test_stop_while_polling(3);
    test_broken_ring();
    test_charges(1);
    test_charges(5);
    test_charges(NR_ENTS);
    printf("test_back_engine: ok\n");
    return 0;
}
