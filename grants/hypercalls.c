#include <stdint.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"

/* The emulated hypervisor's grant table as a platform's mapper. */

static void ops_map(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_map_grant_ref *ops, uint32_t count,
                    int together)
{
    (void)together; /* each page is a mapping of its own, and unmapping a row of them one system call anyway */
    xb_gnttab_map((struct xb_gnttab_mapper *)mapper, (struct xb_gnttab_grantor *)grantor, ops, count);
}

static void ops_unmap(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_unmap_grant_ref *ops,
                      uint32_t count)
{
    xb_gnttab_unmap((struct xb_gnttab_mapper *)mapper, (struct xb_gnttab_grantor *)grantor, ops, count);
}

static void ops_copy(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_copy_segment *segments,
                     uint32_t count)
{
    xb_gnttab_copy((struct xb_gnttab_mapper *)mapper, (struct xb_gnttab_grantor *)grantor, segments, count);
}

static int ops_is_crowded(const struct xb_mapper *mapper)
{
    return xb_gnttab_is_crowded((const struct xb_gnttab_mapper *)mapper);
}

static const struct xb_mapper_ops table = {
    .map = ops_map, .unmap = ops_unmap, .copy = ops_copy, .is_crowded = ops_is_crowded};

const struct xb_mapper_ops *const xb_gnttab_ops = &table;
