/* Linux's gntalloc, backed by a memory file: what it refuses, and when a page is freed, as drivers/xen/gntalloc.c has
 * it. Include after xenblk/xen/gntalloc.h. */
#define DOUBLE_PAGE_BYTES 4096u
#define DOUBLE_PAGES 256
#define DOUBLE_FIRST_REF 900

/* A page that was allocated; its number is its index in pages. */
static struct {
    uint16_t domid;
    uint8_t writable;
    uint8_t is_listed; /* by its descriptor: not deallocated */
    uint8_t users;     /* the descriptor, and each mapping that it was part of when that was made */
} double_pages[DOUBLE_PAGES];

/* A mapping as it was made. Its pages are held until the last of them is unmapped. */
static struct {
    uint8_t *start;
    uint32_t page;
    uint32_t count;
    uint32_t left; /* pages that are mapped still */
    uint8_t gone[DOUBLE_PAGES];
} double_maps[DOUBLE_PAGES];

static uint32_t double_next, double_limit = DOUBLE_PAGES, double_nr_maps, double_nr_allocs, double_refuse_map_after;

static uint32_t double_held(void)
{
    uint32_t held = 0;

    for (uint32_t i = 0; i < DOUBLE_PAGES; i++)
        held += double_pages[i].users > 0;
    return held;
}

static int double_refuse(int error)
{
    errno = error;
    return -1;
}

static int double_alloc(struct xb_gntalloc_alloc *op)
{
    uint32_t *refs = (uint32_t *)(void *)((uint8_t *)op + XB_GNTALLOC_HEADER_BYTES);

    if (double_held() + op->count > double_limit)
        return double_refuse(ENOSPC);
    XB_ASSERT(op->count > 0 && double_next + op->count <= DOUBLE_PAGES);
    double_nr_allocs++;
    op->index = (uint64_t)double_next * DOUBLE_PAGE_BYTES;
    for (uint32_t i = 0; i < op->count; i++, double_next++) {
        double_pages[double_next].domid = op->domid;
        double_pages[double_next].writable = (uint8_t)(op->flags & XB_GNTALLOC_WRITABLE);
        double_pages[double_next].is_listed = double_pages[double_next].users = 1;
        refs[i] = DOUBLE_FIRST_REF + double_next;
    }
    return 0;
}

/* Whether so many pages from an index on are there to be mapped or deallocated. */
static int double_has(uint64_t index, uint64_t count)
{
    uint64_t page = index / DOUBLE_PAGE_BYTES;

    if (index % DOUBLE_PAGE_BYTES != 0 || count == 0 || page + count > DOUBLE_PAGES)
        return 0;
    for (uint64_t i = 0; i < count; i++)
        if (!double_pages[page + i].is_listed)
            return 0;
    return 1;
}

static int double_dealloc(const struct xb_gntalloc_dealloc *op)
{
    uint64_t page = op->index / DOUBLE_PAGE_BYTES;

    if (!double_has(op->index, op->count))
        return double_refuse(EINVAL);
    for (uint32_t i = 0; i < op->count; i++) {
        double_pages[page + i].is_listed = 0;
        double_pages[page + i].users--;
    }
    return 0;
}

static int double_control(int fd, unsigned long request, void *argument)
{
    XB_ASSERT(fd >= 0);
    if (request == XB_GNTALLOC_ALLOC_GREF)
        return double_alloc(argument);
    XB_ASSERT(request == XB_GNTALLOC_DEALLOC_GREF);
    return double_dealloc(argument);
}

static void double_unmap_page(const uint8_t *place)
{
    for (uint32_t i = 0; i < double_nr_maps; i++) {
        uint64_t at = ((uintptr_t)place - (uintptr_t)double_maps[i].start) / DOUBLE_PAGE_BYTES;

        if (place < double_maps[i].start || at >= double_maps[i].count || double_maps[i].gone[at])
            continue;
        double_maps[i].gone[at] = 1;
        if (--double_maps[i].left == 0)
            for (uint32_t k = 0; k < double_maps[i].count; k++)
                double_pages[double_maps[i].page + k].users--;
    }
}

static void double_unmap_pages(uint8_t *place, size_t nr_bytes)
{
    for (size_t at = 0; at < nr_bytes; at += DOUBLE_PAGE_BYTES)
        double_unmap_page(place + at);
}

static void double_note_map(uint8_t *place, size_t nr_bytes, uint64_t index)
{
    uint32_t page = (uint32_t)(index / DOUBLE_PAGE_BYTES), count = (uint32_t)(nr_bytes / DOUBLE_PAGE_BYTES);

    XB_ASSERT(double_nr_maps < DOUBLE_PAGES);
    memset(&double_maps[double_nr_maps], 0, sizeof(double_maps[0]));
    double_maps[double_nr_maps].start = place;
    double_maps[double_nr_maps].page = page;
    double_maps[double_nr_maps].count = double_maps[double_nr_maps].left = count;
    double_nr_maps++;
    for (uint32_t i = 0; i < count; i++)
        double_pages[page + i].users++;
}

static void *double_map(void *address, size_t nr_bytes, int protection, int flags, int fd, int64_t offset)
{
    uint8_t *place;

    if (fd >= 0 && (!(flags & MAP_SHARED) || !double_has((uint64_t)offset, nr_bytes / DOUBLE_PAGE_BYTES))) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    if (double_refuse_map_after > 0 && --double_refuse_map_after == 0) {
        if (fd >= 0 && (flags & MAP_FIXED))
            munmap(address, nr_bytes); /* Linux may have come so far */
        errno = ENOMEM;
        return MAP_FAILED;
    }
    place = mmap(address, nr_bytes, protection, flags, fd, offset);
    XB_ASSERT(place != MAP_FAILED);
    if (flags & MAP_FIXED)
        double_unmap_pages(place, nr_bytes);
    if (fd >= 0)
        double_note_map(place, nr_bytes, (uint64_t)offset);
    return place;
}

static int double_unmap(void *address, size_t nr_bytes)
{
    double_unmap_pages(address, nr_bytes);
    return munmap(address, nr_bytes);
}

static const struct xb_gntalloc_calls double_calls = {
    .control = double_control, .map = double_map, .unmap = double_unmap};

/* A fresh device: its descriptor. What it was before must be closed. */
static int double_open(void)
{
    int fd = memfd_create("gntalloc", MFD_CLOEXEC);

    XB_ASSERT(fd >= 0 && ftruncate(fd, (off_t)DOUBLE_PAGES * DOUBLE_PAGE_BYTES) == 0);
    memset(double_pages, 0, sizeof(double_pages));
    double_next = double_nr_maps = double_nr_allocs = double_refuse_map_after = 0;
    double_limit = DOUBLE_PAGES;
    return fd;
}
