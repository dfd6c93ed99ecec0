#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/table.h"
#include "xenblk/copying.h"
#include "xenblk/blkfront/pool.h"
#include "xenblk/blkfront/lending.h"

#include "xenblk/assert.h"

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096u
#define SECTOR_SHIFT 9
#define SEGMENT_BYTES 8

/* One store a segment: gref, first and last sector, two bytes of padding. */
static void write_segment(uint8_t *place, uint32_t gref, uint32_t first_sect, uint32_t last_sect)
{
    uint64_t segment = gref | (uint64_t)first_sect << 32 | (uint64_t)last_sect << 40;

    memcpy(place, &segment, sizeof(segment));
}

/* Where in the domain's memory a buffer that may be lent directly begins; memory_bytes for any other. */
static uint64_t locate(const struct xb_lender *lender, const uint8_t *buffer, uint64_t nr_bytes)
{
    uint64_t at = (uintptr_t)buffer - (uintptr_t)lender->memory;

    if (lender->persistent || at >= lender->memory_bytes || nr_bytes > lender->memory_bytes - at ||
        (at | nr_bytes) % lender->direct_unit != 0)
        return lender->memory_bytes;
    return at;
}

uint32_t xb_loan_nr_indirect(uint32_t nr_segments)
{
    if (nr_segments <= XB_LOAN_SEGMENTS_MAX)
        return 0;
    return (nr_segments + XB_LOAN_SEGMENTS_PER_PAGE - 1) / XB_LOAN_SEGMENTS_PER_PAGE;
}

uint32_t xb_longest_piece(const struct xb_lender *lender, const uint8_t *buffer, uint64_t nr_bytes,
                          uint32_t max_segments)
{
    uint64_t at = locate(lender, buffer, nr_bytes);
    uint32_t longest = max_segments * PAGE_SIZE;

    if (at < lender->memory_bytes)
        longest -= at % PAGE_SIZE;
    return nr_bytes < longest ? (uint32_t)nr_bytes : longest;
}

/* What is lent: descriptor pages, then data. */
static uint32_t *lent_of(struct xb_loan *loan)
{
    return loan->nr_indirect == 0 ? loan->lent : loan->many;
}

/* Checked before it is narrowed: whoever lends asked xb_longest_piece first. */
static void set_count(const struct xb_lender *lender, struct xb_loan *loan, uint64_t nr_bytes)
{
    uint64_t count = (nr_bytes + PAGE_SIZE - 1) >> PAGE_SHIFT;

    XB_ASSERT(count <= lender->max_segments);
    loan->count = (uint16_t)count;
    loan->nr_indirect = (uint8_t)xb_loan_nr_indirect(loan->count);
}

/* Where segment i belongs: in the slot, or in a descriptor page. */
static uint8_t *place_of(const struct xb_lender *lender, const struct xb_loan *loan, uint8_t *segments, uint32_t i)
{
    if (loan->nr_indirect == 0)
        return segments + (size_t)i * SEGMENT_BYTES;
    return lender->pool.pages[loan->many[i / XB_LOAN_SEGMENTS_PER_PAGE]].data +
           (size_t)(i % XB_LOAN_SEGMENTS_PER_PAGE) * SEGMENT_BYTES;
}

/* The references of all 8 descriptor pages, 0 for those that the request has not. */
static void write_descriptors(const struct xb_lender *lender, const struct xb_loan *loan, uint8_t *segments)
{
    uint32_t refs[XB_LOAN_INDIRECT_MAX] = {0};

    for (uint32_t i = 0; i < loan->nr_indirect; i++)
        refs[i] = lender->pool.pages[loan->many[i]].gref;
    memcpy(segments + sizeof(refs[0]), refs, sizeof(refs));
}

static int bounce(struct xb_lender *lender, int to_backend, struct xb_loan *loan, uint8_t *segments)
{
    uint32_t *lent;

    set_count(lender, loan, loan->nr_bytes);
    lent = lent_of(loan);
    if (!xb_pool_take(&lender->pool, lent, loan->nr_indirect + loan->count))
        return 0;
    lent += loan->nr_indirect;
    for (uint32_t i = 0, at = 0; i < loan->count; i++, at += PAGE_SIZE) {
        const struct xb_pool_page *page = &lender->pool.pages[lent[i]];
        uint32_t part = loan->nr_bytes - at < PAGE_SIZE ? loan->nr_bytes - at : PAGE_SIZE;

        if (to_backend)
            xb_copy(lender->how, page->data, loan->buffer + at, part);
        write_segment(place_of(lender, loan, segments, i), page->gref, 0, (part >> SECTOR_SHIFT) - 1);
    }
    return 1;
}

/* Pages for the descriptors, and references for the data from `frame` on: 1, or 0 and nothing. */
static int take_in_place(struct xb_lender *lender, uint32_t frame, struct xb_loan *loan)
{
    uint32_t *lent = lent_of(loan), *refs = lent + loan->nr_indirect;

    if (loan->nr_indirect > 0 && !xb_pool_take(&lender->pool, lent, loan->nr_indirect))
        return 0;
    for (uint32_t i = 0; i < loan->count; i++)
        refs[i] = frame + i;
    if (xb_grant_table_grant(lender->pool.table, lender->pool.domid, refs, loan->count, 0, refs))
        return 1;
    xb_pool_put(&lender->pool, lent, loan->nr_indirect);
    return 0;
}

static int grant_in_place(struct xb_lender *lender, uint64_t at, struct xb_loan *loan, uint8_t *segments)
{
    uint32_t offset = at % PAGE_SIZE, left = loan->nr_bytes, *refs;

    set_count(lender, loan, (uint64_t)offset + loan->nr_bytes);
    if (!take_in_place(lender, (uint32_t)(at >> PAGE_SHIFT), loan))
        return 0;
    refs = lent_of(loan) + loan->nr_indirect;
    for (uint32_t i = 0; i < loan->count; i++, offset = 0) {
        uint32_t part = left < PAGE_SIZE - offset ? left : PAGE_SIZE - offset;

        write_segment(place_of(lender, loan, segments, i), refs[i], offset >> SECTOR_SHIFT,
                      ((offset + part) >> SECTOR_SHIFT) - 1);
        left -= part;
    }
    return 1;
}

int xb_lend(struct xb_lender *lender, uint8_t *buffer, uint32_t nr_bytes, int to_backend, struct xb_loan *loan,
            uint8_t *segments)
{
    uint64_t at = locate(lender, buffer, nr_bytes);
    int is_lent;

    loan->buffer = buffer;
    loan->nr_bytes = nr_bytes;
    loan->is_direct = at < lender->memory_bytes && grant_in_place(lender, at, loan, segments);
    /* The pool may have what the table has not. */
    is_lent = loan->is_direct || bounce(lender, to_backend, loan, segments);
    if (is_lent && loan->nr_indirect > 0)
        write_descriptors(lender, loan, segments);
    return is_lent;
}

/* Returns how many are still mapped: their references stay granted, and stand first. */
static uint32_t end_direct(struct xb_grant_table *table, uint32_t *refs, uint32_t count)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++)
        if (!xb_grant_table_end(table, refs[i]))
            refs[kept++] = refs[i];
    return kept;
}

const uint8_t *xb_first_page(const struct xb_lender *lender, struct xb_loan *loan)
{
    if (loan->is_direct || loan->count == 0)
        return NULL;
    return lender->pool.pages[lent_of(loan)[loan->nr_indirect]].data;
}

static void copy_out(const struct xb_lender *lender, const struct xb_loan *loan, const uint32_t *pages,
                     const uint8_t *next)
{
    const struct xb_grant_entry *shared = lender->pool.table->shared;

    for (uint32_t i = 0, at = 0; i < loan->count; i++, at += PAGE_SIZE) {
        uint32_t part = loan->nr_bytes - at < PAGE_SIZE ? loan->nr_bytes - at : PAGE_SIZE;
        const struct xb_pool_page *page = &lender->pool.pages[pages[i]];
        const uint8_t *after = next;

        if (i + 1 < loan->count)
            after = lender->fetches ? lender->pool.pages[pages[i + 1]].data : NULL;
        /* The pool will ask for the grant's flags next: they come while the data is copied. */
        if (shared != NULL)
            __builtin_prefetch(&shared[page->gref]);
        xb_fetch(after, part);
        xb_copy_plain(loan->buffer + at, page->data, part);
    }
}

uint32_t xb_take_back(struct xb_lender *lender, struct xb_loan *loan, int from_backend, const uint8_t *next)
{
    uint32_t *lent = lent_of(loan), *data = lent + loan->nr_indirect, nr_pages = loan->nr_indirect, kept = 0, left = 0;

    if (loan->is_direct) {
        kept = left = end_direct(lender->pool.table, data, loan->count);
    } else {
        if (from_backend)
            copy_out(lender, loan, data, next);
        nr_pages += loan->count;
    }
    kept += xb_pool_put(&lender->pool, lent, nr_pages);
    loan->count = (uint16_t)left;
    return lender->persistent ? 0 : kept;
}

uint32_t xb_abandon(struct xb_lender *lender, struct xb_loan *loan, uint32_t *mapped, uint32_t max)
{
    uint32_t *refs = lent_of(loan) + loan->nr_indirect, kept = 0;

    if (loan->is_direct)
        kept = end_direct(lender->pool.table, refs, loan->count);
    for (uint32_t i = 0; i < kept && i < max; i++)
        mapped[i] = refs[i];
    loan->count = 0;
    return kept;
}
