#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "grants/arena.h"
#include "xenblk/assert.h"

#define PAGE_BYTES 4096u

void *xb_arena_reserve(size_t nr_pages)
{
    void *arena = mmap(NULL, nr_pages * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return arena == MAP_FAILED ? NULL : arena;
}

void xb_arena_release(void *arena, size_t nr_pages)
{
    int status = munmap(arena, nr_pages * PAGE_BYTES);

    XB_ASSERT(status == 0);
}
