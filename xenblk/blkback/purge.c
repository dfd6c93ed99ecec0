#include "xenblk/blkback/internal.h"

/* Runs beside the ring's thread: an entry that it finds idle may be taken again until xb_gref_map_reap got it. */

#define PURGE_PERCENT 5

/* Take those of a batch that are idle still out of the map, and unmap them. */
static uint32_t drop_batch(struct xb_back *back, struct xb_gref_entry **entries, uint32_t count)
{
    struct xb_unmap_grant_ref ops[SEGMENTS_MAX];
    struct xb_gref_entry *reaped[SEGMENTS_MAX];
    uint32_t slots[SEGMENTS_MAX], nr_reaped = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (!xb_gref_map_reap(entries[i]))
            continue;
        reaped[nr_reaped] = entries[i];
        slots[nr_reaped] = entries[i]->slot;
        ops[nr_reaped++] = (struct xb_unmap_grant_ref){
            .host_addr = (uintptr_t)(back->arena + (size_t)entries[i]->slot * PAGE_BYTES),
            .handle = entries[i]->handle,
        };
    }
    if (nr_reaped == 0)
        return 0;
    lend_unmap(back, ops, nr_reaped);
    for (uint32_t i = 0; i < nr_reaped; i++)
        xb_gref_map_release(&back->kept, reaped[i]);
    lend_free(back, slots, nr_reaped);
    return nr_reaped;
}

static uint32_t drop(struct xb_back *back, struct xb_gref_entry **entries, uint32_t count)
{
    uint32_t nr_dropped = 0;

    for (uint32_t start = 0; start < count; start += SEGMENTS_MAX)
        nr_dropped += drop_batch(back, entries + start, count - start < SEGMENTS_MAX ? count - start : SEGMENTS_MAX);
    return nr_dropped;
}

void purge_set_limit(struct xb_back *back, uint32_t max_persistent_grants)
{
    uint32_t room = back->kept.max_entries - SEGMENTS_MAX;

    back->config.max_persistent_grants = max_persistent_grants;
    xb_gref_map_set_limit(&back->kept, max_persistent_grants < room ? max_persistent_grants : room);
}

/* How many entries the limit asks to go (purge_persistent_gnt in blkback.c). */
static uint32_t num_clean(struct xb_back *back)
{
    uint32_t count = xb_gref_map_count(&back->kept), limit = back->config.max_persistent_grants, wanted;

    if (count < limit || (count == limit && !__atomic_load_n(back->overflowed, __ATOMIC_RELAXED)))
        return 0;
    wanted = count - limit + limit / 100 * PURGE_PERCENT;
    return wanted < count ? wanted : count;
}

static int is_old(const struct xb_back *back, struct xb_gref_entry *entry, uint64_t now_ns)
{
    uint64_t timeout_ns = back->config.unused_timeout_ns;
    uint64_t last_used_ns = __atomic_load_n(&entry->last_used_ns, __ATOMIC_RELAXED); /* reap decides */

    return timeout_ns > 0 && now_ns >= timeout_ns && last_used_ns <= now_ns - timeout_ns;
}

/* Bring the victims among `idle` to its front: what is too old, then what is wanted beyond that, both in the order of
 * their references. Nothing needs to stay in order behind them. */
static uint32_t choose(const struct xb_back *back, struct xb_gref_entry **idle, uint32_t nr_idle, uint32_t wanted,
                       uint64_t now_ns)
{
    struct xb_gref_entry **others = idle + nr_idle; /* the second half of the array */
    uint32_t nr_old = 0, nr_others = 0, nr_more;

    for (uint32_t i = 0; i < nr_idle; i++) {
        if (is_old(back, idle[i], now_ns))
            idle[nr_old++] = idle[i];
        else
            others[nr_others++] = idle[i];
    }
    nr_more = wanted > nr_old ? wanted - nr_old : 0;
    if (nr_more > nr_others)
        nr_more = nr_others;
    for (uint32_t i = 0; i < nr_more; i++)
        idle[nr_old + i] = others[i];
    return nr_old + nr_more;
}

uint32_t xb_back_purge(struct xb_back *back, uint64_t now_ns)
{
    uint32_t wanted = num_clean(back), nr_idle, nr_victims, nr_dropped;

    if (wanted == 0 && back->config.unused_timeout_ns == 0)
        return 0;
    nr_idle = xb_gref_map_idle(&back->kept, UINT64_MAX, back->idle);
    nr_victims = choose(back, back->idle, nr_idle, wanted, now_ns);
    if (nr_victims == 0)
        return 0;
    __atomic_store_n(back->overflowed, 0, __ATOMIC_RELAXED);
    nr_dropped = drop(back, back->idle, nr_victims);
    count_atomically(&back->counters->persistent_purged, nr_dropped);
    return nr_dropped;
}

void xb_back_set_limits(struct xb_back *back, uint32_t max_persistent_grants, uint64_t unused_timeout_ns,
                        uint32_t max_buffer_pages)
{
    __atomic_store_n(&back->config.max_buffer_pages, max_buffer_pages, __ATOMIC_RELAXED); /* partner: are_too_many */
    back->config.unused_timeout_ns = unused_timeout_ns;
    purge_set_limit(back, max_persistent_grants);
}

void purge_all(struct xb_back *back)
{
    uint32_t nr_idle = xb_gref_map_idle(&back->kept, UINT64_MAX, back->idle);

    drop(back, back->idle, nr_idle);
    XB_ASSERT(xb_gref_map_count(&back->kept) == 0);
}
