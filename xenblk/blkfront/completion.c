#include <errno.h>
#include <stddef.h>
#include <stdint.h>

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

static void settle(struct xb_bio *bio, int16_t status)
{
    bio->nr_pending--;
    if (status != XB_BLKIF_OKAY) {
        bio->status = status;
        bio->error = status == XB_BLKIF_EOPNOTSUPP ? EOPNOTSUPP : EIO;
    }
    bio->is_done = bio->nr_pending == 0 && bio->nr_put == bio->nr_bytes;
}

/* The bio that a response answers, NULL if it cannot be believed. A request whose pages the backend kept is never
 * answered: fail_all finds it. */
static struct xb_bio *complete(struct xb_front *front, uint64_t id, uint8_t operation, int16_t status)
{
    struct xb_shadow *shadow = id < front->ring->nr_ents ? &front->shadows[id] : NULL;
    struct xb_bio *bio = shadow == NULL ? NULL : shadow->bio;
    uint32_t kept;

    front->fault.id = id;
    if (bio == NULL) {
        front->fault.code = XB_FRONT_UNKNOWN_ID;
        return NULL;
    }
    __builtin_prefetch(bio, 1); /* it comes while the data is copied */
    if (operation != shadow->op) {
        front->fault.code = XB_FRONT_WRONG_OPERATION;
        front->fault.operation = operation;
        front->fault.expected = shadow->op;
        return NULL;
    }
    kept = shadow->loan.count == 0 ? 0 : xb_take_back(&front->lender, &shadow->loan, operation == XB_BLKIF_READ);
    if (kept > 0) {
        front->fault.code = XB_FRONT_KEPT_PAGES;
        front->fault.kept = kept;
        return NULL;
    }
    shadow->bio = NULL;
    front->free_ids[front->nr_free_ids++] = (uint32_t)id;
    settle(bio, status);
    return bio;
}

/* The private copy of a response, each word loaded once: a slot is aligned to 4 bytes in either layout. */
static struct xb_bio *complete_slot(struct xb_front *front, const uint32_t *slot)
{
    uint32_t low = __atomic_load_n(slot, __ATOMIC_RELAXED), high = __atomic_load_n(slot + 1, __ATOMIC_RELAXED);
    uint32_t rest = __atomic_load_n(slot + 2, __ATOMIC_RELAXED);

    return complete(front, (uint64_t)high << 32 | low, (uint8_t)rest, (int16_t)(rest >> 16));
}

uint32_t xb_front_collect(struct xb_front *front, struct xb_bio **done, uint32_t max)
{
    uint32_t nr_done = 0;
    const void *slot = NULL;

    while (nr_done < max && front->fault.code == XB_FRONT_SOUND) {
        int found = xb_front_ring_next(front->ring, &slot);
        struct xb_bio *bio;

        if (found == XB_RING_BROKEN)
            front->fault.code = XB_FRONT_RING_BROKEN;
        if (found != 1)
            break;
        bio = complete_slot(front, slot);
        if (bio != NULL && bio->is_done)
            done[nr_done++] = bio;
    }
    return nr_done;
}

const struct xb_front_fault *xb_front_fault(const struct xb_front *front)
{
    return &front->fault;
}

uint32_t xb_front_in_flight(const struct xb_front *front)
{
    return front->ring->nr_ents - front->nr_free_ids;
}

int xb_front_busy(const struct xb_front *front)
{
    return front->first != NULL || xb_front_in_flight(front) > 0;
}

/* Adds a bio that is not in the list yet. */
static struct xb_bio **fail(struct xb_bio **end, struct xb_bio *bio, int error)
{
    if (bio->is_done)
        return end;
    bio->is_done = 1;
    bio->error = error;
    bio->next = NULL;
    *end = bio;
    return &bio->next;
}

struct xb_bio *xb_front_fail_all(struct xb_front *front, int error)
{
    struct xb_bio *failed = NULL, **end = &failed, *queued = front->first, *rest = queued ? queued->next : NULL;

    for (uint32_t id = 0; id < front->ring->nr_ents; id++) {
        if (front->shadows[id].bio != NULL)
            end = fail(end, front->shadows[id].bio, error);
        front->shadows[id].bio = NULL;
    }
    /* The first of the queue may have been on the ring too: its next is the list's by now. */
    for (; queued != NULL; queued = rest, rest = queued ? queued->next : NULL)
        end = fail(end, queued, error);
    front->first = NULL;
    front->nr_queued = 0;
    return failed;
}

void xb_front_check(const struct xb_front *front)
{
    uint32_t waiting = 0;

    for (uint32_t id = 0; id < front->ring->nr_ents; id++)
        waiting += front->shadows[id].bio != NULL;
    XB_ASSERT(waiting == xb_front_in_flight(front));
    XB_ASSERT(front->unpublished == front->ring->req_prod_pvt - front->ring->req_prod_pushed);
    /* The last response was consumed, but not believed. */
    if (front->fault.code == XB_FRONT_SOUND)
        XB_ASSERT(waiting + xb_front_ring_free_slots(front->ring) == front->ring->nr_ents);
    xb_front_ring_check(front->ring);
}
