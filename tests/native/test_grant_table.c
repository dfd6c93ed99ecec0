/* The grant table's allocator: order, all or nothing, and threads that never share a reference. */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/table.h"
#include "grants/table_v1.h"
#include "xenblk/assert.h"

#define NR_ENTRIES 64
#define NR_FREE (NR_ENTRIES - XB_GRANT_TABLE_RESERVED)
#define NR_THREADS 4
#define ROUNDS 3000
#define BATCH_MAX 11

static struct xb_grant_entry entries[NR_ENTRIES];
static uint32_t stack[NR_ENTRIES];
static uint8_t state[NR_ENTRIES];
static struct xb_grant_table_v1 v1;
static struct xb_grant_table *table = &v1.table;
static uint32_t owner[NR_ENTRIES]; /* plain: two threads at one of these are a data race */

static void make(void)
{
    memset(entries, 0, sizeof(entries));
    xb_grant_table_v1_init(&v1, entries, stack, state, NR_ENTRIES);
}

static void test_order(void)
{
    uint32_t refs[NR_FREE] = {0}, again[2] = {0};

    make();
    XB_ASSERT(xb_grant_table_grant(table, 7, refs, NR_FREE, 0, refs) == 1);
    for (uint32_t i = 0; i < NR_FREE; i++)
        XB_ASSERT(refs[i] == XB_GRANT_TABLE_RESERVED + i);
    XB_ASSERT(xb_grant_table_end(table, refs[5]) == 1 && xb_grant_table_end(table, refs[3]) == 1);
    XB_ASSERT(xb_grant_table_v1_nr_free(&v1) == 2);
    XB_ASSERT(xb_grant_table_grant(table, 7, again, 2, 0, again) == 1);
    XB_ASSERT(again[0] == refs[3] && again[1] == refs[5]);
}

static void test_all_or_nothing(void)
{
    uint32_t refs[NR_FREE + 1] = {0};

    make();
    XB_ASSERT(xb_grant_table_grant(table, 7, refs, NR_FREE + 1, 0, refs) == 0);
    XB_ASSERT(xb_grant_table_v1_nr_free(&v1) == NR_FREE);
    for (uint32_t ref = 0; ref < NR_ENTRIES; ref++)
        XB_ASSERT(entries[ref].flags == GTF_invalid);
    XB_ASSERT(xb_grant_table_grant(table, 7, refs, 0, 0, refs) == 1);
}

static void test_a_mapped_reference_stays(void)
{
    uint32_t frame = 9, ref;

    make();
    XB_ASSERT(xb_grant_table_grant(table, 7, &frame, 1, 0, &ref) == 1);
    XB_ASSERT(entries[ref].flags == GTF_permit_access && entries[ref].domid == 7 && entries[ref].frame == 9);
    entries[ref].flags |= GTF_reading;
    XB_ASSERT(xb_grant_table_end(table, ref) == 0 && state[ref] == XB_GRANT_GRANTED);
    entries[ref].flags &= (uint16_t)~GTF_reading;
    XB_ASSERT(xb_grant_table_end(table, ref) == 1 && entries[ref].flags == GTF_invalid);
    XB_ASSERT(state[ref] == XB_GRANT_FREE);
}

static void *grant_and_end(void *argument)
{
    uint32_t me = *(uint32_t *)argument, refs[BATCH_MAX];

    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t count = 1 + (round + me) % BATCH_MAX;

        for (uint32_t i = 0; i < count; i++)
            refs[i] = me * ROUNDS + round;
        if (!xb_grant_table_grant(table, 0, refs, count, 0, refs))
            continue;
        for (uint32_t i = 0; i < count; i++)
            owner[refs[i]] = me;
        for (uint32_t i = 0; i < count; i++) {
            XB_ASSERT(owner[refs[i]] == me && entries[refs[i]].frame == me * ROUNDS + round);
            XB_ASSERT(xb_grant_table_end(table, refs[i]) == 1);
        }
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[NR_THREADS];
    uint32_t numbers[NR_THREADS];

    make();
    for (uint32_t i = 0; i < NR_THREADS; i++) {
        numbers[i] = i;
        XB_ASSERT(pthread_create(&threads[i], NULL, grant_and_end, &numbers[i]) == 0);
    }
    for (uint32_t i = 0; i < NR_THREADS; i++)
        pthread_join(threads[i], NULL);
    XB_ASSERT(xb_grant_table_v1_nr_free(&v1) == NR_FREE);
}

int main(void)
{
    test_order();
    test_all_or_nothing();
    test_a_mapped_reference_stays();
    test_threads();
    return 0;
}
