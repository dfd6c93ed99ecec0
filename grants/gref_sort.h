/* Inside of gref_map.c: sorting in memory that is there. */
#pragma once
#include <stdint.h>
#include <string.h>

#define DIGIT_BITS 8
#define NR_DIGITS (1u << DIGIT_BITS)

static inline uint32_t digit_of(uint64_t key, uint32_t shift)
{
    return (uint32_t)(key >> shift) & (NR_DIGITS - 1);
}

/* Put `from` into `to` by one digit, equal ones in the order they had; 0, and nothing done, if all have the same. */
static inline int sort_by_digit(const uint64_t *from, uint64_t *to, uint32_t count, uint32_t shift)
{
    uint32_t starts[NR_DIGITS + 1] = {0};

    for (uint32_t i = 0; i < count; i++)
        starts[digit_of(from[i], shift) + 1]++;
    if (count == 0 || starts[digit_of(from[0], shift) + 1] == count)
        return 0;
    for (uint32_t digit = 0; digit < NR_DIGITS; digit++)
        starts[digit + 1] += starts[digit];
    for (uint32_t i = 0; i < count; i++)
        to[starts[digit_of(from[i], shift)]++] = from[i];
    return 1;
}

/* Sort `keys` by their upper 32 bits, digit by digit from the lowest; both arrays have `count` keys, and the result is
 * in the one that is returned. */
static inline const uint64_t *sort_by_upper_half(uint64_t *keys, uint64_t *spare, uint32_t count)
{
    for (uint32_t shift = 32; shift < 64; shift += DIGIT_BITS) {
        if (sort_by_digit(keys, spare, count, shift)) {
            uint64_t *sorted = spare;

            spare = keys;
            keys = sorted;
        }
    }
    return keys;
}
