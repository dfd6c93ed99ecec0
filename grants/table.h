/* The granting side's table: which references of a domain are free, and what the others grant.
 *
 * Include grants/gnttab.h first. References are allocated last in, first out. The memory is the caller's: `shared` is
 * the table that Xen and the domain share, `free` and `state` are private and have nr_entries elements each.
 *
 *     free --allocate--> allocated --grant--> granted
 *       ^-------free--------' ^------end_access--'
 *
 * allocate, free and grants may be called from any thread. A reference that is not free belongs to one thread at a
 * time. Any other order of calls is our own mistake: XB_ASSERT.
 */

/* References below this are Xen's own (console, xenstore) and never handed out (GNTTAB_NR_RESERVED_ENTRIES). */
#define XB_GRANT_TABLE_RESERVED 8

/* State of a reference. */
#define XB_GRANT_FREE 0
#define XB_GRANT_ALLOCATED 1
#define XB_GRANT_GRANTED 2

struct xb_grant_table {
    struct xb_grant_entry *shared;
    uint32_t *free; /* a stack, nr_free high */
    uint8_t *state;
    uint32_t nr_entries;
    uint32_t nr_free;
    uint32_t lock;
};

/* All references from XB_GRANT_TABLE_RESERVED on are free, and the lowest is handed out first. */
void xb_grant_table_init(struct xb_grant_table *table, struct xb_grant_entry *shared, uint32_t *free, uint8_t *state,
                         uint32_t nr_entries);

/* `count` references that grant nothing yet: 1, or 0 and none if there are not so many. */
int xb_grant_table_allocate(struct xb_grant_table *table, uint32_t *refs, uint32_t count);

/* Give references back, in order. */
void xb_grant_table_free(struct xb_grant_table *table, const uint32_t *refs, uint32_t count);

/* Let `domid` map and copy `frame`. */
void xb_grant_table_grant(struct xb_grant_table *table, uint32_t ref, uint16_t domid, uint32_t frame, int readonly);

/* 1 when the other domain can no longer touch the page, 0 while it still maps it: the reference stays granted. */
int xb_grant_table_end_access(struct xb_grant_table *table, uint32_t ref);

/* 1 if any reference grants one of `nr_frames` frames from `frame` on: they must not be used for anything else. */
int xb_grant_table_grants(const struct xb_grant_table *table, uint32_t frame, uint32_t nr_frames);

/* How many references can be allocated now. */
uint32_t xb_grant_table_nr_free(const struct xb_grant_table *table);
