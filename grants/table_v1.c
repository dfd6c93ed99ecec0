#include <stddef.h>
#include <stdint.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/spinlock.h"
#include "grants/table.h"
#include "grants/table_v1.h"

#include "xenblk/assert.h"

_Static_assert(offsetof(struct xb_grant_table_v1, table) == 0, "v1_of is a cast");

static struct xb_grant_table_v1 *v1_of(struct xb_grant_table *table)
{
    return (struct xb_grant_table_v1 *)table;
}

/* The `i`th of the references that are handed out next. */
static uint32_t next_ref(const struct xb_grant_table_v1 *table, uint32_t i)
{
    return table->free[table->nr_free - 1 - i];
}

static int grant(struct xb_grant_table *base, uint16_t domid, const uint32_t *frames, uint32_t count, int readonly,
                 uint32_t *refs)
{
    struct xb_grant_table_v1 *table = v1_of(base);
    int enough;

    spin_lock(&table->lock);
    enough = table->nr_free >= count;
    for (uint32_t i = 0; enough && i < count; i++) {
        uint32_t ref = next_ref(table, i), frame = frames[i];

        XB_ASSERT(table->state[ref] == XB_GRANT_FREE);
        table->state[ref] = XB_GRANT_GRANTED;
        xb_gnttab_grant(base->shared + ref, domid, frame, readonly);
        refs[i] = ref;
    }
    if (enough)
        __atomic_store_n(&table->nr_free, table->nr_free - count, __ATOMIC_RELAXED);
    spin_unlock(&table->lock);
    return enough;
}

static int end(struct xb_grant_table *base, uint32_t ref)
{
    struct xb_grant_table_v1 *table = v1_of(base);

    XB_ASSERT(ref >= XB_GRANT_TABLE_RESERVED && ref < base->nr_entries);
    XB_ASSERT(table->state[ref] == XB_GRANT_GRANTED);
    if (!xb_gnttab_end_access(base->shared + ref))
        return 0;
    spin_lock(&table->lock);
    table->state[ref] = XB_GRANT_FREE;
    table->free[table->nr_free] = ref;
    __atomic_store_n(&table->nr_free, table->nr_free + 1, __ATOMIC_RELAXED);
    spin_unlock(&table->lock);
    return 1;
}

static int grants(const struct xb_grant_table *base, uint32_t frame, uint32_t nr_frames)
{
    for (uint32_t ref = 0; ref < base->nr_entries; ref++) {
        const struct xb_grant_entry *entry = &base->shared[ref];

        /* Acquire: an entry that grants has its frame since before the release in xb_gnttab_grant. */
        if ((__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & GTF_type_mask) != GTF_invalid &&
            __atomic_load_n(&entry->frame, __ATOMIC_RELAXED) - frame < nr_frames)
            return 1;
    }
    return 0;
}

static const struct xb_grant_table_ops ops = {.grant = grant, .end = end, .grants = grants};

void xb_grant_table_v1_init(struct xb_grant_table_v1 *table, struct xb_grant_entry *shared, uint32_t *free,
                            uint8_t *state, uint32_t nr_entries)
{
    *table = (struct xb_grant_table_v1){
        .table = {.ops = &ops, .shared = shared, .nr_entries = nr_entries}, .free = free, .state = state};
    for (uint32_t ref = nr_entries; ref-- > XB_GRANT_TABLE_RESERVED;)
        free[table->nr_free++] = ref;
    for (uint32_t ref = 0; ref < nr_entries; ref++)
        state[ref] = XB_GRANT_FREE;
}

uint32_t xb_grant_table_v1_nr_free(const struct xb_grant_table_v1 *table)
{
    return __atomic_load_n(&table->nr_free, __ATOMIC_RELAXED);
}
