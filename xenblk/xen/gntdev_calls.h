/* What the mapper asks of the kernel. The table is there to be replaced: a test has a device of its own. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* size << 16 | letter << 8 | number */
#define GNTDEV_MAP_GRANT_REF 0x184700u
#define GNTDEV_UNMAP_GRANT_REF 0x104701u
#define GNTDEV_GRANT_COPY 0x104708u

#define GNTDEV_COPY_SOURCE_GREF 1
#define GNTDEV_COPY_DEST_GREF 2

struct gntdev_ref {
    uint32_t domid;
    uint32_t ref;
};

/* The ioctl's size is that of the struct with one reference; `count` of them follow. */
struct gntdev_map {
    uint32_t count;
    uint32_t pad;
    uint64_t index; /* out */
    struct gntdev_ref refs[];
};

struct gntdev_unmap {
    uint64_t index;
    uint32_t count;
    uint32_t pad;
};

union gntdev_copy_side {
    uint64_t virt;
    struct {
        uint32_t ref;
        uint16_t offset;
        uint16_t domid;
    } foreign;
};

struct gntdev_copy_segment {
    union gntdev_copy_side source, dest;
    uint16_t len;
    uint16_t flags;
    int16_t status; /* out */
};

struct gntdev_copy {
    uint32_t count;
    uint32_t pad;
    uint64_t segments;
};

struct xb_gntdev_calls {
    int (*ioctl)(int fd, unsigned long request, void *argument);
    void *(*mmap)(void *address, size_t length, int protection, int flags, int fd, off_t offset);
};

extern struct xb_gntdev_calls xb_gntdev_calls;
