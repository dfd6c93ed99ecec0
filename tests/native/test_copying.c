/* The copies, at every alignment of both ends and with every length around a line: exactly the bytes asked for. And the
 * choice of the store with the machine's own clock. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "xenblk/assert.h"
#include "xenblk/copier.h"
#include "xenblk/copying.h"

#define LINE 64
#define LONGEST (3 * LINE)
#define LARGE 65536
#define ROUNDS 300

static uint32_t roll(uint64_t *dice)
{
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    return (uint32_t)(*dice >> 32);
}

/* Both blocks are of their own size, so that a sanitizer sees whoever leaves them. */
static void check_copy(int how, size_t to_offset, size_t from_offset, size_t n, uint64_t *dice)
{
    uint8_t *to = aligned_alloc(LINE, (to_offset + n + 2 * LINE - 1) / LINE * LINE);
    uint8_t *from = malloc(from_offset + n + 1);

    XB_ASSERT(to && from);
    for (size_t at = 0; at < n; at++)
        from[from_offset + at] = (uint8_t)roll(dice);
    memset(to, 0x5a, to_offset + n + 1);
    xb_fetch(roll(dice) % 2 ? from : NULL, n);
    xb_copy(how, to + to_offset, from + from_offset, n);
    xb_copy_fence(how);
    XB_ASSERT(memcmp(to + to_offset, from + from_offset, n) == 0);
    for (size_t at = 0; at < to_offset; at++)
        XB_ASSERT(to[at] == 0x5a);
    XB_ASSERT(to[to_offset + n] == 0x5a);
    free(to);
    free(from);
}

static void check_alignments(int how, uint64_t *dice)
{
    for (size_t to_offset = 0; to_offset < LINE; to_offset++)
        for (size_t n = 0; n <= LONGEST; n++)
            check_copy(how, to_offset, roll(dice) % LINE, n, dice);
}

static void check_large(int how, uint64_t *dice)
{
    for (int round = 0; round < ROUNDS; round++)
        check_copy(how, roll(dice) % LINE, roll(dice) % LINE, roll(dice) % LARGE, dice);
}

static void check_choice(uint64_t *dice)
{
    static uint8_t to[LARGE], from[LARGE];
    struct xb_copier copier;

    xb_copier_init(&copier, XB_COPY_MEASURED);
    for (int batch = 0; batch < 20000; batch++) {
        int how = xb_copier_choose(&copier, 1 + roll(dice) % 8, 4096);

        xb_copy(how, to, from, 4096);
        xb_copy_fence(how);
        if (roll(dice) % 1000 == 0)
            xb_copier_slept(&copier);
    }
    XB_ASSERT(copier.statistics.windows > 0);
    XB_ASSERT(copier.statistics.trials > 0);
}

int main(void)
{
    uint64_t seed = (uint64_t)time(NULL) | 1, dice = seed;

    printf("test_copying: seed %llu\n", (unsigned long long)seed);
    for (int how = XB_COPY_PLAIN; how <= XB_COPY_STREAMING; how++) {
        check_alignments(how, &dice);
        check_large(how, &dice);
    }
    check_choice(&dice);
    puts("test_copying: ok");
    return 0;
}
