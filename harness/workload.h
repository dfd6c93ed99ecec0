/* The seeded stream of operations that a job stands for: workload.py in C, with random numbers of its own. The same
 * seed gives the same stream here, and another one there; what depends on the number of operations alone is the same in
 * both.
 */

/* Set up by whoever uses it; all other fields are zeros at the start. */
struct xb_workload {
    uint64_t random; /* the seed, then the state of splitmix64 */
    uint64_t nr_blocks;
    uint64_t nr_left;        /* reads and writes to come; UINT64_MAX: endless */
    uint64_t next_read;      /* private: where a sequential job goes on */
    uint64_t next_write;     /* private */
    uint32_t read_percent;   /* share of reads */
    uint32_t fsync;          /* a flush after so many writes; 0: never */
    uint32_t nr_unflushed;   /* private: writes since the last flush */
    uint8_t in_random_order; /* else in order, reads and writes each from the disk's start on, as in fio */
};

/* What to do with a block; a flush has none. */
struct xb_step {
    uint64_t block;
    uint8_t op; /* XB_BLKIF_READ, _WRITE or _FLUSH_DISKCACHE */
};

/* The next step: 1, or 0 at the end. */
int xb_workload_next(struct xb_workload *workload, struct xb_step *step);
