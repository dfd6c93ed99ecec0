/* How a request's data is lent to the backend: through pages of a pool, or by granting the caller's own pages.
 *
 *     bounce   copies between the caller's buffer and pages of a pool, whose grants the backend may keep mapped.
 *              All persistent connections do this, and any buffer that is not in the domain's memory.
 *     direct   grants the very pages the buffer lies in, for as long as the request takes.
 *
 * Both give segments to put on the ring, and take them back when the response is there. More than 11 do not fit a slot:
 * they stand in descriptor pages of the pool, and the slot names these (an indirect request). Include pool.h first.
 */

#define XB_LOAN_SEGMENTS_MAX 11 /* in a slot */
#define XB_LOAN_SEGMENTS_PER_PAGE 512
#define XB_LOAN_INDIRECT_MAX 8 /* descriptor pages of a request */

struct xb_lender {
    struct xb_pool pool;
    uint8_t *memory;       /* the domain's memory: a buffer in it may be lent directly */
    uint64_t memory_bytes; /* 0: bounce always */
    uint32_t direct_unit;  /* what is lent directly is a multiple of so many bytes, a power of 2, and begins at one */
    uint32_t max_segments; /* of a request: 11, or more for indirect requests */
    int how;               /* to copy for the backend: XB_COPY_PLAIN or XB_COPY_STREAMING, with its fence */
    int fetches;           /* while it copies out a page, the next one of the same request; -1: it is not chosen yet */
    uint8_t persistent;
};

/* What one request lends: descriptor pages, then data, as pool pages by their index or as references. */
struct xb_loan {
    uint8_t *buffer;
    uint32_t nr_bytes;
    uint16_t count;      /* segments */
    uint8_t nr_indirect; /* descriptor pages: 0 if the segments fit a slot */
    uint8_t is_direct;
    uint32_t lent[11];
    uint32_t *many;      /* what an indirect request lends: room for max_segments and their descriptor pages */
};

/* How many descriptor pages so many segments need at most. */
uint32_t xb_loan_nr_indirect(uint32_t nr_segments);

/* How many of `nr_bytes` from `buffer` on one request of at most `max_segments` carries. */
uint32_t xb_longest_piece(const struct xb_lender *lender, const uint8_t *buffer, uint64_t nr_bytes,
                          uint32_t max_segments);

/* Lend a piece of that length and write its segments, 8 bytes each, or the references of its descriptor pages, from 4
 * bytes on: 1, or 0 and nothing if pages or references are lacking. Data for the backend to read is copied if
 * `to_backend`. */
int xb_lend(struct xb_lender *lender, uint8_t *buffer, uint32_t nr_bytes, int to_backend, struct xb_loan *loan,
            uint8_t *segments);

/* End a loan after its response. A read's data is copied out whatever the status was, as Linux does; what is at `next`
 * is fetched while its last page is, unless it is NULL. Returns how many pages the backend still maps; unless the
 * connection is persistent it must not, and these cannot be used again. */
uint32_t xb_take_back(struct xb_lender *lender, struct xb_loan *loan, int from_backend, const uint8_t *next);

/* The first page of the data that is lent, NULL if that is the caller's own. */
const uint8_t *xb_first_page(const struct xb_lender *lender, struct xb_loan *loan);

/* End a loan whose request is never answered, as far as the backend lets go; pool pages are left to the pool's end.
 * Returns how many references are granted still, and puts as many of them as `mapped` has room for there. */
uint32_t xb_abandon(struct xb_lender *lender, struct xb_loan *loan, uint32_t *mapped, uint32_t max);
