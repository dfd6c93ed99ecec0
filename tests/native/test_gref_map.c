/* The gref map in one thread: against a model, at its limits, and with an entry replaced while it is unmapped. */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/native/gref_map_fixture.h"

#define HANG_S 300
#define MODEL_STEPS 60000

static struct xb_gref_entry *must_add(uint32_t gref, uint32_t slot)
{
    struct xb_gref_entry *entry = NULL;

    XB_ASSERT(xb_gref_map_add(&map, gref, slot, ~slot, &entry) == XB_GREF_ADDED);
    XB_ASSERT(entry->gref == gref && entry->slot == slot && entry->handle == ~slot);
    return entry;
}

/* The model: what is known of each reference. An entry is `live` until it is reaped, and `dying` until released. */
static struct {
    struct xb_gref_entry *live, *dying;
    int active;
    uint64_t last_used_ns;
} model[NR_REFS];

static uint32_t model_count(void)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < NR_REFS; i++)
        count += model[i].live || model[i].dying;
    return count;
}

static void step_take_or_add(uint32_t i, uint32_t gref)
{
    struct xb_gref_entry *entry = NULL;
    int answer = xb_gref_map_take(&map, gref, &entry);

    if (model[i].live) {
        XB_ASSERT(answer == (model[i].active ? XB_GREF_ACTIVE : XB_GREF_HIT));
        XB_ASSERT(model[i].active || entry == model[i].live);
        model[i].active = 1;
        XB_ASSERT(xb_gref_map_add(&map, gref, 0, 0, &entry) == XB_GREF_PRESENT);
        return;
    }
    XB_ASSERT(answer == XB_GREF_MISS && entry == NULL);
    /* One reaped entry of a reference at a time is all that the model remembers. */
    if (model[i].dying)
        return;
    answer = xb_gref_map_add(&map, gref, i, 0, &entry);
    XB_ASSERT(answer == (model_count() < map.limit ? XB_GREF_ADDED : XB_GREF_FULL));
    if (answer == XB_GREF_ADDED) {
        model[i].live = entry;
        model[i].active = 1;
    }
}

static void step_put(uint32_t i, uint64_t now_ns)
{
    if (!model[i].active)
        return;
    xb_gref_map_put(model[i].live, now_ns);
    model[i].active = 0;
    model[i].last_used_ns = now_ns;
}

static void step_reap(uint32_t i)
{
    if (!model[i].live)
        return;
    XB_ASSERT(xb_gref_map_reap(model[i].live) == !model[i].active);
    if (!model[i].active) {
        model[i].dying = model[i].live;
        model[i].live = NULL;
        XB_ASSERT(!xb_gref_map_reap(model[i].dying));
    }
}

static void step_release(uint32_t i)
{
    if (model[i].dying)
        xb_gref_map_release(&map, model[i].dying);
    model[i].dying = NULL;
}

static void compare_idle(uint64_t until_ns)
{
    struct xb_gref_entry *idle[MAX_ENTRIES];
    uint32_t nr_idle = xb_gref_map_idle(&map, until_ns, idle), expected = 0;

    for (uint32_t i = 0; i < NR_REFS; i++)
        expected += model[i].live && !model[i].active && model[i].last_used_ns <= until_ns;
    XB_ASSERT(nr_idle == expected);
    for (uint32_t i = 0; i < nr_idle; i++) {
        XB_ASSERT(i == 0 || idle[i - 1]->gref < idle[i]->gref);
        XB_ASSERT(idle[i]->usage == 1 && idle[i]->last_used_ns <= until_ns);
    }
}

static void test_against_a_model(uint64_t *dice, uint32_t pattern)
{
    start(MAX_ENTRIES, (uint64_t)roll(dice) << 32 | roll(dice));
    memset(model, 0, sizeof(model));
    for (uint32_t step = 0; step < MODEL_STEPS; step++) {
        uint32_t i = roll(dice) % NR_REFS, what = roll(dice) % 64;

        if (what < 24)
            step_take_or_add(i, gref_of(i, pattern));
        else if (what < 44)
            step_put(i, step);
        else if (what < 53)
            step_reap(i);
        else if (what < 61)
            step_release(i);
        else if (what < 62)
            compare_idle(what == 61 ? step - roll(dice) % 64 : UINT64_MAX);
        else if (what < 63)
            xb_gref_map_check(&map);
        else
            xb_gref_map_set_limit(&map, roll(dice) % (MAX_ENTRIES + 1));
        XB_ASSERT(xb_gref_map_count(&map) == model_count());
    }
    finish();
}

/* While the reaper unmaps a page, the same reference is mapped anew. */
static void test_replaced_while_dying(void)
{
    struct xb_gref_entry *old, *new_, *entry = NULL;

    start(4, 0);
    xb_gref_map_set_limit(&map, 1);
    old = must_add(5, 1);
    XB_ASSERT(!xb_gref_map_reap(old));
    xb_gref_map_put(old, 10);
    XB_ASSERT(xb_gref_map_reap(old));
    XB_ASSERT(xb_gref_map_take(&map, 5, &entry) == XB_GREF_MISS);
    XB_ASSERT(xb_gref_map_add(&map, 6, 2, 2, &entry) == XB_GREF_FULL);
    new_ = must_add(5, 2); /* within the limit: it is in the old one's place */
    XB_ASSERT(new_ != old && xb_gref_map_count(&map) == 1 && old->slot == 1);
    xb_gref_map_check(&map);
    xb_gref_map_release(&map, old);
    XB_ASSERT(xb_gref_map_find(&map, 5) == new_ && xb_gref_map_count(&map) == 1);
    xb_gref_map_put(new_, 11);
    XB_ASSERT(xb_gref_map_take(&map, 5, &entry) == XB_GREF_HIT && entry == new_);
    finish();
}

/* Entries that are replaced but not released yet still take room. */
static void test_no_room_beside_the_dying(void)
{
    struct xb_gref_entry *entry = NULL, *dying[2];

    start(2, 1);
    for (uint32_t i = 0; i < 2; i++) {
        dying[i] = must_add(i, i);
        xb_gref_map_put(dying[i], i);
        XB_ASSERT(xb_gref_map_reap(dying[i]));
    }
    XB_ASSERT(xb_gref_map_add(&map, 0, 9, 9, &entry) == XB_GREF_FULL && xb_gref_map_count(&map) == 2);
    xb_gref_map_release(&map, dying[1]);
    must_add(0, 9);
    xb_gref_map_release(&map, dying[0]);
    XB_ASSERT(xb_gref_map_count(&map) == 1);
    finish();
}

static void test_a_map_of_none(void)
{
    struct xb_gref_entry *entry = NULL;

    start(0, 7);
    XB_ASSERT(xb_gref_map_take(&map, 0, &entry) == XB_GREF_MISS);
    XB_ASSERT(xb_gref_map_add(&map, 0, 0, 0, &entry) == XB_GREF_FULL);
    XB_ASSERT(xb_gref_map_idle(&map, UINT64_MAX, &entry) == 0 && entry == NULL);
    finish();
}

/* Full, and in each order of magnitude: all are found, and come out sorted. */
static void test_sizes(uint64_t *dice)
{
    static const uint32_t sizes[] = {1, 2, 3, 255, 256, 257, 1056, 4000};

    for (uint32_t n = 0; n < sizeof(sizes) / sizeof(sizes[0]); n++) {
        struct xb_gref_entry **idle = malloc(sizes[n] * sizeof(*idle)), *entry;
        uint32_t pattern = roll(dice);

        start(sizes[n], (uint64_t)roll(dice) << 32 | roll(dice));
        for (uint32_t i = 0; i < sizes[n]; i++)
            xb_gref_map_put(must_add(gref_of((i * 7919) % sizes[n], pattern), i), i);
        XB_ASSERT(xb_gref_map_add(&map, gref_of(sizes[n], pattern), 0, 0, &entry) == XB_GREF_FULL);
        XB_ASSERT(xb_gref_map_idle(&map, UINT64_MAX, idle) == sizes[n]);
        for (uint32_t i = 1; i < sizes[n]; i++)
            XB_ASSERT(idle[i - 1]->gref < idle[i]->gref);
        xb_gref_map_check(&map);
        for (uint32_t i = 0; i < sizes[n]; i++) {
            XB_ASSERT(xb_gref_map_reap(idle[i]));
            xb_gref_map_release(&map, idle[i]);
        }
        XB_ASSERT(xb_gref_map_count(&map) == 0);
        finish();
        free(idle);
    }
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
    test_a_map_of_none();
    test_replaced_while_dying();
    test_no_room_beside_the_dying();
    test_sizes(&dice);
    for (uint32_t pattern = 0; pattern < 4; pattern++)
        test_against_a_model(&dice, pattern);
    return 0;
}
