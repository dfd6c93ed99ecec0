#include <string.h>

#include "machine.h"

/* Store buffers. A store goes to its side's buffer and from there to memory at any later time; its own side sees it at
 * once. On the TSO machine, x86, stores leave in the order of the program. On the weak one they leave in any order that
 * RELEASE allows, and a load may be taken before another that is not ACQUIRE.
 *
 * Orders mean what C11 promises and no more, whatever instructions a compiler makes of them today: a SEQ_CST load waits
 * for its own side's SEQ_CST stores, and for those only. */

static int is_release(int order)
{
    return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static int is_acquire(int order)
{
    return order == __ATOMIC_ACQUIRE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

int make_store(struct state *state, int side, int place, int value, int order)
{
    struct side *me = &state->side[side];

    if (me->nr_stores == BUFFER_SIZE)
        return 0;
    me->buffer[me->nr_stores++] = (struct store){place, is_release(order), order == __ATOMIC_SEQ_CST, value};
    /* A side never misses its own store. A load that is early may be so by letting the store wait instead. */
    if (me->early_place == place || order == __ATOMIC_SEQ_CST)
        me->early_place = NOWHERE;
    return 1;
}

static int8_t seen_by(const struct state *state, int side, int place)
{
    const struct side *me = &state->side[side];

    for (int at = me->nr_stores - 1; at >= 0; at--)
        if (me->buffer[at].place == place)
            return me->buffer[at].value;
    return state->memory[place];
}

int make_load(struct state *state, int side, int place, int order, int8_t *value)
{
    struct side *me = &state->side[side];

    for (int at = 0; at < me->nr_stores; at++)
        if (order == __ATOMIC_SEQ_CST && me->buffer[at].seq_cst)
            return 0;
    *value = me->early_place == place ? me->early_value : seen_by(state, side, place);
    if (me->early_place == place || is_acquire(order))
        me->early_place = NOWHERE;
    return 1;
}

/* A read-modify-write is in memory at once. x86 drains before any; elsewhere only RELEASE does. */
int make_swap(struct state *state, int side, int order)
{
    struct side *me = &state->side[side];

    if (me->nr_stores && (model.machine == TSO || is_release(order)))
        return 0;
    if (is_acquire(order))
        me->early_place = NOWHERE;
    return 1;
}

int may_drain(const struct side *side, int at)
{
    if (at == 0)
        return 1;
    if (model.machine == TSO || side->buffer[at].release)
        return 0;
    for (int older = 0; older < at; older++)
        if (side->buffer[older].place == side->buffer[at].place)
            return 0;
    return 1;
}

void drain(struct state *state, int side, int at)
{
    struct side *me = &state->side[side];

    state->memory[me->buffer[at].place] = me->buffer[at].value;
    me->nr_stores--;
    memmove(&me->buffer[at], &me->buffer[at + 1], (me->nr_stores - at) * sizeof(struct store));
    memset(&me->buffer[me->nr_stores], 0, sizeof(struct store));
}

void take_early(struct state *state, int side, int place)
{
    state->side[side].early_place = place;
    state->side[side].early_value = seen_by(state, side, place);
}

/* An event index that its producer has passed never asks for anything again; how long ago it was passed is a name. (It
 * does ask once more, needlessly, after 2^32 entries.) */
static int8_t live(const struct state *state, int place, int8_t value)
{
    int8_t pushed = state->side[place == REQ_EVENT ? FRONT : BACK].pushed;

    return (place == REQ_EVENT || place == RSP_EVENT) && value < pushed ? pushed : value;
}

static int8_t shifted(int8_t value, int by)
{
    if (value == NO_ENTRY || (value >= PLAIN && value < REQUEST))
        return value;
    if (value >= REQUEST)
        return (value & ~ENTRY_INDEX) | ((value - by) & ENTRY_INDEX);
    return value - by;
}

static int shifted_place(int place, int by)
{
    if (place < SLOT_0 || place >= NR_PLACES)
        return place;
    return SLOT_0 + ((place - SLOT_0 - by) & (model.nr_ents - 1));
}

static void shift_side(struct side *me, int by)
{
    me->pvt -= by;
    me->pushed -= by;
    me->cons -= by;
    me->seen -= by;
    for (int i = 0; i < me->nr_accesses; i++)
        me->given[i] = shifted(me->given[i], by);
    if (me->early_place != NOWHERE)
        me->early_value = shifted(me->early_value, by);
    me->early_place = shifted_place(me->early_place, by);
    for (int i = 0; i < me->nr_stores; i++) {
        me->buffer[i].value = shifted(me->buffer[i].value, by);
        me->buffer[i].place = shifted_place(me->buffer[i].place, by);
    }
}

int canonical(struct state *state)
{
    int8_t memory[NR_PLACES];
    int by = state->side[FRONT].cons;

    memcpy(memory, state->memory, sizeof(memory));
    for (int place = 0; by != 0 && place < SLOT_0 + (int)model.nr_ents; place++)
        state->memory[shifted_place(place, by)] = shifted(memory[place], by);
    for (int side = FRONT; side <= BACK; side++) {
        struct side *me = &state->side[side];

        shift_side(me, by);
        if (me->early_place == NOWHERE)
            me->early_value = 0;
        memset(&me->given[me->nr_accesses], 0, ACCESSES_MAX - me->nr_accesses);
    }
    for (int side = FRONT; side <= BACK; side++)
        for (int i = 0; i < state->side[side].nr_stores; i++)
            state->side[side].buffer[i].value =
                live(state, state->side[side].buffer[i].place, state->side[side].buffer[i].value);
    state->memory[REQ_EVENT] = live(state, REQ_EVENT, state->memory[REQ_EVENT]);
    state->memory[RSP_EVENT] = live(state, RSP_EVENT, state->memory[RSP_EVENT]);
    return by;
}
