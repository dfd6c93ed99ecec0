/* The frontend's pool of pages to bounce requests through, as grants/pool.py has it.
 *
 *     head                                                    tail
 *     [still mapped by the backend ...][... granted to nobody]
 *        granted: last in, first out      ungranted: first in, first out
 *
 * Pages that are taken together stand in the order in which they came back, so that neighbours stay neighbours.
 *
 * A page that the backend keeps mapped is taken first the next time, so that the backend finds it mapped; a page whose
 * access could be ended comes last. Where nobody can see what the backend maps, whatever was granted once counts as
 * mapped. Grants are read-write always. A pool belongs to the thread of its ring.
 */

#define XB_POOL_NO_GREF 0xffffffff

/* One page. The array of them is the caller's, and outlives the pool. */
struct xb_pool_page {
    uint8_t *data;
    uint32_t frame;
    uint32_t gref; /* XB_POOL_NO_GREF while it is granted to nobody */
};

struct xb_pool {
    struct xb_grant_table *table;
    struct xb_pool_page *pages;
    uint32_t *granted;   /* a stack of pages that the backend still maps */
    uint32_t *ungranted; /* a queue of nr_pages places, going round */
    uint32_t nr_pages;
    uint32_t nr_granted;
    uint32_t nr_ungranted;
    uint32_t first_ungranted;
    uint16_t domid;
};

/* All pages are free and granted to nobody. `granted` and `ungranted` have nr_pages elements each. */
void xb_pool_init(struct xb_pool *pool, struct xb_grant_table *table, uint16_t domid, struct xb_pool_page *pages,
                  uint32_t nr_pages, uint32_t *granted, uint32_t *ungranted);

/* Take `count` pages, granted: 1, or 0 and none if pages or grant references are lacking. */
int xb_pool_take(struct xb_pool *pool, uint32_t *pages, uint32_t count);

/* Take pages back after their request. Returns how many of them the backend still maps, as far as can be seen. */
uint32_t xb_pool_put(struct xb_pool *pool, const uint32_t *pages, uint32_t count);

/* End the grants of free pages that the backend let go of meanwhile; these go to the tail. Returns how many. Linux does
 * it every 10 s. */
uint32_t xb_pool_trim(struct xb_pool *pool);

/* End every grant that can be ended, of pages free or taken; the pool is not used any more. Returns how many pages the
 * backend still maps: those keep their gref. */
uint32_t xb_pool_close(struct xb_pool *pool);
