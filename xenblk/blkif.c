#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "xenblk/blkif.h"

#include "xenblk/assert.h"

#define SECTORS_PER_PAGE 8
#define SEGMENT_BYTES 8

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "blkif is little-endian, and so is every host of ours");

_Static_assert(sizeof(struct xb_blkif_segment) == SEGMENT_BYTES, "a segment is in memory as in a slot or page");

static void get(void *to, const uint8_t *from, size_t size)
{
    memcpy(to, from, size);
}

static void parse_segments(const uint8_t *at, struct xb_blkif_request *request)
{
    uint32_t count = request->nr_segments < XB_BLKIF_SEGMENTS_MAX ? request->nr_segments : XB_BLKIF_SEGMENTS_MAX;

    for (uint32_t i = 0; i < count; i++, at += SEGMENT_BYTES) {
        struct xb_blkif_segment *segment = &request->segments[i];

        get(&segment->gref, at, sizeof(segment->gref));
        segment->first_sect = at[4];
        segment->last_sect = at[5];
    }
}

/* The u64 of the 64-bit layout are 4 bytes further on, and so is all that follows them. */
void xb_blkif_parse(const void *slot, uint32_t slot_bytes, struct xb_blkif_request *request)
{
    const uint8_t *head = slot, *tail = head + (slot_bytes == XB_BLKIF_X86_64_SLOT_BYTES ? 4 : 0);

    XB_ASSERT(slot_bytes == XB_BLKIF_X86_64_SLOT_BYTES || slot_bytes == XB_BLKIF_X86_32_SLOT_BYTES);
    request->operation = head[0];
    request->nr_sectors = 0;
    request->nr_segments = 0;
    request->indirect_op = request->flag = 0;
    get(&request->id, tail + 4, sizeof(request->id));
    get(&request->sector_number, tail + 12, sizeof(request->sector_number));
    switch (request->operation) {
    case XB_BLKIF_DISCARD:
        request->flag = head[1];
        get(&request->handle, head + 2, sizeof(request->handle));
        get(&request->nr_sectors, tail + 20, sizeof(request->nr_sectors));
        break;
    case XB_BLKIF_INDIRECT:
        request->indirect_op = head[1];
        get(&request->nr_segments, head + 2, sizeof(request->nr_segments));
        get(&request->handle, tail + 20, sizeof(request->handle));
        get(request->indirect_grefs, tail + 24, sizeof(request->indirect_grefs));
        break;
    default:
        request->nr_segments = head[1];
        get(&request->handle, head + 2, sizeof(request->handle));
        parse_segments(tail + 20, request);
    }
}

void xb_blkif_parse_segments(const void *page, uint32_t count, struct xb_blkif_segment *segments)
{
    XB_ASSERT(count <= XB_BLKIF_SEGMENTS_PER_PAGE);
    memcpy(segments, page, count * sizeof(*segments));
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* the compiler may not look at the page again for what was copied */
}

int xb_blkif_check_count(uint8_t operation, uint32_t nr_segments, uint32_t max_segments)
{
    if (nr_segments == 0)
        return operation == XB_BLKIF_FLUSH_DISKCACHE || operation == XB_BLKIF_WRITE_BARRIER;
    return nr_segments <= max_segments;
}

/* Written so that no sum can run over. */
static int is_within(uint64_t sector, uint64_t nr_sectors, const struct xb_blkif_disk *disk)
{
    uint64_t disk_sectors = __atomic_load_n(&disk->sectors, __ATOMIC_RELAXED);

    return nr_sectors == 0 || (nr_sectors <= disk_sectors && sector <= disk_sectors - nr_sectors);
}

static int is_whole(uint64_t sectors, const struct xb_blkif_disk *disk)
{
    return (sectors & (disk->unit_sectors - 1)) == 0;
}

int xb_blkif_check(const struct xb_blkif_request *request, const struct xb_blkif_segment *segments,
                   const struct xb_blkif_disk *disk, uint32_t *nr_sectors)
{
    uint32_t sectors = 0, all_bits = 0;

    for (uint32_t i = 0; i < request->nr_segments; i++) {
        uint32_t first = segments[i].first_sect, last = segments[i].last_sect, size = last - first + 1;

        if (first > last || last >= SECTORS_PER_PAGE)
            return 0;
        sectors += size;
        all_bits |= size;
    }
    *nr_sectors = sectors;
    if (request->operation != XB_BLKIF_READ && disk->read_only)
        return 0;
    return is_within(request->sector_number, sectors, disk) &&
           (sectors == 0 || is_whole(request->sector_number | all_bits, disk));
}

int xb_blkif_check_discard_range(const struct xb_blkif_request *request, const struct xb_blkif_disk *disk)
{
    return !disk->read_only && is_within(request->sector_number, request->nr_sectors, disk);
}

int xb_blkif_check_discard_sectors(const struct xb_blkif_request *request, const struct xb_blkif_disk *disk)
{
    return is_whole(request->sector_number | request->nr_sectors, disk);
}

void xb_blkif_pack_response(void *slot, uint32_t slot_bytes, uint64_t id, uint8_t operation, int16_t status)
{
    uint64_t rest = operation | (uint64_t)(uint16_t)status << 16;

    /* Two whole words: put copies them by the same, and need not wait for smaller stores to come together. */
    memcpy(slot, &id, sizeof(id));
    memcpy((uint8_t *)slot + sizeof(id), &rest, sizeof(rest));
    memset((uint8_t *)slot + 2 * sizeof(rest), 0, slot_bytes - 2 * sizeof(rest));
}
