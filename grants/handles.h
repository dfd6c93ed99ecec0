/* Inside of gnttab.c, which includes gnttab.h and pins.h first: which entries of a process's maptrack are free. There
 * is a stack of them, and those from nr_touched on were never used. */
#pragma once
#include <stdint.h>

#include "xenblk/assert.h"

/* Relaxed: a number to go by, in no order with anything. */
static inline uint32_t nr_used(const struct xb_gnttab_mapper *mapper)
{
    return __atomic_load_n(&mapper->nr_used, __ATOMIC_RELAXED);
}

static inline void count_used(struct xb_gnttab_mapper *mapper)
{
    __atomic_store_n(&mapper->nr_used, mapper->nr_touched - mapper->nr_free, __ATOMIC_RELAXED);
}

static inline int handle_take(struct xb_gnttab_mapper *mapper, uint32_t *handle)
{
    int found = 1;

    if (!lock_take(&mapper->lock, 1))
        return 0;
    if (mapper->nr_free > 0)
        *handle = mapper->free[--mapper->nr_free];
    else if (mapper->nr_touched < mapper->base.max_pages)
        *handle = mapper->nr_touched++;
    else
        found = 0;
    count_used(mapper);
    lock_release(&mapper->lock);
    return found;
}

static inline void handle_give(struct xb_gnttab_mapper *mapper, uint32_t handle)
{
    int locked = lock_take(&mapper->lock, 1);

    XB_ASSERT(locked && mapper->nr_free < mapper->base.max_pages);
    mapper->free[mapper->nr_free++] = handle;
    count_used(mapper);
    lock_release(&mapper->lock);
}
