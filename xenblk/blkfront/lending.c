#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "grants/gnttab.h"
#include "grants/table.h"
#include "xenblk/copying.h"
#include "xenblk/blkfront/pool.h"
#include "xenblk/blkfront/lending.h"

#include "xenblk/assert.h"

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096u
#define SECTOR_SHIFT 9
#define SECTOR_SIZE 512u
#define SEGMENT_BYTES 8

/* One store a segment: gref, first and last sector, two bytes of padding. */
static void write_segment(uint8_t *segments, uint32_t i, uint32_t gref, uint32_t first_sect, uint32_t last_sect)
{
    uint64_t segment = gref | (uint64_t)first_sect << 32 | (uint64_t)last_sect << 40;

    memcpy(segments + (size_t)i * SEGMENT_BYTES, &segment, sizeof(segment));
}

/* Where in the domain's memory a buffer that may be lent directly begins; memory_bytes for any other. */
static uint64_t locate(const struct xb_lender *lender, const uint8_t *buffer, uint64_t nr_bytes)
{
    uint64_t at = (uintptr_t)buffer - (uintptr_t)lender->memory;

    if (lender->persistent || at >= lender->memory_bytes || nr_bytes > lender->memory_bytes - at || at % SECTOR_SIZE)
        return lender->memory_bytes;
    return at;
}

uint32_t xb_longest_piece(const struct xb_lender *lender, const uint8_t *buffer, uint64_t nr_bytes)
{
    uint64_t at = locate(lender, buffer, nr_bytes);
    uint32_t longest = XB_LOAN_SEGMENTS_MAX * PAGE_SIZE;

    if (at < lender->memory_bytes)
        longest -= at % PAGE_SIZE;
    return nr_bytes < longest ? (uint32_t)nr_bytes : longest;
}

/* Checked before it is narrowed: whoever lends asked xb_longest_piece first. */
static void set_count(struct xb_loan *loan, uint64_t nr_bytes)
{
    uint64_t count = (nr_bytes + PAGE_SIZE - 1) >> PAGE_SHIFT;

    XB_ASSERT(count <= XB_LOAN_SEGMENTS_MAX);
    loan->count = (uint8_t)count;
}

static int bounce(struct xb_lender *lender, int to_backend, struct xb_loan *loan, uint8_t *segments)
{
    set_count(loan, loan->nr_bytes);
    if (!xb_pool_take(&lender->pool, loan->lent, loan->count))
        return 0;
    for (uint32_t i = 0, at = 0; i < loan->count; i++, at += PAGE_SIZE) {
        const struct xb_pool_page *page = &lender->pool.pages[loan->lent[i]];
        uint32_t part = loan->nr_bytes - at < PAGE_SIZE ? loan->nr_bytes - at : PAGE_SIZE;

        if (to_backend)
            xb_copy(lender->how, page->data, loan->buffer + at, part);
        write_segment(segments, i, page->gref, 0, (part >> SECTOR_SHIFT) - 1);
    }
    return 1;
}

static int grant_in_place(struct xb_lender *lender, uint64_t at, struct xb_loan *loan, uint8_t *segments)
{
    struct xb_grant_table *table = lender->pool.table;
    uint32_t offset = at % PAGE_SIZE, frame = (uint32_t)(at >> PAGE_SHIFT), left = loan->nr_bytes;

    set_count(loan, (uint64_t)offset + loan->nr_bytes);
    if (!xb_grant_table_allocate(table, loan->lent, loan->count))
        return 0;
    for (uint32_t i = 0; i < loan->count; i++, frame++, offset = 0) {
        uint32_t part = left < PAGE_SIZE - offset ? left : PAGE_SIZE - offset;

        xb_grant_table_grant(table, loan->lent[i], lender->pool.domid, frame, 0);
        write_segment(segments, i, loan->lent[i], offset >> SECTOR_SHIFT, ((offset + part) >> SECTOR_SHIFT) - 1);
        left -= part;
    }
    return 1;
}

int xb_lend(struct xb_lender *lender, uint8_t *buffer, uint32_t nr_bytes, int to_backend, struct xb_loan *loan,
            uint8_t *segments)
{
    uint64_t at = locate(lender, buffer, nr_bytes);

    loan->buffer = buffer;
    loan->nr_bytes = nr_bytes;
    loan->is_direct = at < lender->memory_bytes;
    if (loan->is_direct)
        return grant_in_place(lender, at, loan, segments);
    return bounce(lender, to_backend, loan, segments);
}

/* Returns how many are still mapped; their references stay granted and are never used again. */
static uint32_t end_direct(struct xb_grant_table *table, const struct xb_loan *loan)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < loan->count; i++) {
        if (xb_grant_table_end_access(table, loan->lent[i]))
            xb_grant_table_free(table, &loan->lent[i], 1);
        else
            kept++;
    }
    return kept;
}

static void copy_out(const struct xb_lender *lender, const struct xb_loan *loan)
{
    for (uint32_t i = 0, at = 0; i < loan->count; i++, at += PAGE_SIZE) {
        uint32_t part = loan->nr_bytes - at < PAGE_SIZE ? loan->nr_bytes - at : PAGE_SIZE;

        const struct xb_pool_page *page = &lender->pool.pages[loan->lent[i]];

        /* The pool will ask for the grant's flags next: they come while the data is copied. */
        __builtin_prefetch(&lender->pool.table->shared[page->gref]);
        xb_copy_plain(loan->buffer + at, page->data, part);
    }
}

uint32_t xb_take_back(struct xb_lender *lender, struct xb_loan *loan, int from_backend)
{
    uint32_t kept;

    if (loan->is_direct) {
        kept = end_direct(lender->pool.table, loan);
    } else {
        if (from_backend)
            copy_out(lender, loan);
        kept = xb_pool_put(&lender->pool, loan->lent, loan->count);
    }
    loan->count = 0;
    return lender->persistent ? 0 : kept;
}

void xb_abandon(struct xb_lender *lender, struct xb_loan *loan)
{
    if (loan->is_direct)
        end_direct(lender->pool.table, loan);
    loan->count = 0;
}
