#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "grants/slots.h"
#include "xenblk/assert.h"

#define LIVE XB_SLOTS_NONE /* no cluster is that long */

void xb_slots_init(struct xb_slots *slots, struct xb_slot *entries, uint32_t nr_slots)
{
    XB_ASSERT(nr_slots >= 1 && nr_slots <= XB_SLOTS_MAX);
    memset(slots, 0, sizeof(*slots));
    slots->entries = entries;
    slots->nr_slots = nr_slots;
    slots->newest = XB_SLOTS_NONE;
    entries[0] = (struct xb_slot){.length = nr_slots, .next = nr_slots};
}

/* Allocating */

/* Take `length` slots from the front of the cluster that `link` leads to. */
static uint32_t take(struct xb_slots *slots, uint32_t *link, uint32_t length)
{
    uint32_t start = *link;
    struct xb_slot cluster = slots->entries[start];

    XB_ASSERT(cluster.length != LIVE && cluster.length >= length);
    XB_ASSERT(cluster.next > start && cluster.next <= slots->nr_slots && cluster.length <= slots->nr_slots - start);
    for (uint32_t i = start; i < start + length; i++)
        slots->entries[i] = (struct xb_slot){.length = LIVE, .next = XB_SLOTS_NONE};
    if (cluster.length == length)
        *link = cluster.next;
    else {
        *link = start + length;
        slots->entries[*link] = (struct xb_slot){.length = cluster.length - length, .next = cluster.next};
    }
    slots->nr_live += length;
    return start;
}

uint32_t xb_slots_allocate(struct xb_slots *slots)
{
    uint32_t slot;

    XB_ASSERT(!slots->scanning);
    if (slots->first_free == slots->nr_slots)
        return XB_SLOTS_NONE;
    slot = take(slots, &slots->first_free, 1);
    slots->entries[slot].next = slots->newest;
    slots->newest = slot;
    return slot;
}

uint32_t xb_slots_allocate_run(struct xb_slots *slots, uint32_t length)
{
    uint32_t *link = &slots->first_free;

    XB_ASSERT(!slots->scanning && length >= 1);
    while (*link != slots->nr_slots && slots->entries[*link].length < length) {
        XB_ASSERT(slots->entries[*link].next > *link); /* so the walk ends */
        link = &slots->entries[*link].next;
    }
    if (*link == slots->nr_slots)
        return XB_SLOTS_NONE;
    slots->newest = XB_SLOTS_NONE;
    return take(slots, link, length);
}

void xb_slots_cancel(struct xb_slots *slots, uint32_t slot)
{
    struct xb_slot *entry, *after;

    XB_ASSERT(!slots->scanning && slot < slots->nr_slots && slot == slots->newest);
    entry = &slots->entries[slot];
    XB_ASSERT(entry->length == LIVE && slot < slots->first_free);
    slots->newest = entry->next;
    *entry = (struct xb_slot){.length = 1, .next = slots->first_free};
    if (slot + 1 == slots->first_free && slots->first_free != slots->nr_slots) {
        after = entry + 1;
        *entry = (struct xb_slot){.length = after->length + 1, .next = after->next};
        *after = (struct xb_slot){0, 0};
    }
    slots->first_free = slot;
    slots->nr_live--;
}

/* Scanning */

/* How far a scan has come: the cluster that ends where it is, and what it has freed of that. */
struct scan {
    struct xb_slots *slots;
    uint32_t *link;          /* where the first slot of the next cluster belongs */
    struct xb_slot *cluster; /* NULL after a live slot */
    uint32_t freed_start;    /* XB_SLOTS_NONE while nothing of the cluster was freed */
    uint32_t freed_end;
};

static void add_free(struct scan *scan, uint32_t at, uint32_t length)
{
    struct xb_slot *entry = &scan->slots->entries[at];

    if (scan->cluster) {
        scan->cluster->length += length;
        *entry = (struct xb_slot){0, 0};
        return;
    }
    *scan->link = at;
    entry->length = length;
    scan->cluster = entry;
    scan->link = &entry->next;
}

static void add_freed(struct scan *scan, uint32_t slot)
{
    add_free(scan, slot, 1);
    if (scan->freed_start == XB_SLOTS_NONE)
        scan->freed_start = slot;
    scan->freed_end = slot + 1;
    scan->slots->nr_live--;
}

static void end_cluster(struct scan *scan, xb_slots_run_fn run, void *context)
{
    if (run && scan->freed_start != XB_SLOTS_NONE)
        run(context, scan->freed_start, scan->freed_end - scan->freed_start);
    scan->freed_start = XB_SLOTS_NONE;
    scan->cluster = NULL;
}

/* Inline: a batch looks at its flags without a call for each live slot, which is most of what a scan does. */
static inline __attribute__((always_inline)) uint32_t scan_all(struct xb_slots *slots, xb_slots_done_fn done,
                                                               xb_slots_run_fn run, void *context)
{
    struct scan scan = {.slots = slots, .link = &slots->first_free, .freed_start = XB_SLOTS_NONE};
    uint32_t step, nr_slots = slots->nr_slots, live = slots->nr_live;
    uint64_t steps = 0;

    XB_ASSERT(!slots->scanning);
    slots->scanning = 1;
    for (uint32_t at = 0; at < nr_slots; at += step, steps++) {
        uint32_t length = slots->entries[at].length;

        step = length == LIVE ? 1 : length;
        XB_ASSERT(step >= 1 && step <= nr_slots - at);
        if (length != LIVE)
            add_free(&scan, at, length);
        else if (done(context, at))
            add_freed(&scan, at);
        else if (scan.cluster)
            end_cluster(&scan, run, context);
    }
    end_cluster(&scan, run, context);
    *scan.link = nr_slots;
    /* A freed slot may be below those that were allocated last: none of them has its place at the front any more. */
    slots->newest = XB_SLOTS_NONE;
    slots->nr_scans++;
    slots->scan_steps += steps;
    slots->scanning = 0;
    return live - slots->nr_live;
}

uint32_t xb_slots_scan(struct xb_slots *slots, xb_slots_done_fn done, xb_slots_run_fn run, void *context)
{
    return scan_all(slots, done, run, context);
}

struct batch {
    const uint8_t *flags;
    struct xb_slots_run *runs;
    uint32_t nr_runs;
};

static int batch_done(void *context, uint32_t slot)
{
    const struct batch *batch = context;

    return batch->flags[slot] != 0;
}

static void batch_run(void *context, uint32_t start, uint32_t length)
{
    struct batch *batch = context;

    batch->runs[batch->nr_runs++] = (struct xb_slots_run){start, length};
}

uint32_t xb_slots_scan_flags(struct xb_slots *slots, const uint8_t *flags, struct xb_slots_run *runs)
{
    struct batch batch = {.flags = flags, .runs = runs};

    scan_all(slots, batch_done, runs ? batch_run : NULL, &batch);
    return batch.nr_runs;
}

/* Checking */

/* The entries of one cluster, which begins at `at`. */
static int check_cluster(const struct xb_slots *slots, uint32_t at)
{
    struct xb_slot cluster = slots->entries[at];

    if (cluster.length == 0 || cluster.length > slots->nr_slots - at)
        return XB_SLOTS_BAD_LENGTH;
    if (cluster.next > slots->nr_slots || cluster.next < at + cluster.length)
        return XB_SLOTS_BAD_ORDER;
    if (cluster.next == at + cluster.length && cluster.next != slots->nr_slots)
        return XB_SLOTS_UNMERGED;
    for (uint32_t i = at + 1; i < at + cluster.length; i++) {
        if (slots->entries[i].length != 0 || slots->entries[i].next != 0)
            return XB_SLOTS_BAD_FREE;
    }
    return XB_SLOTS_SOUND;
}

/* What can be cancelled, newest first, goes down; all of it is below every free slot. */
static int check_newest(const struct xb_slots *slots)
{
    uint32_t above = slots->first_free;

    for (uint32_t slot = slots->newest; slot != XB_SLOTS_NONE; slot = slots->entries[slot].next) {
        if (slot >= above || slots->entries[slot].length != LIVE)
            return XB_SLOTS_BAD_NEWEST;
        above = slot;
    }
    return XB_SLOTS_SOUND;
}

int xb_slots_check(const struct xb_slots *slots)
{
    uint32_t next_cluster = slots->first_free, nr_live = 0;
    int status;

    if (slots->scanning)
        return XB_SLOTS_SCANNING;
    if (next_cluster > slots->nr_slots)
        return XB_SLOTS_BAD_ORDER;
    for (uint32_t at = 0; at < slots->nr_slots;) {
        if (at != next_cluster) {
            if (slots->entries[at++].length != LIVE)
                return XB_SLOTS_BAD_LIVE;
            nr_live++;
            continue;
        }
        status = check_cluster(slots, at);
        if (status != XB_SLOTS_SOUND)
            return status;
        next_cluster = slots->entries[at].next;
        at += slots->entries[at].length;
    }
    return nr_live == slots->nr_live ? check_newest(slots) : XB_SLOTS_BAD_COUNT;
}
