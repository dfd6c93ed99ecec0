/* splitmix64's way to make any number look random; each number gives another. */
#pragma once
#include <stdint.h>

#define MIX_A 0xbf58476d1ce4e5b9u
#define MIX_B 0x94d049bb133111ebu

static inline uint64_t mix(uint64_t number)
{
    number = (number ^ (number >> 30)) * MIX_A;
    number = (number ^ (number >> 27)) * MIX_B;
    return number ^ (number >> 31);
}
