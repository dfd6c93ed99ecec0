/* Mappings that Linux refuses, before and after it took the pages away that were there: a page of the arena is reserved
 * or mapped whatever happens, or the process ends. mmap is this program's own here, so that it can refuse. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grants/arena.h"
#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "xenblk/assert.h"

#define PAGE_SIZE 4096u
#define REF 8
#define HANG_S 300

enum refusal { NEVER, EARLY, LATE };

static struct xb_grant_entry shared[REF + 1];
static struct xb_active_entry active[REF + 1];
static struct xb_maptrack_entry track[1];
static uint32_t stack[1];
static struct xb_gnttab_mapper mapper = {.track = track, .base.max_pages = 1, .owner = 1, .free = stack};
static struct xb_gnttab_grantor grantor = {
    .shared = shared, .active = active, .nr_frames = 1, .instance = 1, .base = {.domid = 7, .nr_refs = REF + 1}};
static char *arena;
static enum refusal of_mapping, of_reservation;

/* Not instrumented: a sanitizer's own start calls it too. */
__attribute__((no_sanitize("thread", "address", "undefined")))
void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    enum refusal refusal = protection == PROT_NONE ? of_reservation : of_mapping;

    if (!arena || address != arena || refusal == NEVER)
        return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
    if (refusal == LATE)
        syscall(SYS_munmap, address, length);
    errno = ENOMEM;
    return MAP_FAILED;
}

static int is_reserved_or_mapped(void)
{
    unsigned char resident;

    return mincore(arena, PAGE_SIZE, &resident) == 0;
}

static void map(struct xb_map_grant_ref *op)
{
    *op = (struct xb_map_grant_ref){
        .host_addr = (uintptr_t)arena, .flags = GNTMAP_host_map, .ref = REF, .dom = grantor.base.domid};
    xb_gnttab_map(&mapper, &grantor, op, 1);
}

static int16_t unmap(uint32_t handle)
{
    struct xb_unmap_grant_ref op = {.host_addr = (uintptr_t)arena, .handle = handle};

    xb_gnttab_unmap(&mapper, &grantor, &op, 1);
    return op.status;
}

static void expect_pins(int pins)
{
    XB_ASSERT(active[REF].write_pins == pins && (shared[REF].flags & GTF_writing) == (pins ? GTF_writing : 0));
    XB_ASSERT(is_reserved_or_mapped());
}

static void test_a_refused_mapping_leaves_the_page_reserved(enum refusal mapping, enum refusal reservation)
{
    struct xb_map_grant_ref op;

    of_mapping = mapping;
    of_reservation = reservation;
    map(&op);
    XB_ASSERT(op.status == GNTST_no_space);
    expect_pins(0);
    of_mapping = of_reservation = NEVER;
    map(&op);
    XB_ASSERT(op.status == GNTST_okay);
    arena[0] = 1;
    expect_pins(1);
    of_reservation = EARLY;
    XB_ASSERT(unmap(op.handle) == GNTST_general_error);
    XB_ASSERT(arena[0] == 1);
    expect_pins(1);
    of_reservation = NEVER;
    XB_ASSERT(unmap(op.handle) == GNTST_okay);
    expect_pins(0);
}

static void map_into_a_hole(void)
{
    struct xb_map_grant_ref op;

    of_mapping = LATE;
    of_reservation = EARLY;
    map(&op);
}

static void unmap_into_a_hole(void)
{
    struct xb_map_grant_ref op;

    map(&op);
    of_reservation = LATE;
    unmap(op.handle);
}

static void expect_abort(void (*into_a_hole)(void))
{
    pid_t child = fork();
    int status;

    XB_ASSERT(child >= 0);
    if (child == 0) {
        XB_ASSERT(dup2(open("/dev/null", O_WRONLY), STDERR_FILENO) == STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        into_a_hole();
        _exit(0);
    }
    XB_ASSERT(waitpid(child, &status, 0) == child);
    XB_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(void)
{
    alarm(HANG_S);
    grantor.memory_fd = memfd_create("memory", 0);
    XB_ASSERT(ftruncate(grantor.memory_fd, PAGE_SIZE) == 0);
    arena = xb_arena_reserve(1);
    XB_ASSERT(arena);
    xb_gnttab_grant(&shared[REF], 0, 0, 0);
    test_a_refused_mapping_leaves_the_page_reserved(EARLY, EARLY);
    test_a_refused_mapping_leaves_the_page_reserved(EARLY, NEVER);
    test_a_refused_mapping_leaves_the_page_reserved(LATE, NEVER);
    expect_abort(map_into_a_hole);
    expect_abort(unmap_into_a_hole);
    xb_arena_release(arena, 1);
    close(grantor.memory_fd);
    return 0;
}
