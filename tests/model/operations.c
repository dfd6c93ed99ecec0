#define _GNU_SOURCE
#include <poll.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"
#include "xenblk/assert.h"

/* What a side's operations do: the project's own code. ring/sring.c and xenblk/emulated/evtchn.c are included below,
 * with every access to shared memory turned into a step of the model. An operation that comes to its next load is left;
 * its next step starts it again, gives it what its earlier accesses gave, and lets it do one more. */

static struct {
    struct step *step;
    int side;
    int readable;   /* what ppoll is to say */
    int replayed;   /* accesses given again */
    int fresh;      /* accesses made in this step */
    int loose_load; /* this step's load does not hold later loads back */
    jmp_buf leave;
} now;

static _Alignas(64) uint8_t page[64 + 4];
static uint32_t words[2];

static struct side *me(void)
{
    return &now.step->to.side[now.side];
}

static int place_of(const void *p)
{
    ptrdiff_t offset = (const uint8_t *)p - page;

    return offset < 16 ? offset / 4 : SLOT_0 + offset - 64;
}

static int8_t remember(int8_t given)
{
    if (me()->nr_accesses == ACCESSES_MAX)
        abort();
    me()->given[me()->nr_accesses++] = given;
    now.replayed++;
    now.fresh++;
    return given;
}

static void shared_store(int place, int8_t value, int order)
{
    if (now.replayed < me()->nr_accesses) {
        now.replayed++;
        return;
    }
    if (!make_store(&now.step->to, now.side, place, value, order))
        longjmp(now.leave, BLOCKED);
    say_access(now.step, " stores", place, value);
    remember(NO_ENTRY);
}

/* Stores are seen by nobody until they leave the buffer, so they need no step of their own; a load does. */
static int8_t shared_load(int place, int order)
{
    int8_t value;

    if (now.replayed < me()->nr_accesses)
        return me()->given[now.replayed++];
    if (now.fresh)
        longjmp(now.leave, LEFT);
    if (!make_load(&now.step->to, now.side, place, order, &value))
        longjmp(now.leave, BLOCKED);
    now.loose_load = order == __ATOMIC_RELAXED;
    say_access(now.step, " loads", place, value);
    return remember(value);
}

/* Whether the other end is bound: it always is. */
static uint32_t shared_load_of(const uint32_t *p, int order)
{
    return p >= words && p < words + 2 ? 0 : (uint32_t)(int32_t)shared_load(place_of(p), order);
}

static void shared_copy(void *to, const void *from)
{
    if ((uint8_t *)to >= page && (uint8_t *)to < page + sizeof(page))
        shared_store(place_of(to), *(const int8_t *)from, __ATOMIC_RELAXED);
    else
        *(int8_t *)to = shared_load(place_of(from), __ATOMIC_RELAXED);
}

static uint32_t shared_swap(const uint32_t *word, uint32_t clear, uint32_t set, int order)
{
    uint8_t *pending = &now.step->to.pending[word - words];
    uint32_t before = (uint32_t)*pending << 31;

    if (now.replayed < me()->nr_accesses)
        return (uint32_t)(me()->given[now.replayed++] - PLAIN) << 31;
    if (now.fresh)
        longjmp(now.leave, LEFT);
    if (!make_swap(&now.step->to, now.side, order))
        longjmp(now.leave, BLOCKED);
    now.loose_load = order == __ATOMIC_RELAXED || order == __ATOMIC_RELEASE;
    *pending = ((before & ~clear) | set) >> 31;
    say(now.step, " %s pending, which was %s;", set ? "sets" : "clears", before ? "set" : "clear");
    remember(PLAIN + (before >> 31));
    return before;
}

/* That it says so, and what is done about it, may be one step: nobody else empties the eventfd. */
static int eventfd_ppoll(void)
{
    if (now.replayed < me()->nr_accesses)
        return me()->given[now.replayed++] - PLAIN;
    say(now.step, now.readable ? " wakes;" : " times out;");
    remember(PLAIN + now.readable);
    now.fresh = 0;
    return now.readable;
}

static ssize_t eventfd_access(int owner, int readable)
{
    if (now.replayed < me()->nr_accesses)
        return me()->given[now.replayed++] - PLAIN;
    if (now.fresh)
        longjmp(now.leave, LEFT);
    say(now.step, readable ? " writes the eventfd;" : " reads the eventfd;");
    now.step->to.readable[owner] = readable;
    return remember(PLAIN + sizeof(uint64_t)) - PLAIN;
}

#define __atomic_store_n(p, value, order) shared_store(place_of(p), (int8_t)(value), order)
#define __atomic_load_n(p, order) shared_load_of(p, order)
#define __atomic_fetch_or(p, bits, order) shared_swap(p, 0, bits, order)
#define __atomic_fetch_and(p, bits, order) shared_swap(p, ~(bits), 0, order)
#define memcpy(to, from, size) ((void)(size), shared_copy(to, from))
#define ppoll(fds, nr, timeout, mask) ((void)(fds), (void)(timeout), eventfd_ppoll())
#define read(fd, to, size) ((void)(to), eventfd_access(fd, 0))
#define preadv2(fd, to, nr, at, flags) ((void)(to), eventfd_access(fd, 0))
#define poll(fds, nr, timeout) ((void)(fds), 1) /* no eventfd is full */
#define write(fd, from, size) ((void)(from), eventfd_access(fd, 1))
#undef XB_ASSERT
#define XB_ASSERT(condition) \
    ((condition) ? (void)0 : (void)(now.step->violation = "its own indexes are out of order: " #condition))

#include "ring/sring.c"
#include "xenblk/emulated/evtchn.c"

/* Operations of either side, on a private half made from what the model keeps of it */

static uint8_t entry(int side, int8_t index)
{
    return (side == FRONT ? REQUEST : RESPONSE) | (index & ENTRY_INDEX);
}

static void check_entry(uint8_t got)
{
    if (got != entry(1 - now.side, me()->cons))
        now.step->violation = "it consumes what is not there yet";
}

static int operate_front(struct xb_front_ring *ring)
{
    uint8_t request = entry(FRONT, me()->pvt), response = NO_ENTRY;
    int result;

    switch (me()->doing) {
    case PUT:
        return xb_front_ring_put(ring, &request);
    case PUSH:
        return xb_front_ring_push(ring);
    case LOOK:
        return xb_front_ring_look(ring);
    case CONSUME:
        result = xb_front_ring_consume(ring, &response);
        if (result == 1)
            check_entry(response);
        return result;
    default:
        return xb_front_ring_final_check(ring);
    }
}

static int operate_back(struct xb_back_ring *ring)
{
    uint8_t response = entry(BACK, me()->pvt), request = NO_ENTRY;
    int result;

    switch (me()->doing) {
    case PUT:
        return xb_back_ring_put(ring, &response);
    case PUSH:
        return xb_back_ring_push(ring);
    case LOOK:
        return xb_back_ring_look(ring);
    case CONSUME:
        result = xb_back_ring_consume(ring, &request);
        if (result == 1)
            check_entry(request);
        return result;
    default:
        return xb_back_ring_final_check(ring);
    }
}

static int operate_on_front(void)
{
    struct xb_front_ring ring = {(struct xb_sring *)page, model.nr_ents, 1, me()->pvt, me()->pushed, me()->cons,
                                 me()->seen, 0, 0, {0}};
    int result = operate_front(&ring);

    xb_front_ring_check(&ring);
    me()->pvt = ring.req_prod_pvt;
    me()->pushed = ring.req_prod_pushed;
    me()->cons = ring.rsp_cons;
    me()->seen = ring.rsp_prod_seen;
    return ring.broken ? XB_RING_BROKEN : result;
}

static int operate_on_back(void)
{
    struct xb_back_ring ring = {(struct xb_sring *)page, model.nr_ents, 1, me()->pvt, me()->pushed, me()->cons,
                                me()->seen, 0, 0, {0}};
    int result = operate_back(&ring);

    xb_back_ring_check(&ring);
    me()->pvt = ring.rsp_prod_pvt;
    me()->pushed = ring.rsp_prod_pushed;
    me()->cons = ring.req_cons;
    me()->seen = ring.req_prod_seen;
    return ring.broken ? XB_RING_BROKEN : result;
}

static int operate(void)
{
    struct xb_evtchn_port port = {&words[now.side], &words[1 - now.side], now.side, 1 - now.side, 0, 0, 0, 0};

    if (me()->doing == WAIT)
        return xb_evtchn_wait(&port, -1);
    if (me()->doing == NOTIFY) {
        xb_evtchn_notify(&port);
        return 0;
    }
    return now.side == FRONT ? operate_on_front() : operate_on_back();
}

int next_access(struct step *step, int side, int readable, int *loose_load)
{
    int outcome;

    now.step = step;
    now.side = side;
    now.readable = readable;
    now.replayed = now.fresh = now.loose_load = 0;
    outcome = setjmp(now.leave);
    if (outcome == 0)
        outcome = operate();
    *loose_load = now.loose_load;
    return outcome;
}
