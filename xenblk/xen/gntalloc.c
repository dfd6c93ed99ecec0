#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/spinlock.h"
#include "grants/table.h"
#include "xenblk/xen/gntalloc.h"

#include "xenblk/assert.h"

#define PAGE_BYTES 4096u

_Static_assert(sizeof(struct xb_gntalloc_alloc) == 24 && offsetof(struct xb_gntalloc_alloc, index) == 8, "gntalloc.h");
_Static_assert(offsetof(struct xb_gntalloc_alloc, ref) == XB_GNTALLOC_HEADER_BYTES, "gntalloc.h");
_Static_assert(sizeof(struct xb_gntalloc_dealloc) == 16, "gntalloc.h");
_Static_assert(offsetof(struct xb_gntalloc, table) == 0, "gntalloc_of is a cast");

static int control(int fd, unsigned long request, void *argument)
{
    return ioctl(fd, request, argument);
}

static void *map(void *address, size_t nr_bytes, int protection, int flags, int fd, int64_t offset)
{
    return mmap(address, nr_bytes, protection, flags, fd, offset);
}

static const struct xb_gntalloc_calls kernel = {.control = control, .map = map, .unmap = munmap};

const struct xb_gntalloc_calls *xb_gntalloc_kernel(void)
{
    return &kernel;
}

static struct xb_gntalloc *gntalloc_of(struct xb_grant_table *table)
{
    return (struct xb_gntalloc *)table;
}

static uint8_t *address_of(const struct xb_gntalloc *gntalloc, uint32_t frame)
{
    return gntalloc->memory + (size_t)frame * PAGE_BYTES;
}

static uint32_t ref_of(const struct xb_gntalloc *gntalloc, uint32_t frame)
{
    /* Acquire: who sees the reference, sees the rest of the frame, and the granted page in its place: set_granted. */
    return __atomic_load_n(&gntalloc->frames[frame].ref, __ATOMIC_ACQUIRE);
}

static int fail(struct xb_gntalloc *gntalloc, int error)
{
    __atomic_store_n(&gntalloc->error, error, __ATOMIC_RELAXED);
    return 0;
}

/* Granted pages

   `temporary` shows the same pages as the frames will: they have their content before anyone can look at them there. */

static int put_in_place(struct xb_gntalloc *gntalloc, uint32_t frame, uint32_t count, uint64_t index)
{
    const struct xb_gntalloc_calls *calls = gntalloc->calls;
    size_t nr_bytes = (size_t)count * PAGE_BYTES;
    uint8_t *place = address_of(gntalloc, frame);
    void *temporary = calls->map(NULL, nr_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, gntalloc->fd, (int64_t)index);
    void *mapped;
    int error;

    if (temporary == MAP_FAILED)
        return errno;
    memcpy(temporary, place, nr_bytes);
    mapped = calls->map(place, nr_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, gntalloc->fd, (int64_t)index);
    error = mapped == MAP_FAILED ? errno : 0;
    if (error != 0) {
        /* Linux may have taken away what was there. */
        XB_ASSERT(calls->map(place, nr_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
                  place);
        memcpy(place, temporary, nr_bytes);
    }
    XB_ASSERT(calls->unmap(temporary, nr_bytes) == 0);
    return error;
}

static void deallocate(struct xb_gntalloc *gntalloc, uint64_t index, uint32_t count)
{
    struct xb_gntalloc_dealloc op = {.index = index, .count = count};

    XB_ASSERT(gntalloc->calls->control(gntalloc->fd, XB_GNTALLOC_DEALLOC_GREF, &op) == 0);
}

static void set_granted(struct xb_gntalloc *gntalloc, uint32_t frame, const struct xb_gntalloc_alloc *op)
{
    const uint32_t *refs = (const uint32_t *)((const uint8_t *)op + XB_GNTALLOC_HEADER_BYTES);

    for (uint32_t i = 0; i < op->count; i++) {
        struct xb_gntalloc_frame *granted = &gntalloc->frames[frame + i];

        XB_ASSERT(refs[i] != 0);
        granted->index = op->index + (uint64_t)i * PAGE_BYTES;
        granted->domid = op->domid;
        granted->readonly = !(op->flags & XB_GNTALLOC_WRITABLE);
        /* Release: pairs with ref_of. */
        __atomic_store_n(&granted->ref, refs[i], __ATOMIC_RELEASE);
    }
}

/* Consecutive anonymous frames become granted ones. Returns 0 or an errno. */
static int grant_run(struct xb_gntalloc *gntalloc, uint16_t domid, uint32_t frame, uint32_t count, int readonly)
{
    struct xb_gntalloc_alloc *op = malloc(sizeof(*op) + (size_t)count * sizeof(op->ref));
    int error = 0;

    if (op == NULL)
        return ENOMEM;
    *op = (struct xb_gntalloc_alloc){.domid = domid, .flags = readonly ? 0 : XB_GNTALLOC_WRITABLE, .count = count};
    if (gntalloc->calls->control(gntalloc->fd, XB_GNTALLOC_ALLOC_GREF, op) != 0) {
        error = errno;
    } else {
        error = put_in_place(gntalloc, frame, count, op->index);
        if (error == 0)
            set_granted(gntalloc, frame, op);
        else
            deallocate(gntalloc, op->index, count);
    }
    free(op);
    return error;
}

/* Frames

   How many of them from the first on are granted as is asked for; `refs` may be `frames`. */

static uint32_t find_granted(const struct xb_gntalloc *gntalloc, uint16_t domid, const uint32_t *frames, uint32_t count,
                             int readonly)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct xb_gntalloc_frame *frame = &gntalloc->frames[frames[i]];

        if (ref_of(gntalloc, frames[i]) == 0 || frame->domid != domid || frame->readonly != !!readonly)
            return i;
    }
    return count;
}

/* How many follow each other and are anonymous. */
static uint32_t length_of_run(const struct xb_gntalloc *gntalloc, const uint32_t *frames, uint32_t count)
{
    uint32_t length = 0;

    while (length < count && frames[length] == frames[0] + length && ref_of(gntalloc, frames[length]) == 0)
        length++;
    return length;
}

static int grant_missing(struct xb_gntalloc *gntalloc, uint16_t domid, const uint32_t *frames, uint32_t count,
                         int readonly)
{
    for (uint32_t i = 0, length; i < count; i += length) {
        int error;

        length = find_granted(gntalloc, domid, frames + i, count - i, readonly);
        if (length > 0)
            continue;
        length = length_of_run(gntalloc, frames + i, count - i);
        if (length == 0)
            return fail(gntalloc, EBUSY);
        error = grant_run(gntalloc, domid, frames[i], length, readonly);
        if (error != 0)
            return fail(gntalloc, error);
    }
    return 1;
}

/* What was granted before a failure stays so, like a page whose loan ended. */
static int grant(struct xb_grant_table *table, uint16_t domid, const uint32_t *frames, uint32_t count, int readonly,
                 uint32_t *refs)
{
    struct xb_gntalloc *gntalloc = gntalloc_of(table);
    int granted;

    for (uint32_t i = 0; i < count; i++)
        if (frames[i] >= gntalloc->nr_frames)
            return fail(gntalloc, EFAULT);
    granted = find_granted(gntalloc, domid, frames, count, readonly) == count;
    if (!granted) {
        spin_lock(&gntalloc->lock);
        granted = grant_missing(gntalloc, domid, frames, count, readonly);
        spin_unlock(&gntalloc->lock);
    }
    for (uint32_t i = 0; granted && i < count; i++)
        refs[i] = gntalloc->frames[frames[i]].ref;
    return granted;
}

static int end(struct xb_grant_table *table, uint32_t ref)
{
    (void)table;
    (void)ref;
    return 1;
}

static int grants(const struct xb_grant_table *table, uint32_t frame, uint32_t nr_frames)
{
    (void)table;
    (void)frame;
    (void)nr_frames;
    return 0; /* nothing that matters to its owner: the kernel keeps a released page from other use */
}

static const struct xb_grant_table_ops ops = {.grant = grant, .end = end, .grants = grants};

void xb_gntalloc_init(struct xb_gntalloc *gntalloc, const struct xb_gntalloc_calls *calls, int fd, uint8_t *memory,
                      struct xb_gntalloc_frame *frames, uint32_t nr_frames)
{
    *gntalloc = (struct xb_gntalloc){
        .table = {.ops = &ops}, .calls = calls, .frames = frames, .memory = memory, .nr_frames = nr_frames, .fd = fd};
}

/* How many frames from this one on were granted one after the other. */
static uint32_t length_of_granted(const struct xb_gntalloc *gntalloc, uint32_t frame, uint32_t count)
{
    uint64_t index = gntalloc->frames[frame].index;
    uint32_t length = 0;

    while (length < count && ref_of(gntalloc, frame + length) != 0 &&
           gntalloc->frames[frame + length].index == index + (uint64_t)length * PAGE_BYTES)
        length++;
    return length;
}

static int release_run(struct xb_gntalloc *gntalloc, uint32_t frame, uint32_t count)
{
    uint8_t *place = address_of(gntalloc, frame);

    if (gntalloc->calls->map(place, (size_t)count * PAGE_BYTES, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        return 0;
    deallocate(gntalloc, gntalloc->frames[frame].index, count);
    for (uint32_t i = 0; i < count; i++)
        __atomic_store_n(&gntalloc->frames[frame + i].ref, 0, __ATOMIC_RELAXED);
    return 1;
}

int xb_gntalloc_release(struct xb_gntalloc *gntalloc, uint32_t frame, uint32_t nr_frames)
{
    int released = 1;

    XB_ASSERT(frame <= gntalloc->nr_frames && nr_frames <= gntalloc->nr_frames - frame);
    spin_lock(&gntalloc->lock);
    for (uint32_t i = 0, length; i < nr_frames; i += length) {
        length = length_of_granted(gntalloc, frame + i, nr_frames - i);
        if (length > 0)
            released &= release_run(gntalloc, frame + i, length);
        else
            length = 1;
    }
    spin_unlock(&gntalloc->lock);
    return released;
}

uint32_t xb_gntalloc_nr_granted(const struct xb_gntalloc *gntalloc)
{
    uint32_t count = 0;

    for (uint32_t frame = 0; frame < gntalloc->nr_frames; frame++)
        count += ref_of(gntalloc, frame) != 0;
    return count;
}
