#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "harness/oracle.h"
#include "harness/mix.h"

#include "xenblk/assert.h"

#define SECTOR_BYTES XB_ORACLE_SECTOR_BYTES
#define STAMP_BYTES sizeof(uint64_t)
#define VERSION_BITS 24
#define ZEROS 0 /* the checksum of zeros */
#define POISON 0xa5a5a5a5a5a5a5a5u

/* The inverses of MIX_A and MIX_B modulo 2^64. */
#define UNMIX_A 0x96de1b173f119089u
#define UNMIX_B 0x319642b2d24d8ec3u

_Static_assert(XB_ORACLE_VERSION_MAX == (1 << VERSION_BITS) - 1, "");
_Static_assert(XB_ORACLE_SECTORS_MAX == (uint64_t)1 << (64 - VERSION_BITS), "");

static uint64_t unmix(uint64_t number)
{
    number = (number ^ (number >> 31) ^ (number >> 62)) * UNMIX_B;
    number = (number ^ (number >> 27) ^ (number >> 54)) * UNMIX_A;
    return number ^ (number >> 30) ^ (number >> 60);
}

static uint64_t stamp(const struct xb_oracle *oracle, uint64_t sector, uint32_t version)
{
    return mix(oracle->key + (sector << VERSION_BITS | version));
}

/* Of each of four columns of words the sum and the sum of all sums on the way, as Fletcher's: what changed, and what
 * changed places, shows. Multiplying would cost half as much again. Pairs, because that is what any x86_64 adds at
 * once. */
static uint32_t sum(const uint8_t *data, uint32_t nr_bytes)
{
    typedef uint64_t pair __attribute__((vector_size(16)));
    pair left = {0}, right = {0}, lefts = {0}, rights = {0}, word[2];
    uint64_t mixed = 0;

    for (uint32_t at = 0; at < nr_bytes; at += sizeof(word)) {
        memcpy(&word[0], data + at, sizeof(pair));
        memcpy(&word[1], data + at + sizeof(pair), sizeof(pair));
        left += word[0];
        right += word[1];
        lefts += left;
        rights += right;
    }
    for (uint32_t i = 0; i < 2; i++)
        mixed = mix(mix(mix(mix(mixed ^ left[i]) ^ right[i]) ^ lefts[i]) ^ rights[i]);
    return (uint32_t)(mixed >> 32);
}

/* Zeros are what many disks begin with, and there is a shorter way to know them. */
static uint32_t checksum(const uint8_t *data, uint32_t nr_bytes)
{
    return data[0] == 0 && memcmp(data, data + 1, nr_bytes - 1) == 0 ? ZEROS : sum(data, nr_bytes);
}

int xb_oracle_init(struct xb_oracle *oracle, uint64_t seed, uint64_t nr_blocks, uint32_t bs)
{
    XB_ASSERT(bs != 0 && bs % SECTOR_BYTES == 0);
    XB_ASSERT(nr_blocks <= XB_ORACLE_SECTORS_MAX / (bs / SECTOR_BYTES));
    *oracle = (struct xb_oracle){.seed = seed, .nr_blocks = nr_blocks, .key = mix(~seed), .bs = bs};
    for (uint32_t at = 0; at < sizeof(oracle->filler); at += sizeof(uint64_t)) {
        uint64_t word = mix(oracle->key ^ mix(at % SECTOR_BYTES + 1));

        memcpy(oracle->filler + at, &word, sizeof(word));
    }
    oracle->contents = calloc(nr_blocks, sizeof(*oracle->contents));
    oracle->flags = calloc(nr_blocks, 1);
    if (oracle->contents != NULL && oracle->flags != NULL)
        return 0;
    xb_oracle_destroy(oracle);
    return -1;
}

void xb_oracle_destroy(struct xb_oracle *oracle)
{
    free(oracle->contents);
    free(oracle->flags);
}

static void know(struct xb_oracle *oracle, uint64_t block, uint8_t flag, uint32_t content)
{
    oracle->flags[block] |= flag;
    oracle->contents[block] = content;
}

void xb_oracle_know(struct xb_oracle *oracle, uint64_t first, const uint8_t *data, uint64_t count)
{
    XB_ASSERT(first <= oracle->nr_blocks && count <= oracle->nr_blocks - first);
    for (uint64_t i = 0; i < count; i++)
        know(oracle, first + i, XB_ORACLE_KNOWN, checksum(data + i * oracle->bs, oracle->bs));
}

void xb_oracle_know_zeros(struct xb_oracle *oracle)
{
    for (uint64_t block = 0; block < oracle->nr_blocks; block++)
        know(oracle, block, XB_ORACLE_KNOWN, ZEROS);
}

void xb_oracle_know_written(struct xb_oracle *oracle)
{
    for (uint64_t block = 0; block < oracle->nr_blocks; block++)
        know(oracle, block, XB_ORACLE_WRITTEN, 1);
}

static uint64_t first_sector(const struct xb_oracle *oracle, uint64_t block)
{
    return block * (oracle->bs / SECTOR_BYTES);
}

void xb_oracle_write(struct xb_oracle *oracle, uint64_t block, uint8_t *buffer)
{
    uint32_t before = oracle->flags[block] & XB_ORACLE_WRITTEN ? oracle->contents[block] : 0;
    uint32_t version = before == XB_ORACLE_VERSION_MAX ? 1 : before + 1;
    uint64_t sector = first_sector(oracle, block);

    know(oracle, block, XB_ORACLE_WRITTEN | XB_ORACLE_TOUCHED, version);
    for (uint32_t at = 0; at < oracle->bs; at += sizeof(oracle->filler)) {
        uint32_t left = oracle->bs - at;

        memcpy(buffer + at, oracle->filler, left < sizeof(oracle->filler) ? left : sizeof(oracle->filler));
    }
    for (uint32_t at = 0; at < oracle->bs; at += SECTOR_BYTES) {
        uint64_t number = stamp(oracle, sector++, version);

        memcpy(buffer + at, &number, STAMP_BYTES);
    }
}

void xb_oracle_poison(const struct xb_oracle *oracle, uint8_t *buffer)
{
    uint64_t poison = POISON;

    for (uint32_t at = 0; at < oracle->bs; at += SECTOR_BYTES)
        memcpy(buffer + at, &poison, STAMP_BYTES);
}

static int check_initial(struct xb_oracle *oracle, uint64_t block, const uint8_t *buffer, struct xb_mismatch *mismatch)
{
    uint32_t found = checksum(buffer, oracle->bs);

    if (!(oracle->flags[block] & XB_ORACLE_KNOWN))
        know(oracle, block, XB_ORACLE_KNOWN, found);
    if (found == oracle->contents[block])
        return 1;
    *mismatch = (struct xb_mismatch){.block = block, .expected = oracle->contents[block], .found = found};
    return 0;
}

/* Say whose the sector at `at` is, which is not what it must be. */
static void explain(const struct xb_oracle *oracle, uint32_t at, uint64_t expected, const uint8_t *buffer,
                    struct xb_mismatch *mismatch)
{
    uint8_t right[SECTOR_BYTES];
    uint64_t found, number;

    memcpy(right, oracle->filler, SECTOR_BYTES);
    memcpy(right, &expected, STAMP_BYTES);
    mismatch->place = at;
    while (buffer[mismatch->place] == right[mismatch->place - at])
        mismatch->place++;
    memcpy(&found, buffer + at, STAMP_BYTES);
    number = unmix(found) - oracle->key;
    if (number >> VERSION_BITS >= oracle->nr_blocks * (oracle->bs / SECTOR_BYTES))
        return;
    mismatch->found_sector = number >> VERSION_BITS;
    mismatch->found_version = number & XB_ORACLE_VERSION_MAX;
}

int xb_oracle_check(struct xb_oracle *oracle, uint64_t block, const uint8_t *buffer, struct xb_mismatch *mismatch)
{
    uint64_t sector = first_sector(oracle, block);
    uint32_t version = oracle->contents[block];

    oracle->flags[block] |= XB_ORACLE_TOUCHED;
    if (!(oracle->flags[block] & XB_ORACLE_WRITTEN))
        return check_initial(oracle, block, buffer, mismatch);
    for (uint32_t at = 0; at < oracle->bs; at += SECTOR_BYTES) {
        uint64_t expected = stamp(oracle, sector++, version), found;

        memcpy(&found, buffer + at, STAMP_BYTES);
        if (found == expected &&
            memcmp(buffer + at + STAMP_BYTES, oracle->filler + STAMP_BYTES, SECTOR_BYTES - STAMP_BYTES) == 0)
            continue;
        *mismatch = (struct xb_mismatch){.block = block, .version = version};
        explain(oracle, at, expected, buffer, mismatch);
        return 0;
    }
    return 1;
}

uint64_t xb_oracle_next_touched(const struct xb_oracle *oracle, uint64_t block)
{
    while (block < oracle->nr_blocks && !(oracle->flags[block] & XB_ORACLE_TOUCHED))
        block++;
    return block;
}
