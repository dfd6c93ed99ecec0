/* The model disk in C: what every block must hold, so that each byte of each read can be checked, as in oracle.py.
 *
 * A block that was written is at version 1 or more, and each of its sectors is
 *
 *     | stamp of seed, number of the sector on the disk, and version: 8 bytes | 504 bytes, in every sector the same |
 *
 * A stamp is the scrambled sum of these, so it can be unscrambled: what is found in the wrong place says whose it is.
 * A block at version 0 holds what the disk held at the start: that is known by its checksum, or it is whatever the
 * first read of the block finds.
 */

#define XB_ORACLE_SECTOR_BYTES 512
#define XB_ORACLE_VERSION_MAX 0xffffff /* 1 comes after it */
#define XB_ORACLE_SECTORS_MAX 0x10000000000

/* Of a block. The first two are the caller's own. */
#define XB_ORACLE_BUSY 1
#define XB_ORACLE_AWAITED 2
#define XB_ORACLE_TOUCHED 4 /* written or checked */
#define XB_ORACLE_KNOWN 8   /* the checksum of what it held at the start is */
#define XB_ORACLE_WRITTEN 16

struct xb_oracle {
    uint64_t seed;
    uint64_t nr_blocks;
    uint64_t key;       /* the seed scrambled: what stamps begin from */
    uint32_t *contents; /* of each block: its version if it is WRITTEN, else its checksum if it is KNOWN */
    uint8_t *flags;     /* of each block */
    uint32_t bs;        /* bytes of a block, a multiple of 512 */
    uint8_t filler[4096]; /* what sectors hold after their stamps, eight times */
};

/* What a block that is wrong holds. */
struct xb_mismatch {
    uint64_t block;
    uint64_t found_sector;  /* whose stamp is in the first wrong sector */
    uint32_t found_version; /* of that; 0: nobody's */
    uint32_t version;       /* that it must hold */
    uint32_t place;         /* version 1 or more: the first wrong byte of the block */
    uint32_t expected;      /* version 0: its checksum */
    uint32_t found;         /* version 0: the checksum of what was found */
};

/* -1 if there is no memory. Nothing is known of any block. */
int xb_oracle_init(struct xb_oracle *oracle, uint64_t seed, uint64_t nr_blocks, uint32_t bs);
void xb_oracle_destroy(struct xb_oracle *oracle);

/* What blocks hold at the start: `count` of them `data`; all of them zeros; or what a run with the same seed and bs
 * left that wrote each block once. */
void xb_oracle_know(struct xb_oracle *oracle, uint64_t first, const uint8_t *data, uint64_t count);
void xb_oracle_know_zeros(struct xb_oracle *oracle);
void xb_oracle_know_written(struct xb_oracle *oracle);

/* Fill a buffer with the block's next version; from now on the block must hold it. */
void xb_oracle_write(struct xb_oracle *oracle, uint64_t block, uint8_t *buffer);

/* Before a read: what it fails to bring must not look right because the buffer held it before. */
void xb_oracle_poison(const struct xb_oracle *oracle, uint8_t *buffer);

/* 1 if the buffer is what the block must hold, or 0 and what is wrong. */
int xb_oracle_check(struct xb_oracle *oracle, uint64_t block, const uint8_t *buffer, struct xb_mismatch *mismatch);

/* The next touched block from `block` on; nr_blocks if there is none. */
uint64_t xb_oracle_next_touched(const struct xb_oracle *oracle, uint64_t block);
