/* A bounded map from grant references to mapped pages: which of a frontend's pages stay mapped between requests.
 *
 * An entry counts who uses it, and the map's own use is one of them:
 *
 *     2   a request has the page                          take:    1 -> 2
 *     1   the map alone has it: the page is idle          put:     2 -> 1
 *     0   the reaper has it, and will unmap the page      reap:    1 -> 0, given up if a request took it meanwhile
 *
 * Nothing leads from 0 back to 1 or 2: who finds a 0 maps the page anew, and `add` puts the new entry in the place of
 * the old one. That one is told that it is no longer in the map, so that `release`, under the same lock, takes only
 * itself out. A page in use is not lent twice, so the count ends at 2.
 *
 * Threads: take, put, add and find belong to one thread, the ring's. idle, reap and release belong to one at a time,
 * the reaper, which may be the ring's too. Entries never move, nothing is allocated after init, and no reference,
 * whatever its 32 bits, can make the map larger or a lookup endless. */

/* Entries that a map may be made for. */
#define XB_GREF_MAP_MAX 16777216

/* Answers of take */
#define XB_GREF_MISS 0   /* not there, or being unmapped */
#define XB_GREF_HIT 1    /* the caller has it, and must put it */
#define XB_GREF_ACTIVE 2 /* another request has it */

/* Answers of add */
#define XB_GREF_FULL 0
#define XB_GREF_ADDED 1   /* the caller has it, and must put it */
#define XB_GREF_PRESENT 2 /* it is there already, and not being unmapped */

struct xb_gref_entry {
    uint32_t usage; /* as above */
    uint32_t gref;
    uint32_t slot;         /* page of the arena that it is mapped to */
    uint32_t handle;       /* what to unmap it with */
    uint64_t last_used_ns; /* when it was put; any monotonic clock */
    uint32_t in_map;       /* under the lock: a lookup finds this entry */
    uint32_t next_free;    /* under the lock: number of an entry plus 1, or 0 */
};

/* The lookup is open addressing with linear probing in at least twice as many cells as entries: their number doubles,
 * in place, as entries come. A cell is the reference in its upper half and the entry's number plus 1 in the lower,
 * 0 while empty. */
struct xb_gref_map {
    uint32_t sequence; /* the lock: odd while a change is under way, and lookups then start again */
    uint32_t limit;    /* entries in the map, at most; may be lower than max_entries */
    uint32_t max_entries;
    uint32_t nr_current; /* entries in the map */
    uint32_t nr_touched; /* entries that were ever used */
    uint32_t free_head;
    uint32_t cell_mask;
    uint32_t cell_shift;
    uint64_t secret; /* of the hash */
    struct xb_gref_entry *entries;
    uint64_t *cells;
    uint64_t *keys; /* the reaper's, twice max_entries: to sort */
    uint64_t *shown; /* a copy of nr_current, or NULL */
};

/* Bytes of memory that a map of so many entries needs. */
size_t xb_gref_map_bytes(uint32_t max_entries);

/* `memory`, of those bytes, zeros, and aligned for a uint64_t, stays the caller's and must outlive the map; of it,
 * little more is touched than the entries in the map need. `secret` is any random number that the frontend does not
 * know: with it, no choice of references makes lookups slow. */
void xb_gref_map_init(struct xb_gref_map *map, void *memory, uint32_t max_entries, uint64_t secret);

/* Entries in the map, at most, from now on; those that are there stay. At most max_entries, and better lower by what is
 * unmapped at a time: an entry that was replaced takes room until it is released. */
void xb_gref_map_set_limit(struct xb_gref_map *map, uint32_t limit);

/* Keep a copy of what xb_gref_map_count returns at `shown`, for others to read. */
void xb_gref_map_show_count(struct xb_gref_map *map, uint64_t *shown);

/* Entries in the map now, those being unmapped among them. */
uint32_t xb_gref_map_count(const struct xb_gref_map *map);

/* The ring's thread */

/* The entry of a reference, whatever its usage; NULL if there is none. */
struct xb_gref_entry *xb_gref_map_find(struct xb_gref_map *map, uint32_t gref);

/* Find an idle page and use it: XB_GREF_HIT, and it is in `entry`; else XB_GREF_MISS or XB_GREF_ACTIVE. */
int xb_gref_map_take(struct xb_gref_map *map, uint32_t gref, struct xb_gref_entry **entry);

/* The request is done with the page. */
void xb_gref_map_put(struct xb_gref_entry *entry, uint64_t now_ns);

/* Keep a page that was just mapped and is in use: XB_GREF_ADDED, and it is in `entry`; else XB_GREF_PRESENT or
 * XB_GREF_FULL, and the mapping is to be used once. */
int xb_gref_map_add(struct xb_gref_map *map, uint32_t gref, uint32_t slot, uint32_t handle,
                    struct xb_gref_entry **entry);

/* The reaper */

/* The idle entries that were not used after `until_ns`, in the increasing order of their references; returns how many.
 * `idle` has room for max_entries. Any of them may be taken again at any time. */
uint32_t xb_gref_map_idle(struct xb_gref_map *map, uint64_t until_ns, struct xb_gref_entry **idle);

/* Take an idle entry away from the ring's thread: 1 if that worked, 0 if the entry came back to life. After 1, unmap
 * the page, and then release the entry. */
int xb_gref_map_reap(struct xb_gref_entry *entry);

/* Nothing is mapped there any more: take it out of the map, unless it was replaced, and let it be used again. */
void xb_gref_map_release(struct xb_gref_map *map, struct xb_gref_entry *entry);

/* XB_ASSERT all of the above; no other call may be in progress. */
void xb_gref_map_check(struct xb_gref_map *map);
