#define _GNU_SOURCE
#include <errno.h>
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

/* Whether something is at each page: mincore says ENOMEM for addresses that nothing is mapped at. */
static int is_whole(uint8_t *start, size_t nr_pages)
{
    unsigned char resident;

    for (size_t i = 0; i < nr_pages; i++) {
        if (mincore(start + i * PAGE_BYTES, PAGE_BYTES, &resident) < 0 && errno == ENOMEM)
            return 0;
    }
    return 1;
}

int xb_arena_vacate(void *start, size_t nr_pages)
{
    /* Reserving the addresses instead of unmapping them keeps another thread's mmap from taking them. */
    if (reserve(start, nr_pages, MAP_FIXED) != MAP_FAILED)
        return 1;
    /* Linux refuses for a limit (mappings, address space) before it touches what is there, and then nothing is lost.
     * Later it fails only without memory for a mapping's own bookkeeping, and may leave a hole: another thread's mmap
     * may land there, and our next mapping would replace it. No guest can bring that about, as the mappings that it
     * can have stay within their limit (xenblk.grants.mappings); and a process that cannot trust its addresses has to
     * end before it writes to them. */
    XB_ASSERT(is_whole(start, nr_pages));
    return 0;
}

void xb_arena_release(void *arena, size_t nr_pages)
{
    int status = munmap(arena, nr_pages * PAGE_BYTES);

    XB_ASSERT(status == 0);
}
