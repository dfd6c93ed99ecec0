/* The life of a request, from a bio to the ring and back: engine.py in C, with the same splitting, the same order of
 * pool pages, the same counters and the same distrust.
 *
 *     bio --split--> pieces --lend pages--> request --put--> ring slot  --push--> backend
 *                                                                                    |
 *     bio done <--take pages back-- check the private copy <--consume-- ring slot <--+
 *
 * Either step or poll, or by hand: submit, fill, push (notify if it says so), collect, and final_check before sleeping.
 * Nothing is allocated between create and destroy. A front belongs to one thread at a time.
 */

struct xb_front;

/* Why the backend is trusted no more. */
#define XB_FRONT_SOUND 0
#define XB_FRONT_RING_BROKEN 1     /* rsp_prod was impossible: the ring's `bogus` */
#define XB_FRONT_UNKNOWN_ID 2      /* an answer to `id`, which waits for none */
#define XB_FRONT_WRONG_OPERATION 3 /* `operation` was answered to `id`, whose is `expected` */
#define XB_FRONT_KEPT_PAGES 4      /* `kept` pages are mapped still, and grants are not persistent */

struct xb_front_fault {
    uint64_t id;
    uint32_t kept;
    uint8_t code;
    uint8_t operation;
    uint8_t expected;
};

/* What the backend offers, 1 or 0, as its nodes of these names say. The engines of a disk's rings share them: bytes
 * that only ever go to 0, when the backend refuses what it offered. */
struct xb_front_features {
    uint8_t flush_cache;
    uint8_t barrier;
    uint8_t discard;
    uint8_t discard_secure;
};

/* One operation on the disk, in the caller's memory. The engine's from submit until it is done, its buffer too.
 *
 * A flush is sent as what the backend offers, a barrier without data if need be; if it offers neither, or refuses what
 * it offered (EOPNOTSUPP), the flush is done. A flush that fails is an error. A barrier or a discard that is not
 * offered, or is refused, ends with EOPNOTSUPP. */
struct xb_bio {
    uint64_t offset;      /* in: bytes from the start of the disk, a multiple of 512 */
    uint8_t *buffer;      /* in: to read into or write from; nothing for a flush or a discard */
    uint64_t nr_bytes;    /* in: a multiple of 512; 0 for a flush, and for nothing else */
    uint64_t user_data;   /* the caller's own */
    struct xb_bio *next;  /* private; in a list that the engine returns, the next */
    uint64_t nr_put;      /* private: bytes in requests that were put on the ring */
    uint32_t nr_pending;  /* private: requests on the ring */
    int32_t error;        /* out: 0, or a positive errno */
    int16_t status;       /* out: the last status that was not XB_BLKIF_OKAY, or that */
    uint8_t op;           /* in: XB_BLKIF_READ, _WRITE, _WRITE_BARRIER, _FLUSH_DISKCACHE or _DISCARD */
    uint8_t is_done;      /* private */
    uint8_t secure;       /* in: 1 for a discard that erases */
};

/* What the pointers show stays the caller's and lives until destroy. */
struct xb_front_config {
    struct xb_front_ring *ring;        /* empty, with slots of XB_BLKIF_X86_64_SLOT_BYTES or _X86_32_SLOT_BYTES */
    struct xb_grant_table *table;      /* the domain's */
    struct xb_counters *counters;
    const struct xb_channel *channel;  /* for step and poll; NULL if these are not used */
    struct xb_front_features *features; /* NULL: only a flush */
    struct xb_pool_page *pages;        /* at least what one request lends, zeroed; those whose gref is set after destroy
                                          are still mapped */
    uint8_t *memory;                   /* the domain's memory: lent in place if grants are not persistent */
    uint64_t memory_bytes;             /* 0: nothing is lent in place */
    uint32_t nr_pages;
    uint32_t sector_bytes;             /* the disk's own sectors: 512, as is 0, or a larger part of a page */
    uint32_t max_segments;             /* of a request, at most 4096; up to 11: no indirect requests */
    uint32_t poll_us;                  /* how long poll looks at the ring before it sleeps; 0: not at all */
    uint16_t backend;                  /* domid */
    uint16_t handle;                   /* of the disk */
    uint8_t persistent;                /* what both sides agreed on */
};

/* NULL if there is no memory for it. */
struct xb_front *xb_front_create(const struct xb_front_config *config);

/* End the grants of buffers that were lent in place to requests without an answer. Returns how many the backend maps
 * still, and puts as many of their references as there is room for to `mapped`: these are the caller's now. */
uint32_t xb_front_abandon(struct xb_front *front, uint32_t *mapped, uint32_t max);

/* End all grants, as far as the backend lets go. Bios in flight are forgotten: take_unfinished or fail_all first. */
void xb_front_destroy(struct xb_front *front);

/* Queue a bio; fill puts it on the ring as room comes. */
void xb_front_submit(struct xb_front *front, struct xb_bio *bio);

/* Move queued bios to the ring, in pieces of at most max_segments pages (a barrier's 11), while there are slots, pool
 * pages and references for a whole one. The backend may see the first of them before the last is there. */
void xb_front_fill(struct xb_front *front);

/* Publish what fill put. Returns 1 if the backend must be notified; that counts as one notification, or one held. */
int xb_front_push(struct xb_front *front);

/* Take the responses that are there, and the bios that are done without one. Returns how many bios are done, at most
 * `max`, in `done`. Stops for good at the first response that cannot be believed: see fault. */
uint32_t xb_front_collect(struct xb_front *front, struct xb_bio **done, uint32_t max);

/* Before sleeping: ask for an event at the next response. 1 if there is one already, or room for what is queued. */
int xb_front_final_check(struct xb_front *front);

/* fill, push, notify and collect. */
uint32_t xb_front_step(struct xb_front *front, struct xb_bio **done, uint32_t max);

/* Look for a response for up to poll_us: 1 if there is one. */
int xb_front_look_for(struct xb_front *front);

/* As step; if no bio is done, look for up to poll_us, then sleep until an event or `timeout_ns` (less than 0: for
 * ever), and collect once more. Returns 0 early if there is nothing to wait for, at a fault, and after an event that
 * did not complete a bio. */
uint32_t xb_front_poll(struct xb_front *front, struct xb_bio **done, uint32_t max, int64_t timeout_ns);

/* What made the backend untrustworthy: code is XB_FRONT_SOUND if nothing did. Valid until destroy. */
const struct xb_front_fault *xb_front_fault(const struct xb_front *front);

/* Requests on the ring that are not answered. */
uint32_t xb_front_in_flight(const struct xb_front *front);

/* Whether any bio is not done. */
int xb_front_busy(const struct xb_front *front);

/* While grants are persistent, at most every 10 s: end the grants of idle pages that the backend unmapped. Returns how
 * many. `now_ns` is any clock that does not run backwards. */
uint32_t xb_front_reclaim(struct xb_front *front, uint64_t now_ns);

/* Granted pages that wait in the pool for the next request. */
uint32_t xb_front_persistent_grants(const struct xb_front *front);

/* Give back every bio that is not done, in the order of their submission, to be submitted to another engine: what is
 * half done is done again whole. Returns the first, `next` is the next. What is lent stays lent until destroy; the
 * front is not used any more. */
struct xb_bio *xb_front_take_unfinished(struct xb_front *front);

/* Give up: as take_unfinished, and each of them ends with `error`, a positive errno. */
struct xb_bio *xb_front_fail_all(struct xb_front *front, int error);

/* XB_ASSERT what always holds between two calls. */
void xb_front_check(const struct xb_front *front);
