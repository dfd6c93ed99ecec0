/* Jobs in C on a front engine whose backend is a function of this program: streams, orders, counts, and each kind of
 * lie. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "tests/native/lying_backend.h"
#include "harness/oracle.h"
#include "harness/workload.h"
#include "harness/load.h"

#define HANG_S 300

/* A random mix of 2000 operations on few blocks, to be changed. */
static struct xb_load_config usual(void)
{
    struct xb_load_config config = {.front = front, .buffers = buffers, .seed = 5, .bs = BS, .iodepth = 16};

    config.verify = 1;
    config.workload = (struct xb_workload){.random = 5, .nr_blocks = NR_BLOCKS, .nr_left = 2000, .read_percent = 50};
    config.workload.in_random_order = 1;
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

    connect_front(iodepth, 1);
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

        connect_front(seed, 1);
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

/* A read into a buffer that is lent, and holds already what it should bring: zeros, or what was written there. */
static void test_a_read_that_brings_nothing(int written)
{
    struct xb_load_config config;
    struct xb_load *load;

    connect_front(1, 0);
    config = usual();
    config.iodepth = 1;
    config.workload.in_random_order = 0;
    config.workload.read_percent = written ? 0 : 100;
    config.workload.nr_left = 1;
    back.lie_at = 1;
    load = create(&config);
    XB_ASSERT(run(load, XB_LOAD_JOB) == XB_LOAD_DONE);
    XB_ASSERT(run(load, XB_LOAD_AUDIT) == XB_LOAD_FAILED && xb_load_result(load)->error == EILSEQ);
    end(load);
}

static void test_a_failure_ends_an_endless_job(void)
{
    struct xb_load_config config;
    struct xb_load *load;

    connect_front(1, 1);
    config = usual();
    config.workload.nr_left = ENDLESS;
    back.lie_at = 500;
    back.lie_status = XB_BLKIF_ERROR;
    load = create(&config);
    XB_ASSERT(run(load, XB_LOAD_JOB) == XB_LOAD_FAILED && back.nr_data <= 500 + config.iodepth);
    end(load);
}

static void test_a_sequential_mix_is_at_two_places(void)
{
    struct xb_workload workload = {.random = 3, .nr_blocks = 50, .nr_left = 1000, .read_percent = 30};
    uint64_t nr_reads = 0, nr_writes = 0;
    struct xb_step step;

    while (xb_workload_next(&workload, &step))
        XB_ASSERT(step.block == (step.op == XB_BLKIF_READ ? nr_reads++ : nr_writes++) % 50);
    XB_ASSERT(nr_reads + nr_writes == 1000 && nr_reads > 230 && nr_reads < 370);
}

/* A checksum knows where each word is. */
static void test_words_that_change_places(void)
{
    uint8_t block[BS];
    struct xb_mismatch mismatch;
    struct xb_oracle oracle;

    for (size_t i = 0; i < BS; i++)
        block[i] = (uint8_t)(i * i >> 3);
    XB_ASSERT(xb_oracle_init(&oracle, 1, 1, BS) == 0);
    xb_oracle_know(&oracle, 0, block, 1);
    for (size_t at = 0; at + 40 <= BS; at += 8) {
        uint64_t here, there;

        memcpy(&here, block + at, 8);
        memcpy(&there, block + at + 32, 8);
        memcpy(block + at, &there, 8);
        memcpy(block + at + 32, &here, 8);
        XB_ASSERT(here == there || !xb_oracle_check(&oracle, 0, block, &mismatch));
        memcpy(block + at, &here, 8);
        memcpy(block + at + 32, &there, 8);
        XB_ASSERT(xb_oracle_check(&oracle, 0, block, &mismatch));
    }
    xb_oracle_destroy(&oracle);
}

static void test_failures(void)
{
    struct xb_load *load;
    const struct xb_load_result *result;

    connect_front(1, 1);
    back.lie_status = XB_BLKIF_ERROR;
    result = run_with_lie(&load, 0, 7);
    XB_ASSERT(result->error == EIO && result->bad_op == XB_BLKIF_WRITE && result->bad_status == XB_BLKIF_ERROR);
    XB_ASSERT(result->bad_offset % BS == 0 && result->bad_offset < sizeof(disk));
    end(load);
    connect_front(1, 1);
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

        connect_front(lie_at, 1);
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

        connect_front(lie_at, 1);
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

        connect_front(at, 1);
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

    connect_front(1, 1);
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

    connect_front(1, 1);
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

    connect_front(1, 1);
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
    test_a_failure_ends_an_endless_job();
    test_a_read_that_brings_nothing(0);
    test_a_read_that_brings_nothing(1);
    test_a_sequential_mix_is_at_two_places();
    test_words_that_change_places();
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
