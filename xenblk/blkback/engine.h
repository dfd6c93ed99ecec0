/* The native backend: one ring of one device, from the guest's request to the disk and back.
 *
 *     ring slot --copy--> private bytes --parse--> check --> pages of the guest --I/O--> memory or file
 *                                                                 |
 *     ring slot <--response-- status <------ unmapped, or kept ---+
 *
 * It does what engine.py does, request by request, with the same answers and the same counts; that file is the
 * specification. All memory is there after create: serving allocates nothing. A request lives in a record; a guest
 * that has used up all records has its next requests wait on the ring (oo_req). So do those behind a barrier, which
 * itself waits for the disk to be done with all before it.
 *
 * Threads: serve, final_check and run belong to the ring's thread. purge belongs to one other thread, and may run at
 * any time beside it. charge, stop, resize and poke may be called from any thread.
 */

#define XB_BACK_STOPPED 0     /* run: stop was called */
#define XB_BACK_LIVE 1        /* run: requests went live on records charged by hand: see xb_back_live */
#define XB_BACK_UNSUPPORTED 2 /* run: the disk has no flush: see xb_back_unsupported */
/* and XB_RING_BROKEN */

struct xb_back_config {
    struct xb_back_ring *ring; /* attached; the caller's, as all that follows, and must outlive the engine */
    struct xb_mapper *mapper;
    struct xb_grantor *grantor;
    struct xb_counters *counters;
    struct xb_channel *channel;
    void *disk_memory;     /* the content of a memory disk, private anonymous memory; NULL for a file */
    int disk_fd;           /* of a file disk */
    struct xb_mapped_file *disk_mapped; /* NULL, or that file as memory, which its rings may share */
    uint64_t disk_sectors; /* of 512 bytes */
    uint32_t sector_bytes; /* the disk's own sectors: 512, as is 0, or 4096 */
    uint32_t read_only;
    uint32_t can_discard;
    uint32_t max_indirect_segments; /* 0: no indirect requests */
    uint32_t persistent; /* keep pages mapped */
    uint32_t grant_copy; /* map nothing, copy */
    uint32_t max_persistent_grants;
    uint64_t unused_timeout_ns; /* 0: none is too old */
    uint32_t max_buffer_pages;  /* for copies: kept for the next requests, at most */
    uint32_t *overflowed;       /* of the device: 1 once a page was not kept for the limit; its rings share it */
    uint64_t secret;            /* a random number that the guest does not know */
    uint32_t poll_us;           /* busy polling before each sleep, at most */
    uint32_t nr_records;
    struct xb_journal_entry *journal; /* nr_ents entries that are free; NULL: the engine's own, for nobody */
    int journal_fd; /* its file, which is kept open until the disk is done, even if this process dies first */
    uint32_t charged_by_hand; /* a record serves one request for each charge; else it is free again at once */
};

struct xb_back;

/* NULL if there is no memory or address space for it. */
struct xb_back *xb_back_create(const struct xb_back_config *config);

/* Waits for the disk, unmaps all that is mapped and gives everything back. No other call may be in progress. */
void xb_back_destroy(struct xb_back *back);

/* Serve what is on the ring, at most nr_ents requests, and notify the guest once if its event index asks for that.
 * Returns how many requests were taken or answered, or XB_RING_BROKEN. `now_ns` is the time of any monotonic clock. */
int xb_back_serve(struct xb_back *back, uint64_t now_ns);

/* Before sleeping: 1 if there is something to serve, 0 if an event will come. */
int xb_back_final_check(struct xb_back *back);

/* Serve, poll and sleep until stop. */
int xb_back_run(struct xb_back *back);

/* Operations (XB_BLKIF_FLUSH_DISKCACHE, XB_BLKIF_WRITE_BARRIER) that the disk was found to have no way to do since the
 * last time, as bits 1 << operation. The ring's thread only. */
uint32_t xb_back_unsupported(struct xb_back *back);

/* A file disk has another size now. Any thread. */
void xb_back_resize(struct xb_back *back, uint64_t disk_sectors);

/* Let run return soon. It stays stopped. */
void xb_back_stop(struct xb_back *back);

/* Unmap what was kept for too long, then what the limit asks for. Returns how many pages that were. */
uint32_t xb_back_purge(struct xb_back *back, uint64_t now_ns);

/* Change what the config has, for what is kept from now on and the next purge. The purge's thread only. */
void xb_back_set_limits(struct xb_back *back, uint32_t max_persistent_grants, uint64_t unused_timeout_ns,
                        uint32_t max_buffer_pages);

/* Pages for copies that are kept now. The ring's thread only. */
uint32_t xb_back_buffer_pages(const struct xb_back *back);

/* Records charged by hand */

/* Make one more request possible, known to the caller as `user_id`. 0 if all records are charged or in use. */
int xb_back_charge(struct xb_back *back, uint64_t user_id);

/* The user_id of a request that went live and was not told yet: 1, or 0 if there is none. The ring's thread only,
 * until 0 after each batch. */
int xb_back_live(struct xb_back *back, uint64_t *user_id);

/* Take back a charge that no request used: 1 and its user_id, or 0 if there is none. After run ended. */
int xb_back_discharge(struct xb_back *back, uint64_t *user_id);
