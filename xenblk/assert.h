/* XB_ASSERT: an invariant of our own that holds in every build. Python compiles extensions with NDEBUG, which
 * would silence assert(). Never for a value that a peer can write: a peer gets a status, not our core dump. */
#pragma once
#include <stdio.h>
#include <stdlib.h>

#define XB_ASSERT(condition)                                                                       \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0)) {                                                   \
            fprintf(stderr, "xenblk: %s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
