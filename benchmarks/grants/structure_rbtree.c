/* A red-black tree: the links of a node beside its reference, in one array; node 0 is the leaf that all share. */
#include <stdlib.h>

#include "benchmarks/grants/structures.h"
#include "xenblk/assert.h"

#define NIL 0u

struct node {
    uint32_t gref;
    uint32_t child[2]; /* smaller, larger */
    uint32_t parent;
    uint32_t red;
};

struct self {
    struct node *nodes;
    uint32_t root, free_head, nr_touched; /* free nodes are linked by child[0] */
};

static void *create(uint32_t max_entries, uint64_t secret)
{
    struct self *self = calloc(1, sizeof(*self));

    (void)secret;
    self->nodes = calloc((size_t)max_entries + 1, sizeof(*self->nodes));
    return self;
}

static void destroy(void *opaque)
{
    struct self *self = opaque;

    free(self->nodes);
    free(self);
}

static uint32_t find(void *opaque, uint32_t gref)
{
    struct self *self = opaque;
    uint32_t at = self->root;

    while (at != NIL && self->nodes[at].gref != gref)
        at = self->nodes[at].child[gref > self->nodes[at].gref];
    return at - 1; /* NIL becomes NO_ENTRY */
}

static uint32_t side_of(const struct self *self, uint32_t at)
{
    return self->nodes[self->nodes[at].parent].child[1] == at;
}

/* Hang `child` where `at` hangs. */
static void take_place(struct self *self, uint32_t at, uint32_t child)
{
    uint32_t parent = self->nodes[at].parent;

    if (parent == NIL)
        self->root = child;
    else
        self->nodes[parent].child[side_of(self, at)] = child;
    self->nodes[child].parent = parent;
}

/* `at` goes down to `side`, its child on the other side comes up. */
static void rotate(struct self *self, uint32_t at, uint32_t side)
{
    struct node *nodes = self->nodes;
    uint32_t up = nodes[at].child[!side], middle = nodes[up].child[side];

    take_place(self, at, up);
    nodes[at].child[!side] = middle;
    if (middle != NIL)
        nodes[middle].parent = at;
    nodes[up].child[side] = at;
    nodes[at].parent = up;
}

static void insert_fix(struct self *self, uint32_t at)
{
    struct node *nodes = self->nodes;

    while (nodes[nodes[at].parent].red) {
        uint32_t parent = nodes[at].parent, grand = nodes[parent].parent, side = side_of(self, parent);
        uint32_t uncle = nodes[grand].child[!side];

        nodes[grand].red = 1;
        if (nodes[uncle].red) {
            nodes[parent].red = nodes[uncle].red = 0;
            at = grand;
            continue;
        }
        if (side_of(self, at) != side) {
            rotate(self, parent, side);
            parent = at;
        }
        nodes[parent].red = 0;
        rotate(self, grand, !side);
        break;
    }
    nodes[self->root].red = 0;
}

static uint32_t node_new(struct self *self)
{
    uint32_t at = self->free_head;

    if (at == NIL)
        return ++self->nr_touched;
    self->free_head = self->nodes[at].child[0];
    return at;
}

static uint32_t insert(void *opaque, uint32_t gref)
{
    struct self *self = opaque;
    uint32_t made = node_new(self), parent = NIL;

    for (uint32_t at = self->root; at != NIL; at = self->nodes[at].child[gref > self->nodes[at].gref])
        parent = at;
    self->nodes[made] = (struct node){.gref = gref, .parent = parent, .red = 1};
    if (parent == NIL)
        self->root = made;
    else
        self->nodes[parent].child[gref > self->nodes[parent].gref] = made;
    insert_fix(self, made);
    return made - 1;
}

/* The paths through `at` have one black node too few. */
static void erase_fix(struct self *self, uint32_t at)
{
    struct node *nodes = self->nodes;

    while (at != self->root && !nodes[at].red) {
        uint32_t parent = nodes[at].parent, side = side_of(self, at), sibling = nodes[parent].child[!side];

        if (nodes[sibling].red) {
            nodes[sibling].red = 0;
            nodes[parent].red = 1;
            rotate(self, parent, side);
            sibling = nodes[parent].child[!side];
        }
        if (!nodes[nodes[sibling].child[0]].red && !nodes[nodes[sibling].child[1]].red) {
            nodes[sibling].red = 1;
            at = parent;
            continue;
        }
        if (!nodes[nodes[sibling].child[!side]].red) {
            nodes[nodes[sibling].child[side]].red = 0;
            nodes[sibling].red = 1;
            rotate(self, sibling, !side);
            sibling = nodes[parent].child[!side];
        }
        nodes[sibling].red = nodes[parent].red;
        nodes[parent].red = nodes[nodes[sibling].child[!side]].red = 0;
        rotate(self, parent, side);
        at = self->root;
    }
    nodes[at].red = 0;
}

static uint32_t first_of(const struct self *self, uint32_t at)
{
    while (self->nodes[at].child[0] != NIL)
        at = self->nodes[at].child[0];
    return at;
}

static void erase(void *opaque, uint32_t gref, uint32_t entry)
{
    struct self *self = opaque;
    struct node *nodes = self->nodes;
    uint32_t at = find(self, gref) + 1, next = at, lost_red, orphan;

    XB_ASSERT(at == entry + 1);
    if (nodes[at].child[0] != NIL && nodes[at].child[1] != NIL)
        next = first_of(self, nodes[at].child[1]);
    orphan = nodes[next].child[nodes[next].child[0] == NIL];
    lost_red = nodes[next].red;
    take_place(self, next, orphan); /* sets NIL's parent too, where the fixing starts */
    if (next != at) {
        uint32_t orphans_parent = nodes[orphan].parent == at ? next : nodes[orphan].parent;

        take_place(self, at, next);
        for (uint32_t side = 0; side < 2; side++) {
            nodes[next].child[side] = nodes[at].child[side];
            nodes[nodes[next].child[side]].parent = next;
        }
        nodes[next].red = nodes[at].red;
        nodes[orphan].parent = orphans_parent;
    }
    if (!lost_red)
        erase_fix(self, orphan);
    nodes[at].child[0] = self->free_head;
    self->free_head = at;
}

static uint32_t walk(void *opaque, uint32_t *grefs)
{
    struct self *self = opaque;
    const struct node *nodes = self->nodes;
    uint32_t count = 0, at = self->root == NIL ? NIL : first_of(self, self->root);

    while (at != NIL) {
        grefs[count++] = nodes[at].gref;
        if (nodes[at].child[1] != NIL) {
            at = first_of(self, nodes[at].child[1]);
            continue;
        }
        while (nodes[at].parent != NIL && side_of(self, at))
            at = nodes[at].parent;
        at = nodes[at].parent;
    }
    return count;
}

static size_t bytes(void *opaque)
{
    struct self *self = opaque;

    return ((size_t)self->nr_touched + 1) * sizeof(struct node);
}

const struct structure rbtree_structure = {"rbtree", create, destroy, find, insert, erase, walk, bytes};
