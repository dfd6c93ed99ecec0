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

/* Shell's sort: of a few that are nearly in order one pass, and of thousands in none still no long time. */
static void sort_by_address(struct xb_unmap_grant_ref *ops, uint32_t count)
{
    static const uint32_t gaps[] = {701, 301, 132, 57, 23, 10, 4, 1};

    for (uint32_t pass = count <= SEGMENTS_MAX ? 7 : 0; pass < 8; pass++) {
        for (uint32_t i = gaps[pass]; i < count; i++) {
            struct xb_unmap_grant_ref op = ops[i];
            uint32_t at = i;

            for (; at >= gaps[pass] && ops[at - gaps[pass]].host_addr > op.host_addr; at -= gaps[pass])
                ops[at] = ops[at - gaps[pass]];
            ops[at] = op;
        }
    }
}

void lend_unmap(struct xb_back *back, struct xb_unmap_grant_ref *ops, uint32_t count)
{
    sort_by_address(ops, count);
    xb_mapper_unmap(back->config.mapper, back->config.grantor, ops, count);
    for (uint32_t i = 0; i < count; i++)
        XB_ASSERT(ops[i].status == GNTST_okay); /* our own handles, and no more of them than can be unmapped */
    count_atomically(&back->counters->unmap_ops, 1);
    count_atomically(&back->counters->unmap_pages, count);
}

void lend_release(struct xb_back *back, const struct loan *loan)
{
    struct xb_unmap_grant_ref *ops = back->scratch.unmaps;
    uint32_t *slots = back->scratch.slots, nr_ops = 0, nr_slots = 0;

    for (uint32_t i = 0; i < loan->nr_segments; i++) {
        struct lent_page *lent = &loan->lent[i];

        if (lent->entry) {
            xb_gref_map_put(lent->entry, back->now_ns);
            back->counters->persistent_in_use--;
            continue;
        }
        if (lent->slot != XB_SLOTS_NONE)
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

const uint8_t *lend_find(struct xb_back *back, uint32_t gref)
{
    const struct xb_gref_entry *entry = back->config.persistent ? xb_gref_map_find(&back->kept, gref) : NULL;

    return entry ? page_of(back, entry->slot) : NULL;
}

static int find_kept(struct xb_back *back, uint32_t gref, struct lent_page *lent)
{
    if (!back->config.persistent || xb_gref_map_take(&back->kept, gref, &lent->entry) != XB_GREF_HIT) {
        *lent = (struct lent_page){.slot = XB_SLOTS_NONE};
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
        __atomic_store_n(back->overflowed, 1, __ATOMIC_RELAXED);
        counters->persistent_overflow++;
        break;
    default: /* another request, or an earlier segment of this one, has it */
        break;
    }
    lent->entry = NULL;
}

static void prepare(struct xb_back *back, const struct loan *loan, const uint32_t *missing, uint32_t count,
                    struct xb_map_grant_ref *ops)
{
    uint32_t slots[SEGMENTS_MAX];
    /* A page that is kept may be wanted for the other direction next. */
    int readonly = loan->readonly && !back->config.persistent;

    allocate(back, slots, count);
    for (uint32_t i = 0; i < count; i++) {
        loan->lent[missing[i]].slot = slots[i];
        ops[i] = (struct xb_map_grant_ref){
            .host_addr = (uintptr_t)page_of(back, slots[i]),
            .flags = GNTMAP_host_map | (readonly ? GNTMAP_readonly : 0),
            .ref = loan->segments[missing[i]].gref,
            .dom = back->config.grantor->domid,
        };
    }
}

/* A batch of at most SEGMENTS_MAX. */
static int map_missing(struct xb_back *back, const struct loan *loan, const uint32_t *missing, uint32_t count)
{
    struct xb_map_grant_ref ops[SEGMENTS_MAX];
    int all = 1;

    prepare(back, loan, missing, count, ops);
    /* Only what is kept outlives its request, and what would be kept: that leaves one by one. */
    xb_mapper_map(back->config.mapper, back->config.grantor, ops, count, !back->config.persistent);
    back->counters->map_ops++;
    if (back->config.persistent)
        back->counters->persistent_misses += count;
    for (uint32_t i = 0; i < count; i++) {
        struct lent_page *lent = &loan->lent[missing[i]];

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

int lend_acquire(struct xb_back *back, const struct loan *loan)
{
    uint32_t *missing = back->scratch.missing, nr_missing = 0;

    for (uint32_t i = 0; i < loan->nr_segments; i++) {
        if (!find_kept(back, loan->segments[i].gref, &loan->lent[i]))
            missing[nr_missing++] = i;
    }
    for (uint32_t start = 0; start < nr_missing; start += SEGMENTS_MAX) {
        uint32_t left = nr_missing - start;

        if (map_missing(back, loan, missing + start, left < SEGMENTS_MAX ? left : SEGMENTS_MAX))
            continue;
        lend_release(back, loan);
        return 0;
    }
    return 1;
}

/* Copying */

static int copy_all(struct xb_back *back, uint32_t count)
{
    struct xb_copy_segment *ops = back->scratch.copies;

    xb_mapper_copy(back->config.mapper, back->config.grantor, ops, count);
    back->counters->copy_ops++;
    for (uint32_t i = 0; i < count; i++) {
        if (ops[i].status != GNTST_okay)
            return 0;
        back->counters->copy_pages++;
    }
    return 1;
}

int lend_copy(struct xb_back *back, const struct loan *loan, uint8_t *const *buffers, int to_grant)
{
    for (uint32_t i = 0; i < loan->nr_segments; i++) {
        const struct xb_blkif_segment *segment = &loan->segments[i];

        back->scratch.copies[i] = (struct xb_copy_segment){
            .virt = (uintptr_t)buffers[i],
            .ref = segment->gref,
            .offset = (uint16_t)(segment->first_sect * SECTOR_BYTES),
            .len = (uint16_t)segment_bytes(segment),
            .to_grant = (uint16_t)to_grant,
        };
    }
    return copy_all(back, loan->nr_segments);
}

/* The pages of an indirect request */

static uint32_t segments_in(const struct record *record, uint32_t page)
{
    uint32_t left = record->request.nr_segments - page * XB_BLKIF_SEGMENTS_PER_PAGE;

    return left < XB_BLKIF_SEGMENTS_PER_PAGE ? left : XB_BLKIF_SEGMENTS_PER_PAGE;
}

static int copy_segments(struct xb_back *back, struct record *record, uint32_t nr_pages)
{
    for (uint32_t page = 0; page < nr_pages; page++) {
        back->scratch.copies[page] = (struct xb_copy_segment){
            .virt = (uintptr_t)&record->many.segments[page * XB_BLKIF_SEGMENTS_PER_PAGE],
            .ref = record->request.indirect_grefs[page],
            .len = (uint16_t)(segments_in(record, page) * sizeof(struct xb_blkif_segment)),
        };
    }
    return copy_all(back, nr_pages);
}

static int map_segments(struct xb_back *back, struct record *record, uint32_t nr_pages)
{
    struct xb_blkif_segment pages[XB_BLKIF_INDIRECT_PAGES_MAX];
    struct loan loan = {.segments = pages, .lent = record->few_lent, .nr_segments = nr_pages, .readonly = 1};

    for (uint32_t page = 0; page < nr_pages; page++)
        pages[page] = (struct xb_blkif_segment){.gref = record->request.indirect_grefs[page]};
    if (!lend_acquire(back, &loan))
        return 0;
    for (uint32_t page = 0; page < nr_pages; page++)
        xb_blkif_parse_segments(loan.lent[page].page, segments_in(record, page),
                                &record->many.segments[page * XB_BLKIF_SEGMENTS_PER_PAGE]);
    lend_release(back, &loan);
    return 1;
}

int lend_read_segments(struct xb_back *back, struct record *record)
{
    uint32_t nr_pages =
        (record->request.nr_segments + XB_BLKIF_SEGMENTS_PER_PAGE - 1u) / XB_BLKIF_SEGMENTS_PER_PAGE;

    if (back->config.grant_copy)
        return copy_segments(back, record, nr_pages);
    return map_segments(back, record, nr_pages);
}
