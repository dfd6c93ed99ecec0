/* A dead process's lock is repaired by counting the pins of all others, who go on working. The host is stepped through
 * that repair, and between its instructions, at random, a survivor turns its one maptrack entry over from reference 9
 * of the domain to reference 8 of another, or back. Reference 8 of the first is what the dead one held and nobody pins:
 * a count made of the halves of two uses would pin it for ever. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grants/arena.h"
#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "xenblk/assert.h"

#define PAGE_SIZE 4096
#define NR_ENTRIES 10
#define NR_FRAMES 2
#define FIRST_DOMID 7
#define DEAD 1
#define SURVIVOR 2
#define ROUNDS 16
#define HANG_S 300

struct tables {
    struct xb_grant_entry shared[2][NR_ENTRIES];
    struct xb_active_entry active[2][NR_ENTRIES];
    struct xb_maptrack_entry tracks[2][1];
};

static const uint32_t locked_ref = 8;
static const uint32_t mapped_ref[2] = {9, 8}; /* what the survivor maps of either domain */

static struct tables *tables;
static struct xb_gnttab_grantor grantors[2];
static struct xb_gnttab_mapper survivor;
static uint32_t stack[1];
static char *arena;

static void map(int domain)
{
    struct xb_map_grant_ref op = {.host_addr = (uintptr_t)arena, .flags = GNTMAP_host_map, .status = 1};

    op.ref = mapped_ref[domain];
    op.dom = grantors[domain].base.domid;
    xb_gnttab_map(&survivor, &grantors[domain], &op, 1);
    XB_ASSERT(op.status == GNTST_okay && op.handle == 0);
}

static void unmap(int domain)
{
    struct xb_unmap_grant_ref op = {.host_addr = (uintptr_t)arena, .handle = 0, .status = 1};

    xb_gnttab_unmap(&survivor, &grantors[domain], &op, 1);
    XB_ASSERT(op.status == GNTST_okay);
}

static void repair(void)
{
    struct xb_maptrack_entry *survivors[] = {tables->tracks[1]};

    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        _exit(2);
    raise(SIGSTOP);
    _exit(xb_gnttab_release_dead(&grantors[0], DEAD, tables->tracks[0], survivors, 1, 1) != 0);
}

/* Returns how often the survivor turned its entry over. */
static uint32_t repair_step_by_step(unsigned seed)
{
    unsigned dice = seed;
    struct xb_active_entry *entry = &tables->active[0][locked_ref];
    uint32_t turns = 0;
    int status, domain = 0;
    pid_t host;

    map(domain);
    entry->lock = DEAD;
    host = fork();
    XB_ASSERT(host >= 0);
    if (host == 0)
        repair();
    XB_ASSERT(waitpid(host, &status, 0) == host);
    while (WIFSTOPPED(status)) {
        if (rand_r(&dice) & 1024) {
            unmap(domain);
            domain = !domain;
            map(domain);
            turns++;
        }
        XB_ASSERT(ptrace(PTRACE_SINGLESTEP, host, NULL, NULL) == 0);
        XB_ASSERT(waitpid(host, &status, 0) == host);
    }
    XB_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    XB_ASSERT(entry->lock == 0);
    if (entry->read_pins || entry->write_pins)
        fprintf(stderr, "seed %u: pins were counted that nobody has\n", seed);
    XB_ASSERT(entry->read_pins == 0 && entry->write_pins == 0);
    unmap(domain);
    return turns;
}

static void setup(int memory_fd)
{
    tables = mmap(NULL, sizeof(*tables), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    arena = xb_arena_reserve(1);
    XB_ASSERT(tables != MAP_FAILED && arena && ftruncate(memory_fd, NR_FRAMES * PAGE_SIZE) == 0);
    survivor = (struct xb_gnttab_mapper){
        .track = tables->tracks[1], .base.max_pages = 1, .owner = SURVIVOR, .free = stack};
    for (uint32_t i = 0; i < 2; i++) {
        grantors[i] = (struct xb_gnttab_grantor){.shared = tables->shared[i], .active = tables->active[i]};
        grantors[i].base.nr_refs = NR_ENTRIES;
        grantors[i].nr_frames = NR_FRAMES;
        grantors[i].instance = i + 1;
        grantors[i].memory_fd = memory_fd;
        grantors[i].base.domid = (uint16_t)(FIRST_DOMID + i);
        xb_gnttab_grant(&tables->shared[i][mapped_ref[i]], 0, 1, 0);
    }
}

int main(void)
{
    int memory_fd = memfd_create("memory", 0);
    uint32_t turns = 0;

    alarm(HANG_S);
    setup(memory_fd);
    for (unsigned seed = 0; seed < ROUNDS; seed++)
        turns += repair_step_by_step(seed);
    XB_ASSERT(turns > ROUNDS);
    printf("repaired %d times, while the survivor's entry was turned over %u times\n", ROUNDS, turns);
    xb_arena_release(arena, 1);
    munmap(tables, sizeof(*tables));
    close(memory_fd);
    return 0;
}
