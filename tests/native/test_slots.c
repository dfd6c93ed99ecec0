/* The slot table against a model that is an array of bytes and looks at all of them each time: random
 * operations on tables of many sizes. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "grants/slots.h"
#include "xenblk/assert.h"

#define NR_SLOTS_MAX 97
#define ROUNDS 300
#define STEPS 300
#define HANG_S 300

/* `newest` of the model: what was allocated since the last scan, a stack. */
struct model {
    uint32_t nr_slots;
    uint8_t live[NR_SLOTS_MAX];
    uint32_t newest[NR_SLOTS_MAX];
    uint32_t nr_newest;
};

/* What a scan asked and told. */
struct witness {
    const uint8_t *done;
    uint32_t asked[NR_SLOTS_MAX];
    uint32_t nr_asked;
    struct xb_slots_run runs[NR_SLOTS_MAX];
    uint32_t nr_runs;
};

static struct xb_slots slots;
static struct xb_slot *entries; /* of its own size, so that a sanitizer sees whoever leaves it */

static uint32_t roll(uint64_t *dice)
{
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    return (uint32_t)(*dice >> 32);
}

static void start(uint32_t nr_slots)
{
    free(entries);
    entries = calloc(nr_slots, sizeof(*entries));
    XB_ASSERT(entries);
    xb_slots_init(&slots, entries, nr_slots);
}

static uint32_t model_find(const struct model *model, uint32_t length)
{
    for (uint32_t at = 0, found = 0; at < model->nr_slots; at++) {
        found = model->live[at] ? 0 : found + 1;
        if (found == length)
            return at + 1 - length;
    }
    return XB_SLOTS_NONE;
}

static uint32_t model_nr_live(const struct model *model)
{
    uint32_t live = 0;

    for (uint32_t at = 0; at < model->nr_slots; at++)
        live += model->live[at];
    return live;
}

/* Live slots, and free ones that come first or after a live one. */
static uint32_t model_scan_steps(const struct model *model)
{
    uint32_t steps = 0;

    for (uint32_t at = 0; at < model->nr_slots; at++)
        steps += model->live[at] || at == 0 || model->live[at - 1];
    return steps;
}

static void allocate(struct model *model)
{
    uint32_t expected = model_find(model, 1);

    XB_ASSERT(xb_slots_allocate(&slots) == expected);
    if (expected == XB_SLOTS_NONE)
        return;
    model->live[expected] = 1;
    model->newest[model->nr_newest++] = expected;
}

static void allocate_run(struct model *model, uint32_t length)
{
    uint32_t expected = model_find(model, length);

    XB_ASSERT(xb_slots_allocate_run(&slots, length) == expected);
    if (expected == XB_SLOTS_NONE)
        return;
    memset(&model->live[expected], 1, length);
    model->nr_newest = 0;
}

static void cancel(struct model *model)
{
    if (model->nr_newest == 0)
        return;
    xb_slots_cancel(&slots, model->newest[--model->nr_newest]);
    model->live[model->newest[model->nr_newest]] = 0;
}

static int is_done(void *context, uint32_t slot)
{
    struct witness *witness = context;

    witness->asked[witness->nr_asked++] = slot;
    return witness->done[slot];
}

static void see_run(void *context, uint32_t start_slot, uint32_t length)
{
    struct witness *witness = context;

    witness->runs[witness->nr_runs++] = (struct xb_slots_run){start_slot, length};
}

/* Each live slot was asked about, once and in order. */
static void check_asked(const struct model *model, const struct witness *witness)
{
    uint32_t asked = 0;

    for (uint32_t at = 0; at < model->nr_slots; at++) {
        if (model->live[at])
            XB_ASSERT(asked < witness->nr_asked && witness->asked[asked++] == at);
    }
    XB_ASSERT(asked == witness->nr_asked);
}

/* `live` as it is after the scan; `freed` is what the scan had to free. */
static void check_runs(const struct model *model, const uint8_t *freed, const struct witness *witness)
{
    uint32_t nr_runs = 0, first = XB_SLOTS_NONE, last = 0;

    for (uint32_t at = 0; at <= model->nr_slots; at++) {
        if (at == model->nr_slots || model->live[at]) {
            if (first != XB_SLOTS_NONE) {
                XB_ASSERT(nr_runs < witness->nr_runs && witness->runs[nr_runs].start == first);
                XB_ASSERT(witness->runs[nr_runs++].length == last + 1 - first);
            }
            first = XB_SLOTS_NONE;
        } else if (freed[at]) {
            first = first == XB_SLOTS_NONE ? at : first;
            last = at;
        }
    }
    XB_ASSERT(nr_runs == witness->nr_runs);
}

/* One slot in `rarity` is freed; by callbacks or as a batch. */
static void scan(struct model *model, uint64_t *dice, uint32_t rarity, int batch)
{
    uint8_t done[NR_SLOTS_MAX] = {0};
    struct witness witness = {.done = done};
    uint64_t steps = slots.scan_steps, scans = slots.nr_scans;
    uint32_t nr_done = 0;

    for (uint32_t at = 0; at < model->nr_slots; at++) {
        done[at] = (model->live[at] || batch) && roll(dice) % rarity == 0; /* a batch may name what is free */
        nr_done += done[at] && model->live[at];
    }
    steps += model_scan_steps(model);
    if (batch)
        witness.nr_runs = xb_slots_scan_flags(&slots, done, witness.runs);
    else {
        XB_ASSERT(xb_slots_scan(&slots, is_done, see_run, &witness) == nr_done);
        check_asked(model, &witness);
    }
    XB_ASSERT(slots.scan_steps == steps && slots.nr_scans == scans + 1);
    for (uint32_t at = 0; at < model->nr_slots; at++) {
        done[at] = done[at] && model->live[at];
        model->live[at] = model->live[at] && !done[at];
    }
    check_runs(model, done, &witness);
    model->nr_newest = 0;
}

static void test_random(uint64_t *dice, uint32_t nr_slots)
{
    struct model model = {.nr_slots = nr_slots};
    uint32_t rarity = 1 + roll(dice) % 20;

    start(nr_slots);
    for (int i = 0; i < STEPS; i++) {
        uint32_t what = roll(dice) % 100;

        if (what < 60)
            allocate(&model);
        else if (what < 75)
            cancel(&model);
        else if (what < 85)
            allocate_run(&model, 1 + roll(dice) % (1 + nr_slots / 3));
        else
            scan(&model, dice, rarity, what & 1);
        XB_ASSERT(xb_slots_check(&slots) == XB_SLOTS_SOUND);
        XB_ASSERT(slots.nr_live == model_nr_live(&model));
    }
}

/* Every other slot live makes the most clusters and the longest scan; freeing the rest makes one cluster. */
static void test_comb(uint32_t nr_slots)
{
    uint8_t flags[NR_SLOTS_MAX];
    struct xb_slots_run runs[NR_SLOTS_MAX];

    start(nr_slots);
    while (xb_slots_allocate(&slots) != XB_SLOTS_NONE)
        ;
    for (uint32_t at = 0; at < nr_slots; at++)
        flags[at] = at % 2 == 0;
    XB_ASSERT(xb_slots_scan_flags(&slots, flags, runs) == (nr_slots + 1) / 2 && slots.scan_steps == nr_slots);
    memset(flags, 1, nr_slots);
    XB_ASSERT(xb_slots_scan_flags(&slots, flags, runs) == (nr_slots > 1));
    XB_ASSERT(nr_slots == 1 || (runs[0].start == 1 && runs[0].length == nr_slots / 2 * 2 - 1));
    XB_ASSERT(slots.scan_steps == 2 * nr_slots);
    XB_ASSERT(xb_slots_scan_flags(&slots, flags, NULL) == 0 && slots.scan_steps == 2 * nr_slots + 1);
    XB_ASSERT(slots.entries[0].length == nr_slots && slots.entries[0].next == nr_slots);
}

/* With a seed as argument, that one. */
int main(int argc, char **argv)
{
    uint64_t seed, dice;

    alarm(HANG_S);
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    dice = seed ^ 0x9e3779b97f4a7c15;
    for (uint32_t nr_slots = 1; nr_slots <= NR_SLOTS_MAX; nr_slots++)
        test_comb(nr_slots);
    for (int round = 0; round < ROUNDS; round++)
        test_random(&dice, 1 + (round % 3 ? roll(&dice) % NR_SLOTS_MAX : roll(&dice) % 5));
    free(entries);
    return 0;
}
