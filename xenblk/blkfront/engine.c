#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/table.h"
#include "ring/sring.h"
#include "xenblk/blkif.h"
#include "xenblk/channel.h"
#include "xenblk/counters.h"
#include "xenblk/copier.h"
#include "xenblk/copying.h"
#include "xenblk/polling.h"
#include "xenblk/blkfront/pool.h"
#include "xenblk/blkfront/lending.h"
#include "xenblk/blkfront/engine.h"
#include "xenblk/blkfront/front.h"

#include "xenblk/assert.h"

#define CACHE_LINE 64
#define SECTOR_SHIFT 9
#define PAGE_BYTES 4096u

/* Requests after which a fill lets the backend see them: it works on the first while we copy for the later ones. */
#define PUBLISH_EVERY 4

static uint32_t max_segments_of(const struct xb_front_config *config)
{
    return config->max_segments > XB_LOAN_SEGMENTS_MAX ? config->max_segments : XB_LOAN_SEGMENTS_MAX;
}

/* What a request may lend besides what its loan has room for. */
static uint32_t nr_many(const struct xb_front_config *config)
{
    uint32_t nr_indirect = xb_loan_nr_indirect(max_segments_of(config));

    return nr_indirect == 0 ? 0 : config->max_segments + nr_indirect;
}

static size_t bytes_of(const struct xb_front_config *config)
{
    size_t nr_ents = config->ring->nr_ents, nr_numbers = nr_ents * (1 + nr_many(config)) + (size_t)config->nr_pages * 2;
    size_t bytes = sizeof(struct xb_front) + nr_ents * sizeof(struct xb_shadow) + nr_numbers * sizeof(uint32_t);

    return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

/* The arrays of numbers stand behind the shadows. */
static void lay_out(struct xb_front *front, const struct xb_front_config *config)
{
    uint32_t *numbers = (uint32_t *)(front->shadows + config->ring->nr_ents);

    front->free_ids = numbers;
    numbers += config->ring->nr_ents;
    for (uint32_t id = 0; id < config->ring->nr_ents; id++, numbers += nr_many(config))
        front->shadows[id].loan.many = numbers;
    xb_pool_init(&front->lender.pool, config->table, config->backend, config->pages, config->nr_pages, numbers,
                 numbers + config->nr_pages);
}

/* A segment is a whole number of the disk's own sectors. Where a page that is granted first takes the place of another,
 * nobody else may be using any part of it: whole pages, then. */
static uint32_t direct_unit_of(const struct xb_front_config *config)
{
    if (!xb_grant_table_sees_mappings(config->table))
        return PAGE_BYTES;
    return config->sector_bytes > 0 ? config->sector_bytes : 1u << SECTOR_SHIFT;
}

struct xb_front *xb_front_create(const struct xb_front_config *config)
{
    const struct xb_front_ring *ring = config->ring;
    size_t bytes = bytes_of(config);
    struct xb_front *front = aligned_alloc(CACHE_LINE, bytes);
    uint32_t max_segments = max_segments_of(config);

    XB_ASSERT(ring->entry_size == XB_BLKIF_X86_64_SLOT_BYTES || ring->entry_size == XB_BLKIF_X86_32_SLOT_BYTES);
    XB_ASSERT(max_segments <= XB_LOAN_SEGMENTS_PER_PAGE * XB_LOAN_INDIRECT_MAX);
    XB_ASSERT(config->nr_pages >= max_segments + xb_loan_nr_indirect(max_segments));
    if (front == NULL)
        return NULL;
    memset(front, 0, bytes);
    front->ring = config->ring;
    front->counters = config->counters;
    front->channel = config->channel;
    front->handle = config->handle;
    front->id_at = ring->entry_size == XB_BLKIF_X86_64_SLOT_BYTES ? 8 : 4;
    front->lender.memory = config->memory;
    front->lender.memory_bytes = config->memory_bytes;
    front->lender.persistent = config->persistent;
    front->lender.direct_unit = direct_unit_of(config);
    front->lender.max_segments = max_segments;
    front->own_features.flush_cache = 1;
    front->features = config->features == NULL ? &front->own_features : config->features;
    lay_out(front, config);
    while (front->nr_free_ids < ring->nr_ents) {
        front->free_ids[front->nr_free_ids] = ring->nr_ents - 1 - front->nr_free_ids;
        front->nr_free_ids++;
    }
    xb_poller_init(&front->poller, config->poll_us);
    xb_copier_init(&front->copier, XB_COPY_MEASURED);
    xb_copier_init(&front->fetcher, XB_COPY_MEASURED);
    return front;
}

uint32_t xb_front_abandon(struct xb_front *front, uint32_t *mapped, uint32_t max)
{
    uint32_t count = 0;

    for (uint32_t id = 0; id < front->ring->nr_ents; id++) {
        uint32_t room = count < max ? max - count : 0;

        count += xb_abandon(&front->lender, &front->shadows[id].loan, mapped + (max - room), room);
    }
    return count;
}

void xb_front_destroy(struct xb_front *front)
{
    xb_front_abandon(front, NULL, 0);
    xb_pool_close(&front->lender.pool);
    free(front);
}

void xb_front_submit(struct xb_front *front, struct xb_bio *bio)
{
    XB_ASSERT((bio->nr_bytes == 0) == (bio->op == XB_BLKIF_FLUSH_DISKCACHE));
    XB_ASSERT(bio->op <= XB_BLKIF_FLUSH_DISKCACHE || bio->op == XB_BLKIF_DISCARD);
    bio->next = NULL;
    bio->nr_put = 0;
    bio->nr_pending = 0;
    bio->error = 0;
    bio->status = XB_BLKIF_OKAY;
    bio->is_done = 0;
    if (front->first == NULL)
        front->first = bio;
    else
        front->last->next = bio;
    front->last = bio;
    front->nr_queued++;
}

static void publish(struct xb_front *front)
{
    /* The backend that sees the requests sees their data. */
    xb_copy_fence(front->stored);
    front->stored = XB_COPY_PLAIN;
    front->must_notify |= xb_front_ring_push(front->ring);
    front->published = 1;
    front->unpublished = 0;
}

/* Only the bytes that the request has are written; what else is in the slot, the backend has seen. */
static void write_head(const struct xb_front *front, uint8_t *slot, const struct xb_bio *bio, uint32_t id)
{
    const struct xb_shadow *shadow = &front->shadows[id];
    uint64_t head = shadow->op | (uint64_t)shadow->loan.count << 8 | (uint64_t)front->handle << 16;
    uint64_t number = id, sector = (bio->offset + bio->nr_put) >> SECTOR_SHIFT;
    uint8_t *tail = slot + front->id_at + 16;

    if (shadow->loan.nr_indirect > 0) {
        head = XB_BLKIF_INDIRECT | (uint64_t)shadow->op << 8 | (uint64_t)shadow->loan.count << 16;
        memcpy(tail, &front->handle, sizeof(front->handle));
    } else if (shadow->op == XB_BLKIF_DISCARD) {
        uint64_t nr_sectors = bio->nr_bytes >> SECTOR_SHIFT;

        head |= bio->secure ? XB_BLKIF_DISCARD_SECURE << 8 : 0;
        memcpy(tail, &nr_sectors, sizeof(nr_sectors));
    }
    if (front->id_at == 8)
        memcpy(slot, &head, 8);
    else
        memcpy(slot, &head, 4);
    memcpy(slot + front->id_at, &number, sizeof(number));
    memcpy(slot + front->id_at + 8, &sector, sizeof(sector));
}

static int offers(const uint8_t *feature)
{
    return __atomic_load_n(feature, __ATOMIC_RELAXED);
}

uint8_t xb_front_sent_as(const struct xb_front *front, const struct xb_bio *bio)
{
    const struct xb_front_features *features = front->features;

    /* What was begun goes on as it was. */
    if (bio->op <= XB_BLKIF_WRITE || bio->nr_put > 0)
        return bio->op;
    if (bio->op == XB_BLKIF_DISCARD)
        return offers(bio->secure ? &features->discard_secure : &features->discard) ? bio->op : XB_FRONT_UNSENT;
    if (bio->op == XB_BLKIF_FLUSH_DISKCACHE && offers(&features->flush_cache))
        return bio->op;
    return offers(&features->barrier) ? XB_BLKIF_WRITE_BARRIER : XB_FRONT_UNSENT;
}

/* Once a fill, before its first copy. What is in flight together is what counts, so a guess at it will do. */
static void choose_copy(struct xb_front *front, uint32_t nr_bytes)
{
    uint32_t room = xb_front_ring_free_slots(front->ring);
    uint32_t nr_requests = front->nr_queued < room ? front->nr_queued : room;

    front->chosen = 1;
    front->lender.how = xb_copier_choose(&front->copier, nr_requests, (uint64_t)nr_requests * nr_bytes);
}

/* The data of a bio's next piece, lent to the shadow's request: its bytes, or 0 if there is no room for them now. */
static uint32_t lend_piece(struct xb_front *front, const struct xb_bio *bio, struct xb_shadow *shadow, uint8_t *slot)
{
    uint8_t *buffer = bio->buffer + bio->nr_put;
    uint32_t max_segments = shadow->op == XB_BLKIF_WRITE_BARRIER ? XB_LOAN_SEGMENTS_MAX : front->lender.max_segments;
    uint32_t part = xb_longest_piece(&front->lender, buffer, bio->nr_bytes - bio->nr_put, max_segments);
    int to_backend = shadow->op != XB_BLKIF_READ;

    if (to_backend && !front->chosen)
        choose_copy(front, part);
    if (!xb_lend(&front->lender, buffer, part, to_backend, &shadow->loan, slot + front->id_at + 16)) {
        shadow->loan.count = 0;
        return 0;
    }
    if (to_backend)
        front->stored |= front->lender.how;
    return part;
}

/* The next piece of a bio, as `op`: 1, or 0 if there is no room for it now. */
static int put_piece(struct xb_front *front, struct xb_bio *bio, uint8_t op)
{
    uint8_t *slot = xb_front_ring_slot(front->ring);
    uint64_t part = bio->nr_bytes; /* of a discard all, of a flush nothing */
    uint32_t id;
    struct xb_shadow *shadow;

    if (slot == NULL)
        return 0;
    id = front->free_ids[front->nr_free_ids - 1];
    shadow = &front->shadows[id];
    shadow->op = op;
    shadow->loan.count = 0;
    shadow->loan.nr_indirect = 0;
    if (part > 0 && op != XB_BLKIF_DISCARD) {
        part = lend_piece(front, bio, shadow, slot);
        if (part == 0)
            return 0;
    }
    front->nr_free_ids--;
    if (front->nr_free_ids > 0)
        __builtin_prefetch(&front->shadows[front->free_ids[front->nr_free_ids - 1]], 1);
    shadow->bio = bio;
    shadow->order = front->nr_put++;
    write_head(front, slot, bio, id);
    xb_front_ring_put_slot(front->ring);
    bio->nr_put += part;
    bio->nr_pending++;
    if (++front->unpublished == PUBLISH_EVERY)
        publish(front);
    return 1;
}

void xb_front_fill(struct xb_front *front)
{
    front->chosen = 0;
    front->may_fill = 0;
    while (front->first != NULL && front->fault.code == XB_FRONT_SOUND) {
        struct xb_bio *bio = front->first;
        uint8_t op = xb_front_sent_as(front, bio);

        /* What is done without a request waits for collect. */
        if (op == XB_FRONT_UNSENT || !put_piece(front, bio, op))
            return;
        if (bio->nr_put == bio->nr_bytes) {
            front->first = bio->next;
            front->nr_queued--;
            if (front->first != NULL)
                __builtin_prefetch(front->first);
        }
    }
}

int xb_front_push(struct xb_front *front)
{
    int notify;

    if (front->unpublished > 0)
        publish(front);
    if (!front->published)
        return 0;
    notify = front->must_notify;
    front->published = front->must_notify = 0;
    if (notify)
        front->counters->notify_sent++;
    else
        front->counters->notify_held++;
    return notify;
}

/* Whether a fill may move something, so that nobody should sleep before it. */
static int may_fill(const struct xb_front *front)
{
    return front->may_fill && front->first != NULL;
}

int xb_front_final_check(struct xb_front *front)
{
    if (front->fault.code != XB_FRONT_SOUND || may_fill(front) || xb_front_ring_final_check(front->ring))
        return 1;
    xb_copier_slept(&front->copier);
    xb_copier_slept(&front->fetcher);
    return 0;
}

uint32_t xb_front_step(struct xb_front *front, struct xb_bio **done, uint32_t max)
{
    xb_front_fill(front);
    if (xb_front_push(front))
        front->channel->notify(front->channel->context);
    return xb_front_collect(front, done, max);
}

int xb_front_look_for(struct xb_front *front)
{
    if (may_fill(front))
        return 1;
    xb_poller_begin(&front->poller);
    do {
        if (xb_front_ring_look(front->ring)) {
            xb_poller_found(&front->poller);
            return 1;
        }
    } while (xb_poller_again(&front->poller));
    return 0;
}

/* Whether there is something to collect, after at most one poll and one sleep. */
static int await_response(struct xb_front *front, int64_t timeout_ns)
{
    if (xb_front_look_for(front))
        return 1;
    if (xb_front_final_check(front))
        return 1;
    front->channel->wait(front->channel->context, timeout_ns);
    xb_poller_slept(&front->poller);
    return 0;
}

uint32_t xb_front_poll(struct xb_front *front, struct xb_bio **done, uint32_t max, int64_t timeout_ns)
{
    uint32_t nr_done = xb_front_step(front, done, max);
    int awake = 1;

    while (nr_done == 0 && awake && front->fault.code == XB_FRONT_SOUND && xb_front_busy(front)) {
        awake = await_response(front, timeout_ns);
        nr_done = xb_front_step(front, done, max);
    }
    return nr_done;
}
