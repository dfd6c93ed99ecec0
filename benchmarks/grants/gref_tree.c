/*
 * One structure, one pattern of references, one number of entries; what each operation takes.
 *
 *     gref_tree STRUCTURE PATTERN NR_ENTRIES SECONDS SEED
 *
 * Measured, each for so many seconds: finding references that are there, and that are not, in random order; taking one
 * out and putting another in; walking all in order, per entry. What comes back is checked, while it is timed by its
 * sum. The result is one line of JSON; `bytes` is what the search takes beside the entries themselves.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "benchmarks/grants/structures.h"
#include "xenblk/assert.h"

#define FIRST_REF 8   /* the ones before are reserved, in a real grant table */
#define TABLE_BITS 16 /* a grant table of 128 frames; Xen's default is 64 */

static const struct structure *const structures[] = {&gref_map_structure, &radix_structure, &rbtree_structure};

/* `refs` are 2 * nr references, no two the same: the first half is in the structure, the second is not. */
struct run {
    const struct structure *structure;
    void *self;
    uint32_t nr;
    double seconds;
    uint32_t *refs, *entries, *walked;
};

static uint32_t roll(uint64_t *dice)
{
    *dice = *dice * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*dice >> 32);
}

/* Odd factors and a shift of bits onto lower ones keep different numbers different: a permutation of `bits` bits. */
static uint32_t scatter(uint32_t number, uint32_t key, uint32_t bits)
{
    uint32_t mask = UINT32_MAX >> (32 - bits);

    number = (number + key) * 2654435761u & mask;
    number ^= number >> bits / 2;
    return number * 2246822519u & mask;
}

static uint32_t ref_of(const char *pattern, uint32_t number, uint32_t key)
{
    if (strcmp(pattern, "dense") == 0)
        return FIRST_REF + number;
    if (strcmp(pattern, "scattered") == 0)
        return scatter(number, key, TABLE_BITS);
    XB_ASSERT(strcmp(pattern, "sparse") == 0);
    return scatter(number, key, 32);
}

static void shuffle(uint32_t *items, uint32_t count, uint64_t *dice)
{
    for (uint32_t i = count; i > 1; i--) {
        uint32_t other = roll(dice) % i, item = items[i - 1];

        items[i - 1] = items[other];
        items[other] = item;
    }
}

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Operations are the nr of one pass; passes go on until the time is over. Returns nanoseconds per operation. */
static double timed(struct run *run, void (*pass)(struct run *))
{
    double start_s = now_s(), end_s = start_s;
    uint64_t passes = 0;

    while (passes == 0 || end_s - start_s < run->seconds) {
        pass(run);
        passes++;
        end_s = now_s();
    }
    return (end_s - start_s) * 1e9 / ((double)passes * run->nr);
}

static void hits(struct run *run)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < run->nr; i++)
        sum += run->structure->find(run->self, run->refs[i]);
    XB_ASSERT(sum == (uint64_t)run->nr * (run->nr - 1) / 2);
}

static void misses(struct run *run)
{
    uint64_t sum = 0;

    for (uint32_t i = run->nr; i < 2 * run->nr; i++)
        sum += run->structure->find(run->self, run->refs[i]);
    XB_ASSERT(sum == (uint64_t)run->nr * NO_ENTRY);
}

/* Each reference gives its place to the one that was out; next time the other way round. */
static void churn(struct run *run)
{
    for (uint32_t i = 0; i < run->nr; i++) {
        uint32_t out = run->refs[i];

        run->structure->erase(run->self, out, run->entries[i]);
        run->refs[i] = run->refs[run->nr + i];
        run->refs[run->nr + i] = out;
        run->entries[i] = run->structure->insert(run->self, run->refs[i]);
    }
}

static void walk(struct run *run)
{
    uint32_t count = run->structure->walk(run->self, run->walked);

    XB_ASSERT(count == run->nr);
}

static void check(struct run *run)
{
    for (uint32_t i = 0; i < run->nr; i++) {
        XB_ASSERT(run->structure->find(run->self, run->refs[i]) == run->entries[i]);
        XB_ASSERT(run->structure->find(run->self, run->refs[run->nr + i]) == NO_ENTRY);
    }
    walk(run);
    for (uint32_t i = 0; i < run->nr; i++) {
        XB_ASSERT(i == 0 || run->walked[i - 1] < run->walked[i]);
        XB_ASSERT(run->structure->find(run->self, run->walked[i]) != NO_ENTRY);
    }
}

static void setup(struct run *run, const char *pattern, uint64_t seed)
{
    uint64_t dice = seed;
    uint32_t key = roll(&dice);

    run->refs = malloc(2 * (size_t)run->nr * sizeof(uint32_t));
    run->entries = malloc(run->nr * sizeof(uint32_t));
    run->walked = malloc(run->nr * sizeof(uint32_t));
    for (uint32_t i = 0; i < 2 * run->nr; i++)
        run->refs[i] = ref_of(pattern, i, key);
    shuffle(run->refs, run->nr, &dice);
    shuffle(run->refs + run->nr, run->nr, &dice);
    run->self = run->structure->create(run->nr, (uint64_t)roll(&dice) << 32 | roll(&dice));
    for (uint32_t i = 0; i < run->nr; i++)
        run->entries[i] = run->structure->insert(run->self, run->refs[i]);
}

static void finish(struct run *run)
{
    for (uint32_t i = 0; i < run->nr; i++)
        run->structure->erase(run->self, run->refs[i], run->entries[i]);
    XB_ASSERT(run->structure->walk(run->self, run->walked) == 0);
    run->structure->destroy(run->self);
    free(run->refs);
    free(run->entries);
    free(run->walked);
}

int main(int argc, char **argv)
{
    struct run run = {0};
    double hit_ns, miss_ns, walk_ns, churn_ns;

    XB_ASSERT(argc == 6);
    for (size_t i = 0; i < sizeof(structures) / sizeof(structures[0]); i++)
        if (strcmp(structures[i]->name, argv[1]) == 0)
            run.structure = structures[i];
    run.nr = (uint32_t)strtoul(argv[3], NULL, 10);
    run.seconds = strtod(argv[4], NULL);
    XB_ASSERT(run.structure != NULL && run.nr >= 2 && run.nr <= 32768);
    setup(&run, argv[2], strtoull(argv[5], NULL, 0));
    check(&run);
    hit_ns = timed(&run, hits);
    miss_ns = timed(&run, misses);
    walk_ns = timed(&run, walk);
    churn_ns = timed(&run, churn);
    check(&run);
    printf("{\"hit_ns\": %.3f, \"miss_ns\": %.3f, \"churn_ns\": %.3f, \"walk_ns\": %.3f, \"bytes\": %zu}\n", hit_ns,
           miss_ns, churn_ns, walk_ns, run.structure->bytes(run.self));
    finish(&run);
    return 0;
}
