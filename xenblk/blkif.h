/* Requests and responses of blkif (io/blkif.h) in private memory, whatever layout the ring has; blkif.py has the
 * offsets.
 *
 * What stands here was copied from a ring slot that its writer may go on changing. Parsing takes any bytes; what they
 * mean is for the checks below and the engine to judge.
 */

#define XB_BLKIF_READ 0
#define XB_BLKIF_WRITE 1
#define XB_BLKIF_WRITE_BARRIER 2
#define XB_BLKIF_FLUSH_DISKCACHE 3
#define XB_BLKIF_DISCARD 5
#define XB_BLKIF_INDIRECT 6

#define XB_BLKIF_OKAY 0
#define XB_BLKIF_ERROR -1
#define XB_BLKIF_EOPNOTSUPP -2

#define XB_BLKIF_SEGMENTS_MAX 11
#define XB_BLKIF_INDIRECT_PAGES_MAX 8
#define XB_BLKIF_SEGMENTS_PER_PAGE 512
#define XB_BLKIF_INDIRECT_SEGMENTS_MAX 4096
#define XB_BLKIF_SLOT_BYTES_MAX 112

#define XB_BLKIF_DISCARD_SECURE 1 /* a bit of flag */

/* Layouts: the bytes of a slot tell them apart. */
#define XB_BLKIF_X86_64_SLOT_BYTES 112
#define XB_BLKIF_X86_32_SLOT_BYTES 108

/* Sectors first_sect to last_sect, both included, of a granted page. */
struct xb_blkif_segment {
    uint32_t gref;
    uint8_t first_sect;
    uint8_t last_sect;
};

struct xb_blkif_request {
    uint64_t id;
    uint64_t sector_number;
    uint64_t nr_sectors;  /* of a discard */
    uint16_t handle;
    uint16_t nr_segments; /* as it was written; of those of its own at most 11 are in segments */
    uint8_t operation;
    uint8_t indirect_op;  /* of an indirect request: what it really asks for */
    uint8_t flag;         /* of a discard */
    struct xb_blkif_segment segments[11];
    uint32_t indirect_grefs[8];
};

/* Read a slot of slot_bytes. Fields that the operation does not have are 0, but for the arrays, of which only what the
 * request has is filled. */
void xb_blkif_parse(const void *slot, uint32_t slot_bytes, struct xb_blkif_request *request);

/* Copy the segments that stand in a page of the guest's, which may change any time: `count` of them, at most 512. */
void xb_blkif_parse_segments(const void *page, uint32_t count, struct xb_blkif_segment *segments);

/* What the protocol forbids: 1 if a request may go on, else 0. checks.py has the order. */

/* What a disk allows. */
struct xb_blkif_disk {
    uint64_t sectors;      /* of 512 bytes, as all that follows; may grow and shrink */
    uint32_t unit_sectors; /* its own sectors, 1 or 8: requests are multiples of them */
    uint32_t read_only;
};

/* The number of segments of a read, write, flush or barrier. */
int xb_blkif_check_count(uint8_t operation, uint32_t nr_segments, uint32_t max_segments);

/* The rest of such a request, whose nr_segments segments are in private memory. *nr_sectors is what it moves. */
int xb_blkif_check(const struct xb_blkif_request *request, const struct xb_blkif_segment *segments,
                   const struct xb_blkif_disk *disk, uint32_t *nr_sectors);

/* A discard: what decides whether it is counted, then the rest. */
int xb_blkif_check_discard_range(const struct xb_blkif_request *request, const struct xb_blkif_disk *disk);
int xb_blkif_check_discard_sectors(const struct xb_blkif_request *request, const struct xb_blkif_disk *disk);

/* Write `slot_bytes`, at least 16, of a slot: nothing of the request stays in them. */
void xb_blkif_pack_response(void *slot, uint32_t slot_bytes, uint64_t id, uint8_t operation, int16_t status);
