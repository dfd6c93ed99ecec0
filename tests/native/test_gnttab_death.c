/* A mapping process may die at any instruction: one is stepped through map, copy and unmap, and at every single
 * instruction the tables as they are then are copied and repaired as the host would repair them. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grants/arena.h"
#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "xenblk/assert.h"

#define PAGE_SIZE 4096
#define NR_FRAMES 8
#define NR_ENTRIES 16
#define NR_TRACK 8
#define GRANTOR 7
#define REF 8
#define DEAD 1
#define SURVIVOR 2
#define HANG_S 300

struct tables {
    struct xb_grant_entry shared[NR_ENTRIES];
    struct xb_active_entry active[NR_ENTRIES];
    struct xb_maptrack_entry tracks[2][NR_TRACK];
};

static struct tables *live;
static uint32_t stacks[2][NR_TRACK];
static int memory_fd;
static char *arena;

static struct xb_gnttab_grantor grantor_of(struct tables *tables)
{
    return (struct xb_gnttab_grantor){.shared = tables->shared,
                                      .active = tables->active,
                                      .nr_frames = NR_FRAMES,
                                      .instance = 1,
                                      .memory_fd = memory_fd,
                                      .base = {.domid = GRANTOR, .nr_refs = NR_ENTRIES}};
}

static struct xb_gnttab_mapper mapper_of(uint32_t owner)
{
    return (struct xb_gnttab_mapper){
        .track = live->tracks[owner - 1], .base.max_pages = NR_TRACK, .owner = owner, .free = stacks[owner - 1]};
}

static int map(struct xb_gnttab_mapper *mapper, uint32_t slot, uint32_t flags, uint32_t *handle)
{
    struct xb_gnttab_grantor grantor = grantor_of(live);
    struct xb_map_grant_ref op = {.host_addr = (uintptr_t)arena + slot * PAGE_SIZE, .ref = REF, .dom = GRANTOR};

    op.flags = GNTMAP_host_map | flags;
    xb_gnttab_map(mapper, &grantor, &op, 1);
    *handle = op.handle;
    return op.status;
}

static int unmap(struct xb_gnttab_mapper *mapper, uint32_t slot, uint32_t handle)
{
    struct xb_gnttab_grantor grantor = grantor_of(live);
    struct xb_unmap_grant_ref op = {.host_addr = (uintptr_t)arena + slot * PAGE_SIZE, .handle = handle};

    xb_gnttab_unmap(mapper, &grantor, &op, 1);
    return op.status;
}

/* What the process to die does; its exit status says that all went well. */
static void live_and_die(void)
{
    struct xb_gnttab_mapper mapper = mapper_of(DEAD);
    struct xb_gnttab_grantor grantor = grantor_of(live);
    char buffer[16] = "sixteen bytes!!";
    struct xb_copy_segment segments[2] = {{.virt = (uintptr_t)buffer, .ref = REF, .len = sizeof(buffer), .to_grant = 1},
                                          {.virt = (uintptr_t)buffer, .ref = REF, .len = sizeof(buffer)}};
    uint32_t write, read, second;
    int bad = 0;

    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(2);
    raise(SIGSTOP);
    bad |= map(&mapper, 0, GNTMAP_readonly, &read);
    bad |= map(&mapper, 1, 0, &write);
    bad |= unmap(&mapper, 0, read);
    xb_gnttab_copy(&mapper, &grantor, segments, 2);
    bad |= segments[0].status | segments[1].status;
    bad |= map(&mapper, 2, 0, &second);
    bad |= unmap(&mapper, 1, write);
    bad |= unmap(&mapper, 2, second);
    _exit(bad != 0);
}

/* If the process died now: the survivor's pins are right, and the dead one's are gone. Returns how many it had. */
static uint32_t check_repair(uint32_t reads, uint32_t writes)
{
    struct tables copy;
    struct xb_gnttab_grantor grantor = grantor_of(&copy);
    struct xb_maptrack_entry *survivors[] = {copy.tracks[SURVIVOR - 1]};
    uint32_t released, bits = (reads || writes ? GTF_reading : 0) | (writes ? GTF_writing : 0);

    memcpy(&copy, live, sizeof(copy));
    released = xb_gnttab_release_dead(&grantor, DEAD, copy.tracks[DEAD - 1], survivors, 1, NR_TRACK);
    XB_ASSERT(copy.active[REF].lock == 0);
    XB_ASSERT(copy.active[REF].read_pins == reads && copy.active[REF].write_pins == writes);
    XB_ASSERT(copy.shared[REF].flags == (GTF_permit_access | bits));
    for (int i = 0; i < NR_TRACK; i++)
        XB_ASSERT(copy.tracks[DEAD - 1][i].flags == 0);
    XB_ASSERT(memcmp(copy.tracks[SURVIVOR - 1], live->tracks[SURVIVOR - 1], sizeof(copy.tracks[0])) == 0);
    XB_ASSERT(xb_gnttab_release_dead(&grantor, DEAD, copy.tracks[DEAD - 1], survivors, 1, NR_TRACK) == 0);
    return released;
}

static void step_through(uint32_t reads, uint32_t writes)
{
    uint32_t steps = 0, locked = 0, most = 0;
    int status;
    pid_t child;

    fflush(stdout); /* or the child would write it once more */
    child = fork();
    XB_ASSERT(child >= 0);
    if (child == 0)
        live_and_die();
    XB_ASSERT(waitpid(child, &status, 0) == child);
    if (!WIFSTOPPED(status)) {
        fprintf(stderr, "a process may not trace its child here: %s\n", strerror(errno));
        _exit(1);
    }
    while (WIFSTOPPED(status)) {
        uint32_t released = check_repair(reads, writes);

        most = released > most ? released : most;
        locked += live->active[REF].lock == DEAD;
        steps++;
        XB_ASSERT(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
        XB_ASSERT(waitpid(child, &status, 0) == child);
    }
    XB_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    XB_ASSERT(check_repair(reads, writes) == 0);
    XB_ASSERT(most == 2 && locked > 0);
    printf("survivor's pins %u + %u: died %u times, %u of them with the lock\n", reads, writes, steps, locked);
}

int main(void)
{
    struct xb_gnttab_mapper survivor;
    uint32_t handle;

    alarm(HANG_S);
    live = mmap(NULL, sizeof(*live), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    memory_fd = memfd_create("memory", 0);
    arena = xb_arena_reserve(NR_FRAMES);
    XB_ASSERT(live != MAP_FAILED && arena && ftruncate(memory_fd, NR_FRAMES * PAGE_SIZE) == 0);
    xb_gnttab_grant(&live->shared[REF], 0, 1, 0);
    survivor = mapper_of(SURVIVOR);
    step_through(0, 0);
    XB_ASSERT(map(&survivor, 4, GNTMAP_readonly, &handle) == GNTST_okay);
    step_through(1, 0);
    XB_ASSERT(map(&survivor, 5, 0, &handle) == GNTST_okay);
    step_through(1, 1);
    xb_arena_release(arena, NR_FRAMES);
    munmap(live, sizeof(*live));
    close(memory_fd);
    return 0;
}
