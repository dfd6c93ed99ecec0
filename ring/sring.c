#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ring/sring.h"
#include "xenblk/assert.h"

/* The only file that loads or stores a shared index.
 *
 * Ordering is in the atomic accesses themselves, in two patterns; a label in a comment names the partner line:
 *
 *   publish/consume   the producer's slot writes, then [P] store of prod with release;
 *                     the consumer's [C] load of prod with acquire, then its slot reads.
 *   sleep/wake        the producer: [P] store prod, then [W] load event; the consumer: [S] store event, then [R] load
 *                     prod. Each stores its own word and then loads the other's, and at least one of the two loads
 *                     must see the other side's store, or the consumer sleeps on work and nobody wakes it. Release
 *                     and acquire let a load overtake an earlier store, so all four are sequentially consistent. */

_Static_assert(sizeof(struct xb_sring) == XB_SRING_HEADER_SIZE, "io/ring.h: entries start at byte 64");
_Static_assert(offsetof(struct xb_sring, req_event) == 4, "io/ring.h");
_Static_assert(offsetof(struct xb_sring, rsp_prod) == 8, "io/ring.h");
_Static_assert(offsetof(struct xb_sring, rsp_event) == 12, "io/ring.h");

static void *slot(struct xb_sring *sring, uint32_t nr_ents, uint32_t entry_size, uint32_t index)
{
    return (uint8_t *)sring + XB_SRING_HEADER_SIZE + (size_t)(index & (nr_ents - 1)) * entry_size;
}

/* new - event counts entries at or after the event index, new - old the new entries: the event was passed now if it
 * lies among the new ones. Unsigned subtraction keeps this true where the indexes wrap. */
int xb_ring_must_notify(uint32_t old, uint32_t new_, uint32_t event)
{
    return (uint32_t)(new_ - event) < (uint32_t)(new_ - old);
}

/* `old` is what we published before, from private memory: the shared copy is the peer's to scribble on. */
static int push(uint32_t *prod, uint32_t *event, uint32_t old, uint32_t new_, struct xb_ring_statistics *statistics)
{
    int notify;

    if (new_ == old)
        return 0;
    /* [P] The peer sees the slots written before it sees prod: its [C]. */
    __atomic_store_n(prod, new_, __ATOMIC_SEQ_CST);
    /* [W] prod is visible before event is read: a peer whose [R] missed our prod has its [S] seen here. */
    notify = xb_ring_must_notify(old, new_, __atomic_load_n(event, __ATOMIC_SEQ_CST));
    statistics->pushes++;
    if (notify)
        statistics->notify_asked++;
    else
        statistics->notify_held++;
    return notify;
}

/* [C] prod is read before the slots that it covers: we see what the peer wrote before its [P]. */
static uint32_t load_prod(const uint32_t *prod)
{
    return __atomic_load_n(prod, __ATOMIC_ACQUIRE);
}

static int final_check(const uint32_t *prod, uint32_t *event, uint32_t cons)
{
    if (load_prod(prod) != cons)
        return 1;
    /* [S] The peer's next push, at its [W], sees that we want to be woken ... */
    __atomic_store_n(event, cons + 1, __ATOMIC_SEQ_CST);
    /* [R] ... unless it loaded event before [S]; then its [P] came before, and is seen here. */
    return __atomic_load_n(prod, __ATOMIC_SEQ_CST) != cons;
}

/* After an entry was copied: a compiler that sees both sides of the copy, as link-time optimisation does, must not load
 * from the slot again in place of the copy, because the peer may have changed the slot. */
static void copied(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static void require_geometry(const void *page, uint32_t nr_ents, uint32_t entry_size)
{
    XB_ASSERT((uintptr_t)page % sizeof(uint32_t) == 0);
    XB_ASSERT(nr_ents != 0 && (nr_ents & (nr_ents - 1)) == 0);
    XB_ASSERT(entry_size != 0);
}

void xb_front_ring_init(struct xb_front_ring *ring, void *page, size_t page_bytes, uint32_t nr_ents,
                        uint32_t entry_size)
{
    require_geometry(page, nr_ents, entry_size);
    XB_ASSERT(page_bytes >= XB_SRING_HEADER_SIZE + (size_t)nr_ents * entry_size);
    memset(ring, 0, sizeof(*ring));
    ring->sring = page;
    ring->nr_ents = nr_ents;
    ring->entry_size = entry_size;
    /* Zero all of it, padding too: whoever it is granted to can read it. */
    memset(page, 0, page_bytes);
    __atomic_store_n(&ring->sring->req_event, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&ring->sring->rsp_event, 1, __ATOMIC_RELAXED);
}

uint32_t xb_front_ring_free_slots(const struct xb_front_ring *ring)
{
    return ring->nr_ents - (ring->req_prod_pvt - ring->rsp_cons);
}

void *xb_front_ring_slot(struct xb_front_ring *ring)
{
    if (xb_front_ring_free_slots(ring) == 0)
        return NULL;
    return slot(ring->sring, ring->nr_ents, ring->entry_size, ring->req_prod_pvt);
}

void xb_front_ring_put_slot(struct xb_front_ring *ring)
{
    XB_ASSERT(xb_front_ring_free_slots(ring) != 0);
    ring->req_prod_pvt++;
    ring->statistics.requests++;
}

int xb_front_ring_put(struct xb_front_ring *ring, const void *request)
{
    void *to = xb_front_ring_slot(ring);

    if (to == NULL)
        return 0;
    memcpy(to, request, ring->entry_size);
    xb_front_ring_put_slot(ring);
    return 1;
}

int xb_front_ring_push(struct xb_front_ring *ring)
{
    uint32_t old = ring->req_prod_pushed;

    ring->req_prod_pushed = ring->req_prod_pvt;
    return push(&ring->sring->req_prod, &ring->sring->req_event, old, ring->req_prod_pushed, &ring->statistics);
}

/* Look at rsp_prod again. There are never more responses than published requests; this also catches an index that went
 * backwards, which shows as a huge number of responses. */
static int look_for_responses(struct xb_front_ring *ring)
{
    uint32_t rsp_prod = load_prod(&ring->sring->rsp_prod);

    if (rsp_prod - ring->rsp_cons > ring->req_prod_pushed - ring->rsp_cons) {
        ring->broken = 1;
        ring->bogus = rsp_prod;
        return XB_RING_BROKEN;
    }
    ring->rsp_prod_seen = rsp_prod;
    return rsp_prod != ring->rsp_cons;
}

int xb_front_ring_look(struct xb_front_ring *ring)
{
    return ring->broken || ring->rsp_prod_seen != ring->rsp_cons || look_for_responses(ring) != 0;
}

int xb_front_ring_next(struct xb_front_ring *ring, const void **response)
{
    if (!xb_front_ring_look(ring))
        return 0;
    if (ring->broken)
        return XB_RING_BROKEN;
    *response = slot(ring->sring, ring->nr_ents, ring->entry_size, ring->rsp_cons);
    ring->rsp_cons++;
    ring->statistics.responses++;
    return 1;
}

const void *xb_front_ring_peek(const struct xb_front_ring *ring)
{
    if (ring->broken || ring->rsp_prod_seen == ring->rsp_cons)
        return NULL;
    return slot(ring->sring, ring->nr_ents, ring->entry_size, ring->rsp_cons);
}

int xb_front_ring_consume(struct xb_front_ring *ring, void *response)
{
    const void *from;
    int found = xb_front_ring_next(ring, &from);

    if (found == 1) {
        memcpy(response, from, ring->entry_size);
        copied();
    }
    return found;
}

int xb_front_ring_final_check(struct xb_front_ring *ring)
{
    return ring->broken || final_check(&ring->sring->rsp_prod, &ring->sring->rsp_event, ring->rsp_cons);
}

void xb_front_ring_check(const struct xb_front_ring *ring)
{
    uint32_t outstanding = ring->req_prod_pvt - ring->rsp_cons;

    XB_ASSERT(outstanding <= ring->nr_ents);
    XB_ASSERT(ring->req_prod_pushed - ring->rsp_cons <= outstanding);
    XB_ASSERT(ring->rsp_prod_seen - ring->rsp_cons <= ring->req_prod_pushed - ring->rsp_cons);
    XB_ASSERT(ring->statistics.pushes == ring->statistics.notify_asked + ring->statistics.notify_held);
}

int xb_back_ring_attach(struct xb_back_ring *ring, void *page, uint32_t nr_ents, uint32_t entry_size)
{
    uint32_t req_prod;

    require_geometry(page, nr_ents, entry_size);
    memset(ring, 0, sizeof(*ring));
    ring->sring = page;
    ring->nr_ents = nr_ents;
    ring->entry_size = entry_size;
    ring->rsp_prod_pvt = load_prod(&ring->sring->rsp_prod);
    ring->rsp_prod_pushed = ring->rsp_prod_pvt;
    ring->req_cons = ring->rsp_prod_pvt;
    ring->req_prod_seen = ring->rsp_prod_pvt;
    req_prod = load_prod(&ring->sring->req_prod);
    if (req_prod - ring->rsp_prod_pvt <= nr_ents)
        return 0;
    ring->broken = 1;
    ring->bogus = req_prod;
    return XB_RING_BROKEN;
}

int xb_back_ring_restore(struct xb_back_ring *ring, const void *requests, uint32_t count)
{
    uint32_t waiting = load_prod(&ring->sring->req_prod) - ring->rsp_prod_pvt;

    XB_ASSERT(ring->req_cons == ring->rsp_prod_pvt);
    if (count > waiting || waiting > ring->nr_ents)
        return XB_RING_BROKEN;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *request = (const uint8_t *)requests + (size_t)i * ring->entry_size;

        memcpy(slot(ring->sring, ring->nr_ents, ring->entry_size, ring->req_cons + i), request, ring->entry_size);
    }
    return 0;
}

int xb_back_ring_put(struct xb_back_ring *ring, const void *response)
{
    return xb_back_ring_put_head(ring, response, ring->entry_size);
}

int xb_back_ring_put_head(struct xb_back_ring *ring, const void *response, uint32_t size)
{
    if (ring->rsp_prod_pvt == ring->req_cons)
        return 0;
    memcpy(slot(ring->sring, ring->nr_ents, ring->entry_size, ring->rsp_prod_pvt), response, size);
    ring->rsp_prod_pvt++;
    ring->statistics.responses++;
    return 1;
}

int xb_back_ring_push(struct xb_back_ring *ring)
{
    uint32_t old = ring->rsp_prod_pushed;

    ring->rsp_prod_pushed = ring->rsp_prod_pvt;
    return push(&ring->sring->rsp_prod, &ring->sring->rsp_event, old, ring->rsp_prod_pushed, &ring->statistics);
}

/* Look at req_prod again. Waiting and unanswered requests have nr_ents slots between them, so with all slots unanswered
 * any waiting request is a lie: consuming stops here by itself. An index that went backwards shows as a huge number. */
static int look_for_requests(struct xb_back_ring *ring)
{
    uint32_t req_prod = load_prod(&ring->sring->req_prod);
    uint32_t unanswered = ring->req_cons - ring->rsp_prod_pvt;

    if (req_prod - ring->req_cons > ring->nr_ents - unanswered) {
        ring->broken = 1;
        ring->bogus = req_prod;
        return XB_RING_BROKEN;
    }
    ring->req_prod_seen = req_prod;
    return req_prod != ring->req_cons;
}

int xb_back_ring_look(struct xb_back_ring *ring)
{
    return ring->broken || ring->req_prod_seen != ring->req_cons || look_for_requests(ring) != 0;
}

int xb_back_ring_consume(struct xb_back_ring *ring, void *request)
{
    if (!xb_back_ring_look(ring))
        return 0;
    if (ring->broken)
        return XB_RING_BROKEN;
    memcpy(request, slot(ring->sring, ring->nr_ents, ring->entry_size, ring->req_cons), ring->entry_size);
    copied();
    /* Before any response to this request is put: put refuses to pass req_cons. */
    ring->req_cons++;
    ring->statistics.requests++;
    return 1;
}

const void *xb_back_ring_peek(const struct xb_back_ring *ring, uint32_t ahead)
{
    if (ring->broken || ring->req_prod_seen - ring->req_cons <= ahead)
        return NULL;
    return slot(ring->sring, ring->nr_ents, ring->entry_size, ring->req_cons + ahead);
}

int xb_back_ring_final_check(struct xb_back_ring *ring)
{
    return ring->broken || final_check(&ring->sring->req_prod, &ring->sring->req_event, ring->req_cons);
}

void xb_back_ring_check(const struct xb_back_ring *ring)
{
    uint32_t unanswered = ring->req_cons - ring->rsp_prod_pvt;

    XB_ASSERT(unanswered <= ring->nr_ents);
    XB_ASSERT(ring->req_prod_seen - ring->req_cons <= ring->nr_ents - unanswered);
    XB_ASSERT(ring->rsp_prod_pvt - ring->rsp_prod_pushed <= ring->nr_ents);
    XB_ASSERT(ring->statistics.pushes == ring->statistics.notify_asked + ring->statistics.notify_held);
}
