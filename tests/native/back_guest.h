/* A guest for the native backend in one program: its memory, its grants, its end of the ring, and channels of
 * eventfds. */
#pragma once
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "ring/sring.h"
#include "xenblk/assert.h"
#include "xenblk/blkif.h"
#include "xenblk/channel.h"
#include "xenblk/counters.h"
#include "xenblk/blkback/engine.h"

#define PAGE_SIZE 4096u
#define SECTOR_SIZE 512u
#define NR_ENTS 32
#define NR_FRAMES 64
#define FIRST_REF 8
#define NR_REFS 64 /* references 8 to 63 grant frames of the same number */
#define NR_TRACK 1024
#define DISK_SECTORS 4096u
#define BACKEND 0

struct guest {
    uint8_t ring_page[PAGE_SIZE] __attribute__((aligned(4096)));
    uint8_t disk[DISK_SECTORS * SECTOR_SIZE] __attribute__((aligned(4096)));
    uint8_t *memory; /* NR_FRAMES */
    struct xb_grant_entry shared[NR_REFS];
    struct xb_active_entry active[NR_REFS];
    struct xb_maptrack_entry track[NR_TRACK];
    uint32_t stack[NR_TRACK];
    struct xb_gnttab_mapper mapper;
    struct xb_gnttab_grantor grantor;
    struct xb_counters counters;
    struct xb_front_ring front;
    struct xb_back_ring ring;
    struct xb_channel channel; /* the backend's */
    int to_back, to_front;     /* eventfds */
    int disk_fd;               /* -1: the disk is in memory */
    struct xb_back_config config;
    struct xb_back *back;
};

static struct guest guest;

static inline uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint32_t roll(uint64_t *dice)
{
    *dice = *dice * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*dice >> 32);
}

/* Channels */

static inline void ring_bell(int fd)
{
    uint64_t one = 1;

    XB_ASSERT(write(fd, &one, sizeof(one)) == sizeof(one));
}

static inline int take_bell(int fd, int timeout_ms)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    uint64_t count;

    return poll(&pollfd, 1, timeout_ms) > 0 && read(fd, &count, sizeof(count)) == sizeof(count);
}

static inline void notify_front(void *context)
{
    ring_bell(((struct guest *)context)->to_front);
}

static inline int wait_back(void *context, int64_t timeout_ns)
{
    return take_bell(((struct guest *)context)->to_back, timeout_ns < 0 ? -1 : (int)(timeout_ns / 1000000));
}

/* Life */

static inline uint8_t *frame(uint32_t number)
{
    return guest.memory + (size_t)number * PAGE_SIZE;
}

static inline void grant(uint32_t ref, int readonly)
{
    xb_gnttab_grant(&guest.shared[ref], BACKEND, ref, readonly);
}

/* A file of the disk's size, in `folder` (NULL: the disk is in memory), opened with `flags` beside reading and writing;
 * 0 if its file system refuses them. */
static inline int open_disk(const char *folder, int flags)
{
    char path[256];

    guest.disk_fd = -1;
    if (!folder)
        return 1;
    snprintf(path, sizeof(path), "%s/back_guest.%d", folder, (int)getpid());
    guest.disk_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | flags, 0600);
    unlink(path);
    return guest.disk_fd >= 0 && ftruncate(guest.disk_fd, DISK_SECTORS * SECTOR_SIZE) == 0;
}

static inline void close_disk(void)
{
    if (guest.disk_fd >= 0)
        close(guest.disk_fd);
}

/* A guest with all its pages granted, and the usual configuration, to be changed before connect. */
static inline void boot(void)
{
    int disk_fd = guest.disk_fd;

    memset(&guest, 0, sizeof(guest));
    guest.disk_fd = disk_fd;
    guest.grantor.memory_fd = memfd_create("guest", MFD_CLOEXEC);
    XB_ASSERT(guest.grantor.memory_fd >= 0 && ftruncate(guest.grantor.memory_fd, NR_FRAMES * PAGE_SIZE) == 0);
    guest.memory = mmap(NULL, NR_FRAMES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, guest.grantor.memory_fd, 0);
    XB_ASSERT(guest.memory != MAP_FAILED);
    guest.grantor.shared = guest.shared;
    guest.grantor.active = guest.active;
    guest.grantor.base.nr_refs = NR_REFS;
    guest.grantor.nr_frames = NR_FRAMES;
    guest.grantor.instance = 1;
    guest.grantor.base.domid = 7;
    guest.mapper = (struct xb_gnttab_mapper){
        .base = {.ops = xb_gnttab_ops, .max_pages = NR_TRACK},
        .track = guest.track, .owner = 1, .domid = BACKEND, .free = guest.stack};
    for (uint32_t ref = FIRST_REF; ref < NR_REFS; ref++)
        grant(ref, 0);
    xb_front_ring_init(&guest.front, guest.ring_page, PAGE_SIZE, NR_ENTS, XB_BLKIF_X86_64_SLOT_BYTES);
    XB_ASSERT(xb_back_ring_attach(&guest.ring, guest.ring_page, NR_ENTS, XB_BLKIF_X86_64_SLOT_BYTES) == 0);
    guest.to_back = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    guest.to_front = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    guest.channel = (struct xb_channel){
        .context = &guest, .notify = notify_front, .wait = wait_back, .fd = guest.to_back};
    guest.config = (struct xb_back_config){
        .ring = &guest.ring,
        .mapper = &guest.mapper.base,
        .grantor = &guest.grantor.base,
        .counters = &guest.counters,
        .channel = &guest.channel,
        .disk_memory = disk_fd < 0 ? guest.disk : NULL,
        .disk_fd = disk_fd,
        .disk_sectors = DISK_SECTORS,
        .persistent = 1,
        .max_persistent_grants = 1056,
        .secret = 0x123456789abcdef,
        .nr_records = NR_ENTS,
        .max_indirect_segments = XB_BLKIF_INDIRECT_SEGMENTS_MAX,
        .can_discard = 1,
    };
}

static inline void connect_back(void)
{
    guest.back = xb_back_create(&guest.config);
    XB_ASSERT(guest.back != NULL);
}

/* End the backend: nothing of the guest is mapped any more. */
static inline void disconnect(void)
{
    xb_back_destroy(guest.back);
    guest.back = NULL;
    for (uint32_t ref = 0; ref < NR_REFS; ref++) {
        XB_ASSERT(guest.active[ref].read_pins == 0 && guest.active[ref].write_pins == 0);
        XB_ASSERT(!(guest.shared[ref].flags & (GTF_reading | GTF_writing)));
    }
    XB_ASSERT(guest.counters.map_pages == guest.counters.unmap_pages);
    XB_ASSERT(guest.counters.persistent_current == 0 && guest.counters.persistent_in_use == 0);
}

static inline void shut_down(void)
{
    munmap(guest.memory, NR_FRAMES * PAGE_SIZE);
    close(guest.grantor.memory_fd);
    close(guest.to_back);
    close(guest.to_front);
}

/* Requests */

/* Put one of `count` whole pages, from reference `first` on. */
static inline void ask(uint8_t operation, uint64_t id, uint64_t sector, uint32_t first, uint8_t count)
{
    uint8_t slot[XB_BLKIF_X86_64_SLOT_BYTES] = {0};

    slot[0] = operation;
    slot[1] = count;
    memcpy(slot + 8, &id, sizeof(id));
    memcpy(slot + 16, &sector, sizeof(sector));
    for (uint32_t i = 0; i < count; i++) {
        uint32_t ref = first + i;

        memcpy(slot + 24 + i * 8, &ref, sizeof(ref));
        slot[24 + i * 8 + 5] = 7;
    }
    XB_ASSERT(xb_front_ring_put(&guest.front, slot) == 1);
}

/* Have `page`, as many whole pages from reference `first` on. */
static inline void write_segments(uint8_t *page, uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct xb_blkif_segment segment = {.gref = first + i, .last_sect = 7};

        memcpy(page + i * 8, &segment, 8);
    }
}

/* Put an indirect request of `count` segments, which stand in the page of reference `table`. */
static inline void ask_indirect(uint8_t operation, uint64_t id, uint64_t sector, uint32_t table, uint16_t count)
{
    uint8_t slot[XB_BLKIF_X86_64_SLOT_BYTES] = {XB_BLKIF_INDIRECT, operation};

    memcpy(slot + 2, &count, sizeof(count));
    memcpy(slot + 8, &id, sizeof(id));
    memcpy(slot + 16, &sector, sizeof(sector));
    memcpy(slot + 28, &table, sizeof(table));
    XB_ASSERT(xb_front_ring_put(&guest.front, slot) == 1);
}

/* Put a discard. */
static inline void ask_discard(uint64_t id, uint64_t sector, uint64_t nr_sectors)
{
    uint8_t slot[XB_BLKIF_X86_64_SLOT_BYTES] = {XB_BLKIF_DISCARD};

    memcpy(slot + 8, &id, sizeof(id));
    memcpy(slot + 16, &sector, sizeof(sector));
    memcpy(slot + 24, &nr_sectors, sizeof(nr_sectors));
    XB_ASSERT(xb_front_ring_put(&guest.front, slot) == 1);
}

/* Take an answer: 1, or 0 if there is none. */
static inline int take_answer(uint64_t *id, int16_t *status)
{
    uint8_t slot[XB_BLKIF_X86_64_SLOT_BYTES];

    if (xb_front_ring_consume(&guest.front, slot) != 1)
        return 0;
    memcpy(id, slot, sizeof(*id));
    memcpy(status, slot + 10, sizeof(*status));
    return 1;
}

static inline void publish(void)
{
    if (xb_front_ring_push(&guest.front))
        ring_bell(guest.to_back);
}

/* The same, sleeping until there is one. */
static inline int16_t await_answer(uint64_t *id)
{
    int16_t status;

    while (!take_answer(id, &status)) {
        if (!xb_front_ring_final_check(&guest.front))
            take_bell(guest.to_front, -1);
    }
    return status;
}
