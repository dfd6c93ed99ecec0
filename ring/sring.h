/* A shared ring and its two private halves (io/ring.h). It knows the size of an entry, not what is in it.
 *
 * Indexes run freely from 0 to 2^32 - 1 and around; the slot of an index is index & (nr_ents - 1). A response takes the
 * place of a request that was answered, so the indexes always stand in this order, read around the circle:
 *
 *     rsp_cons <= rsp_prod_pushed <= rsp_prod_pvt <= req_cons <= req_prod_pushed <= req_prod_pvt <= rsp_cons + nr_ents
 *      front          back               back          back           front              front        front
 *
 * Each half trusts its own indexes and nothing else: what it published is remembered privately, and an index of the
 * peer's is loaded, held against this order, and only then used. A half belongs to one thread at a time.
 *
 * To enqueue: put, put, ..., then push; notify the peer if push says so.
 * Before sleeping: final_check; sleep only if it returns 0, and look again after waking.
 */

#define XB_SRING_HEADER_SIZE 64

/* A shared index was impossible. It stays so: the ring is not used any more. */
#define XB_RING_BROKEN -1

/* The start of the shared pages. The peer may write any byte at any time. */
struct xb_sring {
    uint32_t req_prod;  /* front writes: requests published */
    uint32_t req_event; /* back writes: notify when req_prod passes here */
    uint32_t rsp_prod;  /* back writes: responses published */
    uint32_t rsp_event; /* front writes: notify when rsp_prod passes here */
    uint8_t pad[48];
};

struct xb_ring_statistics {
    uint64_t requests;     /* front: put; back: consumed */
    uint64_t responses;    /* front: consumed; back: put */
    uint64_t pushes;       /* that published something */
    uint64_t notify_asked; /* pushes that asked for a notification */
    uint64_t notify_held;  /* pushes that the event index made silent */
};

struct xb_front_ring {
    struct xb_sring *sring;
    uint32_t nr_ents;
    uint32_t entry_size;
    uint32_t req_prod_pvt;    /* requests put */
    uint32_t req_prod_pushed; /* requests published */
    uint32_t rsp_cons;        /* responses consumed */
    uint32_t rsp_prod_seen;   /* responses known to be there, checked */
    uint32_t broken;
    uint32_t bogus; /* the rsp_prod that broke the ring */
    struct xb_ring_statistics statistics;
};

struct xb_back_ring {
    struct xb_sring *sring;
    uint32_t nr_ents;
    uint32_t entry_size;
    uint32_t rsp_prod_pvt;    /* responses put */
    uint32_t rsp_prod_pushed; /* responses published */
    uint32_t req_cons;        /* requests consumed */
    uint32_t req_prod_seen;   /* requests known to be there, checked */
    uint32_t broken;
    uint32_t bogus; /* the req_prod that broke the ring */
    struct xb_ring_statistics statistics;
};

/* Whether a producer that went from `old` to `new` passed `event`. */
int xb_ring_must_notify(uint32_t old, uint32_t new_, uint32_t event);

/* Make `page_bytes` at `page` an empty ring; the page must not be shared yet. */
void xb_front_ring_init(struct xb_front_ring *ring, void *page, size_t page_bytes, uint32_t nr_ents,
                        uint32_t entry_size);

/* Take up the ring at `page` where its last backend left it; requests without an answer are there to be consumed.
 * Returns 0, or XB_RING_BROKEN if more than nr_ents requests are. */
int xb_back_ring_attach(struct xb_back_ring *ring, void *page, uint32_t nr_ents, uint32_t entry_size);

/* Right after attach: write `count` requests, one behind the other, over the first slots that wait to be consumed. They
 * are what a dead backend consumed and did not answer, of which its responses may have destroyed the slots. Returns 0,
 * or XB_RING_BROKEN, and nothing is written, if fewer requests are without an answer. */
int xb_back_ring_restore(struct xb_back_ring *ring, const void *requests, uint32_t count);

/* Requests that may be put: nr_ents less those whose response is not consumed. */
uint32_t xb_front_ring_free_slots(const struct xb_front_ring *ring);

/* Copy one entry into the next slot, unpublished. Returns 1, or 0 if there is no room (front), or no request that is
 * consumed and not answered (back). */
int xb_front_ring_put(struct xb_front_ring *ring, const void *request);
int xb_back_ring_put(struct xb_back_ring *ring, const void *response);

/* The same for an entry whose first `size` bytes say everything: the rest of the slot stays as it is. */
int xb_back_ring_put_head(struct xb_back_ring *ring, const void *response, uint32_t size);

/* The next slot to put a request into, NULL if there is no room; then put_slot counts it as put. A writer that needs
 * a part of a slot touches that part only, and the rest keeps what was there, which the peer has seen. */
void *xb_front_ring_slot(struct xb_front_ring *ring);
void xb_front_ring_put_slot(struct xb_front_ring *ring);

/* Publish what was put. Returns 1 if the peer must be notified. */
int xb_front_ring_push(struct xb_front_ring *ring);
int xb_back_ring_push(struct xb_back_ring *ring);

/* Copy the next entry of the peer's to private memory. Returns 1, 0 if there is none, or XB_RING_BROKEN. */
int xb_front_ring_consume(struct xb_front_ring *ring, void *response);
int xb_back_ring_consume(struct xb_back_ring *ring, void *request);

/* Whether consume has something to say: 1 if an entry of the peer's is there or the ring is broken, else 0. To
 * busy-poll with: it asks for no notification. */
int xb_front_ring_look(struct xb_front_ring *ring);
int xb_back_ring_look(struct xb_back_ring *ring);

/* As consume, without the copy: *response is the slot, up to the next put. The peer may go on writing it, so whoever
 * reads it loads each byte once. */
int xb_front_ring_next(struct xb_front_ring *ring, const void **response);

/* The slot of the entry that the next consume copies, or one `ahead` of it, or NULL if none is known to be there: to
 * guess from what to fetch early. What is in it may be different when it is consumed. */
const void *xb_front_ring_peek(const struct xb_front_ring *ring);
const void *xb_back_ring_peek(const struct xb_back_ring *ring, uint32_t ahead);

/* Ask for a notification of the next entry. Returns 1 if there is one already, or if the ring is broken: call consume.
 * Returns 0 if the peer will notify. */
int xb_front_ring_final_check(struct xb_front_ring *ring);
int xb_back_ring_final_check(struct xb_back_ring *ring);

/* XB_ASSERT the order of our own indexes. */
void xb_front_ring_check(const struct xb_front_ring *ring);
void xb_back_ring_check(const struct xb_back_ring *ring);
