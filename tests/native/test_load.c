/* Jobs in C on a front engine whose backend is a function of this program: streams, orders, counts, and each kind of lie. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "grants/gnttab.h"
#include "grants/table.h"
#include "ring/sring.h"
#include "xenblk/blkif.h"
#include "xenblk/channel.h"
#include "xenblk/counters.h"
#include "xenblk/blkfront/pool.h"
#include "xenblk/blkfront/engine.h"
#include "harness/oracle.h"
#include "harness/workload.h"
#include "harness/load.h"
#include "xenblk/assert.h"

#define PAGE_SIZE 4096
#define NR_REFS 512
#define NR_POOL 384
#define NR_ENTS 32
#define BS 1536
#define NR_BLOCKS 40
#define DEPTH_MAX 40
#define HANG_S 300
#define ENDLESS UINT64_MAX

static uint8_t memory[NR_POOL * PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static uint8_t ring_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static uint8_t disk[NR_BLOCKS * BS], buffers[DEPTH_MAX * BS];
static struct xb_grant_entry entries[NR_REFS];
static struct xb_pool_page pages[NR_POOL];
static struct xb_grant_table table;
static struct xb_counters counters;
static struct xb_front_ring front_ring;
static struct xb_back_ring back_ring;
static struct xb_front *front;

/* What the backend saw, and how it lies. */
static struct {
    uint64_t dice;
    uint64_t requests[NR_ENTS * 2], nr_held; /* taken from the ring, and not answered yet */
    struct xb_blkif_request held[NR_ENTS];
    uint64_t nr_reads, nr_writes, nr_flushes;
    uint64_t nr_data;       /* requests with data so far */
    uint64_t lie_at;        /* at the so-manieth of them; ENDLESS: never */
    int16_t lie_status;     /* fail it, or: */
    int lie_is_silence;     /* do not move the data */
    int lie_is_wrong_place; /* move it from or to the next block */
} back;

static uint32_t roll(uint32_t sides)
{
    back.dice = back.dice * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(back.dice >> 33) % sides;
}

static void move(const struct xb_blkif_request *request, size_t at)
{
    for (uint32_t i = 0; i < request->nr_segments; i++) {
        const struct xb_blkif_segment *segment = &request->segments[i];
        uint8_t *page = memory + (size_t)entries[segment->gref].frame * PAGE_SIZE + segment->first_sect * 512;
        size_t part = (segment->last_sect - segment->first_sect + 1) * 512;

        XB_ASSERT(at + part <= sizeof(disk));
        if (request->operation == XB_BLKIF_WRITE)
            memcpy(disk + at, page, part);
        else
            memcpy(page, disk + at, part);
        at += part;
    }
}

static int16_t serve(const struct xb_blkif_request *request)
{
    size_t at = request->sector_number * 512;

    if (request->operation == XB_BLKIF_FLUSH_DISKCACHE) {
        back.nr_flushes++;
        return XB_BLKIF_OKAY;
    }
    back.nr_reads += request->operation == XB_BLKIF_READ;
    back.nr_writes += request->operation == XB_BLKIF_WRITE;
    if (back.nr_data++ != back.lie_at) {
        move(request, at);
        return XB_BLKIF_OKAY;
    }
    if (back.lie_is_wrong_place)
        move(request, (at + BS) % sizeof(disk));
    return back.lie_status;
}

static void hold_all(void)
{
    uint8_t slot[XB_BLKIF_X86_64_SLOT_BYTES];

    while (xb_back_ring_consume(&back_ring, slot) == 1)
        xb_blkif_parse(slot, sizeof(slot), &back.held[back.nr_held++]);
}

/* Serve some of what is held, in any order. */
static int wait_for_backend(void *context, int64_t timeout_ns)
{
    uint8_t answer[XB_BLKIF_X86_64_SLOT_BYTES];

    (void)context;
    (void)timeout_ns;
    hold_all();
    for (uint64_t left = back.nr_held == 0 ? 0 : 1 + roll((uint32_t)back.nr_held); left > 0; left--) {
        uint32_t i = roll((uint32_t)back.nr_held);
        const struct xb_blkif_request *request = &back.held[i];
        int16_t status = serve(request);

        xb_blkif_pack_response(answer, sizeof(answer), request->id, request->operation, status);
        back.held[i] = back.held[--back.nr_held];
        XB_ASSERT(xb_back_ring_put(&back_ring, answer) == 1);
    }
    xb_back_ring_push(&back_ring);
    xb_back_ring_final_check(&back_ring);
    return 1;
}

static void notify_backend(void *context)
{
    (void)context;
}

static const struct xb_channel channel = {.notify = notify_backend, .wait = wait_for_backend};

static void connect_front(uint64_t seed)
{
    static uint32_t stack[NR_REFS];
    static uint8_t state[NR_REFS];
    struct xb_front_config config = {.ring = &front_ring, .table = &table, .counters = &counters, .channel = &channel};

    xb_grant_table_init(&table, entries, stack, state, NR_REFS);
    memset(entries, 0, sizeof(entries));
    memset(disk, 0, sizeof(disk));
    memset(memory, 0, sizeof(memory));
    memset(&back, 0, sizeof(back));
    back.dice = seed;
    back.lie_at = ENDLESS;
    for (uint32_t i = 0; i < NR_POOL; i++)
        pages[i] = (struct xb_pool_page){.data = memory + (size_t)i * PAGE_SIZE, .frame = i};
    xb_front_ring_init(&front_ring, ring_page, PAGE_SIZE, NR_ENTS, XB_BLKIF_X86_64_SLOT_BYTES);
    XB_ASSERT(xb_back_ring_attach(&back_ring, ring_page, NR_ENTS, XB_BLKIF_X86_64_SLOT_BYTES) == 0);
    config.pages = pages;
    config.nr_pages = NR_POOL;
    config.persistent = 1;
    front = xb_front_create(&config);
    XB_ASSERT(front != NULL);
}

/* A random mix of 2000 operations on few blocks, to be changed. */
static struct xb_load_config usual(void)
{
    struct xb_load_config config = {.front = front, .buffers = buffers, .seed = 5, .bs = BS, .iodepth = 16, .verify = 1};

    config.workload =
        (struct xb_workload){.random = 5, .nr_blocks = NR_BLOCKS, .nr_left = 2000, .read_percent = 50, .in_random_order = 1};
    return config;
}

static struct xb_load *create(const struct xb_load_config *config)
{
    struct xb_load *load = xb_load_create(config);

    XB_ASSERT(load != NULL);
    if (config->verify)
        xb_oracle_know_zeros(xb_load_oracle(load));
    return load;
}

static int run(struct xb_load *load, int what)
{
    int state;

    xb_load_begin(load, what);
    while ((state = xb_load_run(load, 1000)) == XB_LOAD_RUNNING)
        ;
    XB_ASSERT(state != XB_LOAD_FAULT && xb_load_result(load)->in_flight == 0);
    return state;
}

static void end(struct xb_load *load)
{
    xb_load_destroy(load);
    xb_front_check(front);
    xb_front_destroy(front);
}

static uint64_t sum_of(const struct xb_load_result *result)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < XB_LOAD_BUCKETS; i++)
        sum += result->latencies[i];
    return sum;
}

static void test_counts_and_audit(uint32_t iodepth, uint32_t fsync, uint8_t in_random_order)
{
    struct xb_load_config config;
    const struct xb_load_result *result;
    struct xb_load *load;
    uint64_t nr_reads;

    connect_front(iodepth);
    config = usual();
    config.iodepth = iodepth;
    config.workload.fsync = fsync;
    config.workload.in_random_order = in_random_order;
    load = create(&config);
    result = xb_load_result(load);
    XB_ASSERT(run(load, XB_LOAD_JOB) == XB_LOAD_DONE);
    XB_ASSERT(result->reads + result->writes == 2000 && sum_of(result) == 2000);
    XB_ASSERT(result->reads > 850 && result->reads < 1150);
    XB_ASSERT(back.nr_reads == result->reads && back.nr_writes == result->writes);
    XB_ASSERT(back.nr_flushes == (fsync == 0 ? 0 : back.nr_writes / fsync));
    XB_ASSERT(result->completed == 2000 + back.nr_flushes);
    XB_ASSERT(run(load, XB_LOAD_FLUSH) == XB_LOAD_DONE && result->completed == 2000 + back.nr_flushes);
    nr_reads = back.nr_reads;
    XB_ASSERT(run(load, XB_LOAD_AUDIT) == XB_LOAD_DONE && back.nr_reads - nr_reads == NR_BLOCKS);
    XB_ASSERT(result->reads + result->writes == 2000 && sum_of(result) == 2000);
    end(load);
}

/* Whatever order requests complete in, the disk is what the workload makes of it. */
static void test_the_disk_depends_on_the_seed_alone(void)
{
    static uint8_t first[sizeof(disk)];

    for (uint64_t seed = 0; seed < 20; seed++) {
        struct xb_load_config config;
        struct xb_load *load;

        connect_front(seed);
        config = usual();
        config.iodepth = seed % 2 ? 40 : 3;
        load = create(&config);
        XB_ASSERT(run(load, XB_LOAD_JOB) == XB_LOAD_DONE);
        if (seed == 0)
            memcpy(first, disk, sizeof(disk));
        XB_ASSERT(memcmp(first, disk, sizeof(disk)) == 0);
        end(load);
    }
}

/* With one lie among reads or writes; a lost write must be found at the latest by the audit. */
static const struct xb_load_result *run_with_lie(struct xb_load **load, uint32_t read_percent, uint64_t lie_at)
{
    struct xb_load_config config = usual();
    int state;

    config.workload.read_percent = read_percent;
    config.workload.in_random_order = 0;
    config.workload.nr_left = NR_BLOCKS;
    back.lie_at = lie_at;
    *load = create(&config);
    /* Each block different: a page that bounced one before must not look right for another. */
    for (size_t i = 0; i < sizeof(disk); i++)
        disk[i] = (uint8_t)(i / BS + i);
    xb_oracle_know(xb_load_oracle(*load), 0, disk, NR_BLOCKS);
    state = run(*load, XB_LOAD_JOB);
    if (state == XB_LOAD_DONE)
        state = run(*load, XB_LOAD_AUDIT);
    XB_ASSERT(state == XB_LOAD_FAILED);
    return xb_load_result(*load);
}

static void test_failures(void)
{
    struct xb_load *load;
    const struct xb_load_result *result;

    connect_front(1);
    back.lie_status = XB_BLKIF_ERROR;
    result = run_with_lie(&load, 0, 7);
    XB_ASSERT(result->error == EIO && result->bad_op == XB_BLKIF_WRITE && result->bad_status == XB_BLKIF_ERROR);
    XB_ASSERT(result->bad_offset % BS == 0 && result->bad_offset < sizeof(disk));
    end(load);
    connect_front(1);
    back.lie_status = XB_BLKIF_EOPNOTSUPP;
    result = run_with_lie(&load, 100, 0);
    XB_ASSERT(result->error == EOPNOTSUPP && result->bad_op == XB_BLKIF_READ);
    end(load);
}

static void test_lost_transfers(uint32_t read_percent)
{
    for (uint64_t lie_at = 0; lie_at < NR_BLOCKS; lie_at++) {
        struct xb_load *load;
        const struct xb_load_result *result;

        connect_front(lie_at);
        result = run_with_lie(&load, read_percent, lie_at);
        XB_ASSERT(result->error == EILSEQ && result->mismatch.block * BS == result->bad_offset);
        XB_ASSERT(result->mismatch.version == (read_percent ? 0 : 1));
        XB_ASSERT(read_percent || result->mismatch.found_version == 0);
        end(load);
    }
}

static void test_what_went_to_the_wrong_place_says_whose_it_is(void)
{
    uint32_t nr_named = 0;

    for (uint64_t lie_at = 0; lie_at < NR_BLOCKS; lie_at++) {
        struct xb_load *load;
        const struct xb_mismatch *mismatch;

        connect_front(lie_at);
        back.lie_is_wrong_place = 1;
        mismatch = &run_with_lie(&load, 0, lie_at)->mismatch;
        XB_ASSERT(mismatch->version == 1 && mismatch->place % 512 < 8);
        if (mismatch->found_version != 0) {
            XB_ASSERT(mismatch->found_version == 1 && mismatch->found_sector % (BS / 512) == 0);
            XB_ASSERT((mismatch->found_sector / (BS / 512) + 1) % NR_BLOCKS == mismatch->block);
            nr_named++;
        }
        end(load);
    }
    XB_ASSERT(nr_named > 0);
}

/* Whatever byte of whatever block changes after its last use, written or not, the audit finds it. */
static void test_rot(uint32_t read_percent)
{
    for (size_t at = 0; at < sizeof(disk); at += 499) {
        struct xb_load_config config;
        const struct xb_load_result *result;
        struct xb_load *load;

        connect_front(at);
        config = usual();
        config.workload.read_percent = read_percent;
        config.workload.nr_left = NR_BLOCKS;
        config.workload.in_random_order = 0;
        load = create(&config);
        result = xb_load_result(load);
        XB_ASSERT(run(load, XB_LOAD_JOB) == XB_LOAD_DONE);
        disk[at] ^= 0x10;
        XB_ASSERT(run(load, XB_LOAD_AUDIT) == XB_LOAD_FAILED && result->error == EILSEQ);
        XB_ASSERT(result->mismatch.block == at / BS);
        XB_ASSERT(read_percent || result->mismatch.place == at % BS);
        end(load);
    }
}

static void test_without_verify_nobody_looks(void)
{
    struct xb_load_config config;
    struct xb_load *load;

    connect_front(1);
    config = usual();
    config.verify = 0;
    back.lie_at = 3;
    load = create(&config);
    XB_ASSERT(xb_load_oracle(load) == NULL && run(load, XB_LOAD_JOB) == XB_LOAD_DONE);
    end(load);
}

static void test_stop_lets_the_audit_follow(void)
{
    struct xb_load_config config;
    struct xb_load *load;

    connect_front(1);
    config = usual();
    config.workload.nr_left = ENDLESS;
    load = create(&config);
    xb_load_begin(load, XB_LOAD_JOB);
    XB_ASSERT(xb_load_run(load, 100000) == XB_LOAD_RUNNING);
    xb_load_stop(load);
    while (xb_load_run(load, 1000) == XB_LOAD_RUNNING)
        ;
    XB_ASSERT(xb_load_result(load)->in_flight == 0 && run(load, XB_LOAD_AUDIT) == XB_LOAD_DONE);
    end(load);
}

/* What an earlier run wrote is known to a later one, as is what was read past the ring. */
static void test_what_the_disk_held_before(void)
{
    struct xb_load_config config;
    struct xb_load *load;

    connect_front(1);
    config = usual();
    config.workload.in_random_order = 0;
    config.workload.read_percent = 0;
    config.workload.nr_left = NR_BLOCKS;
    load = create(&config);
    XB_ASSERT(run(load, XB_LOAD_JOB) == XB_LOAD_DONE);
    xb_load_destroy(load);
    for (int known = 0; known < 3; known++) {
        config.workload.read_percent = 100;
        load = xb_load_create(&config);
        if (known == 0)
            xb_oracle_know_written(xb_load_oracle(load));
        else if (known == 1)
            xb_oracle_know(xb_load_oracle(load), 0, disk, NR_BLOCKS);
        XB_ASSERT(run(load, XB_LOAD_JOB) == XB_LOAD_DONE);
        disk[11 * BS + 1000] ^= 1;
        XB_ASSERT(run(load, XB_LOAD_AUDIT) == XB_LOAD_FAILED && xb_load_result(load)->mismatch.block == 11);
        disk[11 * BS + 1000] ^= 1;
        xb_load_destroy(load);
    }
    xb_front_destroy(front);
}

int main(void)
{
    alarm(HANG_S);
    test_counts_and_audit(1, 0, 1);
    test_counts_and_audit(16, 3, 0);
    test_counts_and_audit(40, 7, 1);
    test_the_disk_depends_on_the_seed_alone();
    test_failures();
    test_lost_transfers(0);
    test_lost_transfers(100);
    test_what_went_to_the_wrong_place_says_whose_it_is();
    test_rot(0);
    test_rot(100);
    test_without_verify_nobody_looks();
    test_stop_lets_the_audit_follow();
    test_what_the_disk_held_before();
    return 0;
}
