#define _GNU_SOURCE
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "grants/gref_map.h"
#include "grants/gref_cells.h"
#include "grants/gref_sort.h"
#include "xenblk/assert.h"

/* Ordering is in the atomic accesses themselves; a label in a comment names the partner line:
 *
 *   lookup/change   a change makes the sequence odd [O], stores cells [C], makes the sequence even [E];
 *                   a lookup loads the sequence [B], loads cells [L], and loads the sequence again [A].
 *   use/reap        put [P] lets go of an entry; idle [I] sees it; reap [R], or the next take [T], gets it. */

#define SPINS_BEFORE_YIELD 64u

_Static_assert(sizeof(struct xb_gref_entry) == 32, "two entries per cache line");

static void wait_a_little(uint32_t spin)
{
    if (spin >= SPINS_BEFORE_YIELD)
        sched_yield(); /* whoever holds the lock may need this CPU to let it go */
}

static void change_begin(struct xb_gref_map *map)
{
    for (uint32_t spin = 0;; spin++) {
        uint32_t even = __atomic_load_n(&map->sequence, __ATOMIC_RELAXED) & ~1u;

        /* [O] Acquire: we see what the last holder changed before its [E]. Our own [C] stores are releases, so a lookup
         * that sees one of them sees the odd sequence too. */
        if (__atomic_compare_exchange_n(&map->sequence, &even, even + 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return;
        wait_a_little(spin);
    }
}

static void change_end(struct xb_gref_map *map)
{
    uint32_t odd = __atomic_load_n(&map->sequence, __ATOMIC_RELAXED); /* ours: nobody else changes it now */

    /* [E] Release: whoever sees the even sequence, in [B] or [O], sees the whole change. */
    __atomic_store_n(&map->sequence, odd + 1, __ATOMIC_RELEASE);
}

static struct xb_gref_entry *entry_of(const struct xb_gref_map *map, uint64_t cell)
{
    return cell ? &map->entries[(uint32_t)cell - 1] : NULL;
}

/* Life of the map */

size_t xb_gref_map_bytes(uint32_t max_entries)
{
    return max_entries * (sizeof(struct xb_gref_entry) + 2 * sizeof(uint64_t)) + cells_bytes(max_entries);
}

void xb_gref_map_init(struct xb_gref_map *map, void *memory, uint32_t max_entries, uint64_t secret)
{
    uint32_t bits_max = nr_cells_log2(max_entries), bits = bits_max < FIRST_CELLS_LOG2 ? bits_max : FIRST_CELLS_LOG2;

    XB_ASSERT(max_entries <= XB_GREF_MAP_MAX);
    XB_ASSERT((uintptr_t)memory % sizeof(uint64_t) == 0);
    memset(map, 0, sizeof(*map));
    map->limit = map->max_entries = max_entries;
    map->cell_mask = (UINT32_C(1) << bits) - 1;
    map->cell_shift = 64 - bits;
    map->secret = secret;
    map->cells = memory;
    map->keys = map->cells + (UINT64_C(1) << bits_max);
    map->entries = (struct xb_gref_entry *)(map->keys + 2 * (size_t)max_entries);
}

void xb_gref_map_set_limit(struct xb_gref_map *map, uint32_t limit)
{
    XB_ASSERT(limit <= map->max_entries);
    __atomic_store_n(&map->limit, limit, __ATOMIC_RELAXED); /* a number of its own: no order with anything */
}

void xb_gref_map_show_count(struct xb_gref_map *map, uint64_t *shown)
{
    map->shown = shown;
}

uint32_t xb_gref_map_count(const struct xb_gref_map *map)
{
    return __atomic_load_n(&map->nr_current, __ATOMIC_RELAXED); /* likewise */
}

/* The ring's thread */

struct xb_gref_entry *xb_gref_map_find(struct xb_gref_map *map, uint32_t gref)
{
    for (uint32_t spin = 0;; spin++) {
        /* [B] Acquire: the cells are loaded after it, and the changes before it are whole: their [E]. */
        uint32_t before = __atomic_load_n(&map->sequence, __ATOMIC_ACQUIRE);

        if (!(before & 1)) {
            uint64_t cell;

            search(map, gref, &cell);
            /* [A] The same again: no change, from [O] to [E], came between. */
            if (__atomic_load_n(&map->sequence, __ATOMIC_RELAXED) == before)
                return entry_of(map, cell);
        }
        wait_a_little(spin);
    }
}

int xb_gref_map_take(struct xb_gref_map *map, uint32_t gref, struct xb_gref_entry **entry)
{
    struct xb_gref_entry *found = xb_gref_map_find(map, gref);
    uint32_t usage = 1;

    if (!found)
        return XB_GREF_MISS;
    /* [T] One step, against the reaper's [R]: one of the two finds no 1. Acquire: partner of [P]. The entry is still
     * this reference's: only add gives an entry another one, and add is this thread's. */
    if (!__atomic_compare_exchange_n(&found->usage, &usage, 2, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return usage ? XB_GREF_ACTIVE : XB_GREF_MISS;
    *entry = found;
    return XB_GREF_HIT;
}

void xb_gref_map_put(struct xb_gref_entry *entry, uint64_t now_ns)
{
    /* Ours while it is 2: nobody else changes it, and a plain store will do. */
    XB_ASSERT(__atomic_load_n(&entry->usage, __ATOMIC_RELAXED) == 2);
    __atomic_store_n(&entry->last_used_ns, now_ns, __ATOMIC_RELAXED);
    /* [P] Release: the reaper's [R] comes after our last access to the page, and idle's [I] sees when that was. */
    __atomic_store_n(&entry->usage, 1, __ATOMIC_RELEASE);
}

static struct xb_gref_entry *entry_take_free(struct xb_gref_map *map)
{
    struct xb_gref_entry *entry = NULL;

    if (map->free_head) {
        entry = &map->entries[map->free_head - 1];
        map->free_head = entry->next_free;
    } else if (map->nr_touched < map->max_entries) {
        entry = &map->entries[map->nr_touched];
        /* The reaper looks at so many entries, in idle; an untouched one is all 0. */
        __atomic_store_n(&map->nr_touched, map->nr_touched + 1, __ATOMIC_RELAXED);
    }
    return entry;
}

static void set_count(struct xb_gref_map *map, uint32_t count)
{
    __atomic_store_n(&map->nr_current, count, __ATOMIC_RELAXED); /* for xb_gref_map_count */
    if (map->shown)
        __atomic_store_n(map->shown, count, __ATOMIC_RELAXED);
}

/* Under the lock. `old` is what the new entry replaces: the reaper's, or NULL. */
static struct xb_gref_entry *entry_make_room(struct xb_gref_map *map, struct xb_gref_entry *old)
{
    uint32_t others = map->nr_current - (old != NULL);
    struct xb_gref_entry *entry;

    if (others >= __atomic_load_n(&map->limit, __ATOMIC_RELAXED))
        return NULL;
    entry = entry_take_free(map);
    if (!entry)
        return NULL;
    if (old)
        old->in_map = 0;
    set_count(map, others + 1);
    return entry;
}

/* Under the lock, by the thread that looks things up: nobody searches meanwhile. */
static void double_cells(struct xb_gref_map *map)
{
    uint64_t cell;

    memset(map->cells, 0, ((size_t)map->cell_mask + 1) * sizeof(*map->cells));
    map->cell_mask = 2 * map->cell_mask + 1;
    map->cell_shift--;
    for (uint32_t i = 0; i < map->nr_touched; i++) {
        const struct xb_gref_entry *entry = &map->entries[i];

        if (entry->in_map)
            store_cell(map, search(map, entry->gref, &cell), cell_of(entry->gref, i));
    }
}

/* Under the lock. */
static int place(struct xb_gref_map *map, uint32_t gref, struct xb_gref_entry **entry)
{
    uint64_t cell;
    struct xb_gref_entry *old;
    uint32_t at;

    if (needs_more_cells(map))
        double_cells(map);
    at = search(map, gref, &cell);
    old = entry_of(map, cell);
    /* Relaxed: an entry that died stays dead, and one that dies now is as good as one that dies next. */
    if (old && __atomic_load_n(&old->usage, __ATOMIC_RELAXED) != 0)
        return XB_GREF_PRESENT;
    *entry = entry_make_room(map, old);
    if (!*entry)
        return XB_GREF_FULL;
    store_cell(map, at, cell_of(gref, (uint32_t)(*entry - map->entries)));
    return XB_GREF_ADDED;
}

int xb_gref_map_add(struct xb_gref_map *map, uint32_t gref, uint32_t slot, uint32_t handle,
                    struct xb_gref_entry **entry)
{
    int answer;

    change_begin(map);
    answer = place(map, gref, entry);
    if (answer == XB_GREF_ADDED) {
        (*entry)->gref = gref;
        (*entry)->slot = slot;
        (*entry)->handle = handle;
        (*entry)->in_map = 1;
        /* Relaxed: nobody else looks at an entry in use; [P] is what shows it to the reaper. */
        __atomic_store_n(&(*entry)->usage, 2, __ATOMIC_RELAXED);
    }
    change_end(map);
    return answer;
}

/* The reaper */

uint32_t xb_gref_map_idle(struct xb_gref_map *map, uint64_t until_ns, struct xb_gref_entry **idle)
{
    uint32_t nr_touched = __atomic_load_n(&map->nr_touched, __ATOMIC_RELAXED), nr_idle = 0;
    const uint64_t *sorted;

    for (uint32_t i = 0; i < nr_touched; i++) {
        const struct xb_gref_entry *entry = &map->entries[i];

        /* [I] Acquire: the reference and the time, from before [P]. Only release, which is our own, lets the entry get
         * another reference; the time may become a later one, as it may between this call and reap. */
        if (__atomic_load_n(&entry->usage, __ATOMIC_ACQUIRE) == 1
            && __atomic_load_n(&entry->last_used_ns, __ATOMIC_RELAXED) <= until_ns)
            map->keys[nr_idle++] = (uint64_t)entry->gref << 32 | i;
    }
    sorted = sort_by_upper_half(map->keys, map->keys + map->max_entries, nr_idle);
    for (uint32_t i = 0; i < nr_idle; i++)
        idle[i] = &map->entries[(uint32_t)sorted[i]];
    return nr_idle;
}

int xb_gref_map_reap(struct xb_gref_entry *entry)
{
    uint32_t usage = 1;

    /* [R] One step, against [T]. Acquire: the page is unmapped after the last request's accesses, before [P]. */
    return __atomic_compare_exchange_n(&entry->usage, &usage, 0, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

void xb_gref_map_release(struct xb_gref_map *map, struct xb_gref_entry *entry)
{
    uint64_t cell;

    XB_ASSERT(__atomic_load_n(&entry->usage, __ATOMIC_RELAXED) == 0);
    change_begin(map);
    /* Under the lock, with the flag: after `add` replaced us, the cell of our reference is another entry's. */
    if (entry->in_map) {
        cut(map, search(map, entry->gref, &cell));
        entry->in_map = 0;
        set_count(map, map->nr_current - 1);
    }
    entry->next_free = map->free_head;
    map->free_head = (uint32_t)(entry - map->entries) + 1;
    change_end(map);
}

void xb_gref_map_check(struct xb_gref_map *map)
{
    uint32_t nr_in_map = 0, nr_cells = 0, nr_free = 0;

    XB_ASSERT(map->sequence % 2 == 0);
    for (uint32_t i = 0; i < map->nr_touched; i++) {
        struct xb_gref_entry *entry = &map->entries[i];

        XB_ASSERT(entry->usage <= 2 && entry->in_map <= 1);
        XB_ASSERT(entry->in_map || entry->usage == 0);
        XB_ASSERT(!entry->in_map || xb_gref_map_find(map, entry->gref) == entry);
        nr_in_map += entry->in_map;
    }
    for (uint32_t at = 0; at <= map->cell_mask; at++)
        nr_cells += map->cells[at] != 0;
    for (uint32_t at = map->free_head; at; at = map->entries[at - 1].next_free) {
        XB_ASSERT(!map->entries[at - 1].in_map);
        XB_ASSERT(++nr_free <= map->nr_touched);
    }
    XB_ASSERT(nr_in_map == nr_cells && nr_in_map == map->nr_current);
    XB_ASSERT(nr_in_map + nr_free <= map->nr_touched && map->nr_touched <= map->max_entries);
}
