/* A grant table of grant_entry_v1, in memory that Xen and the domain share: grants are stores of the domain's own.
 *
 * Include grants/table.h first. References are taken last in, first out. The memory is the caller's: `shared` is the
 * table itself, `free` and `state` are private and have nr_entries elements each. To end what is not granted is our own
 * mistake: XB_ASSERT.
 */

/* References below this are Xen's own (console, xenstore) and never handed out (GNTTAB_NR_RESERVED_ENTRIES). */
#define XB_GRANT_TABLE_RESERVED 8

/* State of a reference. */
#define XB_GRANT_FREE 0
#define XB_GRANT_GRANTED 1

struct xb_grant_table_v1 {
    struct xb_grant_table table;
    uint32_t *free; /* a stack, nr_free high */
    uint8_t *state;
    uint32_t nr_free;
    uint32_t lock;
};

/* All references from XB_GRANT_TABLE_RESERVED on are free, and the lowest is handed out first. */
void xb_grant_table_v1_init(struct xb_grant_table_v1 *table, struct xb_grant_entry *shared, uint32_t *free,
                            uint8_t *state, uint32_t nr_entries);

/* How many references are free now. */
uint32_t xb_grant_table_v1_nr_free(const struct xb_grant_table_v1 *table);
