/* Inside of gref_map.c, which includes gref_map.h first and says what the labels in brackets mean: a map's cells.
 * store_cell and cut run under the lock. */
#pragma once
#include <stddef.h>
#include <stdint.h>

static inline uint32_t nr_cells_log2(uint32_t max_entries)
{
    uint32_t bits = 1;

    while ((UINT64_C(1) << bits) < 2 * (uint64_t)max_entries)
        bits++;
    return bits;
}

#define FIRST_CELLS_LOG2 9 /* a page of cells; they double as entries come */

/* At most half of the cells are full, until there are as many as there may be. */
static inline int needs_more_cells(const struct xb_gref_map *map)
{
    return 2 * (uint64_t)map->nr_current + 2 > (uint64_t)map->cell_mask + 1
           && 2 * (uint64_t)map->max_entries > (uint64_t)map->cell_mask + 1;
}

static inline size_t cells_bytes(uint32_t max_entries)
{
    return sizeof(uint64_t) << nr_cells_log2(max_entries);
}

static inline uint64_t cell_of(uint32_t gref, uint32_t number)
{
    return (uint64_t)gref << 32 | ((uint64_t)number + 1);
}

#define SPREAD UINT64_C(0x9e3779b97f4a7c15) /* 2^64 divided by the golden ratio */

/* Two products, the first one secret, because one alone keeps references at a constant distance in rows: with one
 * secret in a hundred the rows pile up on each other. The exclusive or moves what only upper bits have to lower
 * ones. */
static inline uint32_t home(const struct xb_gref_map *map, uint32_t gref)
{
    uint64_t hash = (gref ^ (uint32_t)map->secret) * (map->secret | 1); /* an even factor would throw bits away */

    return (uint32_t)((hash ^ hash >> 32) * SPREAD >> map->cell_shift);
}

static inline uint64_t load_cell(const struct xb_gref_map *map, uint32_t at)
{
    /* [L] Acquire: the sequence is loaded, in [A], after the cell. If the cell came from a change's [C], [A] sees
     * that change's [O]. */
    return __atomic_load_n(&map->cells[at], __ATOMIC_ACQUIRE);
}

static inline void store_cell(struct xb_gref_map *map, uint32_t at, uint64_t cell)
{
    /* [C] Release: after [O], for the lookup's [L]. */
    __atomic_store_n(&map->cells[at], cell, __ATOMIC_RELEASE);
}

/* Where the reference is, or else the empty cell where it would be. While another thread changes the cells, even a full
 * circle may see none of both; what is found then is thrown away, but the search must end. */
static inline uint32_t search(const struct xb_gref_map *map, uint32_t gref, uint64_t *cell)
{
    uint32_t at = home(map, gref);

    for (uint32_t probe = 0; probe <= map->cell_mask; probe++) {
        *cell = load_cell(map, at);
        if (*cell == 0 || *cell >> 32 == gref)
            return at;
        at = (at + 1) & map->cell_mask;
    }
    *cell = 0;
    return at;
}

/* Empty a cell without leaving a hole that ends the search for another reference: whatever comes after it, up to the
 * next empty cell, moves into the hole if its home is not between the two. */
static inline void cut(struct xb_gref_map *map, uint32_t hole)
{
    uint64_t cell;

    for (uint32_t at = (hole + 1) & map->cell_mask; (cell = map->cells[at]) != 0; at = (at + 1) & map->cell_mask) {
        uint32_t from_home = (at - home(map, (uint32_t)(cell >> 32))) & map->cell_mask;

        if (from_home >= ((at - hole) & map->cell_mask)) {
            store_cell(map, hole, cell);
            hole = at;
        }
    }
    store_cell(map, hole, 0);
}
