/* Slots that never move: which pages of an arena's address space are taken, and where the next one goes.
 *
 * One slot is one page. A request in flight points into its pages, so a hole cannot be filled by moving what is above
 * it. Instead a new allocation takes the lowest free slot, which keeps the live ones low and close together, and a walk
 * over the table passes a hole in one step, however long the hole is:
 *
 *     slot      0      1      2      3      4      5      6      7
 *             live   live   free   free   free   live   free   free        first_free = 2, nr_slots = 8
 *     length                  3      0      0             2      0
 *     next                    6      0      0             8      0
 *
 * Free slots in a row are a cluster. Its first entry holds its length and the first slot of the next cluster, or
 * nr_slots if it is the last; its other entries are zero. Clusters follow each other in strictly increasing order, and
 * none begins where another ends.
 *
 * Freeing any slot at any time would need a search for its place in that order. So there are two ways of freeing. The
 * newest allocation can be cancelled: it is below every free slot, so its place is at the front. Everything else is
 * freed by a scan, which meets all slots in order anyway: it joins what it frees with the clusters on both sides. The
 * cost of a scan is the live slots plus the clusters, whatever nr_slots is.
 *
 * What was freed in a row can be unmapped by one system call; a scan tells each such run. Not thread-safe.
 */

#define XB_SLOTS_NONE 0xffffffff
#define XB_SLOTS_MAX 0xfffffffe

/* What xb_slots_check found. */
#define XB_SLOTS_SOUND 0
#define XB_SLOTS_BAD_LENGTH 1 /* a cluster is empty, or reaches beyond the table */
#define XB_SLOTS_BAD_ORDER 2  /* a cluster is not at or after the end of the one before it */
#define XB_SLOTS_UNMERGED 3   /* a cluster begins where another ends */
#define XB_SLOTS_BAD_FREE 4   /* an entry inside a cluster is not zero */
#define XB_SLOTS_BAD_LIVE 5   /* an entry outside the clusters is not live */
#define XB_SLOTS_BAD_COUNT 6  /* nr_live is not the number of live entries */
#define XB_SLOTS_BAD_NEWEST 7 /* what can be cancelled is not live, or above a free slot, or not in order */
#define XB_SLOTS_SCANNING 8   /* a scan has not ended: there is no order to speak of */

/* Of a live slot: `length` is XB_SLOTS_NONE, `next` the slot that is the newest once this one is cancelled. */
struct xb_slot {
    uint32_t length;
    uint32_t next;
};

struct xb_slots {
    struct xb_slot *entries; /* the caller's memory, nr_slots of them */
    uint32_t nr_slots;
    uint32_t first_free; /* first slot of the first cluster; nr_slots if there is none */
    uint32_t newest;     /* what xb_slots_cancel takes; XB_SLOTS_NONE if nothing was allocated since the last scan */
    uint32_t nr_live;
    uint32_t scanning;
    uint64_t nr_scans;
    uint64_t scan_steps; /* live slots and clusters that all scans met */
};

/* `length` free slots in a row, from `start` on. */
struct xb_slots_run {
    uint32_t start;
    uint32_t length;
};

/* Asked in a scan, once for each live slot, in order: not 0 frees it. Must not use the table. */
typedef int (*xb_slots_done_fn)(void *context, uint32_t slot);

/* Told in a scan: from the first to the last slot that it freed within one cluster. What lies between was free already.
 * Must not use the table. */
typedef void (*xb_slots_run_fn)(void *context, uint32_t start, uint32_t length);

/* A table of `nr_slots` free slots, 1 to XB_SLOTS_MAX. `entries` are zeros, and must outlive the table:
 * it touches no more of them than are taken. */
void xb_slots_init(struct xb_slots *slots, struct xb_slot *entries, uint32_t nr_slots);

/* The lowest free slot, in constant time; XB_SLOTS_NONE if there is none. */
uint32_t xb_slots_allocate(struct xb_slots *slots);

/* The first of `length` free slots in a row, the lowest such; XB_SLOTS_NONE if there are none. It passes each cluster
 * below in one step. Such a run cannot be cancelled, nor what was allocated before it. */
uint32_t xb_slots_allocate_run(struct xb_slots *slots, uint32_t length);

/* Free `slot`, in constant time: it must be the newest allocation since the last scan that was not cancelled yet. */
void xb_slots_cancel(struct xb_slots *slots, uint32_t slot);

/* Free the live slots that `done` names, and tell `run` (which may be NULL) what they make. Returns how many it freed.
 * Nothing that was allocated before can be cancelled after. */
uint32_t xb_slots_scan(struct xb_slots *slots, xb_slots_done_fn done, xb_slots_run_fn run, void *context);

/* The same for a batch: frees each live slot whose byte in `flags`, nr_slots of them, is not 0. `runs` (which
 * may be NULL) has room for one run for each of these; returns how many there are. */
uint32_t xb_slots_scan_flags(struct xb_slots *slots, const uint8_t *flags, struct xb_slots_run *runs);

/* XB_SLOTS_SOUND, or which invariant is broken. Looks at every entry, and never beyond the table. */
int xb_slots_check(const struct xb_slots *slots);
