#define _GNU_SOURCE
#include <sys/mman.h>

#include "xenblk/blkback/internal.h"

/* Pages for copies. Each record has addresses for the largest request, and pages there once requests needed them. The
 * next requests find them; what is beyond max_buffer_pages goes back to the system (shrink_free_pagepool in
 * blkback.c). Where grants are mapped there is nothing to keep: an address without a page takes no memory. */

void buffers_need(struct xb_back *back, struct record *record)
{
    uint32_t nr_pages = (record->nr_sectors * SECTOR_BYTES + PAGE_BYTES - 1) / PAGE_BYTES;

    if (nr_pages <= record->nr_buffer_pages)
        return;
    back->nr_buffer_pages += nr_pages - record->nr_buffer_pages;
    record->nr_buffer_pages = nr_pages;
}

static int are_too_many(const struct xb_back *back)
{
    /* Relaxed: a number of its own, which another thread changes. */
    return back->nr_buffer_pages > __atomic_load_n(&back->config.max_buffer_pages, __ATOMIC_RELAXED);
}

void buffers_shrink(struct xb_back *back, struct record *record)
{
    if (record->nr_buffer_pages == 0 || !are_too_many(back))
        return;
    /* Of private memory without a file: it reads as zeros until it is written. What it refuses stays, and counts. */
    if (madvise(record->bounce, (size_t)record->nr_buffer_pages * PAGE_BYTES, MADV_DONTNEED) != 0)
        return;
    back->nr_buffer_pages -= record->nr_buffer_pages;
    record->nr_buffer_pages = 0;
}

void buffers_shrink_idle(struct xb_back *back)
{
    for (struct record *record = back->free.top; record && are_too_many(back); record = record->next)
        buffers_shrink(back, record);
}

uint32_t xb_back_buffer_pages(const struct xb_back *back)
{
    return back->nr_buffer_pages;
}
