#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "machine.h"

/* What a side does between its operations, and which steps it may take next. */

static const char *const side_names[] = {"front", "back"};
static const char *const place_names[] = {"req_prod", "req_event", "rsp_prod", "rsp_event"};

void say(struct step *step, const char *format, ...)
{
    size_t length = strlen(step->text);
    va_list arguments;

    if (!model.tracing)
        return;
    va_start(arguments, format);
    vsnprintf(step->text + length, sizeof(step->text) - length, format, arguments);
    va_end(arguments);
}

void say_access(struct step *step, const char *verb, int place, int8_t value)
{
    if (place < SLOT_0)
        say(step, "%s %s", verb, place_names[place]);
    else
        say(step, "%s slot %d", verb, (place - SLOT_0 + model.base) & (int)(model.nr_ents - 1));
    if (value == NO_ENTRY)
        say(step, ": nothing;");
    else if (value >= REQUEST)
        say(step, ": %s %d;", value < RESPONSE ? "request" : "response", (value + model.base) & ENTRY_INDEX);
    else
        say(step, ": %d;", value + model.base);
}

/* Between operations */

static int after_event(struct side *me)
{
    int sleepy = me->sleepy;

    me->owes_event = me->sleepy = 0;
    return sleepy ? WAIT : RUNNING;
}

static int after_final_check(struct side *me, int found)
{
    if (found)
        return RUNNING;
    me->sleepy = me->owes_event;
    return me->sleepy ? NOTIFY : WAIT;
}

/* What a side does after an operation that ended with `result`. */
static int next_doing(struct side *me, int result)
{
    switch (me->doing) {
    case PUSH:
        me->owes_event |= result;
        return RUNNING;
    case NOTIFY:
        return after_event(me);
    case FINAL_CHECK:
        return after_final_check(me, result);
    default:
        return RUNNING;
    }
}

/* Steps */

struct steps {
    const struct state *from;
    int side;
    struct step *next; /* to be written */
};

static const struct side *side_before(const struct steps *steps)
{
    return &steps->from->side[steps->side];
}

static struct side *begin(struct steps *steps, int doing)
{
    static const char *const names[] = {"runs", "put", "push", "look", "consume", "final_check", "notify", "wait"};
    struct step *step = steps->next;

    step->to = *steps->from;
    step->progress = 1;
    step->violation = NULL;
    step->text[0] = 0;
    say(step, "%-5s  %s:", side_names[steps->side], names[doing]);
    step->to.side[steps->side].doing = doing;
    return &step->to.side[steps->side];
}

static void end(struct steps *steps)
{
    steps->next->forward = canonical(&steps->next->to);
    steps->next++;
}

static void end_operation(struct steps *steps, struct side *me, int result)
{
    static const char *const results[] = {" -> broken", " -> 0", " -> 1"};

    say(steps->next, "%s", results[result + 1]);
    if (result < 0)
        steps->next->violation = "it holds the other's index for impossible";
    me->nr_accesses = 0;
    if (result >= 0)
        me->doing = next_doing(me, result);
    end(steps);
}

/* One more access of operation `doing`; returns whether later loads may overtake it. A wait that begins may find its
 * eventfd `readable`. */
static int poll_step(struct steps *steps, int doing, int readable)
{
    struct side *me = begin(steps, doing);
    int loose_load, outcome = next_access(steps->next, steps->side, readable, &loose_load);

    if (outcome == BLOCKED)
        return 0;
    if (outcome == LEFT) {
        say(steps->next, " ...");
        end(steps);
    } else {
        end_operation(steps, me, outcome);
    }
    return loose_load;
}

static int operation_step(struct steps *steps, int doing)
{
    return poll_step(steps, doing, 0);
}

/* The weak machine may take a later load before one that does not hold it back. */
static void early_steps(struct steps *steps)
{
    int side = steps->side;
    int8_t cons = side_before(steps)->cons;
    int places[] = {side == FRONT ? RSP_PROD : REQ_PROD, side == FRONT ? REQ_EVENT : RSP_EVENT,
                    SLOT_0 + (cons & (model.nr_ents - 1)), SLOT_0 + ((cons + 1) & (model.nr_ents - 1))};

    for (int i = 0; i < (model.nr_ents == 1 ? 3 : 4); i++) {
        struct side *me = begin(steps, side_before(steps)->doing);

        take_early(&steps->next->to, side, places[i]);
        say_access(steps->next, " loads early", places[i], me->early_value);
        end(steps);
    }
}

/* Without sleeping, or to sleep: what is readable may be seen or not, as late as a wait may time out. */
static void begin_wait(struct steps *steps)
{
    struct step *timeout;

    if (steps->from->readable[steps->side])
        poll_step(steps, WAIT, 1);
    timeout = steps->next;
    poll_step(steps, WAIT, 0);
    timeout->progress = 0;
}

/* A running side may do anything that its private half allows, in any order, so also look again and again before it
 * sleeps, and put off an event. It sleeps only after final_check said 0, with all it put published and all its events
 * sent; the front only if it is owed a response. */
static int running_steps(struct steps *steps)
{
    const struct side *it = side_before(steps);
    int is_back = steps->side == BACK;
    int loose = 0;

    if (is_back ? it->pvt != it->cons : it->pvt - it->cons < (int)model.nr_ents) {
        struct step *put = steps->next;

        operation_step(steps, PUT);
        put->progress = is_back; /* nobody has to ask for more */
    }
    if (it->pvt != it->pushed)
        loose |= operation_step(steps, PUSH);
    if (it->owes_event)
        loose |= operation_step(steps, NOTIFY);
    loose |= operation_step(steps, LOOK);
    loose |= operation_step(steps, CONSUME);
    if (it->pvt == it->pushed && (is_back || it->pvt != it->cons))
        loose |= operation_step(steps, FINAL_CHECK);
    begin_wait(steps);
    return loose;
}

static void wait_steps(struct steps *steps)
{
    begin_wait(steps);
    if (steps->side == BACK && side_before(steps)->pvt != side_before(steps)->cons) {
        struct side *me = begin(steps, WAIT);

        say(steps->next, " wakes for a request that the disk has finished");
        me->doing = RUNNING;
        end(steps);
    }
}

static void drain_steps(struct steps *steps)
{
    const struct side *it = side_before(steps);

    for (int at = 0; at < it->nr_stores; at++) {
        if (!may_drain(it, at))
            continue;
        begin(steps, it->doing);
        steps->next->text[0] = 0;
        say(steps->next, "%-5s  its store reaches memory:", side_names[steps->side]);
        say_access(steps->next, "", it->buffer[at].place, it->buffer[at].value);
        drain(&steps->next->to, steps->side, at);
        end(steps);
    }
}

static void side_steps(struct steps *steps)
{
    int doing = side_before(steps)->doing;
    int loose = 0;

    drain_steps(steps);
    if (doing == RUNNING)
        loose = running_steps(steps);
    else if (doing == WAIT && side_before(steps)->nr_accesses == 0)
        wait_steps(steps);
    else
        loose = operation_step(steps, doing);
    if (loose && model.machine == WEAK && side_before(steps)->early_place == NOWHERE)
        early_steps(steps);
}

int next_steps(const struct state *from, struct step *steps)
{
    struct steps all = {from, FRONT, steps};

    side_steps(&all);
    all.side = BACK;
    side_steps(&all);
    return all.next - steps;
}

void start_of_model(struct state *state)
{
    memset(state, 0, sizeof(*state));
    memset(state->memory, NO_ENTRY, sizeof(state->memory));
    state->memory[REQ_PROD] = state->memory[RSP_PROD] = 0;
    state->memory[REQ_EVENT] = state->memory[RSP_EVENT] = 1;
    state->side[FRONT].early_place = state->side[BACK].early_place = NOWHERE;
}
