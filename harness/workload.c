#include <stdint.h>

#include "xenblk/blkif.h"
#include "harness/workload.h"
#include "harness/mix.h"

#define GOLDEN 0x9e3779b97f4a7c15u

static uint64_t next_of(uint64_t *place, uint64_t nr_blocks)
{
    uint64_t block = *place;

    *place = block + 1 == nr_blocks ? 0 : block + 1;
    return block;
}

static int flush_is_due(struct xb_workload *workload, struct xb_step *step)
{
    if (workload->fsync == 0 || workload->nr_unflushed < workload->fsync)
        return 0;
    workload->nr_unflushed = 0;
    step->op = XB_BLKIF_FLUSH_DISKCACHE;
    return 1;
}

int xb_workload_next(struct xb_workload *workload, struct xb_step *step)
{
    uint64_t number;
    int read;

    if (flush_is_due(workload, step))
        return 1;
    if (workload->nr_left == 0)
        return 0;
    workload->nr_left -= workload->nr_left != UINT64_MAX;
    number = mix(workload->random += GOLDEN);
    read = (uint64_t)(uint32_t)number * 100 < (uint64_t)workload->read_percent << 32;
    /* The block is in the upper bits of the product, and the lower half of the number chose the operation. */
    if (workload->in_random_order)
        step->block = (uint64_t)(((unsigned __int128)number * workload->nr_blocks) >> 64);
    else
        step->block = next_of(read ? &workload->next_read : &workload->next_write, workload->nr_blocks);
    step->op = read ? XB_BLKIF_READ : XB_BLKIF_WRITE;
    workload->nr_unflushed += !read;
    return 1;
}
