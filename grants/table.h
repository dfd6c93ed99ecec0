/* The granting side: which of a domain's pages another domain may use. Include grants/gnttab.h first.
 *
 * One interface for every way to grant: entries that the domain writes itself (table_v1.h), or a kernel that does it.
 * A table has these functions, and state of its own behind them. All may be called from any thread.
 */

struct xb_grant_table;

struct xb_grant_table_ops {
    int (*grant)(struct xb_grant_table *table, uint16_t domid, const uint32_t *frames, uint32_t count, int readonly,
                 uint32_t *refs);
    int (*end)(struct xb_grant_table *table, uint32_t ref);
    int (*grants)(const struct xb_grant_table *table, uint32_t frame, uint32_t nr_frames);
};

struct xb_grant_table {
    const struct xb_grant_table_ops *ops;
    struct xb_grant_entry *shared; /* to be looked at; NULL if the domain cannot see who maps its pages */
    uint32_t nr_entries;           /* of these, 0 without */
};

/* Let `domid` map and copy these frames: 1 and a reference for each, or 0 and nothing if there is no room for so many.
 * `refs` may be `frames`. */
int xb_grant_table_grant(struct xb_grant_table *table, uint16_t domid, const uint32_t *frames, uint32_t count,
                         int readonly, uint32_t *refs);

/* 1 when the other domain can no longer touch the page: the reference is free. 0 while it still maps it: it stays
 * granted. Where mappings cannot be seen, always 1: only that we lend it no more. */
int xb_grant_table_end(struct xb_grant_table *table, uint32_t ref);

/* 1 if any reference grants one of `nr_frames` frames from `frame` on: they must not be used for anything else. */
int xb_grant_table_grants(const struct xb_grant_table *table, uint32_t frame, uint32_t nr_frames);

/* Whether it can be seen that another domain maps a page. */
int xb_grant_table_sees_mappings(const struct xb_grant_table *table);
