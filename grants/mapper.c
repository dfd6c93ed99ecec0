#include <stdint.h>

#include "grants/mapper.h"

void xb_mapper_map(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_map_grant_ref *ops, uint32_t count,
                   int together)
{
    mapper->ops->map(mapper, grantor, ops, count, together);
}

void xb_mapper_unmap(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_unmap_grant_ref *ops,
                     uint32_t count)
{
    mapper->ops->unmap(mapper, grantor, ops, count);
}

void xb_mapper_copy(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_copy_segment *segments,
                    uint32_t count)
{
    mapper->ops->copy(mapper, grantor, segments, count);
}

int xb_mapper_is_crowded(const struct xb_mapper *mapper)
{
    return mapper->ops->is_crowded(mapper);
}
