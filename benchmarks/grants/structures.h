/* What is compared: structures that find a page by its grant reference. All memory is there from the start, for
 * `max_entries` entries; an entry is a number below that. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define NO_ENTRY UINT32_MAX

struct structure {
    const char *name;
    void *(*create)(uint32_t max_entries, uint64_t secret);
    void (*destroy)(void *self);
    uint32_t (*find)(void *self, uint32_t gref);              /* NO_ENTRY if it is not there */
    uint32_t (*insert)(void *self, uint32_t gref);            /* its entry; the reference is not there yet */
    void (*erase)(void *self, uint32_t gref, uint32_t entry); /* the reference is there, as this entry */
    uint32_t (*walk)(void *self, uint32_t *grefs);            /* all references in order; returns how many */
    size_t (*bytes)(void *self);                              /* of memory touched so far, beside the entries */
};

extern const struct structure gref_map_structure, radix_structure, rbtree_structure;
