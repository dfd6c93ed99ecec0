/* How a request's data is lent to the backend: through pages of a pool, or by granting the caller's own pages.
 *
 *     bounce   copies between the caller's buffer and pages of a pool, whose grants the backend may keep mapped.
 *              All persistent connections do this, and any buffer that is not in the domain's memory.
 *     direct   grants the very pages the buffer lies in, for as long as the request takes.
 *
 * Both give segments to put on the ring, and take them back when the response is there. Include pool.h first.
 */

#define XB_LOAN_SEGMENTS_MAX 11

struct xb_lender {
    struct xb_pool pool;
    uint8_t *memory;       /* the domain's memory: a buffer in it may be lent directly */
    uint64_t memory_bytes; /* 0: bounce always */
    int how;               /* to copy for the backend: XB_COPY_PLAIN or XB_COPY_STREAMING, with its fence */
    uint8_t persistent;
};

/* What one request lends: pool pages by their index, or references. */
struct xb_loan {
    uint8_t *buffer;
    uint32_t nr_bytes;
    uint8_t is_direct;
    uint8_t count;
    uint32_t lent[11];
};

/* How many of `nr_bytes` from `buffer` on one request carries, with nothing between it and the end of a buffer. */
uint32_t xb_longest_piece(const struct xb_lender *lender, const uint8_t *buffer, uint64_t nr_bytes);

/* Lend a piece of that length and write its segments, 8 bytes each: 1, or 0 and nothing if pages or references are
 * lacking. Data for the backend to read is copied if `to_backend`. */
int xb_lend(struct xb_lender *lender, uint8_t *buffer, uint32_t nr_bytes, int to_backend, struct xb_loan *loan,
            uint8_t *segments);

/* End a loan after its response. A read's data is copied out whatever the status was, as Linux does. Returns how many
 * pages the backend still maps; unless the connection is persistent it must not, and these cannot be used again. */
uint32_t xb_take_back(struct xb_lender *lender, struct xb_loan *loan, int from_backend);

/* End a loan whose request is never answered, as far as the backend lets go; pool pages are left to the pool's end. */
void xb_abandon(struct xb_lender *lender, struct xb_loan *loan);
