/* Grants from many threads and two mappers: exact counts, one winner per handle, and repair after a death anywhere. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "grants/arena.h"
#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "xenblk/assert.h"

#define PAGE_SIZE 4096
#define NR_FRAMES 16
#define NR_ENTRIES 64
#define NR_TRACK 128
#define NR_THREADS 4
#define ROUNDS 1500
#define GRANTOR 7
#define FIRST_REF 8
#define NR_REFS 4
#define HANG_S 300

static struct xb_grant_entry shared[NR_ENTRIES];
static struct xb_active_entry active[NR_ENTRIES];
static struct xb_maptrack_entry tracks[2][NR_TRACK];
static uint32_t stacks[2][NR_TRACK];
static struct xb_gnttab_mapper mappers[2];
static struct xb_gnttab_grantor grantor;
static char *arena;

static void setup(void)
{
    memset(shared, 0, sizeof(shared));
    memset(active, 0, sizeof(active));
    memset(tracks, 0, sizeof(tracks));
    for (uint32_t i = 0; i < 2; i++)
        mappers[i] = (struct xb_gnttab_mapper){
            .track = tracks[i], .base.max_pages = NR_TRACK, .owner = i + 1, .free = stacks[i]};
    for (uint32_t i = 0; i < NR_REFS; i++)
        xb_gnttab_grant(&shared[FIRST_REF + i], 0, 1 + i, 0);
}

/* What gnttab.h promises whenever no call is in progress. */
static void check(void)
{
    for (uint32_t ref = 0; ref < NR_ENTRIES; ref++) {
        uint32_t reads = 0, writes = 0, bits = 0;

        for (int m = 0; m < 2; m++) {
            for (uint32_t i = 0; i < NR_TRACK; i++) {
                if (!tracks[m][i].flags || (uint32_t)tracks[m][i].grant != ref)
                    continue;
                if (tracks[m][i].flags & GNTMAP_readonly)
                    reads++;
                else
                    writes++;
            }
        }
        bits = (reads || writes ? GTF_reading : 0) | (writes ? GTF_writing : 0);
        XB_ASSERT(active[ref].lock == 0);
        XB_ASSERT(active[ref].read_pins == reads && active[ref].write_pins == writes);
        XB_ASSERT((shared[ref].flags & (GTF_reading | GTF_writing)) == bits);
    }
}

static uint32_t nr_pins(void)
{
    uint32_t pins = 0;

    for (uint32_t ref = 0; ref < NR_ENTRIES; ref++)
        pins += active[ref].read_pins + active[ref].write_pins;
    return pins;
}

static struct xb_maptrack_entry track_entry(uint32_t flags, uint32_t ref, uint32_t instance)
{
    return (struct xb_maptrack_entry){.flags = flags, .grant = (uint64_t)instance << 32 | ref};
}

static int map(int m, uint32_t slot, uint32_t ref, uint32_t flags, uint32_t *handle)
{
    struct xb_map_grant_ref op = {.host_addr = (uintptr_t)arena + slot * PAGE_SIZE, .dom = GRANTOR, .ref = ref};

    op.flags = GNTMAP_host_map | flags;
    op.status = 1;
    xb_gnttab_map(&mappers[m], &grantor, &op, 1);
    *handle = op.handle;
    return op.status;
}

static int unmap(int m, uint32_t slot, uint32_t handle)
{
    struct xb_unmap_grant_ref op = {.host_addr = (uintptr_t)arena + slot * PAGE_SIZE, .handle = handle, .status = 1};

    xb_gnttab_unmap(&mappers[m], &grantor, &op, 1);
    return op.status;
}

static int copy(int m, uint32_t ref, uint16_t offset, void *buffer, uint16_t len, uint16_t to_grant)
{
    struct xb_copy_segment segment = {.virt = (uintptr_t)buffer, .ref = ref, .offset = offset, .len = len};

    segment.to_grant = to_grant;
    segment.status = 1;
    xb_gnttab_copy(&mappers[m], &grantor, &segment, 1);
    return segment.status;
}

static void run_threads(void *(*body)(void *))
{
    pthread_t threads[NR_THREADS];

    for (uintptr_t i = 0; i < NR_THREADS; i++)
        XB_ASSERT(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
    for (int i = 0; i < NR_THREADS; i++)
        XB_ASSERT(pthread_join(threads[i], NULL) == 0);
}

/* Threads 0 and 1 are of one mapper, 2 and 3 of the other; all use the same references. */
static void *work(void *number)
{
    uint32_t thread = (uint32_t)(uintptr_t)number;
    int m = thread / 2;
    uint32_t handle;
    char buffer[8];

    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t ref = FIRST_REF + round % NR_REFS;
        int readonly = round % 3 == 0;

        XB_ASSERT(map(m, thread, ref, readonly ? GNTMAP_readonly : 0, &handle) == GNTST_okay);
        (void)*(volatile char *)(arena + thread * PAGE_SIZE + PAGE_SIZE - 1);
        XB_ASSERT(xb_gnttab_end_access(&shared[ref]) == 0);
        XB_ASSERT(copy(m, ref, (uint16_t)(thread * 8), buffer, 8, round & 1) == GNTST_okay);
        XB_ASSERT(unmap(m, thread, handle) == GNTST_okay);
    }
    return NULL;
}

static void test_threads_share_references(void)
{
    setup();
    run_threads(work);
    check();
    XB_ASSERT(nr_pins() == 0);
    XB_ASSERT(mappers[0].nr_free == mappers[0].nr_touched && mappers[1].nr_free == mappers[1].nr_touched);
}

/* All threads unmap the one handle; the winner's slot holds a new mapping before the losers may have finished. */
static pthread_barrier_t barrier;
static uint32_t contested, winners;

static void *contest(void *number)
{
    for (int round = 0; round < ROUNDS / 5; round++) {
        if ((uintptr_t)number == 0) {
            winners = 0;
            XB_ASSERT(map(0, 0, FIRST_REF, 0, &contested) == GNTST_okay);
        }
        pthread_barrier_wait(&barrier);
        int status = unmap(0, 0, contested);

        XB_ASSERT(status == GNTST_okay || status == GNTST_bad_handle);
        if (status == GNTST_okay)
            __atomic_fetch_add(&winners, 1, __ATOMIC_RELAXED);
        pthread_barrier_wait(&barrier);
        XB_ASSERT(__atomic_load_n(&winners, __ATOMIC_RELAXED) == 1);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static void test_one_winner_per_handle(void)
{
    setup();
    XB_ASSERT(pthread_barrier_init(&barrier, NULL, NR_THREADS) == 0);
    run_threads(contest);
    pthread_barrier_destroy(&barrier);
    check();
    XB_ASSERT(nr_pins() == 0);
}

/* A grantor that never stops changing its entry: the mapper is answered each time, and nothing stays behind. */
static uint32_t stop;

static void *flip(void *unused)
{
    (void)unused;
    for (int turn = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); turn++) {
        if (xb_gnttab_end_access(&shared[FIRST_REF]))
            xb_gnttab_grant(&shared[FIRST_REF], 0, 1, turn & 1);
    }
    return NULL;
}

static void test_grantor_races_with_mapper(void)
{
    pthread_t thread;
    uint32_t handle;

    setup();
    stop = 0;
    XB_ASSERT(pthread_create(&thread, NULL, flip, NULL) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        int status = map(0, 0, FIRST_REF, 0, &handle);

        XB_ASSERT(status == GNTST_okay || status == GNTST_general_error);
        if (status == GNTST_okay)
            XB_ASSERT(unmap(0, 0, handle) == GNTST_okay);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    XB_ASSERT(pthread_join(thread, NULL) == 0);
    check();
    XB_ASSERT(nr_pins() == 0);
}

static uint32_t release(uint32_t owner)
{
    struct xb_maptrack_entry *survivors[] = {tracks[2 - owner]};

    return xb_gnttab_release_dead(&grantor, owner, tracks[owner - 1], survivors, 1, NR_TRACK);
}

/* What mapper 1 may leave behind by dying between any two stores of a map or an unmap under the lock: the flags in the
 * shared entry, the maptrack entry and the count, in every combination. The other mapper holds a pin, or does not. */
static void test_repair_of_a_half_done_call(void)
{
    for (uint32_t state = 0; state < 32; state++) {
        uint32_t handle, survivor_pins = state & 16 ? 1 : 0;

        setup();
        if (survivor_pins)
            XB_ASSERT(map(1, 1, FIRST_REF, GNTMAP_readonly, &handle) == GNTST_okay);
        active[FIRST_REF].lock = 1;
        if (state & 1)
            shared[FIRST_REF].flags |= GTF_reading | GTF_writing;
        if (state & 2)
            tracks[0][5] = track_entry(GNTMAP_host_map | 0x80000000u, FIRST_REF, grantor.instance);
        if (state & 4)
            active[FIRST_REF].write_pins++;
        if (state & 8)
            active[FIRST_REF].frame = 3;
        XB_ASSERT(release(1) == (state & 2 ? 1 : 0));
        check();
        XB_ASSERT(nr_pins() == survivor_pins);
        XB_ASSERT(release(1) == 0);
        if (survivor_pins)
            XB_ASSERT(unmap(1, 1, handle) == GNTST_okay);
        XB_ASSERT(xb_gnttab_end_access(&shared[FIRST_REF]) == 1);
    }
}

static void test_release_takes_only_what_the_dead_held(void)
{
    uint32_t handle, survivor;

    setup();
    for (uint32_t i = 0; i < NR_REFS; i++)
        XB_ASSERT(map(0, i, FIRST_REF + i, i & 1 ? GNTMAP_readonly : 0, &handle) == GNTST_okay);
    XB_ASSERT(map(1, NR_REFS, FIRST_REF, 0, &survivor) == GNTST_okay);
    tracks[0][20] = track_entry(GNTMAP_host_map, FIRST_REF, grantor.instance + 1);
    tracks[0][21] = track_entry(GNTMAP_host_map, 0xffffffffu, grantor.instance);
    tracks[0][22] = track_entry(GNTMAP_host_map, FIRST_REF + 1, grantor.instance);
    /* Entry 22 claims a pin that was never counted: forgotten, not counted down. */
    XB_ASSERT(release(1) == NR_REFS + 1);
    XB_ASSERT(tracks[0][20].flags && tracks[0][21].flags);
    memset(&tracks[0][20], 0, 2 * sizeof(tracks[0][20]));
    check();
    XB_ASSERT(nr_pins() == 1);
    XB_ASSERT(shared[FIRST_REF].flags == (GTF_permit_access | GTF_reading | GTF_writing));
    XB_ASSERT(unmap(1, NR_REFS, survivor) == GNTST_okay);
}

/* Mapper 2 keeps working while what mapper 1 left is released, time and again. */
static void *survive(void *unused)
{
    uint32_t handle;

    (void)unused;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        for (uint32_t i = 0; i < NR_REFS; i++) {
            XB_ASSERT(map(1, NR_REFS, FIRST_REF + i, 0, &handle) == GNTST_okay);
            XB_ASSERT(unmap(1, NR_REFS, handle) == GNTST_okay);
        }
    }
    return NULL;
}

static void test_release_while_others_work(void)
{
    pthread_t thread;
    uint32_t handle, unlocked;

    setup();
    stop = 0;
    XB_ASSERT(pthread_create(&thread, NULL, survive, NULL) == 0);
    for (uint32_t round = 0; round < ROUNDS / 5; round++) {
        for (uint32_t i = 0; i < NR_REFS; i++)
            XB_ASSERT(map(0, i, FIRST_REF + i, 0, &handle) == GNTST_okay);
        do
            unlocked = 0;
        while (!__atomic_compare_exchange_n(&active[FIRST_REF].lock, &unlocked, 1, 0, __ATOMIC_ACQUIRE,
                                            __ATOMIC_RELAXED));
        active[FIRST_REF].read_pins = 77;
        XB_ASSERT(release(1) == NR_REFS);
        mappers[0].nr_free = mappers[0].nr_touched = 0;
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    XB_ASSERT(pthread_join(thread, NULL) == 0);
    check();
    XB_ASSERT(nr_pins() == 0);
}

int main(void)
{
    alarm(HANG_S);
    grantor = (struct xb_gnttab_grantor){
        .shared = shared, .active = active, .base.nr_refs = NR_ENTRIES, .nr_frames = NR_FRAMES};
    grantor.instance = 1;
    grantor.base.domid = GRANTOR;
    grantor.memory_fd = memfd_create("memory", 0);
    XB_ASSERT(grantor.memory_fd >= 0 && ftruncate(grantor.memory_fd, NR_FRAMES * PAGE_SIZE) == 0);
    arena = xb_arena_reserve(NR_FRAMES);
    XB_ASSERT(arena);
    test_threads_share_references();
    test_one_winner_per_handle();
    test_grantor_races_with_mapper();
    test_repair_of_a_half_done_call();
    test_release_takes_only_what_the_dead_held();
    test_release_while_others_work();
    xb_arena_release(arena, NR_FRAMES);
    close(grantor.memory_fd);
    puts("gnttab: ok");
    return 0;
}
