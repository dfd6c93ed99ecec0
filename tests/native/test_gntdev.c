/* The mapper of real Xen on a double of its device: rows and single pages, refused references, limits, copies, and two
 * threads at once. The seed is printed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "grants/arena.h"
#include "grants/mapper.h"
#include "xenblk/xen/gntdev.h"

#include "fake_gntdev.h"

#define NR_PAGES 48
#define MAX_PAGES 32
#define HANG_S 300

static struct xb_grantor grantor = {.domid = GUEST, .nr_refs = NR_REFS};
static struct xb_gntdev *gntdev;
static struct xb_mapper *mapper;
static uint8_t *arena;

static void boot(uint32_t call_max)
{
    gntdev = xb_gntdev_create(DEVICE_FD, MAX_PAGES, call_max);
    XB_ASSERT(gntdev != NULL);
    mapper = (struct xb_mapper *)gntdev;
}

static void shut_down(void)
{
    device_is_clean();
    XB_ASSERT(xb_gntdev_nr_mapped(gntdev) == 0);
    xb_gntdev_destroy(gntdev);
}

static uint8_t *page_at(uint32_t slot)
{
    return arena + (size_t)slot * PAGE_SIZE;
}

static struct xb_map_grant_ref map_op(uint32_t slot, uint32_t ref, uint32_t flags)
{
    return (struct xb_map_grant_ref){
        .host_addr = (uintptr_t)page_at(slot), .flags = flags, .ref = ref, .dom = GUEST, .status = 1};
}

static struct xb_unmap_grant_ref unmap_op(uint32_t slot, uint32_t handle)
{
    return (struct xb_unmap_grant_ref){.host_addr = (uintptr_t)page_at(slot), .handle = handle, .status = 1};
}

static int is_reserved_or_mapped(uint8_t *page)
{
    unsigned char resident;

    return mincore(page, PAGE_SIZE, &resident) == 0;
}

/* Pages first..first+count-1 for references of the same numbers. */
static void map_pages(struct xb_map_grant_ref *ops, uint32_t first, uint32_t count, int together)
{
    for (uint32_t i = 0; i < count; i++)
        ops[i] = map_op(first + i, first + i, GNTMAP_host_map);
    xb_mapper_map(mapper, &grantor, ops, count, together);
}

static void unmap_pages(const struct xb_map_grant_ref *mapped, uint32_t first, uint32_t count)
{
    struct xb_unmap_grant_ref ops[NR_PAGES];

    for (uint32_t i = 0; i < count; i++)
        ops[i] = unmap_op(first + i, mapped[i].handle);
    xb_mapper_unmap(mapper, &grantor, ops, count);
    for (uint32_t i = 0; i < count; i++) {
        XB_ASSERT(ops[i].status == GNTST_okay);
        XB_ASSERT(!is_mapped(page_at(first + i)));
    }
}

static void expect_calls(uint32_t nr_maps, uint32_t nr_ioctls)
{
    XB_ASSERT(device.nr_maps == nr_maps && device.nr_ioctls == nr_ioctls);
    device.nr_maps = device.nr_ioctls = 0;
}

static void test_a_row_is_two_calls(void)
{
    struct xb_map_grant_ref ops[11];

    boot(NR_REFS);
    expect_calls(device.nr_maps, device.nr_ioctls);
    map_pages(ops, 3, 11, 1);
    expect_calls(1, 1);
    for (uint32_t i = 0; i < 11; i++) {
        XB_ASSERT(ops[i].status == GNTST_okay);
        page_at(3 + i)[5] = (uint8_t)(100 + i);
        XB_ASSERT(device.memory[(3 + i) * PAGE_SIZE + 5] == 100 + i);
    }
    XB_ASSERT(xb_gntdev_nr_mapped(gntdev) == 11);
    unmap_pages(ops, 3, 11);
    expect_calls(0, 1);
    shut_down();
}

static void test_pages_apart_are_unmapped_in_any_order(void)
{
    struct xb_map_grant_ref ops[4];

    boot(NR_REFS);
    map_pages(ops, 0, 4, 0);
    unmap_pages(&ops[2], 2, 1);
    unmap_pages(&ops[0], 0, 2);
    page_at(3)[0] = 1;
    unmap_pages(&ops[3], 3, 1);
    shut_down();
}

static void test_rows_keep_to_what_a_call_may_have(void)
{
    struct xb_map_grant_ref ops[10];

    device.call_max = 4;
    boot(4);
    expect_calls(device.nr_maps, device.nr_ioctls);
    map_pages(ops, 0, 10, 1);
    expect_calls(3, 3);
    unmap_pages(ops, 0, 10);
    device.call_max = NR_REFS;
    shut_down();
}

/* One that was not granted fails alone, and its page is reserved again. */
static void test_one_bad_reference(int together)
{
    struct xb_map_grant_ref ops[6];

    boot(NR_REFS);
    device.access[4] = NO_ACCESS;
    map_pages(ops, 0, 6, together);
    for (uint32_t i = 0; i < 6; i++) {
        XB_ASSERT(ops[i].status == (i == 4 ? GNTST_general_error : GNTST_okay));
        XB_ASSERT(is_mapped(page_at(i)) == (i != 4));
    }
    XB_ASSERT(is_reserved_or_mapped(page_at(4)));
    unmap_pages(&ops[0], 0, 4);
    unmap_pages(&ops[5], 5, 1);
    device.access[4] = READ_WRITE;
    shut_down();
}

static void test_read_only(void)
{
    struct xb_map_grant_ref ops[] = {map_op(0, 9, GNTMAP_host_map | GNTMAP_readonly), map_op(1, 9, GNTMAP_host_map)};

    boot(NR_REFS);
    device.access[9] = READ_ONLY;
    xb_mapper_map(mapper, &grantor, ops, 2, 1);
    XB_ASSERT(ops[0].status == GNTST_okay && ops[1].status == GNTST_general_error);
    unmap_pages(ops, 0, 1);
    device.access[9] = READ_WRITE;
    shut_down();
}

static void test_what_the_device_is_not_asked(void)
{
    struct xb_map_grant_ref ops[] = {map_op(0, 0, 0), map_op(1, 1, GNTMAP_host_map | 64), map_op(2, 2, GNTMAP_host_map),
                                     map_op(3, 3, GNTMAP_host_map)};

    boot(NR_REFS);
    ops[2].dom = GUEST + 1;
    ops[3].host_addr++;
    expect_calls(device.nr_maps, device.nr_ioctls);
    xb_mapper_map(mapper, &grantor, ops, 4, 1);
    expect_calls(0, 0);
    XB_ASSERT(ops[0].status == GNTST_bad_gntref && ops[1].status == GNTST_general_error);
    XB_ASSERT(ops[2].status == GNTST_bad_domain && ops[3].status == GNTST_bad_virt_addr);
    shut_down();
}

static void test_limits(void)
{
    struct xb_map_grant_ref ops[MAX_PAGES + 1];

    boot(NR_REFS);
    map_pages(ops, 0, MAX_PAGES - MAX_PAGES / 4 - 1, 0);
    XB_ASSERT(!xb_mapper_is_crowded(mapper));
    unmap_pages(ops, 0, MAX_PAGES - MAX_PAGES / 4 - 1);
    map_pages(ops, 0, MAX_PAGES + 1, 1);
    for (uint32_t i = 0; i <= MAX_PAGES; i++)
        XB_ASSERT(ops[i].status == (i < MAX_PAGES ? GNTST_okay : GNTST_no_space));
    XB_ASSERT(xb_mapper_is_crowded(mapper));
    unmap_pages(ops, 0, MAX_PAGES);
    device.refused_ioctl = ENOMEM;
    map_pages(ops, 0, 1, 0);
    XB_ASSERT(ops[0].status == GNTST_no_space);
    shut_down();
}

static int16_t unmap_one(uint32_t slot, uint32_t handle)
{
    struct xb_unmap_grant_ref op = unmap_op(slot, handle);

    xb_mapper_unmap(mapper, &grantor, &op, 1);
    return op.status;
}

static void test_what_is_no_mapping_stays_as_it_is(void)
{
    struct xb_map_grant_ref row[3], one;

    boot(NR_REFS);
    map_pages(row, 0, 3, 1);
    map_pages(&one, 5, 1, 0);
    XB_ASSERT(unmap_one(0, UINT32_MAX) == GNTST_bad_handle);
    XB_ASSERT(unmap_one(0, one.handle + 1) == GNTST_bad_handle);
    XB_ASSERT(unmap_one(4, one.handle) == GNTST_bad_virt_addr);
    XB_ASSERT(unmap_one(0, row[0].handle) == GNTST_bad_virt_addr); /* a part of a row */
    XB_ASSERT(unmap_one(1, row[1].handle) == GNTST_bad_virt_addr);
    unmap_pages(row, 0, 3);
    XB_ASSERT(unmap_one(0, row[0].handle) == GNTST_bad_handle);
    unmap_pages(&one, 5, 1);
    shut_down();
}

static void test_copies(void)
{
    uint8_t buffer[70][16];
    struct xb_copy_segment segments[70];

    boot(NR_REFS);
    for (uint32_t i = 0; i < 70; i++) {
        memset(buffer[i], (int)i + 1, sizeof(buffer[i]));
        segments[i] = (struct xb_copy_segment){
            .virt = (uintptr_t)buffer[i], .ref = i % NR_REFS, .offset = 16, .len = 16, .to_grant = 1, .status = 1};
    }
    segments[3].offset = PAGE_SIZE - 15;
    segments[4].ref = NR_REFS;
    xb_mapper_copy(mapper, &grantor, segments, 70);
    for (uint32_t i = 0; i < 70; i++)
        XB_ASSERT(segments[i].status == (i == 3 ? GNTST_bad_copy_arg : i == 4 ? GNTST_bad_gntref : GNTST_okay));
    XB_ASSERT(device.memory[9 * PAGE_SIZE + 16] == 10 && device.memory[0 * PAGE_SIZE + 31] == 65);
    segments[0].to_grant = 0;
    memset(buffer[0], 0, sizeof(buffer[0]));
    xb_mapper_copy(mapper, &grantor, segments, 1);
    XB_ASSERT(segments[0].status == GNTST_okay && buffer[0][15] == 65);
    device.refused_ioctl = EFAULT;
    xb_mapper_copy(mapper, &grantor, segments, 2);
    XB_ASSERT(segments[0].status == GNTST_general_error && segments[1].status == GNTST_general_error);
    shut_down();
}

/* Rows and single pages on a part of the arena, mapped, written and unmapped; some were not granted. */
static void *work(void *argument)
{
    uint32_t first = *(uint32_t *)argument, seed = first + 1;

    for (uint32_t round = 0; round < 2000; round++) {
        struct xb_map_grant_ref ops[11];
        uint32_t count = 1 + (uint32_t)rand_r(&seed) % 11, okay = 0;

        map_pages(ops, first, count, (int)(round & 1));
        while (okay < count && ops[okay].status == GNTST_okay)
            page_at(first + okay++)[round % PAGE_SIZE] = 1;
        XB_ASSERT(okay == count);
        unmap_pages(ops, first, count);
    }
    return NULL;
}

static void test_threads(void)
{
    uint32_t firsts[] = {0, 16};
    pthread_t threads[2];

    boot(NR_REFS);
    for (uint32_t i = 0; i < 2; i++)
        XB_ASSERT(pthread_create(&threads[i], NULL, work, &firsts[i]) == 0);
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    shut_down();
}

/* Against a model of what is mapped where. */
static void test_any_order(unsigned seed)
{
    struct xb_map_grant_ref held[NR_PAGES] = {0}; /* by slot; host_addr 0: free */
    uint32_t length[NR_PAGES] = {0};             /* of the row that begins at a slot */

    boot(NR_REFS);
    for (uint32_t round = 0; round < 4000; round++) {
        uint32_t slot = (uint32_t)rand_r(&seed) % NR_PAGES, count = 0;
        uint32_t wanted = 1 + (uint32_t)rand_r(&seed) % 8;

        device.access[rand_r(&seed) % NR_REFS] = (enum access)(rand_r(&seed) % 4 ? READ_WRITE : NO_ACCESS);
        if (length[slot]) {
            unmap_pages(&held[slot], slot, length[slot]);
            memset(&held[slot], 0, length[slot] * sizeof(held[0]));
            length[slot] = 0;
            continue;
        }
        while (count < wanted && slot + count < NR_PAGES && !held[slot + count].host_addr)
            count++;
        if (count == 0)
            continue;
        map_pages(&held[slot], slot, count, 1);
        for (uint32_t i = slot; i < slot + count; i++) {
            XB_ASSERT(is_mapped(page_at(i)) == (held[i].status == GNTST_okay));
            if (held[i].status != GNTST_okay)
                held[i] = (struct xb_map_grant_ref){0};
            else if (i == slot || held[i].handle != held[i - 1].handle || !held[i - 1].host_addr)
                length[i] = 1;
            else
                for (uint32_t at = i;; at--) {
                    if (length[at]) {
                        length[at]++;
                        break;
                    }
                }
        }
    }
    for (uint32_t slot = 0; slot < NR_PAGES; slot++) {
        if (length[slot])
            unmap_pages(&held[slot], slot, length[slot]);
    }
    shut_down();
}

int main(void)
{
    unsigned seed = (unsigned)time(NULL);

    alarm(HANG_S);
    printf("gntdev: seed %u\n", seed);
    device_open();
    arena = xb_arena_reserve(NR_PAGES);
    XB_ASSERT(arena != NULL);
    test_a_row_is_two_calls();
    test_pages_apart_are_unmapped_in_any_order();
    test_rows_keep_to_what_a_call_may_have();
    test_one_bad_reference(0);
    test_one_bad_reference(1);
    test_read_only();
    test_what_the_device_is_not_asked();
    test_limits();
    test_what_is_no_mapping_stays_as_it_is();
    test_copies();
    test_threads();
    test_any_order(seed);
    xb_arena_release(arena, NR_PAGES);
    return 0;
}
