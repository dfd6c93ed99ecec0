/* A domain's memory that Linux grants: /dev/xen/gntalloc (linux/gntalloc.h).
 *
 * A process cannot grant pages of its own. The kernel gives it pages that are granted to one domain from birth, by
 * references that the kernel chooses, and never says whether that domain maps them. So the domain's memory is a stretch
 * of anonymous pages; the first grant of a frame puts such a page at its address, with the frame's content, and there
 * it stays, granted to that domain under that reference, until `release`. To grant it again costs nothing.
 *
 * What this means: whoever was lent a page may look at it, or write to it, until the page is released, also after the
 * request that it was lent for. Only pages of this memory are ever lent. The kernel keeps a released page from other
 * use until it is unmapped.
 *
 * Include grants/table.h first. The memory is the caller's: `memory` anonymous, private, writable and on page
 * boundaries, `frames` zeroed, nr_frames of each.
 */

#define XB_GNTALLOC_WRITABLE 1
#define XB_GNTALLOC_HEADER_BYTES 16

/* IOCTL_GNTALLOC_ALLOC_GREF; as many references follow as are asked for. */
struct xb_gntalloc_alloc {
    uint16_t domid; /* in */
    uint16_t flags; /* in */
    uint32_t count; /* in */
    uint64_t index; /* out: of the first page, to be given to mmap; 4096 more for each that follows */
    uint32_t ref;   /* out: the first */
    uint32_t reserved;
};

/* IOCTL_GNTALLOC_DEALLOC_GREF: the pages go when they are unmapped, too. */
struct xb_gntalloc_dealloc {
    uint64_t index;
    uint32_t count;
    uint32_t reserved;
};

#define XB_GNTALLOC_ALLOC_GREF 0x184705
#define XB_GNTALLOC_DEALLOC_GREF 0x104706

/* What it asks of the kernel. The table is there to be replaced: a test plays the device. */
struct xb_gntalloc_calls {
    int (*control)(int fd, unsigned long request, void *argument);
    void *(*map)(void *address, size_t nr_bytes, int protection, int flags, int fd, int64_t offset);
    int (*unmap)(void *address, size_t nr_bytes);
};

/* ioctl, mmap and munmap. */
const struct xb_gntalloc_calls *xb_gntalloc_kernel(void);

struct xb_gntalloc_frame {
    uint64_t index;
    uint32_t ref; /* 0, which is Xen's own, while it is an anonymous page */
    uint16_t domid;
    uint16_t readonly;
};

struct xb_gntalloc {
    struct xb_grant_table table; /* first */
    const struct xb_gntalloc_calls *calls;
    struct xb_gntalloc_frame *frames;
    uint8_t *memory;
    uint32_t nr_frames;
    uint32_t lock;
    int fd;    /* of the device, the caller's to close; what is granted ends then, too */
    int error; /* the errno of the last grant that failed; EBUSY for a frame that another domain was granted, or this
                  one otherwise */
};

void xb_gntalloc_init(struct xb_gntalloc *gntalloc, const struct xb_gntalloc_calls *calls, int fd, uint8_t *memory,
                      struct xb_gntalloc_frame *frames, uint32_t nr_frames);

/* These frames are anonymous zeroed pages again, as far as they were granted: 1, or 0 if the kernel has no room for
 * that in this process's address space, and then some still are granted and must not be used again. What was granted
 * together, the kernel frees when the last of it is released. */
int xb_gntalloc_release(struct xb_gntalloc *gntalloc, uint32_t frame, uint32_t nr_frames);

/* How many frames are granted now. */
uint32_t xb_gntalloc_nr_granted(const struct xb_gntalloc *gntalloc);
