#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "xenblk/blkback/internal.h"
#include "xenblk/discard.h"

/* The order of what is done, counted and refused is that of PythonEngine._answer. */

static int done(struct record *record, int16_t status)
{
    record->status = status;
    return 1;
}

static int is_flush(const struct record *record)
{
    return record->request.operation == XB_BLKIF_FLUSH_DISKCACHE ||
           record->request.operation == XB_BLKIF_WRITE_BARRIER;
}

/* `error`: 0 or -errno. Only of what may be missing a guest is told that it is. */
static int done_with(struct xb_back *back, struct record *record, int32_t error)
{
    if (error == -EOPNOTSUPP && is_flush(record)) {
        back->unsupported |= 1u << record->request.operation;
        return done(record, XB_BLKIF_EOPNOTSUPP);
    }
    return done(record, error ? XB_BLKIF_ERROR : XB_BLKIF_OKAY);
}

static void count_sectors(struct xb_back *back, const struct record *record)
{
    if (is_read(record))
        back->counters->rd_sect += record->nr_sectors;
    else
        back->counters->wr_sect += record->nr_sectors;
}

/* Where the disk's data of each segment goes or comes from: the guest's pages, or in copy mode a buffer of ours. */
static uint8_t **find_buffers(const struct xb_back *back, const struct record *record)
{
    uint8_t **buffers = back->scratch.buffers, *bounce = record->bounce;
    const struct loan *loan = &record->loan;

    for (uint32_t i = 0; i < loan->nr_segments; i++) {
        const struct xb_blkif_segment *segment = &loan->segments[i];

        if (back->config.grant_copy) {
            buffers[i] = bounce;
            bounce += segment_bytes(segment);
        } else
            buffers[i] = loan->lent[i].page + segment->first_sect * SECTOR_BYTES;
    }
    return buffers;
}

/* Done with the disk, `error` 0 or -errno: give the pages back before the guest can see the response. */
static int finish(struct xb_back *back, struct record *record, int32_t error)
{
    if (!back->config.grant_copy)
        lend_release(back, &record->loan);
    else if (!error && is_read(record) && !lend_copy(back, &record->loan, find_buffers(back, record), 1))
        error = -EFAULT;
    return done_with(back, record, error);
}

/* A memory disk */

static int move_memory(struct xb_back *back, struct record *record)
{
    memory_move(back, record, find_buffers(back, record));
    return finish(back, record, 0);
}

/* Xen copies out of the disk itself. */
static int copy_from_memory(struct xb_back *back, struct record *record)
{
    uint8_t *at = (uint8_t *)back->config.disk_memory + offset_of(record), **buffers = back->scratch.buffers;

    for (uint32_t i = 0; i < record->loan.nr_segments; i++) {
        buffers[i] = at;
        at += segment_bytes(&record->loan.segments[i]);
    }
    count_sectors(back, record);
    return done(record, lend_copy(back, &record->loan, buffers, 1) ? XB_BLKIF_OKAY : XB_BLKIF_ERROR);
}

/* A file */

static int submit(struct xb_back *back, struct record *record, uint32_t kind, uint32_t nr_iov)
{
    record->op.kind = kind;
    record->op.iov = record->iov;
    record->op.nr_iov = nr_iov;
    record->op.offset = offset_of(record);
    record->op.user = record;
    return xb_file_submit(back->file, &record->op) && move_continue(back, record);
}

/* One entry for each stretch of memory, which neighbouring pages are; returns how many. */
static uint32_t fill_iov(const struct record *record, uint8_t *const *buffers)
{
    struct iovec *last = record->iov;

    *last = (struct iovec){buffers[0], segment_bytes(&record->loan.segments[0])};
    for (uint32_t i = 1; i < record->loan.nr_segments; i++) {
        uint32_t size = segment_bytes(&record->loan.segments[i]);

        if ((uint8_t *)last->iov_base + last->iov_len == buffers[i])
            last->iov_len += size;
        else
            *++last = (struct iovec){buffers[i], size};
    }
    return (uint32_t)(last - record->iov) + 1;
}

static int move_file(struct xb_back *back, struct record *record)
{
    uint32_t nr_iov = fill_iov(record, find_buffers(back, record));

    return submit(back, record, is_read(record) ? XB_FILE_READ : XB_FILE_WRITE, nr_iov);
}

/* Either */

static int get_pages(struct xb_back *back, struct record *record)
{
    if (!back->config.grant_copy)
        return lend_acquire(back, &record->loan);
    buffers_need(back, record);
    return is_read(record) || lend_copy(back, &record->loan, find_buffers(back, record), 0);
}

static int move_data(struct xb_back *back, struct record *record)
{
    if (record->loan.nr_segments == 0)
        return done(record, XB_BLKIF_OKAY);
    if (back->config.grant_copy && is_read(record) && !back->file)
        return copy_from_memory(back, record);
    if (!get_pages(back, record))
        return done(record, XB_BLKIF_ERROR);
    count_sectors(back, record); /* what the disk makes of them is not counted */
    return back->file ? move_file(back, record) : move_memory(back, record);
}

int move_continue(struct xb_back *back, struct record *record)
{
    int32_t error = record->op.result;

    if (!record->flushing)
        return finish(back, record, error);
    record->flushing = 0;
    return error ? done_with(back, record, error) : move_data(back, record);
}

int move_drained(struct xb_back *back, struct record *record)
{
    if (!is_flush(record) || !back->file)
        return move_data(back, record);
    record->flushing = 1;
    return submit(back, record, XB_FILE_FDATASYNC, 0);
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

/* With its segments in private memory. */
static int begin(struct xb_back *back, struct record *record, const struct loan *loan, struct iovec *iov)
{
    record->loan = *loan;
    record->iov = iov;
    if (!xb_blkif_check(&record->request, loan->segments, &back->disk, &record->nr_sectors))
        return done(record, XB_BLKIF_ERROR);
    if (record->request.operation == XB_BLKIF_WRITE_BARRIER && back->file) {
        back->barrier = record;
        if (xb_file_in_flight(back->file) > 0)
            return 0;
    }
    return move_drained(back, record);
}

static int begin_direct(struct xb_back *back, struct record *record)
{
    const struct loan loan = {
        .segments = record->request.segments,
        .lent = record->few_lent,
        .nr_segments = record->request.nr_segments,
        .readonly = !is_read(record),
    };

    if (!is_read(record) && record->request.operation != XB_BLKIF_WRITE && !is_flush(record))
        return done(record, XB_BLKIF_EOPNOTSUPP);
    count_request(back, record);
    if (!xb_blkif_check_count(record->request.operation, record->request.nr_segments, SEGMENTS_MAX))
        return done(record, XB_BLKIF_ERROR);
    return begin(back, record, &loan, record->few_iov);
}

/* From here on it is the read or write that it stands for. */
static int begin_indirect(struct xb_back *back, struct record *record)
{
    struct xb_blkif_request *request = &record->request;
    struct loan loan = {
        .segments = record->many.segments, .lent = record->many.lent, .nr_segments = request->nr_segments};

    request->operation = request->indirect_op;
    loan.readonly = !is_read(record);
    if (request->operation != XB_BLKIF_READ && request->operation != XB_BLKIF_WRITE)
        return done(record, XB_BLKIF_ERROR);
    count_request(back, record);
    if (!xb_blkif_check_count(request->operation, request->nr_segments, back->config.max_indirect_segments) ||
        !lend_read_segments(back, record))
        return done(record, XB_BLKIF_ERROR);
    return begin(back, record, &loan, record->many.iov);
}

/* In line, as nothing of the guest's waits for it but the discard. A file knows no secure one, and does not offer it:
 * the flag means nothing there. */
static int discard(struct xb_back *back, struct record *record)
{
    const struct xb_blkif_request *request = &record->request;
    uint64_t count = request->nr_sectors * SECTOR_BYTES;
    int32_t error = 0;

    if (!xb_blkif_check_discard_range(request, &back->disk))
        return done(record, XB_BLKIF_ERROR);
    back->counters->ds_req++;
    if (!back->config.can_discard)
        return done(record, XB_BLKIF_EOPNOTSUPP);
    if (!xb_blkif_check_discard_sectors(request, &back->disk))
        return done(record, XB_BLKIF_ERROR);
    if (count > 0 && back->config.disk_memory)
        xb_discard_memory((uint8_t *)back->config.disk_memory + offset_of(record), count,
                          request->flag & XB_BLKIF_DISCARD_SECURE);
    else if (count > 0)
        error = xb_file_discard(back->file, offset_of(record), count);
    return done(record, error == 0 ? XB_BLKIF_OKAY : error == -EOPNOTSUPP ? XB_BLKIF_EOPNOTSUPP : XB_BLKIF_ERROR);
}

int move_begin(struct xb_back *back, struct record *record)
{
    if (record->request.operation == XB_BLKIF_DISCARD)
        return discard(back, record);
    if (record->request.operation == XB_BLKIF_INDIRECT && back->config.max_indirect_segments > 0)
        return begin_indirect(back, record);
    return begin_direct(back, record);
}
