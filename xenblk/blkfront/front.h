/* Inside of engine.c and completion.c, which include what this builds on first. */

/* A request on the ring; its index is the request's id. What a request of a few segments needs is in one cache line. */
struct xb_shadow {
    struct xb_bio *bio; /* NULL: no such request is waiting */
    uint64_t order;     /* requests put before it */
    uint8_t op;         /* that the answer must name: of an indirect request the inner one */
    struct xb_loan loan;
} __attribute__((aligned(64)));

struct xb_front {
    struct xb_front_ring *ring;
    struct xb_counters *counters;
    const struct xb_channel *channel;
    struct xb_front_features *features;
    struct xb_front_features own_features; /* if the caller has none */
    struct xb_bio *first; /* of the queue; part of it may be on the ring */
    struct xb_bio *last;
    uint32_t *free_ids; /* a stack */
    uint32_t nr_free_ids;
    uint32_t id_at;      /* where in a slot its 8 bytes are */
    uint32_t unpublished;
    uint32_t nr_queued; /* bios in the queue */
    uint64_t nr_put;    /* requests so far */
    uint64_t reclaim_at_ns;
    int stored;         /* since the last publish: XB_COPY_STREAMING if any copy was, whatever this fill uses */
    uint16_t handle;
    uint8_t published;   /* since the last push: something */
    uint8_t must_notify; /* since the last push: the event index was passed */
    uint8_t chosen;      /* in this fill: how to copy */
    uint8_t may_fill;    /* since the last fill: a response came, so there may be room for what is queued */
    struct xb_front_fault fault;
    struct xb_poller poller;
    struct xb_copier copier;  /* chooses lender.how */
    struct xb_copier fetcher; /* chooses lender.fetches */
    struct xb_lender lender;
    struct xb_shadow shadows[];
};

/* The operation that a bio's next request asks for; XB_FRONT_UNSENT if the bio is done without one. */
#define XB_FRONT_UNSENT 0xff
uint8_t xb_front_sent_as(const struct xb_front *front, const struct xb_bio *bio);
