#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "grants/gnttab.h"
#include "grants/table.h"
#include "ring/sring.h"
#include "xenblk/blkif.h"
#include "xenblk/channel.h"
#include "xenblk/counters.h"
#include "xenblk/blkfront/pool.h"
#include "xenblk/blkfront/engine.h"
#include "harness/load.h"

#include "xenblk/assert.h"

#define NS_PER_S 1000000000
#define FOR_EVER -1 /* a timer would cost as much as the rest of a sleep; the frontend's owner wakes us now and then */
#define BATCH_MAX 128
#define SUBBUCKET_BITS 6
#define GOLDEN 0x9e3779b97f4a7c15u

/* A byte per block: whether it is in flight, and how often it was written, 0 if its content is not known. */
#define BLOCK_BUSY 0x80
#define VERSION_MAX 127

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
    uint64_t random; /* state of splitmix64 */
    uint64_t nr_blocks;
    uint64_t nr_left; /* operations that are not submitted yet */
    uint64_t read_below; /* of 2^32: a random number below this is a read */
    uint64_t next_read;
    uint64_t next_write;
    uint64_t seed;
    uint32_t bs;
    uint32_t iodepth;
    uint8_t in_random_order;
    uint8_t verify;
    uint8_t stopped;
    uint8_t *blocks; /* with verify only */
    struct xb_load_result result;
    struct operation operations[];
};

static uint64_t mix(uint64_t number)
{
    number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9u;
    number = (number ^ (number >> 27)) * 0x94d049bb133111ebu;
    return number ^ (number >> 31);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

uint64_t xb_load_stamp(uint64_t seed, uint64_t block, uint32_t version)
{
    return mix(seed + GOLDEN * (block << 7 | version));
}

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

static void prepare_operations(struct xb_load *load, const struct xb_load_config *config)
{
    for (uint32_t i = 0; i < config->iodepth; i++) {
        load->operations[i].bio.buffer = config->buffers + (size_t)i * config->bs;
        load->operations[i].bio.nr_bytes = config->bs;
    }
}

struct xb_load *xb_load_create(const struct xb_load_config *config)
{
    size_t bytes = sizeof(struct xb_load) + config->iodepth * sizeof(struct operation);
    struct xb_load *load = calloc(1, bytes);

    XB_ASSERT(config->bs != 0 && config->bs % 512 == 0);
    XB_ASSERT(config->iodepth != 0 && config->iodepth <= XB_LOAD_IODEPTH_MAX && config->iodepth <= config->nr_blocks);
    if (load == NULL)
        return NULL;
    load->front = config->front;
    load->random = load->seed = config->seed;
    load->nr_blocks = config->nr_blocks;
    load->nr_left = config->nr_operations == 0 ? UINT64_MAX : config->nr_operations;
    load->read_below = ((uint64_t)config->read_percent << 32) / 100;
    load->bs = config->bs;
    load->iodepth = config->iodepth;
    load->in_random_order = config->random;
    load->verify = config->verify;
    prepare_operations(load, config);
    if (config->verify) {
        load->blocks = malloc(config->nr_blocks);
        if (load->blocks == NULL) {
            free(load);
            return NULL;
        }
        memset(load->blocks, config->stamped, config->nr_blocks);
    }
    return load;
}

void xb_load_destroy(struct xb_load *load)
{
    free(load->blocks);
    free(load);
}

void xb_load_stop(struct xb_load *load)
{
    __atomic_store_n(&load->stopped, 1, __ATOMIC_RELAXED);
}

const struct xb_load_result *xb_load_result(const struct xb_load *load)
{
    return &load->result;
}

static uint64_t next_of(uint64_t *place, uint64_t nr_blocks)
{
    uint64_t block = *place;

    *place = block + 1 == nr_blocks ? 0 : block + 1;
    return block;
}

/* There are at least as many blocks as operations, so one is free. */
static uint64_t next_free(struct xb_load *load, uint64_t block)
{
    while (load->blocks[block] & BLOCK_BUSY)
        block = block + 1 == load->nr_blocks ? 0 : block + 1;
    load->blocks[block] |= BLOCK_BUSY;
    return block;
}

static void stamp(struct xb_load *load, struct operation *operation)
{
    uint8_t *block = &load->blocks[operation->block];
    uint32_t version = *block & VERSION_MAX;
    uint64_t number;

    if (operation->bio.op == XB_BLKIF_WRITE) {
        version = version == VERSION_MAX ? 1 : version + 1;
        *block = (uint8_t)(BLOCK_BUSY | version);
    }
    number = xb_load_stamp(load->seed, operation->block, version);
    /* What a read fails to bring must not look right because the buffer held it before. */
    if (operation->bio.op == XB_BLKIF_READ)
        number = ~number;
    memcpy(operation->bio.buffer, &number, sizeof(number));
}

static void start(struct xb_load *load, struct operation *operation, uint64_t at_ns)
{
    uint64_t number = mix(load->random += GOLDEN);
    int read = (uint32_t)number < load->read_below;

    /* The block is in the upper bits of the product, and the lower half of the number chose the operation. */
    if (load->in_random_order)
        operation->block = (uint64_t)(((unsigned __int128)number * load->nr_blocks) >> 64);
    else
        operation->block = next_of(read ? &load->next_read : &load->next_write, load->nr_blocks);
    operation->bio.op = read ? XB_BLKIF_READ : XB_BLKIF_WRITE;
    if (load->verify) {
        operation->block = next_free(load, operation->block);
        stamp(load, operation);
    }
    operation->bio.offset = operation->block * load->bs;
    operation->submitted_ns = at_ns;
    load->nr_left--;
    load->result.in_flight++;
    xb_front_submit(load->front, &operation->bio);
}

static void record_bad(struct xb_load *load, const struct operation *operation, int error, uint64_t found,
                       uint64_t expected)
{
    if (load->result.error != 0)
        return;
    load->result.error = error;
    load->result.bad_block = operation->block;
    load->result.bad_found = found;
    load->result.bad_stamp = expected;
}

static void verify(struct xb_load *load, struct operation *operation)
{
    uint32_t version = load->blocks[operation->block] &= VERSION_MAX;
    uint64_t expected = xb_load_stamp(load->seed, operation->block, version), found;

    if (operation->bio.op != XB_BLKIF_READ || operation->bio.error != 0 || version == 0)
        return;
    memcpy(&found, operation->bio.buffer, sizeof(found));
    if (found == expected)
        load->result.verified++;
    else
        record_bad(load, operation, EILSEQ, found, expected);
}

static void finish(struct xb_load *load, struct operation *operation, uint64_t at_ns)
{
    uint64_t took_ns = at_ns - operation->submitted_ns;

    load->result.in_flight--;
    load->result.latencies[bucket_of(took_ns)]++;
    if (took_ns > load->result.max_ns)
        load->result.max_ns = took_ns;
    if (operation->bio.op == XB_BLKIF_READ)
        load->result.reads++;
    else
        load->result.writes++;
    if (operation->bio.error != 0)
        record_bad(load, operation, operation->bio.error, 0, 0);
    if (load->verify)
        verify(load, operation);
}

static int may_start(const struct xb_load *load)
{
    return load->nr_left > 0 && load->result.error == 0 && !__atomic_load_n(&load->stopped, __ATOMIC_RELAXED);
}

static void start_first(struct xb_load *load, uint64_t at_ns)
{
    for (uint32_t i = 0; i < load->iodepth && may_start(load); i++)
        start(load, &load->operations[i], at_ns);
}

int xb_load_run(struct xb_load *load, uint64_t slice_ns)
{
    uint64_t at_ns = now_ns(), end_ns = at_ns + slice_ns;
    struct xb_bio *done[BATCH_MAX];

    if (load->result.in_flight == 0)
        start_first(load, at_ns);
    while (load->result.in_flight > 0) {
        uint32_t count = xb_front_poll(load->front, done, BATCH_MAX, FOR_EVER);

        if (count == 0 && xb_front_fault(load->front)->code != XB_FRONT_SOUND)
            return XB_LOAD_FAULT;
        at_ns = now_ns();
        for (uint32_t i = 0; i < count; i++) {
            struct operation *operation = (struct operation *)done[i];

            finish(load, operation, at_ns);
            if (may_start(load))
                start(load, operation, at_ns);
        }
        if (at_ns >= end_ns && load->result.in_flight > 0)
            return XB_LOAD_RUNNING;
    }
    return load->result.error == 0 ? XB_LOAD_DONE : XB_LOAD_FAILED;
}
