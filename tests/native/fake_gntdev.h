/* A double of /dev/xen/gntdev for one guest: it holds its user to the device's rules. What was announced together is
 * mapped and unmapped together, and unmapped before it is taken back; a reference that cannot be mapped shows in mmap,
 * which has torn down what was there before. */
#pragma once
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "xenblk/assert.h"
#include "xenblk/xen/gntdev_calls.h"

#define PAGE_SIZE 4096u
#define GUEST 7
#define NR_REFS 64
#define NR_ANNOUNCED 256
#define DEVICE_FD 1000000

enum access { NO_ACCESS, READ_ONLY, READ_WRITE };

struct announced {
    uint64_t index;
    uint32_t count; /* 0: free */
    uint32_t refs[NR_REFS];
    uint8_t *mapped_at; /* NULL: not mapped */
    int writable;
};

static struct {
    pthread_mutex_t lock;
    int memory_fd; /* page n is what reference n grants */
    uint8_t *memory;
    enum access access[NR_REFS];
    int pins[NR_REFS];
    struct announced announced[NR_ANNOUNCED];
    uint64_t next_index;
    uint32_t nr_maps, nr_ioctls, call_max;
    int refused_ioctl; /* its errno, once */
} device = {.lock = PTHREAD_MUTEX_INITIALIZER, .call_max = NR_REFS};

static inline int fail(int error)
{
    errno = error;
    return -1;
}

static inline struct announced *find_announced(uint64_t index, uint32_t count)
{
    for (uint32_t i = 0; i < NR_ANNOUNCED; i++) {
        if (device.announced[i].count == count && device.announced[i].index == index)
            return &device.announced[i];
    }
    return NULL;
}

static inline int device_announce(struct gntdev_map *call)
{
    struct announced *entry = find_announced(0, 0);

    XB_ASSERT(entry != NULL && call->count > 0);
    if (call->count > device.call_max)
        return fail(EINVAL);
    *entry = (struct announced){.index = device.next_index, .count = call->count};
    for (uint32_t i = 0; i < call->count; i++) {
        XB_ASSERT(call->refs[i].domid == GUEST);
        entry->refs[i] = call->refs[i].ref;
    }
    device.next_index += (uint64_t)call->count * PAGE_SIZE;
    call->index = entry->index;
    return 0;
}

/* The kernel reads no byte of a page that nothing readable is mapped at. */
static inline int is_mapped(const uint8_t *page)
{
    int ends[2], mapped;

    XB_ASSERT(pipe(ends) == 0);
    mapped = write(ends[1], page, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return mapped;
}

static inline int device_retract(const struct gntdev_unmap *call)
{
    struct announced *entry = call->count > 0 ? find_announced(call->index, call->count) : NULL;

    if (!entry)
        return fail(ENOENT);
    for (uint32_t i = 0; entry->mapped_at && i < entry->count; i++) {
        XB_ASSERT(!is_mapped(entry->mapped_at + i * PAGE_SIZE));
        device.pins[entry->refs[i]]--;
    }
    *entry = (struct announced){0};
    return 0;
}

static inline int16_t device_copy_one(const struct gntdev_copy_segment *copy)
{
    int to_guest = copy->flags == GNTDEV_COPY_DEST_GREF;
    const union gntdev_copy_side *foreign = to_guest ? &copy->dest : &copy->source;
    uint8_t *own = (uint8_t *)(uintptr_t)(to_guest ? copy->source.virt : copy->dest.virt);
    uint8_t *page;

    XB_ASSERT(foreign->foreign.domid == GUEST && (to_guest || copy->flags == GNTDEV_COPY_SOURCE_GREF));
    if (foreign->foreign.ref >= NR_REFS)
        return -3;
    if (device.access[foreign->foreign.ref] < (to_guest ? READ_WRITE : READ_ONLY))
        return -1;
    page = device.memory + foreign->foreign.ref * PAGE_SIZE + foreign->foreign.offset;
    memcpy(to_guest ? page : own, to_guest ? own : page, copy->len);
    return 0;
}

static inline int device_copy(const struct gntdev_copy *call)
{
    struct gntdev_copy_segment *copies = (struct gntdev_copy_segment *)(uintptr_t)call->segments;

    for (uint32_t i = 0; i < call->count; i++) {
        int to_guest = copies[i].flags == GNTDEV_COPY_DEST_GREF;

        if ((to_guest ? &copies[i].dest : &copies[i].source)->foreign.offset + copies[i].len > (int)PAGE_SIZE)
            return fail(EINVAL);
        copies[i].status = device_copy_one(&copies[i]);
    }
    return 0;
}

static inline int device_ioctl(int fd, unsigned long request, void *argument)
{
    int status = -1;

    pthread_mutex_lock(&device.lock);
    XB_ASSERT(fd == DEVICE_FD);
    device.nr_ioctls++;
    if (device.refused_ioctl) {
        errno = device.refused_ioctl;
        device.refused_ioctl = 0;
    } else if (request == GNTDEV_MAP_GRANT_REF)
        status = device_announce(argument);
    else if (request == GNTDEV_UNMAP_GRANT_REF)
        status = device_retract(argument);
    else if (request == GNTDEV_GRANT_COPY)
        status = device_copy(argument);
    else
        errno = ENOTTY;
    pthread_mutex_unlock(&device.lock);
    return status;
}

static inline int can_map(const struct announced *entry, int protection)
{
    enum access needed = (protection & PROT_WRITE) ? READ_WRITE : READ_ONLY;

    if (!entry || entry->mapped_at)
        return 0;
    for (uint32_t i = 0; i < entry->count; i++) {
        if (entry->refs[i] >= NR_REFS || device.access[entry->refs[i]] < needed)
            return 0;
    }
    return 1;
}

static inline void *device_mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    struct announced *entry;

    XB_ASSERT(fd == DEVICE_FD && flags == (MAP_SHARED | MAP_FIXED) && length % PAGE_SIZE == 0);
    pthread_mutex_lock(&device.lock);
    device.nr_maps++;
    entry = find_announced((uint64_t)offset, (uint32_t)(length / PAGE_SIZE));
    if (!can_map(entry, protection)) {
        munmap(address, length);
        pthread_mutex_unlock(&device.lock);
        errno = EINVAL;
        return MAP_FAILED;
    }
    entry->mapped_at = address;
    for (uint32_t i = 0; i < entry->count; i++) {
        uint8_t *page = entry->mapped_at + i * PAGE_SIZE;

        XB_ASSERT(!is_mapped(page));
        XB_ASSERT(mmap(page, PAGE_SIZE, protection, flags, device.memory_fd, entry->refs[i] * PAGE_SIZE) == page);
        device.pins[entry->refs[i]]++;
    }
    pthread_mutex_unlock(&device.lock);
    return address;
}

static inline void device_open(void)
{
    device.memory_fd = memfd_create("guest", MFD_CLOEXEC);
    XB_ASSERT(device.memory_fd >= 0 && ftruncate(device.memory_fd, NR_REFS * PAGE_SIZE) == 0);
    device.memory = mmap(NULL, NR_REFS * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, device.memory_fd, 0);
    XB_ASSERT(device.memory != MAP_FAILED);
    for (uint32_t ref = 0; ref < NR_REFS; ref++)
        device.access[ref] = READ_WRITE;
    xb_gntdev_calls = (struct xb_gntdev_calls){.ioctl = device_ioctl, .mmap = device_mmap};
}

/* Nothing is announced any more. */
static inline void device_is_clean(void)
{
    for (uint32_t i = 0; i < NR_ANNOUNCED; i++)
        XB_ASSERT(device.announced[i].count == 0);
    for (uint32_t ref = 0; ref < NR_REFS; ref++)
        XB_ASSERT(device.pins[ref] == 0);
}
