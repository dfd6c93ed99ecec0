/* Include grants/mapper.h first.
 *
 * Grant tables: what the granting domain writes, what the hypervisor checks and counts.
 *
 * The grantor owns a table of grant_entry_v1 (public/grant_table.h), in memory that others can read and, for the flags,
 * the hypervisor writes. Per entry the hypervisor keeps an xb_active_entry, and per mapping process a table of
 * xb_maptrack_entry. In the emulation the hypervisor's code below runs in the process that makes the hypercall; the
 * host owns the tables, and repairs them when a process dies at any instruction.
 *
 * All operations on one reference are serialised by the lock word of its active entry, which holds the number of the
 * process that took it (its owner). Invariant while the lock is free:
 *
 *     pins of a reference = number of maptrack entries, over all processes, that are in use for it
 *     GTF_reading set <=> any pin; GTF_writing set <=> any write pin
 */

#define GTF_invalid 0
#define GTF_permit_access 1
#define GTF_type_mask 3
#define GTF_readonly 4
#define GTF_reading 8
#define GTF_writing 16

/* Pins of one kind on one reference: eight bits each, as Xen has them. */
#define XB_PINS_MAX 255

struct xb_grant_entry {
    uint16_t flags;
    uint16_t domid;
    uint32_t frame;
};

struct xb_active_entry {
    uint32_t lock;     /* owner of whoever is changing this entry, 0 if nobody is */
    uint32_t frame;    /* recorded at the first pin: the grantor cannot change it under a mapping */
    uint16_t domid;    /* recorded likewise: who may pin it further */
    uint8_t read_pins; /* read-only mappings and copies out of it */
    uint8_t write_pins;
    uint32_t reserved;
};

/* In use while `flags` is not 0. */
struct xb_maptrack_entry {
    uint32_t flags; /* GNTMAP_*, with GNTMAP_host_map always set while in use; bit 31 while a call works on it */
    uint32_t reserved;
    /* The reference, and above it in the upper 32 bits the instance: the number of the granting domain's memory, never
     * used twice. One word, because the host reads it while its process goes on to use the entry for something else. */
    uint64_t grant;
};

/* A granting domain as a mapper sees it. */
struct xb_gnttab_grantor {
    struct xb_grantor base;
    struct xb_grant_entry *shared;
    struct xb_active_entry *active;
    uint32_t nr_frames; /* pages of its memory file */
    uint32_t instance;
    int memory_fd;
};

/* A process's mappings; `base.ops` is xb_gnttab_ops. All but `track` is private to the process. */
struct xb_gnttab_mapper {
    struct xb_mapper base;
    struct xb_maptrack_entry *track;
    uint32_t owner; /* this process's number, not 0 */
    uint16_t domid; /* this process's domain */
    uint32_t lock;
    uint32_t nr_touched; /* entries that were ever used */
    uint32_t nr_free;
    uint32_t nr_used;
    uint32_t *free; /* stack of base.max_pages entries */
};

/* Grantor's side */

/* Let `domid` use `frame`. The entry must be unused. */
void xb_gnttab_grant(struct xb_grant_entry *entry, uint16_t domid, uint32_t frame, int readonly);

/* End the grant: 1 done, 0 still mapped by the other domain (the entry is unchanged). */
int xb_gnttab_end_access(struct xb_grant_entry *entry);

/* Mapper's side, as mapper.h says it; the table is of the functions below it (hypercalls.c). */

extern const struct xb_mapper_ops *const xb_gnttab_ops;

void xb_gnttab_map(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor, struct xb_map_grant_ref *ops,
                   uint32_t count);

/* An operation without an address leaves the mapping and its pin as they are. */
void xb_gnttab_unmap(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor,
                     struct xb_unmap_grant_ref *ops, uint32_t count);

void xb_gnttab_copy(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor,
                    struct xb_copy_segment *segments, uint32_t count);
int xb_gnttab_is_crowded(const struct xb_gnttab_mapper *mapper);

/* Host's side, for a process that died. */

/* Release what process `owner` held of this grantor: `dead` is its maptrack. Returns how many pins that were. The
 * maptracks of all living processes are needed to count again what the dead process was changing. */
uint32_t xb_gnttab_release_dead(struct xb_gnttab_grantor *grantor, uint32_t owner, struct xb_maptrack_entry *dead,
                                struct xb_maptrack_entry **survivors, uint32_t nr_survivors, uint32_t nr_track);
