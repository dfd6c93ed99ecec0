/* A load on a front engine, wholly in C: a seeded stream of reads and writes of whole blocks, so many in flight at a time.
 *
 * Operations that complete are replaced at once. What they cost beside the engine is a random number, a store of a time
 * and, with `verify`, the first 8 bytes of a block; no division. Latencies go to a log-linear histogram: exact up to
 * XB_LOAD_SUBBUCKETS ns, within 1 / XB_LOAD_SUBBUCKETS of the value above. Times are taken once per batch of
 * completions. One thread at a time, the one that uses the front.
 *
 * With `verify` a write puts a stamp of its block and the number of that write at the start of the block, a read checks
 * the stamp of the last write, and no block is in flight twice: an operation on such a block takes the next free one.
 */

#define XB_LOAD_SUBBUCKETS 64
#define XB_LOAD_BUCKETS 2432
#define XB_LOAD_IODEPTH_MAX 1024

/* What xb_load_run says. */
#define XB_LOAD_DONE 0    /* nothing is in flight, and nothing is to come */
#define XB_LOAD_RUNNING 1 /* the time is up for now: call again */
#define XB_LOAD_FAULT 2   /* the front's fault; its bios are in flight until fail_all */
#define XB_LOAD_FAILED 3  /* an operation failed or read wrong data, and nothing is in flight */

struct xb_load_config {
    struct xb_front *front;
    uint8_t *buffers;       /* iodepth of them, bs bytes each */
    uint64_t nr_blocks;     /* of the disk, at least iodepth */
    uint64_t nr_operations; /* 0: until stop */
    uint64_t seed;
    uint32_t bs; /* bytes of a block, a multiple of 512 */
    uint32_t iodepth;
    uint32_t read_percent; /* share of reads */
    uint8_t random;        /* blocks at random; else in order, reads and writes each from the disk's start on */
    uint8_t verify;
    uint8_t stamped; /* with verify: the disk has the stamps of xb_load_stamp(seed, block, 1) */
};

struct xb_load_result {
    uint64_t reads; /* completed, as writes */
    uint64_t writes;
    uint64_t verified;  /* reads whose stamp was checked, and right */
    uint64_t bad_block; /* of the first operation that failed or read wrong data */
    uint64_t bad_found; /* the stamp that was read there */
    uint64_t bad_stamp; /* the stamp that was expected */
    int32_t error;      /* errno of that operation; EILSEQ for wrong data; 0: there was none */
    uint32_t in_flight;
    uint64_t max_ns;    /* the longest latency */
    uint64_t latencies[2432]; /* how many operations took a time of that bucket */
};

struct xb_load;

/* NULL if there is no memory for it. */
struct xb_load *xb_load_create(const struct xb_load_config *config);

/* Nothing may be in flight in a front that is used further. */
void xb_load_destroy(struct xb_load *load);

/* Keep iodepth operations in flight for `slice_ns`. Returns early when there is no more to do. */
int xb_load_run(struct xb_load *load, uint64_t slice_ns);

/* No new operations from now on: xb_load_run waits for those in flight. From any thread. */
void xb_load_stop(struct xb_load *load);

/* Valid until destroy. */
const struct xb_load_result *xb_load_result(const struct xb_load *load);

/* The longest time in ns that is counted in a bucket. */
uint64_t xb_load_bucket_ns(uint32_t bucket);

/* The first 8 bytes of `block` after its `version`-th write, 1 to 127 and again from 1. */
uint64_t xb_load_stamp(uint64_t seed, uint64_t block, uint32_t version);
