#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "grants/mapper.h"
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
#include "xenblk/clock.h"

#define FOR_EVER -1 /* a timer would cost as much as the rest of a sleep; the frontend's owner wakes us now and then */
#define BATCH_MAX 128
#define SUBBUCKET_BITS 6

_Static_assert(1 << SUBBUCKET_BITS == XB_LOAD_SUBBUCKETS, "");
_Static_assert(sizeof(((struct xb_load_result *)0)->latencies) == XB_LOAD_BUCKETS * sizeof(uint64_t), "");

/* An operation in flight; its bio comes first, so that the one is the other. */
struct operation {
    struct xb_bio bio;
    uint64_t block;
    uint64_t submitted_ns;
};

struct xb_load {
    struct xb_front *front;
    struct xb_workload workload;
    struct xb_oracle oracle; /* with verify only, as `waiting` */
    struct xb_step *waiting; /* for their blocks, in their order */
    uint32_t nr_waiting;
    uint32_t nr_idle;
    struct operation **idle;
    uint64_t next_audited;
    uint64_t offset;
    uint32_t bs;
    uint32_t iodepth;
    int what;
    uint8_t verify;
    uint8_t flushed;
    uint8_t stopped;
    struct xb_load_result result;
    struct operation operations[];
};

static uint32_t bucket_of(uint64_t ns)
{
    uint32_t shift, bucket;

    if (ns < XB_LOAD_SUBBUCKETS)
        return (uint32_t)ns;
    shift = 63 - SUBBUCKET_BITS - (uint32_t)__builtin_clzll(ns);
    bucket = ((shift + 1) << SUBBUCKET_BITS) + ((ns >> shift) & (XB_LOAD_SUBBUCKETS - 1));
    return bucket < XB_LOAD_BUCKETS ? bucket : XB_LOAD_BUCKETS - 1;
}

uint64_t xb_load_bucket_ns(uint32_t bucket)
{
    uint32_t shift = bucket >> SUBBUCKET_BITS;

    if (shift == 0)
        return bucket;
    return ((uint64_t)(XB_LOAD_SUBBUCKETS + (bucket & (XB_LOAD_SUBBUCKETS - 1)) + 1) << (shift - 1)) - 1;
}

/* Life */

static void prepare_operations(struct xb_load *load, const struct xb_load_config *config)
{
    for (uint32_t i = 0; i < config->iodepth; i++) {
        load->operations[i].bio.buffer = config->buffers + (size_t)i * config->bs;
        load->idle[load->nr_idle++] = &load->operations[i];
    }
}

struct xb_load *xb_load_create(const struct xb_load_config *config)
{
    size_t bytes = sizeof(struct xb_load) + config->iodepth * sizeof(struct operation);
    struct xb_load *load = calloc(1, bytes);

    XB_ASSERT(config->bs != 0 && config->bs % 512 == 0);
    XB_ASSERT(config->iodepth != 0 && config->iodepth <= XB_LOAD_IODEPTH_MAX);
    XB_ASSERT(!config->verify || config->iodepth <= config->workload.nr_blocks);
    if (load == NULL)
        return NULL;
    load->front = config->front;
    load->workload = config->workload;
    load->offset = config->offset;
    load->bs = config->bs;
    load->iodepth = config->iodepth;
    load->verify = config->verify;
    load->idle = calloc(config->iodepth, sizeof(*load->idle));
    load->waiting = calloc(config->iodepth, sizeof(*load->waiting));
    if (load->idle == NULL || load->waiting == NULL ||
        (load->verify && xb_oracle_init(&load->oracle, config->seed, config->workload.nr_blocks, config->bs) < 0)) {
        free(load->idle);
        free(load->waiting);
        free(load);
        return NULL;
    }
    prepare_operations(load, config);
    return load;
}

void xb_load_destroy(struct xb_load *load)
{
    if (load->verify)
        xb_oracle_destroy(&load->oracle);
    free(load->idle);
    free(load->waiting);
    free(load);
}

struct xb_oracle *xb_load_oracle(struct xb_load *load)
{
    return load->verify ? &load->oracle : NULL;
}

void xb_load_begin(struct xb_load *load, int what)
{
    XB_ASSERT(load->result.in_flight == 0 && load->nr_idle == load->iodepth);
    XB_ASSERT(what != XB_LOAD_AUDIT || load->verify);
    load->what = what;
    load->flushed = 0;
    load->nr_waiting = 0;
    load->next_audited = 0;
    load->result.error = 0;
}

void xb_load_stop(struct xb_load *load)
{
    __atomic_store_n(&load->stopped, 1, __ATOMIC_RELAXED);
}

const struct xb_load_result *xb_load_result(const struct xb_load *load)
{
    return &load->result;
}

/* Which operation is next */

static int next_step(struct xb_load *load, struct xb_step *step)
{
    switch (load->what) {
    case XB_LOAD_JOB:
        return !__atomic_load_n(&load->stopped, __ATOMIC_RELAXED) && xb_workload_next(&load->workload, step);
    case XB_LOAD_FLUSH:
        step->op = XB_BLKIF_FLUSH_DISKCACHE;
        return !load->flushed++;
    default:
        step->op = XB_BLKIF_READ;
        step->block = xb_oracle_next_touched(&load->oracle, load->next_audited);
        load->next_audited = step->block + 1;
        return step->block < load->oracle.nr_blocks;
    }
}

/* The next step that may start now. Those whose blocks are in flight wait, iodepth of them at most. */
static int take(struct xb_load *load, struct xb_step *step)
{
    while (load->nr_waiting < load->iodepth && next_step(load, step)) {
        uint8_t *flags;

        if (!load->verify || step->op == XB_BLKIF_FLUSH_DISKCACHE)
            return 1;
        flags = &load->oracle.flags[step->block];
        if (!(*flags & XB_ORACLE_BUSY)) {
            *flags |= XB_ORACLE_BUSY;
            return 1;
        }
        *flags |= XB_ORACLE_AWAITED;
        load->waiting[load->nr_waiting++] = *step;
    }
    return 0;
}

/* The first step that waits for a block, which stays busy. */
static struct xb_step take_waiting(struct xb_load *load, uint64_t block)
{
    struct xb_step step = {.block = block};
    uint32_t nr_kept = 0, nr_found = 0;

    for (uint32_t i = 0; i < load->nr_waiting; i++) {
        if (load->waiting[i].block == block && nr_found++ == 0)
            step = load->waiting[i];
        else
            load->waiting[nr_kept++] = load->waiting[i];
    }
    XB_ASSERT(nr_found > 0);
    load->nr_waiting = nr_kept;
    if (nr_found == 1)
        load->oracle.flags[block] &= (uint8_t)~XB_ORACLE_AWAITED;
    return step;
}

/* The life of an operation */

static void start(struct xb_load *load, struct operation *operation, const struct xb_step *step, uint64_t at_ns)
{
    int has_data = step->op != XB_BLKIF_FLUSH_DISKCACHE;

    operation->block = step->block;
    operation->bio.op = step->op;
    operation->bio.offset = has_data ? load->offset + step->block * load->bs : 0;
    operation->bio.nr_bytes = has_data ? load->bs : 0;
    if (load->verify && step->op == XB_BLKIF_WRITE)
        xb_oracle_write(&load->oracle, step->block, operation->bio.buffer);
    if (load->verify && step->op == XB_BLKIF_READ)
        xb_oracle_poison(&load->oracle, operation->bio.buffer);
    operation->submitted_ns = at_ns;
    load->result.in_flight++;
    xb_front_submit(load->front, &operation->bio);
}

static void count(struct xb_load *load, const struct operation *operation, uint64_t at_ns)
{
    uint64_t took_ns = at_ns - operation->submitted_ns;

    load->result.in_flight--;
    load->result.completed++;
    if (load->what != XB_LOAD_JOB || operation->bio.op == XB_BLKIF_FLUSH_DISKCACHE)
        return;
    load->result.latencies[bucket_of(took_ns)]++;
    if (took_ns > load->result.max_ns)
        load->result.max_ns = took_ns;
    if (operation->bio.op == XB_BLKIF_READ)
        load->result.reads++;
    else
        load->result.writes++;
}

static void check(struct xb_load *load, const struct operation *operation)
{
    const struct xb_bio *bio = &operation->bio;
    struct xb_mismatch mismatch = {0};
    int error = bio->error;

    if (error == 0 && load->verify && bio->op == XB_BLKIF_READ &&
        !xb_oracle_check(&load->oracle, operation->block, bio->buffer, &mismatch))
        error = EILSEQ;
    if (error == 0 || load->result.error != 0)
        return;
    load->result.error = error;
    load->result.bad_op = bio->op;
    load->result.bad_status = bio->status;
    load->result.bad_offset = bio->offset;
    load->result.mismatch = mismatch;
}

/* After a completion: the block's next operation starts, or the block is free and so is the operation. */
static void release(struct xb_load *load, struct operation *operation, uint64_t at_ns)
{
    if (load->verify && operation->bio.op != XB_BLKIF_FLUSH_DISKCACHE) {
        uint8_t *flags = &load->oracle.flags[operation->block];

        if (*flags & XB_ORACLE_AWAITED && load->result.error == 0) {
            struct xb_step step = take_waiting(load, operation->block);

            start(load, operation, &step, at_ns);
            return;
        }
        *flags &= (uint8_t)~(XB_ORACLE_BUSY | XB_ORACLE_AWAITED);
    }
    load->idle[load->nr_idle++] = operation;
}

static void start_idle(struct xb_load *load, uint64_t at_ns)
{
    struct xb_step step = {0};

    while (load->nr_idle > 0 && load->result.error == 0 && take(load, &step))
        start(load, load->idle[--load->nr_idle], &step, at_ns);
}

int xb_load_run(struct xb_load *load, uint64_t slice_ns)
{
    uint64_t at_ns = xb_monotonic_ns(), end_ns = at_ns + slice_ns;
    struct xb_bio *done[BATCH_MAX];

    start_idle(load, at_ns);
    while (load->result.in_flight > 0) {
        uint32_t nr_done = xb_front_poll(load->front, done, BATCH_MAX, FOR_EVER);

        if (nr_done == 0 && xb_front_fault(load->front)->code != XB_FRONT_SOUND)
            return XB_LOAD_FAULT;
        at_ns = xb_monotonic_ns();
        for (uint32_t i = 0; i < nr_done; i++) {
            struct operation *operation = (struct operation *)done[i];

            count(load, operation, at_ns);
            check(load, operation);
            release(load, operation, at_ns);
        }
        start_idle(load, at_ns);
        if (at_ns >= end_ns && load->result.in_flight > 0)
            return XB_LOAD_RUNNING;
    }
    return load->result.error == 0 ? XB_LOAD_DONE : XB_LOAD_FAILED;
}
