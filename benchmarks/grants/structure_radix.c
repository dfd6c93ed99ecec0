/* A radix tree of 64-way nodes: six bits of the reference per level, and as few levels as the references so far
 * need. */
#include <stdlib.h>
#include <string.h>

#include "benchmarks/grants/structures.h"
#include "xenblk/assert.h"

#define DIGIT_BITS 6
#define WIDTH (1u << DIGIT_BITS)
#define LEVELS_MAX 6

/* A child is the number of a node, or on the lowest level that of an entry, plus 1. */
struct node {
    uint64_t used;
    uint32_t child[WIDTH];
};

struct self {
    struct node *nodes;
    uint32_t *free_nodes, *free_entries;
    uint32_t nr_free_nodes, nr_free_entries, nr_touched;
    uint32_t root; /* as a child: 0 while empty */
    uint32_t levels;
};

/* No level has more nodes than there are entries, nor than its digits can tell apart. */
static size_t nodes_max(uint32_t max_entries)
{
    size_t count = 0, on_level = 1;

    for (int level = 0; level < LEVELS_MAX; level++) {
        count += on_level < max_entries ? on_level : max_entries;
        on_level *= level ? WIDTH : 4; /* the topmost digit has the two bits that are left of 32 */
    }
    return count + LEVELS_MAX;
}

static void *create(uint32_t max_entries, uint64_t secret)
{
    struct self *self = calloc(1, sizeof(*self));

    (void)secret;
    self->nodes = calloc(nodes_max(max_entries), sizeof(*self->nodes));
    self->free_nodes = malloc(nodes_max(max_entries) * sizeof(uint32_t));
    self->free_entries = malloc(max_entries * sizeof(uint32_t));
    for (uint32_t i = max_entries; i-- > 0;)
        self->free_entries[self->nr_free_entries++] = i;
    return self;
}

static void destroy(void *opaque)
{
    struct self *self = opaque;

    free(self->nodes);
    free(self->free_nodes);
    free(self->free_entries);
    free(self);
}

static uint32_t digit(uint32_t gref, uint32_t level)
{
    return gref >> (level * DIGIT_BITS) & (WIDTH - 1);
}

static int fits(uint32_t gref, uint32_t levels)
{
    return levels == LEVELS_MAX || gref >> (levels * DIGIT_BITS) == 0;
}

static uint32_t find(void *opaque, uint32_t gref)
{
    struct self *self = opaque;
    uint32_t child = self->root;

    if (!fits(gref, self->levels))
        return NO_ENTRY;
    for (uint32_t level = self->levels; child && level-- > 0;)
        child = self->nodes[child - 1].child[digit(gref, level)];
    return child - 1; /* 0 becomes NO_ENTRY */
}

static uint32_t node_new(struct self *self)
{
    uint32_t child = self->nr_free_nodes ? self->free_nodes[--self->nr_free_nodes] : ++self->nr_touched;

    memset(&self->nodes[child - 1], 0, sizeof(struct node));
    return child;
}

static void node_set(struct node *node, uint32_t at, uint32_t child)
{
    node->child[at] = child;
    node->used = child ? node->used | UINT64_C(1) << at : node->used & ~(UINT64_C(1) << at);
}

static void grow(struct self *self, uint32_t gref)
{
    if (!self->root) {
        self->root = node_new(self);
        self->levels = 1;
    }
    while (!fits(gref, self->levels)) {
        uint32_t root = node_new(self);

        node_set(&self->nodes[root - 1], 0, self->root);
        self->root = root;
        self->levels++;
    }
}

static uint32_t insert(void *opaque, uint32_t gref)
{
    struct self *self = opaque;
    uint32_t entry = self->free_entries[--self->nr_free_entries];
    struct node *node;

    grow(self, gref);
    node = &self->nodes[self->root - 1];
    for (uint32_t level = self->levels - 1; level > 0; level--) {
        uint32_t at = digit(gref, level);

        if (!node->child[at])
            node_set(node, at, node_new(self));
        node = &self->nodes[node->child[at] - 1];
    }
    node_set(node, digit(gref, 0), entry + 1);
    return entry;
}

static void erase(void *opaque, uint32_t gref, uint32_t entry)
{
    struct self *self = opaque;
    uint32_t path[LEVELS_MAX], child = self->root;

    for (uint32_t level = self->levels; level-- > 0;) {
        path[level] = child;
        child = self->nodes[child - 1].child[digit(gref, level)];
    }
    XB_ASSERT(child == entry + 1);
    self->free_entries[self->nr_free_entries++] = entry;
    for (uint32_t level = 0; level < self->levels; level++) {
        struct node *node = &self->nodes[path[level] - 1];

        node_set(node, digit(gref, level), 0);
        if (node->used)
            return;
        self->free_nodes[self->nr_free_nodes++] = path[level];
    }
    self->root = self->levels = 0;
}

static uint32_t walk_node(const struct self *self, uint32_t child, uint32_t level, uint32_t prefix, uint32_t *grefs)
{
    const struct node *node = &self->nodes[child - 1];
    uint32_t count = 0;

    for (uint64_t used = node->used; used; used &= used - 1) {
        uint32_t at = (uint32_t)__builtin_ctzll(used), gref = prefix | at << (level * DIGIT_BITS);

        if (level == 0)
            grefs[count++] = gref;
        else
            count += walk_node(self, node->child[at], level - 1, gref, grefs + count);
    }
    return count;
}

static uint32_t walk(void *opaque, uint32_t *grefs)
{
    struct self *self = opaque;

    return self->root ? walk_node(self, self->root, self->levels - 1, 0, grefs) : 0;
}

static size_t bytes(void *opaque)
{
    struct self *self = opaque;

    return self->nr_touched * (sizeof(struct node) + sizeof(uint32_t));
}

const struct structure radix_structure = {"radix", create, destroy, find, insert, erase, walk, bytes};
