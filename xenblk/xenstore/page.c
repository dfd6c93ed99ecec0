#include <stdint.h>
#include <string.h>

#include "xenblk/xenstore/page.h"

#define INDICES 2048

static uint32_t *index_of(uint8_t *page, int is_reply, int is_prod)
{
    return (uint32_t *)(page + INDICES) + 2 * is_reply + is_prod;
}

/* At most two pieces: up to the end of the ring, and from its beginning. */
static void copy_out(uint8_t *to, const uint8_t *ring, uint32_t at, uint32_t size)
{
    uint32_t first = XB_XS_RING_BYTES - at % XB_XS_RING_BYTES;

    if (first > size)
        first = size;
    memcpy(to, ring + at % XB_XS_RING_BYTES, first);
    memcpy(to + first, ring, size - first);
}

static void copy_in(uint8_t *ring, uint32_t at, const uint8_t *from, uint32_t size)
{
    uint32_t first = XB_XS_RING_BYTES - at % XB_XS_RING_BYTES;

    if (first > size)
        first = size;
    memcpy(ring + at % XB_XS_RING_BYTES, from, first);
    memcpy(ring, from + first, size - first);
}

int32_t xb_xs_take(uint8_t *page, int server, uint8_t *to, uint32_t size)
{
    int is_reply = !server;
    uint8_t *ring = page + is_reply * XB_XS_RING_BYTES;
    uint32_t cons = __atomic_load_n(index_of(page, is_reply, 0), __ATOMIC_RELAXED);
    /* Acquire: we see the bytes that were there before the index; partner: the release in xb_xs_put. */
    uint32_t prod = __atomic_load_n(index_of(page, is_reply, 1), __ATOMIC_ACQUIRE);

    if (prod - cons > XB_XS_RING_BYTES)
        return -1;
    if (size > prod - cons)
        size = prod - cons;
    copy_out(to, ring, cons, size);
    /* Release: the other side sees room only after our reads of it; partner: the acquire in xb_xs_put. */
    __atomic_store_n(index_of(page, is_reply, 0), cons + size, __ATOMIC_RELEASE);
    return size;
}

int32_t xb_xs_put(uint8_t *page, int server, const uint8_t *from, uint32_t size)
{
    int is_reply = !!server;
    uint8_t *ring = page + is_reply * XB_XS_RING_BYTES;
    uint32_t prod = __atomic_load_n(index_of(page, is_reply, 1), __ATOMIC_RELAXED);
    /* Acquire: what we overwrite was read before the index moved; partner: the release in xb_xs_take. */
    uint32_t cons = __atomic_load_n(index_of(page, is_reply, 0), __ATOMIC_ACQUIRE);
    uint32_t room;

    if (prod - cons > XB_XS_RING_BYTES)
        return -1;
    room = XB_XS_RING_BYTES - (prod - cons);
    if (size > room)
        size = room;
    copy_in(ring, prod, from, size);
    /* Release: the other side sees the bytes before the index; partner: the acquire in xb_xs_take. */
    __atomic_store_n(index_of(page, is_reply, 1), prod + size, __ATOMIC_RELEASE);
    return size;
}

void xb_xs_reset(uint8_t *page)
{
    for (int is_reply = 0; is_reply < 2; is_reply++)
        for (int is_prod = 0; is_prod < 2; is_prod++)
            __atomic_store_n(index_of(page, is_reply, is_prod), 0, __ATOMIC_RELEASE);
}

uint32_t xb_xs_load(uint8_t *page, uint32_t offset)
{
    return __atomic_load_n((uint32_t *)(page + offset), __ATOMIC_ACQUIRE);
}

void xb_xs_store(uint8_t *page, uint32_t offset, uint32_t value)
{
    __atomic_store_n((uint32_t *)(page + offset), value, __ATOMIC_RELEASE);
}
