/* What a backend asks of a Xen, real or emulated: to map, unmap and copy what another domain granted.
 *
 * Operations come in batches, and each gets its own status. One that fails leaves nothing behind. Addresses are the
 * caller's: pages of an arena (arena.h), which are reserved again when they are unmapped.
 */

#define GNTMAP_device_map 1
#define GNTMAP_host_map 2
#define GNTMAP_readonly 4

#define GNTST_okay 0
#define GNTST_general_error -1
#define GNTST_bad_domain -2
#define GNTST_bad_gntref -3
#define GNTST_bad_handle -4
#define GNTST_bad_virt_addr -5
#define GNTST_bad_page -9
#define GNTST_bad_copy_arg -10
#define GNTST_no_space -13

/* GNTTABOP_map_grant_ref, 32 bytes. */
struct xb_map_grant_ref {
    uint64_t host_addr; /* in: where to map; a page of the caller's arena */
    uint32_t flags;     /* in */
    uint32_t ref;       /* in */
    uint16_t dom;       /* in */
    int16_t status;     /* out */
    uint32_t handle;    /* out */
    uint64_t dev_bus_addr;
};

/* GNTTABOP_unmap_grant_ref, 24 bytes. */
struct xb_unmap_grant_ref {
    uint64_t host_addr; /* in: as it was mapped */
    uint64_t dev_bus_addr;
    uint32_t handle; /* in */
    int16_t status;  /* out */
};

/* One side of a copy is memory of the caller, the other a grant. */
struct xb_copy_segment {
    uint64_t virt;    /* in: the caller's buffer */
    uint32_t ref;     /* in */
    uint16_t offset;  /* in: within the granted page */
    uint16_t len;     /* in */
    uint16_t to_grant; /* in: 1 writes the granted page, 0 reads it */
    int16_t status;   /* out */
};

/* A granting domain; a platform may have more behind this. */
struct xb_grantor {
    uint16_t domid;
    uint32_t nr_refs; /* references that it may have, from 0 on */
};

struct xb_mapper;

/* A platform's way to do what the functions below say. */
struct xb_mapper_ops {
    void (*map)(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_map_grant_ref *ops, uint32_t count,
                int together);
    void (*unmap)(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_unmap_grant_ref *ops,
                  uint32_t count);
    void (*copy)(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_copy_segment *segments,
                 uint32_t count);
    int (*is_crowded)(const struct xb_mapper *mapper);
};

/* A process's mappings; a platform has more behind this. Any thread may use it.
 *
 * A page that is mapped takes two mappings of the process at worst, its own and the reserved addresses behind it, and
 * Linux allows a process vm.max_map_count of them. Once they are used up nothing can be unmapped any more either,
 * because that may need to split one. So max_pages must be small enough for that: xenblk.grants.mappings says how
 * small. */
struct xb_mapper {
    const struct xb_mapper_ops *ops;
    uint32_t max_pages; /* mapped at a time; GNTST_no_space beyond */
};

/* Map; read only where a flag says so. With `together`, the pages will be unmapped together, too, in one call: then
 * those whose addresses follow each other may be one system call. */
void xb_mapper_map(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_map_grant_ref *ops, uint32_t count,
                   int together);

/* `grantor` must be the one that every handle of the batch was mapped from. Sort a batch by address: operations that
 * follow each other, on pages that do, may be one system call, and of pages that were mapped together must be. */
void xb_mapper_unmap(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_unmap_grant_ref *ops,
                     uint32_t count);

/* Copy without mapping anything. */
void xb_mapper_copy(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_copy_segment *segments,
                    uint32_t count);

/* Whether three quarters of what may be mapped at a time is: then no page should stay mapped beyond its request, so
 * that requests always find room. */
int xb_mapper_is_crowded(const struct xb_mapper *mapper);
