#include <errno.h>
#include <stddef.h>
#include <stdint.h>

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

#define RECLAIM_EVERY_NS 10000000000u

static void withdraw(uint8_t *feature)
{
    __atomic_store_n(feature, 0, __ATOMIC_RELAXED);
}

/* What a refusal says of the backend; as Linux takes it, that of a flush is no failure. Returns 1 if the bio is to be
 * sent again as something else. */
static int learn(struct xb_front *front, uint8_t op, int is_empty, int16_t *status)
{
    /* Linux takes XB_BLKIF_ERROR to a flush for a refusal as well. But that is how a failed fsync is answered, and
     * whoever asked for it must not believe that his data is safe. */
    if (*status != XB_BLKIF_EOPNOTSUPP)
        return 0;
    if (op == XB_BLKIF_DISCARD) {
        withdraw(&front->features->discard);
        withdraw(&front->features->discard_secure);
        return 0;
    }
    withdraw(op == XB_BLKIF_WRITE_BARRIER ? &front->features->barrier : &front->features->flush_cache);
    if (!is_empty)
        return 0;
    *status = XB_BLKIF_OKAY;
    return op == XB_BLKIF_FLUSH_DISKCACHE && __atomic_load_n(&front->features->barrier, __ATOMIC_RELAXED);
}

/* To the head of the queue. */
static void send_again(struct xb_front *front, struct xb_bio *bio)
{
    bio->next = front->first;
    if (front->first == NULL)
        front->last = bio;
    front->first = bio;
    front->nr_queued++;
    bio->nr_pending--;
}

static void settle(struct xb_bio *bio, int16_t status)
{
    bio->nr_pending--;
    if (status != XB_BLKIF_OKAY) {
        bio->status = status;
        bio->error = status == XB_BLKIF_EOPNOTSUPP ? EOPNOTSUPP : EIO;
    }
    bio->is_done = bio->nr_pending == 0 && bio->nr_put == bio->nr_bytes;
}

/* What the response that comes next has read, NULL if it has not, or there is none. A guess from what the backend may
 * change still: the data is fetched, and never believed. */
static const uint8_t *guess(struct xb_front *front)
{
    const uint32_t *slot = xb_front_ring_peek(front->ring);
    uint32_t id;

    if (slot == NULL)
        return NULL;
    id = __atomic_load_n(slot, __ATOMIC_RELAXED);
    if (id >= front->ring->nr_ents || front->shadows[id].bio == NULL || front->shadows[id].op != XB_BLKIF_READ)
        return NULL;
    return xb_first_page(&front->lender, &front->shadows[id].loan);
}

/* Once a collect, before its first copy of several pages. Those that another CPU's cache has are worth fetching; where
 * both ends share one, they only stand in the way of what the CPU fetches by itself. */
static void choose_fetching(struct xb_front *front, const struct xb_loan *loan)
{
    uint32_t nr_responses = front->ring->rsp_prod_seen - front->ring->rsp_cons + 1;

    front->lender.fetches = xb_copier_choose(&front->fetcher, nr_responses, (uint64_t)nr_responses * loan->nr_bytes);
}

/* The bio that a response answers, NULL if it cannot be believed. A request whose pages the backend kept is never
 * answered: fail_all finds it. */
static struct xb_bio *complete(struct xb_front *front, uint64_t id, uint8_t operation, int16_t status)
{
    struct xb_shadow *shadow = id < front->ring->nr_ents ? &front->shadows[id] : NULL;
    struct xb_bio *bio = shadow == NULL ? NULL : shadow->bio;
    uint32_t kept;
    int is_empty, is_read;

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
    is_empty = shadow->loan.count == 0;
    is_read = operation == XB_BLKIF_READ;
    if (is_read && front->lender.fetches < 0 && shadow->loan.count > 1 && !shadow->loan.is_direct)
        choose_fetching(front, &shadow->loan);
    kept = is_empty ? 0 : xb_take_back(&front->lender, &shadow->loan, is_read, is_read ? guess(front) : NULL);
    if (kept > 0) {
        front->fault.code = XB_FRONT_KEPT_PAGES;
        front->fault.kept = kept;
        return NULL;
    }
    shadow->bio = NULL;
    front->free_ids[front->nr_free_ids++] = (uint32_t)id;
    front->may_fill = 1;
    if (operation > XB_BLKIF_WRITE && learn(front, operation, is_empty, &status))
        send_again(front, bio);
    else
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

/* Bios that are next, and need no request. */
static uint32_t collect_unsent(struct xb_front *front, struct xb_bio **done, uint32_t max)
{
    uint32_t nr_done = 0;

    while (nr_done < max && front->fault.code == XB_FRONT_SOUND && front->first != NULL &&
           xb_front_sent_as(front, front->first) == XB_FRONT_UNSENT) {
        struct xb_bio *bio = front->first;

        front->first = bio->next;
        front->nr_queued--;
        bio->is_done = 1;
        bio->error = bio->op == XB_BLKIF_FLUSH_DISKCACHE ? 0 : EOPNOTSUPP;
        done[nr_done++] = bio;
    }
    front->may_fill |= nr_done > 0;
    return nr_done;
}

uint32_t xb_front_collect(struct xb_front *front, struct xb_bio **done, uint32_t max)
{
    uint32_t nr_done = collect_unsent(front, done, max);
    const void *slot = NULL;

    front->lender.fetches = -1;
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

uint32_t xb_front_reclaim(struct xb_front *front, uint64_t now_ns)
{
    if (!front->lender.persistent || now_ns < front->reclaim_at_ns)
        return 0;
    front->reclaim_at_ns = now_ns + RECLAIM_EVERY_NS;
    return xb_pool_trim(&front->lender.pool);
}

uint32_t xb_front_persistent_grants(const struct xb_front *front)
{
    return front->lender.pool.nr_granted;
}

/* The request that waits longest, NULL if none does. */
static struct xb_shadow *oldest(struct xb_front *front)
{
    struct xb_shadow *found = NULL;

    for (uint32_t id = 0; id < front->ring->nr_ents; id++) {
        struct xb_shadow *shadow = &front->shadows[id];

        if (shadow->bio != NULL && (found == NULL || shadow->order < found->order))
            found = shadow;
    }
    return found;
}

struct xb_bio *xb_front_take_unfinished(struct xb_front *front)
{
    struct xb_bio *taken = NULL, **end = &taken;
    struct xb_shadow *shadow;

    /* What is queued comes last, also what is partly on the ring: it stays where it is in its list. */
    for (struct xb_bio *bio = front->first; bio != NULL; bio = bio->next)
        bio->is_done = 1;
    while ((shadow = oldest(front)) != NULL) {
        struct xb_bio *bio = shadow->bio;

        shadow->bio = NULL;
        if (bio->is_done)
            continue;
        bio->is_done = 1;
        *end = bio;
        end = &bio->next;
    }
    *end = front->first;
    front->first = NULL;
    front->nr_queued = 0;
    return taken;
}

struct xb_bio *xb_front_fail_all(struct xb_front *front, int error)
{
    struct xb_bio *failed = xb_front_take_unfinished(front);

    for (struct xb_bio *bio = failed; bio != NULL; bio = bio->next)
        bio->error = error;
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
