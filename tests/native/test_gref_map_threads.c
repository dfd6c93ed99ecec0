/* The gref map with a reaper beside the ring's thread: nothing is used after it was unmapped, nothing is lost. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/native/gref_map_fixture.h"

#define HANG_S 300
#define NR_SLOTS 64
#define RING_ROUNDS 150000

static uint64_t seed;

/* A slot's page is plain memory: it holds the reference that is mapped there, plus 1. The thread sanitizer
 * sees an access to it that is not ordered before its unmapping, or after its mapping. */
static uint32_t pages[NR_SLOTS];
static uint32_t slot_used[NR_SLOTS];
static uint32_t ring_ended;
static struct {
    uint64_t hits, adds, replaced, revived, reaped;
} tally;

static uint32_t map_page(uint32_t gref)
{
    for (uint32_t slot = 0; slot < NR_SLOTS; slot++) {
        uint32_t unused = 0;

        if (__atomic_compare_exchange_n(&slot_used[slot], &unused, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
            pages[slot] = gref + 1;
            return slot;
        }
    }
    abort(); /* no more can be mapped than entries and one in use */
}

static void unmap_page(uint32_t slot)
{
    pages[slot] = 0;
    __atomic_store_n(&slot_used[slot], 0, __ATOMIC_RELEASE);
}

static void use_missed(uint32_t gref, uint64_t now_ns)
{
    struct xb_gref_entry *entry, *old = xb_gref_map_find(&map, gref);
    uint32_t slot = map_page(gref);
    int answer = xb_gref_map_add(&map, gref, slot, slot, &entry);

    XB_ASSERT(answer != XB_GREF_PRESENT);
    if (answer == XB_GREF_ADDED) {
        tally.adds++;
        tally.replaced += old && old != entry;
        xb_gref_map_put(entry, now_ns);
    } else {
        unmap_page(slot);
    }
}

static void *ring_thread(void *pattern)
{
    uint64_t dice = seed + 1;

    for (uint32_t round = 0; round < RING_ROUNDS; round++) {
        uint32_t gref = gref_of(roll(&dice) % NR_REFS, (uint32_t)(uintptr_t)pattern);
        struct xb_gref_entry *entry;
        int answer = xb_gref_map_take(&map, gref, &entry);

        XB_ASSERT(answer != XB_GREF_ACTIVE);
        if (answer == XB_GREF_HIT) {
            tally.hits++;
            XB_ASSERT(entry->gref == gref && pages[entry->slot] == gref + 1);
            xb_gref_map_put(entry, round);
        } else {
            use_missed(gref, round);
        }
    }
    __atomic_store_n(&ring_ended, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void reap_some(uint64_t *dice)
{
    struct xb_gref_entry *idle[MAX_ENTRIES];
    uint32_t nr_idle = xb_gref_map_idle(&map, UINT64_MAX, idle), nr_reaped = 0;

    for (uint32_t i = 0; i < nr_idle; i++) {
        if (roll(dice) % 4)
            continue;
        if (!xb_gref_map_reap(idle[i]))
            tally.revived++;
        else
            idle[nr_reaped++] = idle[i];
    }
    if (roll(dice) % 4 == 0)
        sched_yield();
    for (uint32_t i = 0; i < nr_reaped; i++) {
        XB_ASSERT(pages[idle[i]->slot] == idle[i]->gref + 1);
        unmap_page(idle[i]->slot);
        xb_gref_map_release(&map, idle[i]);
    }
    tally.reaped += nr_reaped;
}

static void test_ring_and_reaper(uint32_t pattern)
{
    uint64_t dice = seed + 2;
    pthread_t ring;
    uint32_t nr_mapped = 0;

    memset(&tally, 0, sizeof(tally));
    ring_ended = 0;
    start(MAX_ENTRIES, seed);
    XB_ASSERT(pthread_create(&ring, NULL, ring_thread, (void *)(uintptr_t)pattern) == 0);
    while (!__atomic_load_n(&ring_ended, __ATOMIC_ACQUIRE)) {
        reap_some(&dice);
        xb_gref_map_set_limit(&map, MAX_ENTRIES - roll(&dice) % 8);
    }
    XB_ASSERT(pthread_join(ring, NULL) == 0);
    for (uint32_t slot = 0; slot < NR_SLOTS; slot++)
        nr_mapped += slot_used[slot];
    XB_ASSERT(nr_mapped == xb_gref_map_count(&map) && tally.adds == tally.reaped + nr_mapped);
    printf("pattern %u: %llu hits, %llu added, %llu of them in a dying one's place, %llu reaped, %llu came back to "
           "life\n",
           pattern, (unsigned long long)tally.hits, (unsigned long long)tally.adds, (unsigned long long)tally.replaced,
           (unsigned long long)tally.reaped, (unsigned long long)tally.revived);
    while (xb_gref_map_count(&map))
        reap_some(&dice);
    for (uint32_t slot = 0; slot < NR_SLOTS; slot++)
        XB_ASSERT(!slot_used[slot] && !pages[slot]);
    finish();
}

/* With a seed as argument, that one. */
int main(int argc, char **argv)
{
    alarm(HANG_S);
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    for (uint32_t pattern = 0; pattern < 4; pattern++)
        test_ring_and_reaper(pattern);
    return 0;
}
