/* Two sides, the memory they share, and all that a machine may do between them. See README.md.
 *
 * A value is one byte. An index is its distance from rsp_cons, at most 16 either way: the code only ever subtracts
 * indexes, so this stands for all of them, those that wrap at 2^32 included. An entry carries the index it was put at.
 */
#pragma once
#include <stdint.h>

enum { FRONT, BACK };

enum place { REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT, SLOT_0, NR_PLACES = SLOT_0 + 4, NOWHERE = 15 };

enum { PLAIN = 0x20, REQUEST = 0x40, RESPONSE = 0x50, ENTRY_INDEX = 0x0f, NO_ENTRY = 0x7f }; /* PLAIN: no index */

enum doing { RUNNING, PUT, PUSH, LOOK, CONSUME, FINAL_CHECK, NOTIFY, WAIT };

enum machine { TSO, WEAK };

#define BUFFER_SIZE 6
#define ACCESSES_MAX 4

/* A store that its side has made and the other does not see yet. */
struct store {
    uint8_t place : 4;
    uint8_t release : 1; /* goes to memory after all older ones */
    uint8_t seq_cst : 1; /* besides, sequentially consistent loads of its side wait for it */
    int8_t value;
};

struct side {
    uint8_t doing;
    uint8_t owes_event : 1; /* push said to notify */
    uint8_t sleepy : 1;     /* and final_check said 0 */
    int8_t pvt, pushed, cons, seen; /* of the private half, between operations */
    uint8_t nr_accesses;            /* of the operation in progress: done already, and what they gave */
    int8_t given[ACCESSES_MAX];
    uint8_t early_place; /* a load that the weak machine has taken before its turn, or NOWHERE */
    int8_t early_value;
    uint8_t nr_stores; /* oldest first */
    struct store buffer[BUFFER_SIZE];
};

struct state {
    int8_t memory[NR_PLACES];
    uint8_t pending[2];  /* the event word of each side */
    uint8_t readable[2]; /* its eventfd */
    struct side side[2];
};

/* One step from one state to another. */
struct step {
    struct state to;
    int progress;          /* neither a timeout nor work that nobody has to hand in */
    const char *violation; /* what the step broke, or NULL */
    int forward;           /* by how much all indexes were shifted, to keep rsp_cons at 0 */
    char text[160];        /* only while model.tracing */
};

struct model {
    enum machine machine;
    uint32_t nr_ents;
    int tracing;
    int base; /* while tracing: what rsp_cons really is */
};

extern struct model model;

/* steps.c */
void start_of_model(struct state *state);

/* All that can happen next; returns how many steps it wrote, STEPS_MAX at most. */
#define STEPS_MAX 32
int next_steps(const struct state *from, struct step *steps);

/* operations.c: let the operation that `side` of step->to is doing make its next access. Returns the operation's
 * result if it has ended, LEFT if it has more to do, BLOCKED if there is no such step. A wait finds its
 * eventfd `readable` or not. Later loads may overtake a `loose_load`. */
enum { LEFT = 2, BLOCKED = 3 };
int next_access(struct step *step, int side, int readable, int *loose_load);

/* steps.c: add to the text of a step. */
void say(struct step *step, const char *format, ...);
void say_access(struct step *step, const char *verb, int place, int8_t value);

/* memory.c. Each of the first three returns 0 where the machine must drain first. */
int make_store(struct state *state, int side, int place, int value, int order);
int make_load(struct state *state, int side, int place, int order, int8_t *value);
int make_swap(struct state *state, int side, int order);
int may_drain(const struct side *side, int at);
void drain(struct state *state, int side, int at);
void take_early(struct state *state, int side, int place);

/* Give one state to all that differ by names only; returns by how much indexes went down. */
int canonical(struct state *state);
