/* A gref map in memory of exactly its size, and references that are hard on its hash. */
#pragma once
#include <stdint.h>
#include <stdlib.h>

#include "grants/gref_map.h"
#include "xenblk/assert.h"

#define NR_REFS 48
#define MAX_ENTRIES 32

static struct xb_gref_map map;
static void *memory; /* of exactly the bytes that the map asks for: the sanitizer watches its end */

static uint32_t roll(uint64_t *dice)
{
    *dice = *dice * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*dice >> 32);
}

static void start(uint32_t max_entries, uint64_t secret)
{
    memory = calloc(1, xb_gref_map_bytes(max_entries));
    XB_ASSERT(memory != NULL);
    xb_gref_map_init(&map, memory, max_entries, secret);
}

static void finish(void)
{
    xb_gref_map_check(&map);
    free(memory);
}

/* Numbers below 4096 as references: neighbours, multiples of a large power of two, the end of the range, all bits. */
static uint32_t gref_of(uint32_t number, uint32_t pattern)
{
    switch (pattern % 4) {
    case 0:
        return 8 + number;
    case 1:
        return number << 20;
    case 2:
        return UINT32_MAX - number;
    default:
        return number * 2654435761u;
    }
}
