/* Inside of the native backend: what its files share. life.c creates and destroys, engine.c serves. */
#pragma once
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "grants/gref_map.h"
#include "grants/mapper.h"
#include "grants/slots.h"
#include "ring/sring.h"
#include "xenblk/assert.h"
#include "xenblk/blkback/engine.h"
#include "xenblk/blkback/file.h"
#include "xenblk/blkback/journal.h"
#include "xenblk/blkif.h"
#include "xenblk/channel.h"
#include "xenblk/copier.h"
#include "xenblk/copying.h"
#include "xenblk/counters.h"
#include "xenblk/polling.h"

#define PAGE_BYTES 4096u
#define SECTOR_BYTES 512u
#define SEGMENTS_MAX XB_BLKIF_SEGMENTS_MAX /* of a direct request, and of a batch of maps */
#define REAP_MAX 32
#define PUBLISH_EVERY 4 /* responses: the guest goes on while we serve the rest */

/* A granted page lent to a request. */
struct lent_page {
    uint8_t *page; /* NULL: it could not be mapped */
    struct xb_gref_entry *entry; /* of the map of kept pages; NULL if it is this request's alone */
    uint32_t slot; /* XB_SLOTS_NONE: no address was taken for it */
    uint32_t handle;
};

/* Pages of the guest's that are needed at a time: one per segment. */
struct loan {
    const struct xb_blkif_segment *segments;
    struct lent_page *lent;
    uint32_t nr_segments;
    uint32_t readonly; /* we only look at them */
};

/* Room for as many segments as an indirect request may have; apart, so that what every request touches is close. */
struct many {
    struct xb_blkif_segment *segments;
    struct lent_page *lent;
    struct iovec *iov;
};

struct record {
    struct xb_blkif_request request; /* of an indirect one: the read or write that it stands for */
    struct loan loan;                /* of its data */
    struct iovec *iov;
    uint32_t nr_sectors;
    int16_t status;
    uint8_t flushing; /* the flush before its data is under way */
    struct xb_file_op op;
    struct lent_page few_lent[SEGMENTS_MAX]; /* of a direct request; and of the pages that an indirect one stands in */
    struct iovec few_iov[SEGMENTS_MAX];
    struct many many;
    uint8_t *bounce; /* in copy mode: a page for each segment */
    uint32_t nr_buffer_pages; /* of these, what takes memory */
    uint64_t user_id;
    struct xb_journal_entry *entry;
    struct record *next;
};

/* Of the ring's thread, for one step at a time: room for as many segments as a request may have. */
struct scratch {
    struct xb_unmap_grant_ref *unmaps;
    struct xb_copy_segment *copies;
    uint8_t **buffers;
    uint32_t *missing;
    uint32_t *slots;
};

/* Records that wait, newest first. */
struct record_stack {
    struct record *top;
};

struct xb_back {
    struct xb_back_config config;
    struct xb_back_ring *ring;
    struct xb_counters *counters;
    uint32_t sector_at; /* in a slot */
    struct xb_blkif_disk disk;
    struct xb_file *file;
    struct record *barrier;  /* for a file, until it is answered; nothing is taken off the ring meanwhile */
    uint32_t unsupported;    /* bits of operations, to be told */
    struct xb_poller poller;
    struct xb_copier copier;  /* chooses how */
    struct xb_copier fetcher; /* chooses fetches */
    int how;     /* the store into the guest's pages in this batch; -1: not chosen yet */
    int fetches; /* in this batch the guest's page that is written from next; -1: not chosen yet */
    const uint8_t *fetched; /* what of the disk the request before had fetched for the next one; may be NULL */

    uint32_t max_segments; /* of any request */
    struct scratch scratch;
    uint32_t nr_buffer_pages; /* of all records */
    struct record *records;
    struct record_stack free;    /* the ring's thread alone has it */
    struct record_stack charged; /* by any thread, for the ring's */
    struct record_stack spent;   /* by the ring's thread, for those who charge */
    pthread_mutex_t charging;    /* one thread charges at a time */
    uint64_t *live;              /* user_ids of one batch: nr_ents */
    uint32_t nr_live;
    uint32_t nr_live_told;
    uint32_t stopping;

    struct xb_gref_map kept;
    struct xb_gref_entry **idle; /* purge: room for all entries, twice */
    uint32_t *overflowed;        /* set by the ring's thread, cleared by purge */
    uint32_t own_overflowed;     /* what it points to if the config has none */
    uint64_t now_ns;             /* of the batch that is being served */

    uint8_t *arena; /* one page of address space per slot */
    struct xb_slots slots;
    uint8_t *freed; /* per slot: to be freed by the next scan */
    uint32_t nr_freed;
    pthread_mutex_t slots_lock; /* for the three above */

    struct xb_journal_entry **free_entries; /* room for nr_ents */
    uint32_t nr_free_entries;
    uint32_t nr_responses; /* put and not published */
    struct xb_journal_entry *answered[PUBLISH_EVERY]; /* theirs */
    uint32_t pushed;       /* in this batch */
    uint32_t notify;       /* the event index asked for a notification in this batch */
    uint8_t *memory;       /* of all arrays */
    size_t memory_bytes;
};

/* records.c */
void records_init(struct xb_back *back, const struct many *many, uint8_t *bounce);
struct record *record_take(struct xb_back *back);
void record_give(struct xb_back *back, struct record *record);

/* lend.c: the guest's pages, for one loan at a time */

/* Map or find them; 0 if one cannot be had, and then nothing is held. */
int lend_acquire(struct xb_back *back, const struct loan *loan);
void lend_release(struct xb_back *back, const struct loan *loan);

/* Have Xen copy between the guest's pages and `buffers`, one per segment; 0 if a grant is unusable. */
int lend_copy(struct xb_back *back, const struct loan *loan, uint8_t *const *buffers, int to_grant);

/* Copy the segments of an indirect request out of the pages that they stand in, which are let go again; 0 if one of
 * those cannot be had. */
int lend_read_segments(struct xb_back *back, struct record *record);

/* Where a page that is kept is mapped, NULL if it is not one. */
const uint8_t *lend_find(struct xb_back *back, uint32_t gref);

/* Unmap pages, in any order, by one operation. */
void lend_unmap(struct xb_back *back, struct xb_unmap_grant_ref *ops, uint32_t count);

/* Free slots, whose pages are unmapped. */
void lend_free(struct xb_back *back, const uint32_t *slots, uint32_t count);

/* buffers.c: in copy mode, what the bounce buffers of all records take */

/* A request's data is about to be put there. */
void buffers_need(struct xb_back *back, struct record *record);

/* Give the record's pages back if there are too many; the ring's thread only, as all of these. */
void buffers_shrink(struct xb_back *back, struct record *record);

/* The same for records that no request has. */
void buffers_shrink_idle(struct xb_back *back);

/* purge.c */
void purge_set_limit(struct xb_back *back, uint32_t max_persistent_grants);
void purge_all(struct xb_back *back);

/* move.c: between the pages and the disk */

/* Begin: 1 if the record is done already, and has its status. */
int move_begin(struct xb_back *back, struct record *record);

/* Go on with a barrier, now that nothing is in flight: 1 if the record is done. */
int move_drained(struct xb_back *back, struct record *record);

/* The disk is done with an operation of this record: 1 if the record is done. */
int move_continue(struct xb_back *back, struct record *record);

/* memory.c: a memory disk */

/* Copy between the disk and the buffers of a request's segments. */
void memory_move(struct xb_back *back, const struct record *record, uint8_t *const *buffers);

/* Have the addresses of the next requests translated while this one is looked at; every few requests it does so for as
 * many. */
void memory_translate_ahead(const struct xb_back *back);

static inline uint64_t offset_of(const struct record *record)
{
    return record->request.sector_number * SECTOR_BYTES;
}

static inline int is_read(const struct record *record)
{
    return record->request.operation == XB_BLKIF_READ;
}

static inline uint32_t segment_bytes(const struct xb_blkif_segment *segment)
{
    return (segment->last_sect - segment->first_sect + 1u) * SECTOR_BYTES;
}

/* Counters that purge and the ring's thread both add to. */
static inline void count_atomically(uint64_t *counter, uint64_t count)
{
    __atomic_fetch_add(counter, count, __ATOMIC_RELAXED); /* a number of its own: no order with anything */
}
