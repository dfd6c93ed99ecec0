#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "grants/arena.h"
#include "xenblk/assert.h"

#define PAGE_BYTES 4096u

/* Linux gives who does not ask for an address the highest that is free, or the lowest from a third of the whole on, as
 * the process was started. Below that third only those are who ask for it. So if a mapping fails and leaves a hole in
 * an arena there (a driver's mmap does, for a page that was not granted), no other thread's mapping gets into it
 * before it is closed. */
#define PLACES_START 0x200000000000
#define PLACES_BYTES 0x080000000000

/* Of nothing, between two arenas: the kernel would make them one mapping, and have to cut it twice for a page that is
 * at the beginning of one, where most are. */
#define GAP_PAGES 1

static uint64_t next_place;

static void *reserve(void *start, size_t nr_pages, int flags)
{
    return mmap(start, nr_pages * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
}

void *xb_arena_reserve(size_t nr_pages)
{
    uint64_t bytes = (nr_pages + GAP_PAGES) * PAGE_BYTES;
    uint64_t place = __atomic_fetch_add(&next_place, bytes, __ATOMIC_RELAXED) % PLACES_BYTES;
    /* A wish: where it cannot be granted, any other place will do. */
    void *arena = reserve((void *)(PLACES_START + place), nr_pages, 0);

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
