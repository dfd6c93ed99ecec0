/* A front engine and the other end of its ring in one program, without a disk: who serves is the test's affair. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/table.h"
#include "grants/table_v1.h"
#include "ring/sring.h"
#include "xenblk/assert.h"
#include "xenblk/blkfront/engine.h"
#include "xenblk/blkfront/pool.h"
#include "xenblk/blkif.h"
#include "xenblk/channel.h"
#include "xenblk/counters.h"

#define PAGE_SIZE 4096
#define NR_REFS 512
#define NR_POOL 384
#define NR_FRAMES 480 /* the pool's, then those to lend in place */
#define NR_ENTS 32

static uint8_t memory[NR_FRAMES * PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static uint8_t ring_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static struct xb_grant_entry entries[NR_REFS];
static struct xb_pool_page pages[NR_POOL];
static struct xb_grant_table_v1 table;
static struct xb_counters counters;
static struct xb_front_ring front_ring;
static struct xb_back_ring back_ring;
static struct xb_front *front;

/* Without persistent grants the engine lends buffers of `memory` in place. */
static inline void create_front_with(const struct xb_channel *channel, int persistent, uint32_t poll_us,
                                     uint32_t max_segments, struct xb_front_features *features)
{
    static uint32_t stack[NR_REFS];
    static uint8_t state[NR_REFS];
    struct xb_front_config config = {
        .ring = &front_ring,
        .table = &table.table,
        .counters = &counters,
        .channel = channel,
        .pages = pages,
        .nr_pages = NR_POOL,
        .memory = memory,
        .memory_bytes = sizeof(memory),
        .persistent = persistent,
        .poll_us = poll_us,
        .max_segments = max_segments,
        .features = features,
    };

    xb_grant_table_v1_init(&table, entries, stack, state, NR_REFS);
    memset(&counters, 0, sizeof(counters));
    memset(entries, 0, sizeof(entries));
    for (uint32_t i = 0; i < NR_POOL; i++)
        pages[i] = (struct xb_pool_page){.data = memory + (size_t)i * PAGE_SIZE, .frame = i};
    xb_front_ring_init(&front_ring, ring_page, PAGE_SIZE, NR_ENTS, XB_BLKIF_X86_64_SLOT_BYTES);
    XB_ASSERT(xb_back_ring_attach(&back_ring, ring_page, NR_ENTS, XB_BLKIF_X86_64_SLOT_BYTES) == 0);
    front = xb_front_create(&config);
    XB_ASSERT(front != NULL);
}

/* Reads, writes and flushes, and no indirect requests. */
static inline void create_front(const struct xb_channel *channel, int persistent, uint32_t poll_us)
{
    create_front_with(channel, persistent, poll_us, 0, NULL);
}
