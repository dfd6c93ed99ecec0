#include <string.h>

#include "xenblk/blkback/internal.h"

/* A memory disk: the data is copied between it and the guest's pages. While one request's is, the CPU can fetch for the
 * next, of which only a slot tells that the guest may write meanwhile. So what comes next is a guess: it is fetched,
 * and never believed. */

#define TRANSLATED_AHEAD 4 /* requests */
#define FEW_BYTES 512      /* the least that a segment has */

/* Of a slot, read once: what is checked is what is used. */
struct slot_peek {
    uint64_t sector;
    uint32_t gref; /* of the first segment */
    uint8_t operation;
};

/* Of the request that comes next, or one `ahead` of it: 0 if there is none, or it neither reads nor writes. */
static int peek(const struct xb_back *back, uint32_t ahead, struct slot_peek *next)
{
    const uint8_t *slot = xb_back_ring_peek(back->ring, ahead);

    if (!slot)
        return 0;
    next->operation = slot[0];
    memcpy(&next->sector, slot + back->sector_at, sizeof(next->sector));
    memcpy(&next->gref, slot + back->sector_at + sizeof(next->sector), sizeof(next->gref));
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not look at the slot again for what is used below */
    return next->operation <= XB_BLKIF_WRITE;
}

/* Where on the disk a request begins, NULL if less than `nr_bytes` of the disk are left there. */
static const uint8_t *disk_at(const struct xb_back *back, uint64_t sector, uint32_t nr_bytes)
{
    const struct xb_back_config *config = &back->config;

    if (sector >= config->disk_sectors || config->disk_sectors - sector < nr_bytes / SECTOR_BYTES)
        return NULL;
    return (const uint8_t *)config->disk_memory + sector * SECTOR_BYTES;
}

/* One line of each: a core waits for an address to be translated before it goes on, and for several of them at once no
 * longer than for one. The data comes while the request before is copied. */
void memory_translate_ahead(const struct xb_back *back)
{
    struct slot_peek next;

    if (!back->config.disk_memory || back->ring->req_cons % TRANSLATED_AHEAD != 0)
        return;
    for (uint32_t ahead = 1; ahead <= TRANSLATED_AHEAD; ahead++)
        if (peek(back, ahead, &next))
            xb_fetch(disk_at(back, next.sector, SECTOR_BYTES), 1);
}

/* Once a batch, for the first read in it and for the first write: as many requests as are there, and as large as this
 * one. Who fetches the guest's pages gains where another CPU's cache has them, and loses where both ends share one. */
static void choose(struct xb_back *back, const struct record *record)
{
    uint32_t nr_requests = back->ring->req_prod_seen - back->ring->req_cons + 1;
    uint64_t bytes = (uint64_t)nr_requests * record->nr_sectors * SECTOR_BYTES;

    if (is_read(record) && back->how < 0)
        back->how = xb_copier_choose(&back->copier, nr_requests, bytes);
    else if (!is_read(record) && back->fetches < 0)
        back->fetches = xb_copier_choose(&back->fetcher, nr_requests, bytes);
}

/* The first page of a request whose predecessor did not know of it. */
static void fetch_first(const struct xb_back *back, const struct record *record, const uint8_t *at, const uint8_t *page)
{
    uint32_t size = segment_bytes(&record->loan.segments[0]);

    if (at == back->fetched)
        return;
    xb_fetch(at, size);
    if (!is_read(record))
        xb_fetch(page, size);
}

/* The first page of the next request, while the last one of this is copied. */
static void fetch_next(struct xb_back *back, uint32_t size)
{
    struct slot_peek next;

    back->fetched = NULL;
    if (!peek(back, 0, &next))
        return;
    back->fetched = disk_at(back, next.sector, size);
    xb_fetch(back->fetched, size);
    if (next.operation == XB_BLKIF_WRITE && back->fetches > 0)
        xb_fetch(lend_find(back, next.gref), size);
}

/* The disk's data for the next segment of a read, while this one's is copied: where the first lines are read, the CPU
 * goes on by itself, and to be told more is in its way. */
static void fetch_few(const uint8_t *at)
{
    xb_fetch(at, FEW_BYTES);
}

/* Segment by segment, in their order: neighbouring pages may be one page of the guest's, mapped twice, where the later
 * data is to win, and one copy of both would write them in any order. */
void memory_move(struct xb_back *back, const struct record *record, uint8_t *const *buffers)
{
    uint8_t *at = (uint8_t *)back->config.disk_memory + offset_of(record);

    fetch_first(back, record, at, buffers[0]);
    choose(back, record);
    for (uint32_t i = 0; i < record->loan.nr_segments; i++) {
        uint32_t size = segment_bytes(&record->loan.segments[i]);

        if (i == record->loan.nr_segments - 1)
            fetch_next(back, size);
        else if (is_read(record))
            fetch_few(at + size);
        if (is_read(record))
            xb_copy(back->how, buffers[i], at, size);
        else
            xb_copy_plain(at, buffers[i], size);
        at += size;
    }
}
