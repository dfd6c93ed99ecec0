/* A lock among threads of one process, for what takes a few stores or a system call, and nobody waits long for. */
#pragma once
#include <sched.h>
#include <stdint.h>

#define SPINS_BEFORE_YIELD 64u

static inline void spin_lock(uint32_t *lock)
{
    /* Acquire: we see what the last holder wrote before its release in spin_unlock. */
    for (uint32_t spins = 1; __atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE); spins++)
        if (spins % SPINS_BEFORE_YIELD == 0)
            sched_yield();
}

static inline void spin_unlock(uint32_t *lock)
{
    /* Release: the next holder, at its acquire in spin_lock, sees all that we wrote. */
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}
