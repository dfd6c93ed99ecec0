/* grants/gref_map.c as it is, with all that it does so that a reaper can work beside it. */
#include <stdlib.h>

#include "benchmarks/grants/structures.h"
#include "grants/gref_map.h"
#include "xenblk/assert.h"

struct self {
    struct xb_gref_map map;
    void *memory;
    struct xb_gref_entry **idle;
};

static void *create(uint32_t max_entries, uint64_t secret)
{
    struct self *self = malloc(sizeof(*self));

    self->memory = calloc(1, xb_gref_map_bytes(max_entries));
    self->idle = malloc(max_entries * sizeof(*self->idle));
    xb_gref_map_init(&self->map, self->memory, max_entries, secret);
    return self;
}

static void destroy(void *opaque)
{
    struct self *self = opaque;

    free(self->idle);
    free(self->memory);
    free(self);
}

static uint32_t find(void *opaque, uint32_t gref)
{
    struct self *self = opaque;
    struct xb_gref_entry *entry = xb_gref_map_find(&self->map, gref);

    return entry ? (uint32_t)(entry - self->map.entries) : NO_ENTRY;
}

static uint32_t insert(void *opaque, uint32_t gref)
{
    struct self *self = opaque;
    struct xb_gref_entry *entry;
    int answer = xb_gref_map_add(&self->map, gref, 0, 0, &entry);

    XB_ASSERT(answer == XB_GREF_ADDED);
    xb_gref_map_put(entry, 0);
    return (uint32_t)(entry - self->map.entries);
}

static void erase(void *opaque, uint32_t gref, uint32_t number)
{
    struct self *self = opaque;
    struct xb_gref_entry *entry = &self->map.entries[number];
    int reaped = xb_gref_map_reap(entry);

    XB_ASSERT(reaped && entry->gref == gref);
    xb_gref_map_release(&self->map, entry);
}

static uint32_t walk(void *opaque, uint32_t *grefs)
{
    struct self *self = opaque;
    uint32_t count = xb_gref_map_idle(&self->map, UINT64_MAX, self->idle);

    for (uint32_t i = 0; i < count; i++)
        grefs[i] = self->idle[i]->gref;
    return count;
}

static size_t bytes(void *opaque)
{
    struct self *self = opaque;

    return xb_gref_map_bytes(self->map.max_entries) - self->map.max_entries * sizeof(struct xb_gref_entry);
}

const struct structure gref_map_structure = {"hash", create, destroy, find, insert, erase, walk, bytes};
