/* Memory that the kernel grants: content, references that stay, runs in one call, failures, release, threads. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/table.h"
#include "xenblk/copying.h"
#include "xenblk/blkfront/pool.h"
#include "xenblk/blkfront/lending.h"
#include "xenblk/xen/gntalloc.h"

#include "xenblk/assert.h"

#include "gntalloc_double.h" /* speaks of all of the above */

#define NR_FRAMES 64
#define PAGE_BYTES DOUBLE_PAGE_BYTES
#define BACKEND 3
#define NR_THREADS 4
#define NR_POOL 12

static struct xb_gntalloc gntalloc;
static struct xb_gntalloc_frame frames[NR_FRAMES];
static uint8_t *memory;
static int device;

static void begin(void)
{
    device = double_open();
    memset(frames, 0, sizeof(frames));
    memory = mmap(NULL, NR_FRAMES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    XB_ASSERT(memory != MAP_FAILED);
    for (uint32_t i = 0; i < NR_FRAMES; i++)
        memset(memory + (size_t)i * PAGE_BYTES, (int)i + 1, PAGE_BYTES);
    xb_gntalloc_init(&gntalloc, &double_calls, device, memory, frames, NR_FRAMES);
}

static void end(void)
{
    XB_ASSERT(xb_gntalloc_release(&gntalloc, 0, NR_FRAMES) == 1);
    XB_ASSERT(xb_gntalloc_nr_granted(&gntalloc) == 0 && double_held() == 0);
    munmap(memory, NR_FRAMES * PAGE_BYTES);
    close(device);
}

static int grant(uint16_t domid, uint32_t first, uint32_t count, int readonly, uint32_t *refs)
{
    for (uint32_t i = 0; i < count; i++)
        refs[i] = first + i;
    return xb_grant_table_grant(&gntalloc.table, domid, refs, count, readonly, refs);
}

static void expect_content(uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        for (uint32_t at = 0; at < PAGE_BYTES; at += 512)
            XB_ASSERT(memory[(size_t)i * PAGE_BYTES + at] == i + 1);
}

/* What the domain that it is granted to sees. */
static uint8_t *granted_page(uint32_t ref)
{
    static uint8_t page[PAGE_BYTES];

    XB_ASSERT(pread(device, page, PAGE_BYTES, (off_t)(ref - DOUBLE_FIRST_REF) * PAGE_BYTES) == PAGE_BYTES);
    return page;
}

static void test_a_run_is_one_call_and_keeps_its_content(void)
{
    uint32_t refs[11], again[11];

    begin();
    XB_ASSERT(grant(BACKEND, 4, 11, 0, refs) == 1);
    XB_ASSERT(double_nr_allocs == 1 && double_held() == 11 && double_pages[0].domid == BACKEND);
    XB_ASSERT(double_pages[0].writable);
    expect_content(0, NR_FRAMES);
    memory[5 * PAGE_BYTES] = 77;
    XB_ASSERT(granted_page(refs[1])[0] == 77 && granted_page(refs[2])[0] == 7);
    XB_ASSERT(xb_grant_table_end(&gntalloc.table, refs[3]) == 1);
    XB_ASSERT(grant(BACKEND, 4, 11, 0, again) == 1 && memcmp(refs, again, sizeof(refs)) == 0);
    XB_ASSERT(double_nr_allocs == 1);
    XB_ASSERT(!xb_grant_table_sees_mappings(&gntalloc.table) && !xb_grant_table_grants(&gntalloc.table, 4, 11));
    end();
}

static void test_only_what_is_missing_is_granted(void)
{
    uint32_t refs[8], part[2], scattered[5] = {40, 20, 21, 60, 40};

    begin();
    XB_ASSERT(grant(BACKEND, 10, 2, 0, part) == 1);
    XB_ASSERT(grant(BACKEND, 8, 8, 0, refs) == 1);
    XB_ASSERT(double_nr_allocs == 3 && refs[2] == part[0] && refs[3] == part[1]);
    XB_ASSERT(xb_grant_table_grant(&gntalloc.table, BACKEND, scattered, 5, 0, scattered) == 1);
    XB_ASSERT(double_nr_allocs == 6 && scattered[0] == scattered[4] && scattered[2] == scattered[1] + 1);
    expect_content(0, NR_FRAMES);
    end();
}

static void test_refusals(void)
{
    uint32_t refs[12], beyond = NR_FRAMES;

    begin();
    double_limit = 10;
    XB_ASSERT(grant(BACKEND, 0, 11, 0, refs) == 0 && gntalloc.error == ENOSPC && double_held() == 0);
    XB_ASSERT(grant(BACKEND, 0, 10, 1, refs) == 1 && !double_pages[9].writable);
    XB_ASSERT(grant(BACKEND, 20, 1, 0, refs) == 0 && gntalloc.error == ENOSPC);
    XB_ASSERT(grant(BACKEND + 1, 3, 1, 1, refs) == 0 && gntalloc.error == EBUSY);
    XB_ASSERT(grant(BACKEND, 3, 1, 0, refs) == 0 && gntalloc.error == EBUSY);
    XB_ASSERT(xb_grant_table_grant(&gntalloc.table, BACKEND, &beyond, 1, 0, refs) == 0 && gntalloc.error == EFAULT);
    expect_content(0, NR_FRAMES);
    end();
}

/* Neither the first mapping nor the second: the frames are as they were, and usable. */
static void test_a_mapping_that_fails(void)
{
    uint32_t refs[4];

    for (uint32_t which = 1; which <= 2; which++) {
        begin();
        double_refuse_map_after = which;
        XB_ASSERT(grant(BACKEND, 6, 4, 0, refs) == 0 && gntalloc.error == ENOMEM);
        expect_content(0, NR_FRAMES);
        XB_ASSERT(double_held() == 0 && xb_gntalloc_nr_granted(&gntalloc) == 0);
        XB_ASSERT(grant(BACKEND, 6, 4, 0, refs) == 1);
        expect_content(0, NR_FRAMES);
        end();
    }
}

static void test_a_released_page_is_zero_and_another(void)
{
    uint32_t refs[6], other;

    begin();
    XB_ASSERT(grant(BACKEND, 2, 6, 0, refs) == 1);
    XB_ASSERT(xb_gntalloc_release(&gntalloc, 4, 1) == 1);
    XB_ASSERT(memory[4 * PAGE_BYTES] == 0 && frames[4].ref == 0);
    XB_ASSERT(double_held() == 6 && xb_gntalloc_nr_granted(&gntalloc) == 5);
    memory[4 * PAGE_BYTES] = 99;
    XB_ASSERT(granted_page(refs[2])[0] == 5);
    XB_ASSERT(grant(BACKEND + 1, 4, 1, 0, &other) == 1 && other != refs[2] && granted_page(other)[0] == 99);
    XB_ASSERT(xb_gntalloc_release(&gntalloc, 2, 2) == 1 && xb_gntalloc_release(&gntalloc, 5, 3) == 1);
    XB_ASSERT(double_held() == 1);
    double_refuse_map_after = 1;
    XB_ASSERT(xb_gntalloc_release(&gntalloc, 4, 1) == 0 && frames[4].ref == other);
    end();
}

/* Each thread has frames of its own, and reads others' that are being granted: content never flickers. */
static void *grant_and_look(void *argument)
{
    uint32_t me = *(uint32_t *)argument, ref;

    for (uint32_t i = me; i < NR_FRAMES; i += NR_THREADS) {
        XB_ASSERT(grant(BACKEND, i, 1, 0, &ref) == 1);
        for (uint32_t k = 0; k < NR_FRAMES; k++)
            XB_ASSERT(__atomic_load_n(&memory[(size_t)k * PAGE_BYTES + 64], __ATOMIC_RELAXED) == k + 1);
        XB_ASSERT(grant(BACKEND, 0, 1, 0, &ref) == 1 && ref == __atomic_load_n(&frames[0].ref, __ATOMIC_RELAXED));
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[NR_THREADS];
    uint32_t numbers[NR_THREADS];

    begin();
    for (uint32_t i = 0; i < NR_THREADS; i++) {
        numbers[i] = i;
        XB_ASSERT(pthread_create(&threads[i], NULL, grant_and_look, &numbers[i]) == 0);
    }
    for (uint32_t i = 0; i < NR_THREADS; i++)
        pthread_join(threads[i], NULL);
    XB_ASSERT(xb_gntalloc_nr_granted(&gntalloc) == NR_FRAMES);
    end();
}

/* A lender on it: whole pages in place, the rest through the pool, whose pages are granted once. At the limit the pool
 * has to do. */
static void test_lending(void)
{
    static struct xb_pool_page pages[NR_POOL];
    static uint32_t numbers[2 * NR_POOL];
    uint8_t segments[XB_LOAN_SEGMENTS_MAX * 8];
    struct xb_loan loan = {0};
    struct xb_lender lender = {.max_segments = XB_LOAN_SEGMENTS_MAX, .direct_unit = PAGE_BYTES};

    begin();
    for (uint32_t i = 0; i < NR_POOL; i++)
        pages[i] = (struct xb_pool_page){.data = memory + (size_t)i * PAGE_BYTES, .frame = i};
    xb_pool_init(&lender.pool, &gntalloc.table, BACKEND, pages, NR_POOL, numbers, numbers + NR_POOL);
    lender.memory = memory;
    lender.memory_bytes = NR_FRAMES * PAGE_BYTES;
    XB_ASSERT(xb_lend(&lender, memory + 40 * PAGE_BYTES, 4 * PAGE_BYTES, 1, &loan, segments) == 1 && loan.is_direct);
    XB_ASSERT(double_held() == 4 && xb_take_back(&lender, &loan, 0, NULL) == 0);
    double_limit = 6;
    for (int round = 0; round < 3; round++) {
        XB_ASSERT(xb_lend(&lender, memory + 50 * PAGE_BYTES + 512, 2 * PAGE_BYTES - 512, 1, &loan, segments) == 1);
        XB_ASSERT(!loan.is_direct && loan.count == 2 && double_held() == 6 && lender.pool.nr_granted == 0);
        XB_ASSERT(granted_page(pages[0].gref)[0] == 51 && xb_take_back(&lender, &loan, 0, NULL) == 0);
        XB_ASSERT(lender.pool.nr_granted == 2 && xb_pool_trim(&lender.pool) == 0);
        XB_ASSERT(xb_lend(&lender, memory + 60 * PAGE_BYTES, 2 * PAGE_BYTES, 1, &loan, segments) == 1);
        XB_ASSERT(!loan.is_direct && gntalloc.error == ENOSPC && xb_take_back(&lender, &loan, 1, NULL) == 0);
        XB_ASSERT(xb_lend(&lender, memory + 50 * PAGE_BYTES, 3 * PAGE_BYTES, 1, &loan, segments) == 0);
    }
    XB_ASSERT(xb_pool_close(&lender.pool) == 0 && pages[0].gref == XB_POOL_NO_GREF);
    end();
}

int main(void)
{
    test_a_run_is_one_call_and_keeps_its_content();
    test_only_what_is_missing_is_granted();
    test_refusals();
    test_a_mapping_that_fails();
    test_a_released_page_is_zero_and_another();
    test_threads();
    test_lending();
    return 0;
}
