/* Serving takes no memory, of the allocator or of the kernel: whatever a request needs was there when its ring was
 * connected, or the request waits on the ring. Allocations are seen by the sanitizers' hook, and mmap is this program's
 * own. */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/native/back_guest.h"

#define HANG_S 300

/* sanitizer/allocator_interface.h, which compilers do not always bring along */
int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void *, size_t),
                                              void (*free_hook)(const volatile void *));

static __thread int serving; /* this thread must not allocate now */

static void refuse(const char *what)
{
    (void)!write(STDERR_FILENO, what, strlen(what));
    abort();
}

static void on_malloc(const volatile void *memory, size_t size)
{
    (void)memory, (void)size;
    if (serving)
        refuse("memory was allocated while serving\n");
}

static void on_free(const volatile void *memory)
{
    (void)memory;
    if (serving)
        refuse("memory was freed while serving\n");
}

/* Guests' pages are mapped while serving, from their file; memory of nobody's that can be written is an allocation.
 * Not instrumented: a sanitizer's own start calls it too. */
__attribute__((no_sanitize("thread", "address", "undefined")))
void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (serving && (flags & MAP_ANONYMOUS) && protection != PROT_NONE)
        refuse("memory was mapped while serving\n");
    return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
}

static uint32_t serve(void)
{
    int served;

    serving = 1;
    served = xb_back_serve(guest.back, clock_ns());
    serving = 0;
    XB_ASSERT(served >= 0);
    return (uint32_t)served;
}

/* Wait, serving, for so many answers; returns how many were okay. */
static uint32_t serve_until(uint32_t nr_answers)
{
    uint32_t nr_okay = 0;
    int16_t status;
    uint64_t id;

    while (nr_answers > 0) {
        serve();
        while (take_answer(&id, &status)) {
            nr_answers--;
            nr_okay += status == XB_BLKIF_OKAY;
        }
    }
    return nr_okay;
}

/* The hook and the mmap see what they should: a child that allocates while it serves dies of it. */
static void *do_malloc(void)
{
    return malloc(100);
}

static void *do_calloc(void)
{
    return calloc(3, 100);
}

#ifndef __SANITIZE_THREAD__ /* whose hook is not called for this one */
static void *do_aligned(void)
{
    void *memory = NULL;

    return posix_memalign(&memory, PAGE_SIZE, PAGE_SIZE) == 0 ? memory : NULL;
}
#endif

static void *do_map(void)
{
    return mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void *do_create(void)
{
    return xb_back_create(&guest.config);
}

static void test_allocations_are_seen(void)
{
    void *(*const ways[])(void) = {
        do_malloc, do_calloc, do_map, do_create,
#ifndef __SANITIZE_THREAD__
        do_aligned,
#endif
    };

    boot();
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        pid_t child = fork();
        int status;

        XB_ASSERT(child >= 0);
        if (child == 0) {
            close(STDERR_FILENO); /* what it says is expected */
            serving = 1;
            _exit(ways[i]() != NULL);
        }
        XB_ASSERT(waitpid(child, &status, 0) == child);
        XB_ASSERT(!WIFEXITED(status));
    }
    shut_down();
}

/* All kinds of requests, good and bad, a full ring at a time. */
static void ask_everything(uint32_t round)
{
    write_segments(frame(NR_REFS - 1), FIRST_REF, 30);
    for (uint32_t i = 0; i < NR_ENTS; i++) {
        uint32_t first = FIRST_REF + (i * 7 + round) % (NR_REFS - FIRST_REF - 11);
        uint8_t count = (uint8_t)(1 + (i + round) % 11);

        switch ((i + round) % 8) {
        case 0:
            ask(XB_BLKIF_FLUSH_DISKCACHE, i, 0, first, 0);
            break;
        case 1:
            ask(XB_BLKIF_FLUSH_DISKCACHE, i, i * 88, first, count);
            break;
        case 2:
            ask(XB_BLKIF_WRITE, i, i * 88, NR_REFS - 3, 5); /* the last two grant nothing */
            break;
        case 3:
            ask_discard(i, i * 88, i % 16 == 3 ? DISK_SECTORS : 20);
            break;
        case 4:
            ask_indirect(i & 1 ? XB_BLKIF_READ : XB_BLKIF_WRITE, i, i * 88, NR_REFS - 1, 30);
            break;
        case 5:
            ask(XB_BLKIF_WRITE_BARRIER, i, i * 88, first, count);
            break;
        default:
            ask((i + round) & 1 ? XB_BLKIF_READ : XB_BLKIF_WRITE, i, i * 88, first, count);
        }
    }
    publish();
}

/* Discards beyond the end. */
static uint32_t nr_too_long(uint32_t round)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < NR_ENTS; i++)
        count += (i + round) % 8 == 3 && i % 16 == 3;
    return count;
}

static void test_serving(uint32_t persistent, uint32_t limit, uint32_t grant_copy)
{
    boot();
    guest.config.persistent = persistent;
    guest.config.max_persistent_grants = limit;
    guest.config.grant_copy = grant_copy;
    guest.config.unused_timeout_ns = 1;
    connect_back();
    for (uint32_t round = 0; round < 20; round++) {
        ask_everything(round);
        XB_ASSERT(serve_until(NR_ENTS) == NR_ENTS - 4 - nr_too_long(round));
        serving = 1; /* the purge belongs to another thread; it takes nothing either */
        xb_back_purge(guest.back, clock_ns());
        serving = 0;
    }
    disconnect();
    shut_down();
}

/* With all records used up a request stays on the ring, untouched, until there is one. */
static void test_no_record(uint32_t grant_copy)
{
    uint32_t nr_live = 0;
    uint64_t id;

    boot();
    guest.config.grant_copy = grant_copy;
    guest.config.nr_records = 2;
    guest.config.charged_by_hand = 1;
    connect_back();
    for (uint32_t i = 0; i < 5; i++)
        ask(XB_BLKIF_WRITE, i, i * 8, FIRST_REF + i, 1);
    publish();
    XB_ASSERT(serve() == 0 && guest.counters.oo_req == 1 && guest.ring.req_cons == 0);
    for (uint32_t charged = 0; charged < 5;) {
        uint32_t batch = charged == 4 ? 1 : 2;

        serving = 1;
        for (uint32_t i = 0; i < batch; i++)
            XB_ASSERT(xb_back_charge(guest.back, charged + i));
        XB_ASSERT(batch == 1 || !xb_back_charge(guest.back, 99));
        serving = 0;
        charged += batch;
        XB_ASSERT(serve_until(batch) == batch && guest.ring.req_cons == charged);
        serving = 1;
        while (xb_back_live(guest.back, &id))
            XB_ASSERT(id == nr_live++);
        serving = 0;
        XB_ASSERT(nr_live == charged);
    }
    XB_ASSERT(guest.counters.oo_req >= 3 && !xb_back_discharge(guest.back, &id));
    disconnect();
    shut_down();
}

int main(void)
{
    /* memory; in line; io_uring through the page cache, and directly */
    const struct {
        const char *folder;
        int flags;
    } disks[] = {{NULL, 0}, {"/dev/shm", 0}, {".", 0}, {".", O_DIRECT}};

    alarm(HANG_S);
    XB_ASSERT(__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free) > 0);
    for (size_t i = 0; i < sizeof(disks) / sizeof(disks[0]); i++) {
        if (!open_disk(disks[i].folder, disks[i].flags)) {
            XB_ASSERT(disks[i].flags == O_DIRECT && errno == EINVAL);
            printf("test_back_memory: no O_DIRECT here\n");
            continue;
        }
        if (i == 0)
            test_allocations_are_seen();
        test_serving(1, 1056, 0);
        test_serving(1, 20, 0);
        test_serving(1, 0, 0);
        test_serving(0, 0, 0);
        test_serving(0, 0, 1);
        test_no_record(0);
        test_no_record(1);
        close_disk();
    }
    printf("test_back_memory: ok\n");
    return 0;
}
