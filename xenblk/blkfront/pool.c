#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/table.h"
#include "xenblk/blkfront/pool.h"

#include "xenblk/assert.h"

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

/* The `i`th page of the queue of those that are granted to nobody. */
static uint32_t ungranted_at(const struct xb_pool *pool, uint32_t i)
{
    uint32_t place = pool->first_ungranted + i;

    return pool->ungranted[place < pool->nr_pages ? place : place - pool->nr_pages];
}

/* Grant the next `count` pages: 1 and their references, or 0 and nothing. */
static int grant_next(struct xb_pool *pool, uint32_t *refs, uint32_t count)
{
    if (count > pool->nr_ungranted)
        return 0;
    for (uint32_t i = 0; i < count; i++)
        refs[i] = pool->pages[ungranted_at(pool, i)].frame;
    return xb_grant_table_grant(pool->table, pool->domid, refs, count, 0, refs);
}

static uint32_t take_ungranted(struct xb_pool *pool, uint32_t ref)
{
    uint32_t number = pool->ungranted[pool->first_ungranted];

    if (++pool->first_ungranted == pool->nr_pages)
        pool->first_ungranted = 0;
    pool->nr_ungranted--;
    XB_ASSERT(pool->pages[number].gref == XB_POOL_NO_GREF);
    pool->pages[number].gref = ref;
    return number;
}

int xb_pool_take(struct xb_pool *pool, uint32_t *pages, uint32_t count)
{
    uint32_t kept = count < pool->nr_granted ? count : pool->nr_granted;

    /* The references that are new stand first where their pages will. */
    if (kept < count && !grant_next(pool, pages + kept, count - kept))
        return 0;
    pool->nr_granted -= kept;
    memcpy(pages, &pool->granted[pool->nr_granted], kept * sizeof(*pages));
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
    int sees = xb_grant_table_sees_mappings(pool->table);
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (sees && xb_grant_table_end(pool->table, pool->pages[pages[i]].gref)) {
            put_ungranted(pool, pages[i]);
        } else {
            pool->granted[pool->nr_granted++] = pages[i];
            kept++;
        }
    }
    return sees ? kept : 0;
}

uint32_t xb_pool_trim(struct xb_pool *pool)
{
    uint32_t nr_kept = 0, nr_granted = pool->nr_granted;

    if (!xb_grant_table_sees_mappings(pool->table))
        return 0;
    for (uint32_t i = nr_granted; i-- > 0;)
        if (xb_grant_table_end(pool->table, pool->pages[pool->granted[i]].gref))
            put_ungranted(pool, pool->granted[i]);
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
        if (xb_grant_table_end(pool->table, page->gref))
            page->gref = XB_POOL_NO_GREF;
        else
            mapped++;
    }
    pool->nr_granted = pool->nr_ungranted = 0;
    return mapped;
}
