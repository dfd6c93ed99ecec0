#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "grants/arena.h"
#include "xenblk/assert.h"

#define PAGE_BYTES 4096u

static void *reserve(void *start, size_t nr_pages, int flags)
{
    return mmap(start, nr_pages * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

void *xb_arena_reserve(size_t nr_pages)
{
    void *arena = reserve(NULL, nr_pages, 0);

    return arena == MAP_FAILED ? NULL : arena;
}

int xb_arena_vacate(void *start, size_t nr_pages)
{
    /* Reserving the addresses instead of unmapping them keeps another thread's mmap from taking them. */
    return reserve(start, nr_pages, MAP_FIXED) != MAP_FAILED;
}

void xb_arena_release(void *arena, size_t nr_pages)
{
    int status = munmap(arena, nr_pages * PAGE_BYTES);

    XB_ASSERT(status == 0);
}
