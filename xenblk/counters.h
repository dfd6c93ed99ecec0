/* The counters of one end of one ring, in the order of their file: counters.py says what each of them counts.
 *
 * One thread writes most of them with plain stores; what the purge of a ring counts beside its thread is added
 * atomically. */

struct xb_counters {
    uint64_t map_ops;
    uint64_t map_pages;
    uint64_t unmap_ops;
    uint64_t unmap_pages;
    uint64_t copy_ops;
    uint64_t copy_pages;
    uint64_t persistent_hits;
    uint64_t persistent_misses;
    uint64_t persistent_overflow;
    uint64_t persistent_purged;
    uint64_t persistent_current;
    uint64_t persistent_peak;
    uint64_t persistent_in_use;
    uint64_t notify_sent;
    uint64_t notify_held;
    uint64_t rd_req;
    uint64_t wr_req;
    uint64_t f_req;
    uint64_t ds_req;
    uint64_t oo_req;
    uint64_t rd_sect;
    uint64_t wr_sect;
};
