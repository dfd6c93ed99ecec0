#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "grants/arena.h"
#include "grants/mapper.h"
#include "xenblk/assert.h"
#include "xenblk/xen/gntdev.h"
#include "xenblk/xen/gntdev_calls.h"

#define PAGE_BYTES 4096u
#define PAGE_MASK_BYTES (PAGE_BYTES - 1)
#define ROW_MAX 256u   /* references announced in a call, at most */
#define COPIES_MAX 64u /* segments of a call, at most */

_Static_assert(sizeof(struct gntdev_map) + sizeof(struct gntdev_ref) == GNTDEV_MAP_GRANT_REF >> 16, "gntdev.h");
_Static_assert(sizeof(struct gntdev_unmap) == GNTDEV_UNMAP_GRANT_REF >> 16, "gntdev.h");
_Static_assert(sizeof(struct gntdev_copy) == GNTDEV_GRANT_COPY >> 16, "gntdev.h");
_Static_assert(sizeof(struct gntdev_copy_segment) == 24, "gntdev.h");

/* A row of pages that was mapped by one call; a handle is the number of one. */
struct row {
    uint64_t index; /* the device's name for it */
    uint64_t address;
    uint32_t nr_pages;  /* 0: not mapped */
    uint32_t next_free; /* of one that is free: the handle of another, or NONE */
};

#define NONE UINT32_MAX

struct xb_gntdev {
    struct xb_mapper base;
    int fd;
    uint32_t row_max;
    pthread_mutex_t lock; /* for all that follows, but not for a row that its handle's owner is changing */
    uint32_t nr_mapped;
    uint32_t nr_touched; /* rows that were ever used */
    uint32_t first_free;
    struct row rows[];
};

static int call_ioctl(int fd, unsigned long request, void *argument)
{
    return ioctl(fd, request, argument);
}

struct xb_gntdev_calls xb_gntdev_calls = {.ioctl = call_ioctl, .mmap = mmap};

static struct xb_gntdev *gntdev_of(const struct xb_mapper *mapper)
{
    return (struct xb_gntdev *)(uintptr_t)mapper;
}

/* Handles */

static void count_pages(struct xb_gntdev *gntdev, uint32_t nr_mapped)
{
    __atomic_store_n(&gntdev->nr_mapped, nr_mapped, __ATOMIC_RELAXED); /* partner: the load in nr_mapped */
}

/* Room for a row: its handle, or NONE if so many pages cannot be mapped. */
static uint32_t handle_take(struct xb_gntdev *gntdev, uint32_t nr_pages)
{
    uint32_t handle = NONE;

    pthread_mutex_lock(&gntdev->lock);
    if (nr_pages <= gntdev->base.max_pages - gntdev->nr_mapped) {
        /* There are as many rows as pages, so one is left. */
        handle = gntdev->first_free;
        if (handle != NONE)
            gntdev->first_free = gntdev->rows[handle].next_free;
        else
            handle = gntdev->nr_touched++;
        count_pages(gntdev, gntdev->nr_mapped + nr_pages);
    }
    pthread_mutex_unlock(&gntdev->lock);
    return handle;
}

static void handle_give(struct xb_gntdev *gntdev, uint32_t handle, uint32_t nr_pages)
{
    pthread_mutex_lock(&gntdev->lock);
    gntdev->rows[handle].next_free = gntdev->first_free;
    gntdev->first_free = handle;
    count_pages(gntdev, gntdev->nr_mapped - nr_pages);
    pthread_mutex_unlock(&gntdev->lock);
}

uint32_t xb_gntdev_nr_mapped(const struct xb_gntdev *gntdev)
{
    /* Relaxed: a number to go by, in no order with anything. */
    return __atomic_load_n(&gntdev->nr_mapped, __ATOMIC_RELAXED);
}

/* Mapping */

static void retract(const struct xb_gntdev *gntdev, uint64_t index, uint32_t nr_pages)
{
    struct gntdev_unmap unmap = {.index = index, .count = nr_pages};
    int status = xb_gntdev_calls.ioctl(gntdev->fd, GNTDEV_UNMAP_GRANT_REF, &unmap);

    XB_ASSERT(status == 0); /* the index is one that we were given */
}

static int announce(const struct xb_gntdev *gntdev, const struct xb_map_grant_ref *ops, uint32_t count,
                    uint64_t *index)
{
    union {
        struct gntdev_map map;
        char room[sizeof(struct gntdev_map) + ROW_MAX * sizeof(struct gntdev_ref)];
    } call = {.map = {.count = count}};

    for (uint32_t i = 0; i < count; i++)
        call.map.refs[i] = (struct gntdev_ref){.domid = ops[i].dom, .ref = ops[i].ref};
    if (xb_gntdev_calls.ioctl(gntdev->fd, GNTDEV_MAP_GRANT_REF, &call) != 0)
        return 0;
    *index = call.map.index;
    return 1;
}

static int map_announced(const struct xb_gntdev *gntdev, const struct xb_map_grant_ref *op, uint32_t count,
                         uint64_t index)
{
    int protection = PROT_READ | ((op->flags & GNTMAP_readonly) ? 0 : PROT_WRITE);
    void *address = (void *)(uintptr_t)op->host_addr;
    int status;

    if (xb_gntdev_calls.mmap(address, count * (size_t)PAGE_BYTES, protection, MAP_SHARED | MAP_FIXED, gntdev->fd,
                             (off_t)index) != MAP_FAILED)
        return GNTST_okay;
    status = errno == ENOMEM ? GNTST_no_space : GNTST_general_error;
    /* What was reserved there is gone, as a driver is asked only after that. */
    xb_arena_vacate(address, count);
    retract(gntdev, index, count);
    return status;
}

/* A row of pages, by one call; all or none. */
static int map_row(struct xb_gntdev *gntdev, struct xb_map_grant_ref *ops, uint32_t count)
{
    uint32_t handle = handle_take(gntdev, count);
    int status = GNTST_no_space;
    uint64_t index;

    if (handle == NONE)
        return GNTST_no_space;
    if (announce(gntdev, ops, count, &index))
        status = map_announced(gntdev, ops, count, index);
    if (status != GNTST_okay) {
        handle_give(gntdev, handle, count);
        return status;
    }
    for (uint32_t i = 0; i < count; i++)
        ops[i].handle = handle;
    pthread_mutex_lock(&gntdev->lock);
    gntdev->rows[handle] = (struct row){.index = index, .address = ops[0].host_addr, .nr_pages = count};
    pthread_mutex_unlock(&gntdev->lock);
    return GNTST_okay;
}

/* In the order of the hypervisor's own checks. */
static int check_map(const struct xb_grantor *grantor, const struct xb_map_grant_ref *op)
{
    if (!(op->flags & (GNTMAP_host_map | GNTMAP_device_map)))
        return GNTST_bad_gntref;
    if (op->flags & ~(uint32_t)(GNTMAP_host_map | GNTMAP_readonly))
        return GNTST_general_error;
    if (op->dom != grantor->domid)
        return GNTST_bad_domain;
    if (op->host_addr == 0 || (op->host_addr & PAGE_MASK_BYTES))
        return GNTST_bad_virt_addr;
    return GNTST_okay;
}

static uint32_t row_length(const struct xb_gntdev *gntdev, const struct xb_map_grant_ref *ops, uint32_t count)
{
    uint32_t length = 1;

    while (length < count && length < gntdev->row_max && ops[length].status == GNTST_okay &&
           ops[length].flags == ops[0].flags && ops[length].host_addr == ops[length - 1].host_addr + PAGE_BYTES)
        length++;
    return length;
}

static void gntdev_map(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_map_grant_ref *ops,
                       uint32_t count, int together)
{
    struct xb_gntdev *gntdev = gntdev_of(mapper);
    uint32_t length;

    for (uint32_t i = 0; i < count; i++)
        ops[i].status = (int16_t)check_map(grantor, &ops[i]);
    for (uint32_t i = 0; i < count; i += length) {
        length = together ? row_length(gntdev, &ops[i], count - i) : 1;
        if (ops[i].status != GNTST_okay || (length > 1 && map_row(gntdev, &ops[i], length) == GNTST_okay))
            continue;
        for (uint32_t at = i; at < i + length; at++)
            ops[at].status = (int16_t)map_row(gntdev, &ops[at], 1);
    }
}

/* Unmapping */

/* How many of the operations, from the first on, are the whole of its row: 0 if they are not, and `status` says why. */
static uint32_t whole_row(const struct xb_gntdev *gntdev, const struct xb_unmap_grant_ref *ops, uint32_t count,
                          int *status)
{
    const struct row *row = &gntdev->rows[ops[0].handle];
    uint32_t length = 1;

    *status = GNTST_bad_handle;
    if (ops[0].handle >= gntdev->nr_touched || row->nr_pages == 0)
        return 0;
    *status = GNTST_bad_virt_addr;
    if (ops[0].host_addr != row->address)
        return 0;
    while (length < count && length < row->nr_pages && ops[length].handle == ops[0].handle &&
           ops[length].host_addr == ops[length - 1].host_addr + PAGE_BYTES)
        length++;
    return length == row->nr_pages ? length : 0;
}

/* Take the first operation's row, so that nobody else does: how many operations that is. `row` has no pages if it
 * cannot be taken. */
static uint32_t take_row(struct xb_gntdev *gntdev, struct xb_unmap_grant_ref *ops, uint32_t count, struct row *row)
{
    uint32_t length;
    int status;

    *row = (struct row){0};
    pthread_mutex_lock(&gntdev->lock);
    length = whole_row(gntdev, ops, count, &status);
    if (length > 0) {
        *row = gntdev->rows[ops[0].handle];
        gntdev->rows[ops[0].handle].nr_pages = 0;
        status = GNTST_okay;
    }
    pthread_mutex_unlock(&gntdev->lock);
    if (length == 0)
        length = 1;
    for (uint32_t i = 0; i < length; i++)
        ops[i].status = (int16_t)status;
    return length;
}

static void unmap_row(struct xb_gntdev *gntdev, struct xb_unmap_grant_ref *ops, const struct row *row)
{
    /* The pages go first, the announcement second: the device takes it back only then. */
    if (xb_arena_vacate((void *)(uintptr_t)row->address, row->nr_pages)) {
        retract(gntdev, row->index, row->nr_pages);
        handle_give(gntdev, ops[0].handle, row->nr_pages);
        return;
    }
    pthread_mutex_lock(&gntdev->lock);
    gntdev->rows[ops[0].handle] = *row; /* mapped still */
    pthread_mutex_unlock(&gntdev->lock);
    for (uint32_t i = 0; i < row->nr_pages; i++)
        ops[i].status = GNTST_general_error;
}

static void gntdev_unmap(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_unmap_grant_ref *ops,
                         uint32_t count)
{
    struct xb_gntdev *gntdev = gntdev_of(mapper);
    struct row row;
    uint32_t length;

    (void)grantor; /* the device knows */
    for (uint32_t i = 0; i < count; i += length) {
        length = take_row(gntdev, &ops[i], count - i, &row);
        if (row.nr_pages > 0)
            unmap_row(gntdev, &ops[i], &row);
    }
}

/* Copying */

static struct gntdev_copy_segment copy_of(const struct xb_grantor *grantor, const struct xb_copy_segment *segment)
{
    union gntdev_copy_side own = {.virt = segment->virt};
    union gntdev_copy_side foreign = {
        .foreign = {.ref = segment->ref, .offset = segment->offset, .domid = grantor->domid}};

    return (struct gntdev_copy_segment){
        .source = segment->to_grant ? own : foreign,
        .dest = segment->to_grant ? foreign : own,
        .len = segment->len,
        .flags = segment->to_grant ? GNTDEV_COPY_DEST_GREF : GNTDEV_COPY_SOURCE_GREF,
    };
}

/* COPIES_MAX of them at most. The device refuses all for one that it finds wrong: such are left out. */
static void copy_some(const struct xb_gntdev *gntdev, const struct xb_grantor *grantor,
                      struct xb_copy_segment *segments, uint32_t count)
{
    struct gntdev_copy_segment copies[COPIES_MAX];
    struct gntdev_copy call = {.segments = (uintptr_t)copies};
    int refused;

    for (uint32_t i = 0; i < count; i++) {
        if ((uint32_t)segments[i].offset + segments[i].len <= PAGE_BYTES)
            copies[call.count++] = copy_of(grantor, &segments[i]);
    }
    refused = call.count > 0 && xb_gntdev_calls.ioctl(gntdev->fd, GNTDEV_GRANT_COPY, &call) != 0;
    for (uint32_t i = 0, done = 0; i < count; i++) {
        if ((uint32_t)segments[i].offset + segments[i].len > PAGE_BYTES)
            segments[i].status = GNTST_bad_copy_arg;
        else
            segments[i].status = refused ? GNTST_general_error : copies[done++].status;
    }
}

static void gntdev_copy(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_copy_segment *segments,
                        uint32_t count)
{
    for (uint32_t i = 0; i < count; i += COPIES_MAX)
        copy_some(gntdev_of(mapper), grantor, &segments[i], count - i < COPIES_MAX ? count - i : COPIES_MAX);
}

static int gntdev_is_crowded(const struct xb_mapper *mapper)
{
    return xb_gntdev_nr_mapped(gntdev_of(mapper)) >= mapper->max_pages - mapper->max_pages / 4;
}

/* Life */

static const struct xb_mapper_ops gntdev_ops = {
    .map = gntdev_map, .unmap = gntdev_unmap, .copy = gntdev_copy, .is_crowded = gntdev_is_crowded};

struct xb_gntdev *xb_gntdev_create(int fd, uint32_t max_pages, uint32_t call_max)
{
    struct xb_gntdev *gntdev = calloc(1, sizeof(*gntdev) + max_pages * sizeof(struct row));

    if (!gntdev)
        return NULL;
    gntdev->base = (struct xb_mapper){.ops = &gntdev_ops, .max_pages = max_pages};
    gntdev->fd = fd;
    gntdev->row_max = call_max < ROW_MAX ? call_max : ROW_MAX;
    gntdev->first_free = NONE;
    pthread_mutex_init(&gntdev->lock, NULL);
    return gntdev;
}

void xb_gntdev_destroy(struct xb_gntdev *gntdev)
{
    XB_ASSERT(gntdev->nr_mapped == 0);
    pthread_mutex_destroy(&gntdev->lock);
    free(gntdev);
}
