/* What the pages of a disk begin and end with: the page's number and one, as a page that was never written has 0. */
static inline void stamp(char *block, uint64_t number, size_t block_bytes, bool at_end)
{
    uint64_t first = number * (block_bytes / PAGE) + 1;

    for (size_t i = 0; i < block_bytes / PAGE; i++) {
        *(uint64_t *)(block + i * PAGE) = first + i;
        if (at_end)
            *(uint64_t *)(block + (i + 1) * PAGE - 8) = first + i;
    }
}

/* How many of a block's stamps are not what they should be. */
static inline uint64_t check(const char *block, uint64_t number, size_t block_bytes, bool at_end)
{
    uint64_t first = number * (block_bytes / PAGE) + 1, bad = 0;

    for (size_t i = 0; i < block_bytes / PAGE; i++) {
        bad += *(const uint64_t *)(block + i * PAGE) != first + i;
        if (at_end)
            bad += *(const uint64_t *)(block + (i + 1) * PAGE - 8) != first + i;
    }
    return bad;
}
