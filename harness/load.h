/* A job on a front engine, wholly in C: so many operations in flight at a time, each timed, and what comes back
 * checked.
 *
 *     step of the workload --[block is free]--> fill or poison a buffer, submit ... poll, time, check --> again
 *               `--[block is in flight]--> waits for it, and later steps overtake
 *
 * Latencies go to a log-linear histogram: exact up to XB_LOAD_SUBBUCKETS ns, within 1 / XB_LOAD_SUBBUCKETS of the value
 * above. Times are taken once per batch of completions. One thread at a time, the one that uses the front.
 *
 * With `verify` no block is in flight twice, and what happens to each, in which order, is the workload's; without,
 * nobody looks at the data, and steps start in their order.
 */

#define XB_LOAD_SUBBUCKETS 64
#define XB_LOAD_BUCKETS 2432
#define XB_LOAD_IODEPTH_MAX 1024

/* What to run. Only the job's operations are counted and timed. */
#define XB_LOAD_JOB 0
#define XB_LOAD_FLUSH 1 /* one flush */
#define XB_LOAD_AUDIT 2 /* a read of each block that was read or written; with `verify` */

/* What xb_load_run says. */
#define XB_LOAD_DONE 0    /* nothing is in flight, and nothing is to come */
#define XB_LOAD_RUNNING 1 /* the time is up for now: call again */
#define XB_LOAD_FAULT 2   /* the front's fault; its bios are in flight until fail_all */
#define XB_LOAD_FAILED 3  /* an operation failed or read wrong data, and nothing is in flight */

struct xb_load_config {
    struct xb_front *front;
    uint8_t *buffers; /* iodepth of them, bs bytes each */
    struct xb_workload workload;
    uint64_t seed;    /* of what is written */
    uint64_t offset;  /* where the first block is on the disk, in bytes */
    uint32_t bs;      /* bytes of a block, a multiple of 512 */
    uint32_t iodepth; /* with `verify` at most the number of blocks */
    uint8_t verify;
};

struct xb_load_result {
    uint64_t reads; /* of the job, completed; as writes */
    uint64_t writes;
    uint64_t completed; /* operations of all kinds */
    uint64_t max_ns;    /* the longest latency */
    uint64_t latencies[2432]; /* how many operations took a time of that bucket */
    uint32_t in_flight;
    int32_t error;      /* errno of the first operation that failed; EILSEQ for wrong data; 0: there was none */
    int16_t bad_status; /* of that operation, as bio.status */
    uint8_t bad_op;
    uint64_t bad_offset;
    struct xb_mismatch mismatch; /* of wrong data */
};

struct xb_load;

/* NULL if there is no memory for it. Nothing is known of what the disk holds. */
struct xb_load *xb_load_create(const struct xb_load_config *config);

/* Nothing may be in flight in a front that is used further. */
void xb_load_destroy(struct xb_load *load);

/* What the blocks hold at the start, before the first begin, with `verify`; NULL without. */
struct xb_oracle *xb_load_oracle(struct xb_load *load);

/* Choose what to run, when nothing is in flight. */
void xb_load_begin(struct xb_load *load, int what);

/* Keep iodepth operations in flight for `slice_ns`. Returns early when there is no more to do. */
int xb_load_run(struct xb_load *load, uint64_t slice_ns);

/* No further steps of the workload: xb_load_run finishes those that were taken. From any thread. */
void xb_load_stop(struct xb_load *load);

/* Valid until destroy. */
const struct xb_load_result *xb_load_result(const struct xb_load *load);

/* The longest time in ns that is counted in a bucket. */
uint64_t xb_load_bucket_ns(uint32_t bucket);
