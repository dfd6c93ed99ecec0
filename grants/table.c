#include <stddef.h>
#include <stdint.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/table.h"

int xb_grant_table_grant(struct xb_grant_table *table, uint16_t domid, const uint32_t *frames, uint32_t count,
                         int readonly, uint32_t *refs)
{
    return table->ops->grant(table, domid, frames, count, readonly, refs);
}

int xb_grant_table_end(struct xb_grant_table *table, uint32_t ref)
{
    /* The most frequent answer first, without a call: a backend that keeps the page is why the pool asks. */
    if (ref < table->nr_entries &&
        __atomic_load_n(&table->shared[ref].flags, __ATOMIC_RELAXED) & (GTF_reading | GTF_writing))
        return 0;
    return table->ops->end(table, ref);
}

int xb_grant_table_grants(const struct xb_grant_table *table, uint32_t frame, uint32_t nr_frames)
{
    return table->ops->grants(table, frame, nr_frames);
}

int xb_grant_table_sees_mappings(const struct xb_grant_table *table)
{
    return table->shared != NULL;
}
