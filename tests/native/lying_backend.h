/* A front engine, and a backend in memory that serves in any order and lies to order, in one thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/native/front_guest.h"

#define BS 1536
#define NR_BLOCKS 40
#define DEPTH_MAX 40
#define ENDLESS UINT64_MAX

static uint8_t disk[NR_BLOCKS * BS], *const buffers = memory + NR_POOL * PAGE_SIZE;

/* What the backend saw, and how it lies. */
static struct {
    uint64_t dice;
    struct xb_blkif_request held[NR_ENTS]; /* taken from the ring, and not answered yet */
    uint64_t nr_held;
    uint64_t nr_reads, nr_writes, nr_flushes;
    uint64_t nr_data;       /* requests with data so far */
    uint64_t lie_at;        /* which of them is not served, and answered with lie_status; ENDLESS: none */
    int16_t lie_status;
    int lie_is_wrong_place; /* its data moves, from or to the next block */
} back;

_Static_assert(DEPTH_MAX * BS <= (NR_FRAMES - NR_POOL) * PAGE_SIZE, "");

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

/* Without persistent grants the engine lends the buffers in place. */
static inline void connect_front(uint64_t seed, int persistent)
{
    memset(disk, 0, sizeof(disk));
    memset(memory, 0, sizeof(memory));
    memset(&back, 0, sizeof(back));
    back.dice = seed;
    back.lie_at = ENDLESS;
    create_front(&channel, persistent, 0);
}
