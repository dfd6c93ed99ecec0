/* System calls of an unmap: one for pages in a row, however many; one that fails leaves its pages' pins, and no
 * other's. mmap is this program's own here, so that it can count calls and let one fail. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "grants/arena.h"
#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "xenblk/assert.h"

#define PAGE_SIZE 4096u
#define NR_PAGES 8
#define FIRST_REF 8
#define NR_ENTRIES (FIRST_REF + NR_PAGES)
#define NR_CALLS_MAX 32
#define HANG_S 300

static struct xb_grant_entry shared[NR_ENTRIES];
static struct xb_active_entry active[NR_ENTRIES];
static struct xb_maptrack_entry track[NR_PAGES];
static uint32_t stack[NR_PAGES];
static struct xb_gnttab_mapper mapper = {.track = track, .base.max_pages = NR_PAGES, .owner = 1, .free = stack};
static struct xb_gnttab_grantor grantor = {
    .shared = shared,
    .active = active,
    .nr_frames = NR_PAGES,
    .instance = 1,
    .base = {.domid = 7, .nr_refs = NR_ENTRIES}};
static char *arena;
static uint32_t handles[NR_PAGES];

/* Calls that took pages away, as first page and number of pages; and which of them fails. */
static struct {
    uint32_t start, length;
} calls[NR_CALLS_MAX];
static uint32_t nr_calls, failing_call;

/* Not instrumented: a sanitizer's own start calls it too. */
__attribute__((no_sanitize("thread", "address", "undefined")))
void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (arena && protection == PROT_NONE && (flags & MAP_FIXED)) {
        XB_ASSERT(nr_calls < NR_CALLS_MAX);
        calls[nr_calls].start = ((char *)address - arena) / PAGE_SIZE;
        calls[nr_calls].length = length / PAGE_SIZE;
        if (nr_calls++ == failing_call) {
            errno = ENOMEM;
            return MAP_FAILED;
        }
    }
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

static int is_mapped(uint32_t page)
{
    char byte;

    return pwrite(grantor.memory_fd, arena + page * PAGE_SIZE, 1, NR_PAGES * PAGE_SIZE) == 1 &&
           pread(grantor.memory_fd, &byte, 1, NR_PAGES * PAGE_SIZE) == 1 && byte == (char)(page + 1);
}

/* Frame n, with n + 1 in it, at page n. */
static void map_all(void)
{
    struct xb_map_grant_ref ops[NR_PAGES] = {0};

    for (uint32_t i = 0; i < NR_PAGES; i++) {
        ops[i] = (struct xb_map_grant_ref){.host_addr = (uintptr_t)arena + i * PAGE_SIZE, .flags = GNTMAP_host_map};
        ops[i].ref = FIRST_REF + i;
        ops[i].dom = grantor.base.domid;
    }
    xb_gnttab_map(&mapper, &grantor, ops, NR_PAGES);
    for (uint32_t i = 0; i < NR_PAGES; i++) {
        XB_ASSERT(ops[i].status == GNTST_okay);
        handles[i] = ops[i].handle;
        arena[i * PAGE_SIZE] = (char)(i + 1);
        XB_ASSERT(is_mapped(i));
    }
    nr_calls = 0;
    failing_call = NR_CALLS_MAX;
}

static struct xb_unmap_grant_ref op_of(uint32_t page)
{
    return (struct xb_unmap_grant_ref){
        .host_addr = (uintptr_t)arena + page * PAGE_SIZE, .handle = handles[page], .status = 1};
}

static void unmap(struct xb_unmap_grant_ref *ops, const uint32_t *pages, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ops[i] = op_of(pages[i]);
    nr_calls = 0;
    xb_gnttab_unmap(&mapper, &grantor, ops, count);
}

static void expect_call(uint32_t call, uint32_t start, uint32_t length)
{
    XB_ASSERT(call < nr_calls && calls[call].start == start && calls[call].length == length);
}

/* Page n is mapped and pinned if bit n of `mapped` is set, and else neither. */
static void expect_mapped(uint32_t mapped)
{
    for (uint32_t i = 0; i < NR_PAGES; i++) {
        int is = mapped >> i & 1;

        XB_ASSERT(is_mapped(i) == is && active[FIRST_REF + i].write_pins == is);
        XB_ASSERT(((shared[FIRST_REF + i].flags & GTF_writing) != 0) == is);
    }
    XB_ASSERT(mapper.nr_free == mapper.nr_touched - __builtin_popcount(mapped));
}

static void unmap_rest(uint32_t mapped)
{
    failing_call = NR_CALLS_MAX;
    for (uint32_t i = 0; i < NR_PAGES; i++) {
        struct xb_unmap_grant_ref op = op_of(i);

        if (mapped >> i & 1) {
            xb_gnttab_unmap(&mapper, &grantor, &op, 1);
            XB_ASSERT(op.status == GNTST_okay);
        }
    }
    expect_mapped(0);
}

static void test_a_row_is_one_call(void)
{
    struct xb_unmap_grant_ref ops[NR_PAGES];

    map_all();
    unmap(ops, (uint32_t[]){0, 1, 2, 3, 4, 5, 6, 7}, 8);
    XB_ASSERT(nr_calls == 1);
    expect_call(0, 0, 8);
    for (uint32_t i = 0; i < NR_PAGES; i++)
        XB_ASSERT(ops[i].status == GNTST_okay);
    expect_mapped(0);
}

static void test_rows_are_in_the_order_of_the_batch(void)
{
    struct xb_unmap_grant_ref ops[NR_PAGES];

    map_all();
    unmap(ops, (uint32_t[]){5, 6, 1, 0, 2, 3}, 6);
    XB_ASSERT(nr_calls == 4);
    expect_call(0, 5, 2);
    expect_call(1, 1, 1);
    expect_call(2, 0, 1);
    expect_call(3, 2, 2);
    expect_mapped(0x90);
    unmap_rest(0x90);
}

/* A handle that is no good, one given twice, and a page that is to stay: none of them goes with its neighbours. */
static void test_what_is_refused_ends_a_row(void)
{
    struct xb_unmap_grant_ref ops[NR_PAGES];

    map_all();
    for (uint32_t i = 0; i < NR_PAGES; i++)
        ops[i] = op_of(i);
    ops[2].handle = NR_PAGES;
    ops[4].handle = handles[3];
    ops[6].host_addr = 0;
    ops[7].host_addr++;
    xb_gnttab_unmap(&mapper, &grantor, ops, NR_PAGES);
    XB_ASSERT(nr_calls == 3);
    expect_call(0, 0, 2);
    expect_call(1, 3, 1);
    expect_call(2, 5, 1);
    XB_ASSERT(ops[2].status == GNTST_bad_handle && ops[4].status == GNTST_bad_handle);
    XB_ASSERT(ops[6].status == GNTST_okay && ops[7].status == GNTST_bad_virt_addr);
    expect_mapped(0xd4);
    unmap_rest(0xd4);
}

static void test_a_failing_call_leaves_its_pins(void)
{
    struct xb_unmap_grant_ref ops[NR_PAGES];

    map_all();
    failing_call = 1;
    unmap(ops, (uint32_t[]){0, 1, 3, 4, 6, 7}, 6);
    XB_ASSERT(nr_calls == 3);
    for (uint32_t i = 0; i < 6; i++)
        XB_ASSERT(ops[i].status == (i / 2 == 1 ? GNTST_general_error : GNTST_okay));
    expect_mapped(0x3c);
    unmap_rest(0x3c);
}

int main(void)
{
    alarm(HANG_S);
    grantor.memory_fd = memfd_create("memory", 0);
    XB_ASSERT(ftruncate(grantor.memory_fd, (NR_PAGES + 1) * PAGE_SIZE) == 0);
    arena = xb_arena_reserve(NR_PAGES);
    XB_ASSERT(arena);
    for (uint32_t i = 0; i < NR_PAGES; i++)
        xb_gnttab_grant(&shared[FIRST_REF + i], 0, i, 0);
    test_a_row_is_one_call();
    test_rows_are_in_the_order_of_the_batch();
    test_what_is_refused_ends_a_row();
    test_a_failing_call_leaves_its_pins();
    xb_arena_release(arena, NR_PAGES);
    close(grantor.memory_fd);
    return 0;
}
