/* The native backend's barriers, discards and indirect requests, where a healthy disk or an honest guest does not show
 * what they do. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/uio.h>

#include "tests/native/back_guest.h"
#include "xenblk/blkback/file.h"
#include "xenblk/blkback/uring.h"

#include "xenblk/blkback/file_calls.h"

#define HANG_S 300
#define TABLE (NR_REFS - 1)
#define CANARY (NR_REFS - 2)
#define NR_MUTATED 4000

static struct xb_file_calls real_calls;
static uint32_t holding; /* completions stay with the kernel */
static int sync_errno;
static uint32_t nr_syncs;
static uint64_t seed;

/* A disk as it may be */

static int held_reap(struct xb_uring *uring, uint64_t *user_data, int32_t *result)
{
    return holding ? 0 : real_calls.reap(uring, user_data, result);
}

static int failing_fdatasync(int fd)
{
    nr_syncs++;
    if (sync_errno == 0)
        return real_calls.fdatasync(fd);
    errno = sync_errno;
    return -1;
}

static void serve(void)
{
    publish();
    XB_ASSERT(xb_back_serve(guest.back, clock_ns()) >= 0);
}

static int16_t serve_one(void)
{
    int16_t status;
    uint64_t id;

    do
        serve();
    while (!take_answer(&id, &status));
    return status;
}

/* Barriers */

/* Reads that the disk holds, a barrier, and writes behind it, which stay on the ring until the barrier is answered. */
static void test_barrier(uint32_t nr_before, uint8_t nr_pages)
{
    uint32_t nr_answered = 0, barrier = nr_before;
    int16_t status;
    uint64_t id;

    boot();
    connect_back();
    holding = 1;
    for (uint32_t i = 0; i < nr_before; i++)
        ask(XB_BLKIF_READ, i, i * 8, FIRST_REF + i, 1);
    ask(XB_BLKIF_WRITE_BARRIER, barrier, barrier * 8, FIRST_REF + barrier, nr_pages);
    for (uint32_t i = barrier + 1; i < NR_ENTS; i++)
        ask(XB_BLKIF_WRITE, i, i * 8, FIRST_REF + i, 1);
    for (uint32_t i = 0; i < 3; i++)
        serve();
    if (take_answer(&id, &status)) {
        printf("test_back_operations: reads are done in line here\n");
        XB_ASSERT(id == 0);
        nr_answered++;
    } else
        XB_ASSERT(guest.ring.req_cons == barrier + 1 && !xb_back_unsupported(guest.back));
    holding = 0;
    while (nr_answered < NR_ENTS) {
        serve();
        for (; take_answer(&id, &status); nr_answered++) {
            XB_ASSERT(status == XB_BLKIF_OKAY);
            XB_ASSERT((id < barrier) == (nr_answered < barrier) && (id > barrier) == (nr_answered > barrier));
        }
    }
    XB_ASSERT(guest.counters.f_req == 1);
    disconnect();
    shut_down();
}

/* The connection ends while a barrier waits. */
static void test_barrier_given_up(void)
{
    boot();
    connect_back();
    holding = 1;
    for (uint32_t i = 0; i < 5; i++)
        ask(XB_BLKIF_READ, i, i * 8, FIRST_REF + i, 1);
    ask(XB_BLKIF_WRITE_BARRIER, 5, 40, FIRST_REF + 5, 3);
    serve();
    holding = 0;
    disconnect();
    shut_down();
}

static void *run_ring(void *result)
{
    *(int *)result = xb_back_run(guest.back);
    return NULL;
}

/* Asleep on the disk and the guest, with the ring's thread: a full ring of reads and barriers, many times. */
static void test_barriers_with_a_thread(void)
{
    uint64_t dice = seed, id;
    pthread_t ring;
    int result = 77;

    boot();
    guest.config.poll_us = 20;
    connect_back();
    XB_ASSERT(pthread_create(&ring, NULL, run_ring, &result) == 0);
    for (uint32_t round = 0; round < 50; round++) {
        for (uint32_t i = 0; i < NR_ENTS; i++)
            ask(roll(&dice) % 4 == 0 ? XB_BLKIF_WRITE_BARRIER : XB_BLKIF_READ, i, roll(&dice) % 400 * 8,
                FIRST_REF + i, 1);
        publish();
        for (uint32_t i = 0; i < NR_ENTS; i++)
            XB_ASSERT(await_answer(&id) == XB_BLKIF_OKAY);
    }
    xb_back_stop(guest.back);
    ring_bell(guest.to_back);
    XB_ASSERT(pthread_join(ring, NULL) == 0 && result == XB_BACK_STOPPED);
    disconnect();
    shut_down();
}

/* Flushes */

static void test_no_flush(void)
{
    boot();
    connect_back();
    sync_errno = EIO;
    ask(XB_BLKIF_FLUSH_DISKCACHE, 1, 0, FIRST_REF, 0);
    XB_ASSERT(serve_one() == XB_BLKIF_ERROR && xb_back_unsupported(guest.back) == 0);
    sync_errno = EOPNOTSUPP;
    ask(XB_BLKIF_FLUSH_DISKCACHE, 2, 0, FIRST_REF, 1);
    XB_ASSERT(serve_one() == XB_BLKIF_EOPNOTSUPP);
    XB_ASSERT(xb_back_unsupported(guest.back) == 1 << XB_BLKIF_FLUSH_DISKCACHE);
    XB_ASSERT(xb_back_unsupported(guest.back) == 0);
    ask(XB_BLKIF_WRITE_BARRIER, 3, 0, FIRST_REF, 0);
    publish();
    XB_ASSERT(xb_back_run(guest.back) == XB_BACK_UNSUPPORTED);
    XB_ASSERT(serve_one() == XB_BLKIF_EOPNOTSUPP);
    XB_ASSERT(xb_back_unsupported(guest.back) == 1 << XB_BLKIF_WRITE_BARRIER);
    XB_ASSERT(guest.counters.f_req == 3 && guest.counters.wr_sect == 0 && guest.counters.map_ops == 0);
    sync_errno = 0;
    disconnect();
    shut_down();
}

/* Sizes */

static void test_resize(void)
{
    boot();
    connect_back();
    ask(XB_BLKIF_READ, 1, DISK_SECTORS - 8, FIRST_REF, 1);
    XB_ASSERT(serve_one() == XB_BLKIF_OKAY);
    xb_back_resize(guest.back, DISK_SECTORS - 1);
    ask(XB_BLKIF_READ, 2, DISK_SECTORS - 8, FIRST_REF, 1);
    XB_ASSERT(serve_one() == XB_BLKIF_ERROR);
    xb_back_resize(guest.back, DISK_SECTORS + 8);
    ask(XB_BLKIF_WRITE, 3, DISK_SECTORS, FIRST_REF, 1);
    XB_ASSERT(serve_one() == XB_BLKIF_OKAY);
    disconnect();
    XB_ASSERT(ftruncate(guest.disk_fd, DISK_SECTORS * SECTOR_SIZE) == 0);
    shut_down();
}

/* More segments than one system call takes. */
static void test_4096_segments(void)
{
    const uint32_t count = XB_BLKIF_INDIRECT_SEGMENTS_MAX, first_table = NR_REFS - 8;
    struct xb_blkif_segment segment = {0};
    uint8_t slot[XB_BLKIF_X86_64_SLOT_BYTES] = {XB_BLKIF_INDIRECT, XB_BLKIF_WRITE};
    uint16_t nr_segments = (uint16_t)count;

    boot();
    guest.config.grant_copy = 1; /* so many mappings there are not */
    guest.config.persistent = 0;
    connect_back();
    for (uint32_t i = 0; i < count; i++) {
        segment.gref = FIRST_REF + i % 40;
        segment.first_sect = segment.last_sect = (uint8_t)(i % 8);
        memcpy(frame(first_table + i / 512) + i % 512 * 8, &segment, 8);
    }
    for (uint32_t i = 0; i < 40; i++)
        memset(frame(FIRST_REF + i), (int)i + 1, PAGE_SIZE);
    memcpy(slot + 2, &nr_segments, sizeof(nr_segments));
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t ref = first_table + i;

        memcpy(slot + 28 + i * 4, &ref, sizeof(ref));
    }
    XB_ASSERT(xb_front_ring_put(&guest.front, slot) == 1 && serve_one() == XB_BLKIF_OKAY);
    XB_ASSERT(guest.counters.copy_pages == count + 8 && guest.counters.wr_sect == count);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t sector[SECTOR_SIZE];

        XB_ASSERT(pread(guest.disk_fd, sector, sizeof(sector), i * SECTOR_SIZE) == SECTOR_SIZE);
        XB_ASSERT(sector[0] == i % 40 + 1 && sector[SECTOR_SIZE - 1] == i % 40 + 1);
    }
    disconnect();
    shut_down();
}

/* Guests that change their mind (XSA-155) */

static uint32_t ended;

static void *mutate(void *unused)
{
    uint64_t dice = seed + 1;

    (void)unused;
    while (!__atomic_load_n(&ended, __ATOMIC_ACQUIRE)) {
        struct xb_blkif_segment segment = {.gref = FIRST_REF + roll(&dice) % 40, .last_sect = 7};
        uint32_t at = roll(&dice) % 30;

        if (roll(&dice) % 4 == 0)
            segment.gref = roll(&dice) % 2 ? CANARY : roll(&dice);
        if (roll(&dice) % 4 == 0)
            segment.last_sect = (uint8_t)roll(&dice);
        memcpy(frame(TABLE) + at * 8, &segment, 8);
    }
    return NULL;
}

/* Whatever stands in the page at any moment: each request has one answer, and only what is granted is written. */
static void test_xsa_155(uint32_t persistent, uint32_t grant_copy)
{
    uint32_t nr_okay = 0;
    pthread_t mutator;

    boot();
    guest.config.persistent = persistent;
    guest.config.grant_copy = grant_copy;
    XB_ASSERT(xb_gnttab_end_access(&guest.shared[CANARY]));
    memset(frame(CANARY), 0xa5, PAGE_SIZE);
    connect_back();
    write_segments(frame(TABLE), FIRST_REF, 30);
    __atomic_store_n(&ended, 0, __ATOMIC_RELEASE);
    XB_ASSERT(pthread_create(&mutator, NULL, mutate, NULL) == 0);
    for (uint32_t i = 0; i < NR_MUTATED; i++) {
        int16_t status;
        uint64_t id;

        ask_indirect(XB_BLKIF_READ, i, 8, TABLE, (uint16_t)(1 + i % 30));
        do
            serve();
        while (!take_answer(&id, &status));
        XB_ASSERT(id == i && (status == XB_BLKIF_OKAY || status == XB_BLKIF_ERROR));
        nr_okay += status == XB_BLKIF_OKAY;
        XB_ASSERT(!take_answer(&id, &status));
        XB_ASSERT(guest.counters.persistent_in_use == 0);
    }
    __atomic_store_n(&ended, 1, __ATOMIC_RELEASE);
    XB_ASSERT(pthread_join(mutator, NULL) == 0);
    for (uint32_t i = 0; i < PAGE_SIZE; i++)
        XB_ASSERT(frame(CANARY)[i] == 0xa5);
    printf("xsa_155: %u of %u read\n", nr_okay, NR_MUTATED);
    disconnect();
    shut_down();
}

static void on_disk(const char *folder, int flags, void (*test)(void))
{
    if (open_disk(folder, flags))
        test();
    else
        XB_ASSERT(flags == O_DIRECT && errno == EINVAL);
    close_disk();
    guest.disk_fd = -1;
}

static void test_barriers(void)
{
    test_barrier(1, 0);
    test_barrier(20, 11);
    test_barrier_given_up();
    test_barriers_with_a_thread();
}

int main(int argc, char **argv)
{
    alarm(HANG_S);
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : clock_ns();
    printf("test_back_operations: seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    real_calls = xb_file_calls;
    xb_file_calls.reap = held_reap;
    xb_file_calls.fdatasync = failing_fdatasync;
    on_disk(".", O_DIRECT, test_barriers);
    on_disk("/dev/shm", 0, test_no_flush);
    XB_ASSERT(nr_syncs >= 3);
    on_disk(".", 0, test_resize);
    on_disk(".", 0, test_4096_segments);
    on_disk("/dev/shm", 0, test_4096_segments);
    test_xsa_155(0, 0);
    test_xsa_155(1, 0);
    test_xsa_155(0, 1);
    printf("test_back_operations: ok\n");
    return 0;
}
