#include <stddef.h>
#include <stdint.h>

#include "grants/gnttab.h"
#include "grants/table.h"
#include "xenblk/blkfront/pool.h"

#include "xenblk/assert.h"

#define BATCH 11 /* references given back at once */

void xb_pool_init(struct xb_pool *pool, struct xb_grant_table *table, uint16_t domid, struct xb_pool_page *pages,
                  uint32_t nr_pages, uint32_t *granted, uint32_t *ungranted)
{
    *pool = (struct xb_pool){.table = table,
                             .pages = pages,
                             .granted = granted,
                             .ungranted = ungranted,
                             .nr_pages = nr_pages,
                             .nr_ungranted = nr_pages,
                             .domid = domid};
    for (uint32_t i = 0; i < nr_pages; i++) {
        pages[i].gref = XB_POOL_NO_GREF;
        ungranted[i] = i;
    }
}

static uint32_t take_ungranted(struct xb_pool *pool, uint32_t ref)
{
    uint32_t number = pool->ungranted[pool->first_ungranted];
    struct xb_pool_page *page = &pool->pages[number];

    if (++pool->first_ungranted == pool->nr_pages)
        pool->first_ungranted = 0;
    pool->nr_ungranted--;
    XB_ASSERT(page->gref == XB_POOL_NO_GREF);
    page->gref = ref;
    xb_grant_table_grant(pool->table, ref, pool->domid, page->frame, 0);
    return number;
}

int xb_pool_take(struct xb_pool *pool, uint32_t *pages, uint32_t count)
{
    uint32_t kept = count < pool->nr_granted ? count : pool->nr_granted, nr_refs = count - kept;

    /* The references that are needed stand first where their pages will. */
    if (nr_refs > 0 && (nr_refs > pool->nr_ungranted || !xb_grant_table_allocate(pool->table, pages + kept, nr_refs)))
        return 0;
    for (uint32_t i = 0; i < kept; i++)
        pages[i] = pool->granted[--pool->nr_granted];
    if (pool->nr_granted > 0)
        __builtin_prefetch(&pool->pages[pool->granted[pool->nr_granted - 1]]); /* the next request's */
    for (uint32_t i = kept; i < count; i++)
        pages[i] = take_ungranted(pool, pages[i]);
    return 1;
}

static void put_ungranted(struct xb_pool *pool, uint32_t number)
{
    uint32_t last = pool->first_ungranted + pool->nr_ungranted++;

    XB_ASSERT(pool->nr_ungranted <= pool->nr_pages);
    pool->pages[number].gref = XB_POOL_NO_GREF;
    pool->ungranted[last < pool->nr_pages ? last : last - pool->nr_pages] = number;
}

uint32_t xb_pool_put(struct xb_pool *pool, const uint32_t *pages, uint32_t count)
{
    uint32_t nr_refs = 0, kept = 0, refs[BATCH];

    for (uint32_t i = 0; i < count; i++) {
        uint32_t ref = pool->pages[pages[i]].gref;

        if (!xb_grant_table_end_access(pool->table, ref)) {
            pool->granted[pool->nr_granted++] = pages[i];
            kept++;
            continue;
        }
        put_ungranted(pool, pages[i]);
        refs[nr_refs++] = ref;
        if (nr_refs == BATCH) {
            xb_grant_table_free(pool->table, refs, nr_refs);
            nr_refs = 0;
        }
    }
    if (nr_refs > 0)
        xb_grant_table_free(pool->table, refs, nr_refs);
    return kept;
}

uint32_t xb_pool_trim(struct xb_pool *pool)
{
    uint32_t nr_kept = 0, nr_granted = pool->nr_granted;

    for (uint32_t i = nr_granted; i-- > 0;) {
        uint32_t ref = pool->pages[pool->granted[i]].gref;

        if (!xb_grant_table_end_access(pool->table, ref))
            continue;
        xb_grant_table_free(pool->table, &ref, 1);
        put_ungranted(pool, pool->granted[i]);
    }
    for (uint32_t i = 0; i < nr_granted; i++)
        if (pool->pages[pool->granted[i]].gref != XB_POOL_NO_GREF)
            pool->granted[nr_kept++] = pool->granted[i];
    pool->nr_granted = nr_kept;
    return nr_granted - nr_kept;
}

uint32_t xb_pool_close(struct xb_pool *pool)
{
    uint32_t mapped = 0;

    for (uint32_t i = 0; i < pool->nr_pages; i++) {
        struct xb_pool_page *page = &pool->pages[i];

        if (page->gref == XB_POOL_NO_GREF)
            continue;
        if (xb_grant_table_end_access(pool->table, page->gref)) {
            xb_grant_table_free(pool->table, &page->gref, 1);
            page->gref = XB_POOL_NO_GREF;
        } else {
            mapped++;
        }
    }
    pool->nr_granted = pool->nr_ungranted = 0;
    return mapped;
}
