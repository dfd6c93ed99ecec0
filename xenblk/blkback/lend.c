#include "xenblk/blkback/internal.h"

/* As grants/persistent.py: an idle kept page is used as it is (a hit); what is not there, or is in use by another
 * request, is mapped (a miss), and kept if the limit allows it. */

static uint8_t *page_of(struct xb_back *back, uint32_t slot)
{
    return back->arena + (size_t)slot * PAGE_BYTES;
}

/* Slots */

static void allocate(struct xb_back *back, uint32_t *slots, uint32_t count)
{
    pthread_mutex_lock(&back->slots_lock);
    for (uint32_t i = 0; i < count; i++) {
        slots[i] = xb_slots_allocate(&back->slots);
        XB_ASSERT(slots[i] != XB_SLOTS_NONE); /* there is one for each page that may be kept or lent */
    }
    pthread_mutex_unlock(&back->slots_lock);
}

static int is_freed(void *context, uint32_t slot)
{
    struct xb_back *back = context;
    int freed = back->freed[slot];

    back->freed[slot] = 0;
    return freed;
}

/* The newest allocation is cancelled at once; anything else waits for a scan, which costs more the more is live. */
void lend_free(struct xb_back *back, const uint32_t *slots, uint32_t count)
{
    pthread_mutex_lock(&back->slots_lock);
    for (uint32_t i = count; i-- > 0;) {
        if (slots[i] == back->slots.newest)
            xb_slots_cancel(&back->slots, slots[i]);
        else {
            back->freed[slots[i]] = 1;
            back->nr_freed++;
        }
    }
    if (back->nr_freed >= SEGMENTS_MAX) {
        xb_slots_scan(&back->slots, is_freed, NULL, back);
        back->nr_freed = 0;
    }
    pthread_mutex_unlock(&back->slots_lock);
}

/* Unmapping */

static void sort_by_address(struct xb_unmap_grant_ref *ops, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        struct xb_unmap_grant_ref op = ops[i];
        uint32_t at = i;

        for (; at > 0 && ops[at - 1].host_addr > op.host_addr; at--)
            ops[at] = ops[at - 1];
        ops[at] = op;
    }
}

void lend_unmap(struct xb_back *back, struct xb_unmap_grant_ref *ops, uint32_t count)
{
    sort_by_address(ops, count);
    xb_gnttab_unmap(back->config.mapper, back->config.grantor, ops, count);
    for (uint32_t i = 0; i < count; i++)
        XB_ASSERT(ops[i].status == GNTST_okay); /* our own handles, and no more of them than can be unmapped */
    count_atomically(&back->counters->unmap_ops, 1);
    count_atomically(&back->counters->unmap_pages, count);
}

void lend_release(struct xb_back *back, struct record *record)
{
    struct xb_unmap_grant_ref ops[SEGMENTS_MAX];
    uint32_t slots[SEGMENTS_MAX], nr_ops = 0, nr_slots = 0;

    for (uint32_t i = 0; i < record->request.nr_segments; i++) {
        struct lent_page *lent = &record->lent[i];

        if (lent->entry) {
            xb_gref_map_put(lent->entry, back->now_ns);
            back->counters->persistent_in_use--;
            continue;
        }
        slots[nr_slots++] = lent->slot;
        if (lent->page)
            ops[nr_ops++] =
                (struct xb_unmap_grant_ref){.host_addr = (uintptr_t)lent->page, .handle = lent->handle};
    }
    if (nr_ops > 0)
        lend_unmap(back, ops, nr_ops);
    if (nr_slots > 0)
        lend_free(back, slots, nr_slots);
}

/* Mapping */

static int find_kept(struct xb_back *back, uint32_t gref, struct lent_page *lent)
{
    if (!back->config.persistent || xb_gref_map_take(&back->kept, gref, &lent->entry) != XB_GREF_HIT) {
        lent->entry = NULL;
        return 0;
    }
    lent->page = page_of(back, lent->entry->slot);
    back->counters->persistent_hits++;
    back->counters->persistent_in_use++;
    return 1;
}

static void keep(struct xb_back *back, uint32_t gref, struct lent_page *lent)
{
    struct xb_counters *counters = back->counters;
    uint32_t current;

    if (!back->config.persistent)
        return;
    if (xb_mapper_is_crowded(back->config.mapper) && !xb_gref_map_find(&back->kept, gref)) {
        counters->persistent_overflow++;
        lent->entry = NULL;
        return;
    }
    switch (xb_gref_map_add(&back->kept, gref, lent->slot, lent->handle, &lent->entry)) {
    case XB_GREF_ADDED:
        counters->persistent_in_use++;
        current = xb_gref_map_count(&back->kept);
        if (current > counters->persistent_peak)
            counters->persistent_peak = current;
        return;
    case XB_GREF_FULL:
        /* Relaxed: a hint for the next purge. */
        __atomic_store_n(&back->overflowed, 1, __ATOMIC_RELAXED);
        counters->persistent_overflow++;
        break;
    default: /* another request, or an earlier segment of this one, has it */
        break;
    }
    lent->entry = NULL;
}

static void prepare(struct xb_back *back, struct record *record, const uint32_t *missing, uint32_t count,
                    struct xb_map_grant_ref *ops)
{
    uint32_t slots[SEGMENTS_MAX];
    /* A page that is kept may be wanted for the other direction next. */
    int readonly = record->request.operation != XB_BLKIF_READ && !back->config.persistent;

    allocate(back, slots, count);
    for (uint32_t i = 0; i < count; i++) {
        record->lent[missing[i]].slot = slots[i];
        ops[i] = (struct xb_map_grant_ref){
            .host_addr = (uintptr_t)page_of(back, slots[i]),
            .flags = GNTMAP_host_map | (readonly ? GNTMAP_readonly : 0),
            .ref = record->request.segments[missing[i]].gref,
            .dom = back->config.grantor->domid,
        };
    }
}

static int map_missing(struct xb_back *back, struct record *record, const uint32_t *missing, uint32_t count)
{
    struct xb_map_grant_ref ops[SEGMENTS_MAX];
    int all = 1;

    prepare(back, record, missing, count, ops);
    xb_gnttab_map(back->config.mapper, back->config.grantor, ops, count);
    back->counters->map_ops++;
    if (back->config.persistent)
        back->counters->persistent_misses += count;
    for (uint32_t i = 0; i < count; i++) {
        struct lent_page *lent = &record->lent[missing[i]];

        lent->page = ops[i].status == GNTST_okay ? page_of(back, lent->slot) : NULL;
        lent->handle = ops[i].handle;
        if (lent->page) {
            back->counters->map_pages++;
            keep(back, ops[i].ref, lent);
        } else
            all = 0;
    }
    return all;
}

int lend_acquire(struct xb_back *back, struct record *record)
{
    uint32_t missing[SEGMENTS_MAX], nr_missing = 0;

    for (uint32_t i = 0; i < record->request.nr_segments; i++) {
        if (!find_kept(back, record->request.segments[i].gref, &record->lent[i]))
            missing[nr_missing++] = i;
    }
    if (nr_missing == 0 || map_missing(back, record, missing, nr_missing))
        return 1;
    lend_release(back, record);
    return 0;
}

/* Copying */

int lend_copy(struct xb_back *back, struct record *record, uint8_t *const *buffers, int to_grant)
{
    struct xb_copy_segment ops[SEGMENTS_MAX];
    uint32_t count = record->request.nr_segments;

    for (uint32_t i = 0; i < count; i++) {
        const struct xb_blkif_segment *segment = &record->request.segments[i];

        ops[i] = (struct xb_copy_segment){
            .virt = (uintptr_t)buffers[i],
            .ref = segment->gref,
            .offset = (uint16_t)(segment->first_sect * SECTOR_BYTES),
            .len = (uint16_t)segment_bytes(segment),
            .to_grant = (uint16_t)to_grant,
        };
    }
    xb_gnttab_copy(back->config.mapper, back->config.grantor, ops, count);
    back->counters->copy_ops++;
    for (uint32_t i = 0; i < count; i++) {
        if (ops[i].status != GNTST_okay)
            return 0;
        back->counters->copy_pages++;
    }
    return 1;
}
