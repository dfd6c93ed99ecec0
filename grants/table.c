#include <sched.h>
#include <stddef.h>
#include <stdint.h>

#include "grants/gnttab.h"
#include "grants/table.h"

#include "xenblk/assert.h"

#define SPINS_BEFORE_YIELD 64

/* Held for a few stores, and by threads of this process alone. */
static void lock_table(struct xb_grant_table *table)
{
    /* Acquire: we see what the last holder wrote before its release in unlock_table. */
    for (uint32_t spins = 1; __atomic_exchange_n(&table->lock, 1, __ATOMIC_ACQUIRE); spins++)
        if (spins % SPINS_BEFORE_YIELD == 0)
            sched_yield();
}

static void unlock_table(struct xb_grant_table *table)
{
    /* Release: the next holder, at its acquire in lock_table, sees all that we wrote. */
    __atomic_store_n(&table->lock, 0, __ATOMIC_RELEASE);
}

void xb_grant_table_init(struct xb_grant_table *table, struct xb_grant_entry *shared, uint32_t *free, uint8_t *state,
                         uint32_t nr_entries)
{
    *table = (struct xb_grant_table){.shared = shared, .free = free, .state = state, .nr_entries = nr_entries};
    for (uint32_t ref = nr_entries; ref-- > XB_GRANT_TABLE_RESERVED;)
        free[table->nr_free++] = ref;
    for (uint32_t ref = 0; ref < nr_entries; ref++)
        state[ref] = XB_GRANT_FREE;
}

int xb_grant_table_allocate(struct xb_grant_table *table, uint32_t *refs, uint32_t count)
{
    int enough;

    lock_table(table);
    enough = table->nr_free >= count;
    for (uint32_t i = 0; enough && i < count; i++) {
        uint32_t ref = table->free[table->nr_free - 1 - i];

        XB_ASSERT(table->state[ref] == XB_GRANT_FREE);
        table->state[ref] = XB_GRANT_ALLOCATED;
        refs[i] = ref;
    }
    if (enough)
        __atomic_store_n(&table->nr_free, table->nr_free - count, __ATOMIC_RELAXED);
    unlock_table(table);
    return enough;
}

void xb_grant_table_free(struct xb_grant_table *table, const uint32_t *refs, uint32_t count)
{
    lock_table(table);
    for (uint32_t i = 0; i < count; i++) {
        XB_ASSERT(refs[i] >= XB_GRANT_TABLE_RESERVED && refs[i] < table->nr_entries);
        XB_ASSERT(table->state[refs[i]] == XB_GRANT_ALLOCATED);
        table->state[refs[i]] = XB_GRANT_FREE;
        table->free[table->nr_free + i] = refs[i];
    }
    __atomic_store_n(&table->nr_free, table->nr_free + count, __ATOMIC_RELAXED);
    unlock_table(table);
}

void xb_grant_table_grant(struct xb_grant_table *table, uint32_t ref, uint16_t domid, uint32_t frame, int readonly)
{
    XB_ASSERT(ref < table->nr_entries && table->state[ref] == XB_GRANT_ALLOCATED);
    table->state[ref] = XB_GRANT_GRANTED;
    xb_gnttab_grant(table->shared + ref, domid, frame, readonly);
}

int xb_grant_table_end_access(struct xb_grant_table *table, uint32_t ref)
{
    XB_ASSERT(ref < table->nr_entries);
    /* The most frequent answer first: a backend that keeps the page is why the pool asks. */
    if (!xb_gnttab_end_access(table->shared + ref))
        return 0;
    XB_ASSERT(table->state[ref] != XB_GRANT_FREE);
    table->state[ref] = XB_GRANT_ALLOCATED;
    return 1;
}

int xb_grant_table_grants(const struct xb_grant_table *table, uint32_t frame, uint32_t nr_frames)
{
    for (uint32_t ref = 0; ref < table->nr_entries; ref++) {
        const struct xb_grant_entry *entry = &table->shared[ref];

        /* Acquire: an entry that grants has its frame since before the release in xb_gnttab_grant. */
        if ((__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & GTF_type_mask) != GTF_invalid &&
            __atomic_load_n(&entry->frame, __ATOMIC_RELAXED) - frame < nr_frames)
            return 1;
    }
    return 0;
}

uint32_t xb_grant_table_nr_free(const struct xb_grant_table *table)
{
    return __atomic_load_n(&table->nr_free, __ATOMIC_RELAXED);
}
