/* Inside of engine.c and completion.c, which include what this builds on first. */

/* A request on the ring; its index is the request's id. */
struct xb_shadow {
    struct xb_bio *bio; /* NULL: no such request is waiting */
    uint8_t op;         /* the bio's */
    struct xb_loan loan;
};

struct xb_front {
    struct xb_front_ring *ring;
    struct xb_counters *counters;
    const struct xb_channel *channel;
    struct xb_bio *first; /* of the queue; part of it may be on the ring */
    struct xb_bio *last;
    uint32_t *free_ids; /* a stack */
    uint32_t nr_free_ids;
    uint32_t id_at;      /* where in a slot its 8 bytes are */
    uint32_t unpublished;
    uint32_t nr_queued; /* bios in the queue */
    int stored;         /* since the last publish: XB_COPY_STREAMING if any copy was, whatever this fill uses */
    uint16_t handle;
    uint8_t published;   /* since the last push: something */
    uint8_t must_notify; /* since the last push: the event index was passed */
    uint8_t chosen;      /* in this fill: how to copy */
    struct xb_front_fault fault;
    struct xb_poller poller;
    struct xb_copier copier;
    struct xb_lender lender;
    struct xb_shadow shadows[];
};
