/* xb_monotonic_ns: the clock of whatever measures itself; through the vDSO, without a system call. */
#pragma once
#include <stdint.h>
#include <time.h>

#include "xenblk/assert.h"

static inline uint64_t xb_monotonic_ns(void)
{
    struct timespec now;

    XB_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
