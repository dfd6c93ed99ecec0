#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

/* All states that can be reached, breadth first, and from each of them a way to the end: every request that was put
 * has its response consumed, though no wait times out and no further request is put. A side that sleeps for ever on
 * work has no such way. Prints the shortest way to what is wrong. */

struct model model;

static struct state *states;
static uint32_t nr_states, room;
static uint32_t *parents;

static struct {
    uint32_t number; /* of a state, from 1; 0 is empty */
    uint32_t hash;   /* of it, so that few others are looked at */
} *table;
static uint32_t table_size;

static uint32_t *edges; /* pairs: from, to; of progress only */
static size_t nr_edges, edge_room;

static void *grown(void *memory, size_t nr, size_t size)
{
    memory = realloc(memory, nr * size);
    if (memory == NULL) {
        perror("model");
        exit(2);
    }
    return memory;
}

static uint32_t hash(const struct state *state)
{
    const uint8_t *bytes = (const uint8_t *)state;
    uint64_t sum = 0;

    for (size_t i = 0; i < sizeof(*state); i += sizeof(uint64_t)) {
        uint64_t word;

        memcpy(&word, bytes + i, sizeof(word));
        sum = (sum ^ word) * 0x9e3779b97f4a7c15;
        sum ^= sum >> 29;
    }
    return sum >> 32;
}

_Static_assert(sizeof(struct state) == 64, "a cache line, which the hash takes eight bytes at a time");

/* Where `state` is in the table, or where it belongs. */
static uint32_t find(const struct state *state, uint32_t hash_)
{
    uint32_t at = hash_ & (table_size - 1);

    while (table[at].number != 0 &&
           (table[at].hash != hash_ || memcmp(&states[table[at].number - 1], state, sizeof(*state)) != 0))
        at = (at + 1) & (table_size - 1);
    return at;
}

static void enter(uint32_t at, uint32_t number, uint32_t hash_)
{
    table[at].number = number;
    table[at].hash = hash_;
}

static void make_room(void)
{
    if (nr_states < room)
        return;
    room = room ? room * 2 : 1 << 12;
    states = grown(states, room, sizeof(*states));
    parents = grown(parents, room, sizeof(*parents));
    free(table);
    table_size = room * 2;
    table = grown(NULL, table_size, sizeof(*table));
    memset(table, 0, table_size * sizeof(*table));
    for (uint32_t i = 0; i < nr_states; i++)
        enter(find(&states[i], hash(&states[i])), i + 1, hash(&states[i]));
}

static uint32_t number_of(const struct state *state, uint32_t parent)
{
    uint32_t hash_ = hash(state), at;

    make_room();
    at = find(state, hash_);
    if (table[at].number == 0) {
        states[nr_states] = *state;
        parents[nr_states] = parent;
        enter(at, ++nr_states, hash_);
    }
    return table[at].number - 1;
}

static void add_edge(uint32_t from, uint32_t to)
{
    if (nr_edges == edge_room) {
        edge_room = edge_room ? edge_room * 2 : 1 << 14;
        edges = grown(edges, edge_room, 2 * sizeof(*edges));
    }
    edges[2 * nr_edges] = from;
    edges[2 * nr_edges + 1] = to;
    nr_edges++;
}

/* Traces */

/* Print the step of `from` that leads to `to`, or, if `violation`, one that breaks something. */
static const char *print_step(uint32_t from, uint32_t to, int violation)
{
    struct step steps[STEPS_MAX];
    int nr = next_steps(&states[from], steps);

    for (int i = 0; i < nr; i++) {
        if (violation ? steps[i].violation == NULL : memcmp(&steps[i].to, &states[to], sizeof(states[to])) != 0)
            continue;
        puts(steps[i].text);
        model.base += steps[i].forward;
        return steps[i].violation;
    }
    abort();
}

static void print_way(uint32_t to)
{
    uint32_t length = 0, *way;

    for (uint32_t at = to; at != 0; at = parents[at])
        length++;
    way = grown(NULL, length + 1, sizeof(*way));
    for (uint32_t at = to, i = length; at != 0; at = parents[at])
        way[i--] = at;
    model.tracing = 1;
    model.base = 0;
    for (uint32_t i = 1; i <= length; i++)
        print_step(parents[way[i]], way[i], 0);
    free(way);
}

/* Searching */

static int explore(void)
{
    struct step steps[STEPS_MAX];
    struct state start;

    start_of_model(&start);
    number_of(&start, 0);
    for (uint32_t at = 0; at < nr_states; at++) {
        int nr = next_steps(&states[at], steps);

        for (int i = 0; i < nr; i++) {
            if (steps[i].violation) {
                print_way(at);
                printf("VIOLATION: %s\n", print_step(at, 0, 1));
                return 1;
            }
            uint32_t to = number_of(&steps[i].to, at);
            if (steps[i].progress)
                add_edge(at, to);
        }
    }
    return 0;
}

static int finished(const struct state *state)
{
    return state->side[FRONT].pvt == state->side[FRONT].cons;
}

/* The sources of edges, sorted by target: those to state s are sources[first[s]] up to sources[first[s + 1]]. */
static uint32_t *sources_by_target(uint32_t **first)
{
    uint32_t *sources = grown(NULL, nr_edges + 1, sizeof(*sources));
    uint32_t *start = calloc((size_t)nr_states + 2, sizeof(*start));

    if (start == NULL)
        abort();
    for (size_t e = 0; e < nr_edges; e++)
        start[edges[2 * e + 1] + 2]++;
    for (uint32_t s = 0; s < nr_states; s++)
        start[s + 2] += start[s + 1];
    for (size_t e = 0; e < nr_edges; e++)
        sources[start[edges[2 * e + 1] + 1]++] = edges[2 * e];
    *first = start;
    return sources;
}

/* Which states have a way to the end. */
static uint8_t *saved(void)
{
    uint8_t *is_saved = calloc(nr_states, 1);
    uint32_t *queue = grown(NULL, nr_states, sizeof(*queue));
    uint32_t *first, *sources = sources_by_target(&first), length = 0;

    for (uint32_t s = 0; s < nr_states; s++)
        if (finished(&states[s])) {
            is_saved[s] = 1;
            queue[length++] = s;
        }
    for (uint32_t at = 0; at < length; at++)
        for (uint32_t e = first[queue[at]]; e < first[queue[at] + 1]; e++)
            if (!is_saved[sources[e]]) {
                is_saved[sources[e]] = 1;
                queue[length++] = sources[e];
            }
    free(queue);
    free(sources);
    free(first);
    return is_saved;
}

static int is_stuck(uint32_t at)
{
    struct step steps[STEPS_MAX];
    int nr = next_steps(&states[at], steps), progress = 0;

    for (int i = 0; i < nr; i++)
        progress |= steps[i].progress;
    return !progress;
}

/* Tell of the first state that is lost, best of one where both sides sleep already. */
static int find_lost(void)
{
    uint8_t *is_saved = saved();
    uint32_t lost = nr_states;

    for (uint32_t s = 0; s < nr_states; s++)
        if (!is_saved[s] && (lost == nr_states || (is_stuck(s) && !is_stuck(lost))))
            lost = s;
    free(is_saved);
    if (lost == nr_states)
        return 0;
    print_way(lost);
    printf("VIOLATION: %s\n", is_stuck(lost) ? "both sides sleep while a request has no response: a wake-up was lost"
                                             : "from here on a request may stay without its response");
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s tso|weak NR_ENTS\n", argv[0]);
        return 2;
    }
    model.machine = strcmp(argv[1], "weak") == 0 ? WEAK : TSO;
    model.nr_ents = atoi(argv[2]);
    if (explore() || find_lost())
        return 1;
    printf("%s, %u entries: %u states, %zu steps: no wake-up is lost\n", argv[1], model.nr_ents, nr_states, nr_edges);
    return 0;
}
