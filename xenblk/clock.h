/* The monotonic clock, through the vDSO, without a system call. */
#pragma once
#include <stdint.h>
#include <time.h>

#include "xenblk/assert.h"

static inline uint64_t xb_clock_ns(clockid_t clock)
{
    struct timespec now;

    XB_ASSERT(clock_gettime(clock, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* For whatever measures itself. */
static inline uint64_t xb_monotonic_ns(void)
{
    return xb_clock_ns(CLOCK_MONOTONIC);
}

/* The same as of the last timer tick, some milliseconds ago, for a fifth of the cost. */
static inline uint64_t xb_monotonic_coarse_ns(void)
{
    return xb_clock_ns(CLOCK_MONOTONIC_COARSE);
}
