#define _GNU_SOURCE
#include <string.h>

#include "xenblk/blkback/internal.h"

/* The order of what is done, counted and refused is that of PythonEngine._answer. */

static int done(struct record *record, int16_t status)
{
    record->status = status;
    return 1;
}

static uint64_t offset_of(const struct record *record)
{
    return record->request.sector_number * SECTOR_BYTES;
}

static int is_read(const struct record *record)
{
    return record->request.operation == XB_BLKIF_READ;
}

static void count_sectors(struct xb_back *back, const struct record *record)
{
    if (is_read(record))
        back->counters->rd_sect += record->nr_sectors;
    else
        back->counters->wr_sect += record->nr_sectors;
}

/* Where the disk's data of each segment goes or comes from: the guest's pages, or in copy mode a buffer of ours. */
static void find_buffers(const struct xb_back *back, const struct record *record, uint8_t **buffers)
{
    uint8_t *bounce = record->bounce;

    for (uint32_t i = 0; i < record->request.nr_segments; i++) {
        const struct xb_blkif_segment *segment = &record->request.segments[i];

        if (back->config.grant_copy) {
            buffers[i] = bounce;
            bounce += segment_bytes(segment);
        } else
            buffers[i] = record->lent[i].page + segment->first_sect * SECTOR_BYTES;
    }
}

/* Done with the disk: give the pages back before the guest can see the response. */
static int finish(struct xb_back *back, struct record *record, int ok)
{
    uint8_t *buffers[SEGMENTS_MAX];

    if (ok)
        count_sectors(back, record);
    if (!back->config.grant_copy)
        lend_release(back, record);
    else if (ok && is_read(record)) {
        find_buffers(back, record, buffers);
        ok = lend_copy(back, record, buffers, 1);
    }
    return done(record, ok ? XB_BLKIF_OKAY : XB_BLKIF_ERROR);
}

/* A memory disk */

#define LINE_BYTES 64
#define FETCH_LINES 64 /* a page */

/* Of a slot that the guest may write meanwhile: read once, so that what is checked is what is used. */
struct slot_peek {
    uint64_t sector;
    uint8_t operation;
};

static struct slot_peek peek(const uint8_t *slot, uint32_t sector_at)
{
    struct slot_peek peek = {.operation = slot[0]};

    memcpy(&peek.sector, slot + sector_at, sizeof(peek.sector));
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not look at the slot again for what is used below */
    return peek;
}

/* No further than the end of the disk. */
static void fetch_sectors(const struct xb_back_config *config, uint64_t sector)
{
    const uint8_t *at = (const uint8_t *)config->disk_memory + sector * SECTOR_BYTES;
    uint64_t nr_lines = (config->disk_sectors - sector) * (SECTOR_BYTES / LINE_BYTES);

    for (uint32_t i = 0; i < FETCH_LINES && i < nr_lines; i++)
        __builtin_prefetch(at + i * LINE_BYTES);
}

void move_fetch_ahead(const struct xb_back *back)
{
    const struct xb_back_config *config = &back->config;
    const uint8_t *slot = xb_back_ring_peek(back->ring);
    struct slot_peek next;

    if (!slot)
        return;
    next = peek(slot, back->sector_at);
    if (config->disk_memory && next.operation == XB_BLKIF_READ && next.sector < config->disk_sectors)
        fetch_sectors(config, next.sector);
}

/* Once a batch, for the first read in it: as many requests as are there, and as large as this one. */
static void choose_store(struct xb_back *back, const struct record *record)
{
    uint32_t nr_requests = back->ring->req_prod_seen - back->ring->req_cons + 1;

    back->how = xb_copier_choose(&back->copier, nr_requests, (uint64_t)nr_requests * record->nr_sectors * SECTOR_BYTES);
}

static int move_memory(struct xb_back *back, struct record *record)
{
    uint8_t *at = (uint8_t *)back->config.disk_memory + offset_of(record), *buffers[SEGMENTS_MAX];

    if (is_read(record) && back->how < 0)
        choose_store(back, record);
    find_buffers(back, record, buffers);
    for (uint32_t i = 0; i < record->request.nr_segments; i++) {
        uint32_t size = segment_bytes(&record->request.segments[i]);

        if (is_read(record))
            xb_copy(back->how, buffers[i], at, size);
        else
            xb_copy_plain(at, buffers[i], size);
        at += size;
    }
    return finish(back, record, 1);
}

/* Xen copies out of the disk itself. */
static int copy_from_memory(struct xb_back *back, struct record *record)
{
    uint8_t *at = (uint8_t *)back->config.disk_memory + offset_of(record), *buffers[SEGMENTS_MAX];

    for (uint32_t i = 0; i < record->request.nr_segments; i++) {
        buffers[i] = at;
        at += segment_bytes(&record->request.segments[i]);
    }
    count_sectors(back, record);
    return done(record, lend_copy(back, record, buffers, 1) ? XB_BLKIF_OKAY : XB_BLKIF_ERROR);
}

/* A file */

static int submit(struct xb_back *back, struct record *record, uint32_t kind)
{
    record->op.kind = kind;
    record->op.iov = record->iov;
    record->op.nr_iov = kind == XB_FILE_FDATASYNC ? 0 : record->request.nr_segments;
    record->op.offset = offset_of(record);
    record->op.user = record;
    return xb_file_submit(back->file, &record->op) && move_continue(back, record);
}

static int move_file(struct xb_back *back, struct record *record)
{
    uint8_t *buffers[SEGMENTS_MAX];

    find_buffers(back, record, buffers);
    for (uint32_t i = 0; i < record->request.nr_segments; i++)
        record->iov[i] = (struct iovec){buffers[i], segment_bytes(&record->request.segments[i])};
    return submit(back, record, is_read(record) ? XB_FILE_READ : XB_FILE_WRITE);
}

/* Either */

static int get_pages(struct xb_back *back, struct record *record)
{
    uint8_t *buffers[SEGMENTS_MAX];

    if (!back->config.grant_copy)
        return lend_acquire(back, record);
    find_buffers(back, record, buffers);
    return is_read(record) || lend_copy(back, record, buffers, 0);
}

static int move_data(struct xb_back *back, struct record *record)
{
    if (record->request.nr_segments == 0)
        return done(record, XB_BLKIF_OKAY);
    if (back->config.grant_copy && is_read(record) && !back->file)
        return copy_from_memory(back, record);
    if (!get_pages(back, record))
        return done(record, XB_BLKIF_ERROR);
    return back->file ? move_file(back, record) : move_memory(back, record);
}

int move_continue(struct xb_back *back, struct record *record)
{
    int ok = record->op.result == 0;

    if (!record->flushing)
        return finish(back, record, ok);
    record->flushing = 0;
    return ok ? move_data(back, record) : done(record, XB_BLKIF_ERROR);
}

static void count_request(struct xb_back *back, const struct record *record)
{
    switch (record->request.operation) {
    case XB_BLKIF_READ:
        back->counters->rd_req++;
        break;
    case XB_BLKIF_WRITE:
        back->counters->wr_req++;
        break;
    default:
        back->counters->f_req++;
    }
}

int move_begin(struct xb_back *back, struct record *record)
{
    const struct xb_back_config *config = &back->config;
    uint8_t operation = record->request.operation;

    if (operation != XB_BLKIF_READ && operation != XB_BLKIF_WRITE && operation != XB_BLKIF_FLUSH_DISKCACHE)
        return done(record, XB_BLKIF_EOPNOTSUPP);
    count_request(back, record);
    if (!xb_blkif_check(&record->request, config->disk_sectors, config->read_only, &record->nr_sectors))
        return done(record, XB_BLKIF_ERROR);
    if (operation == XB_BLKIF_FLUSH_DISKCACHE && back->file) {
        record->flushing = 1;
        return submit(back, record, XB_FILE_FDATASYNC);
    }
    return move_data(back, record);
}
