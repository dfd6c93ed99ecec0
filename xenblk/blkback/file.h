/* A file or block device as a disk: vectored reads and writes, straight into the guest's mapped pages, as many at a
 * time as the ring has requests.
 *
 *     submit(op) -- complete at once (1) ------------------------------------> op.result
 *         |
 *         +------- in flight (0) -- flush_submissions -- kernel -- reap -----> op.result
 *
 * The caller handles a batch of requests by submit, submit, ..., flush_submissions, and before it sleeps asks
 * final_check, then waits for event_fd beside its other events by one poll(2).
 *
 * An operation is complete when all of it is done: what the kernel did in part is continued. Nothing is allocated after
 * create. One thread at a time. Of a thread that ends, the kernel cancels what it submitted; reap then does that again,
 * in line.
 */

#define XB_FILE_READ 0
#define XB_FILE_WRITE 1
#define XB_FILE_FDATASYNC 2 /* makes durable the writes that were complete when it was submitted */

/* How operations are done; xb_file_flags. The kernel decides:
 *
 *   no io_uring (missing, forbidden, not wanted)   in line, by preadv and pwritev: same results, one at a time
 *   XB_FILE_MEMORY                                 in line: there is nothing to wait for, and io_uring would only hand
 *                                                  a write to a thread of its own. Without a call of the kernel's where
 *                                                  it is mapped (mapped_file.h)
 *   XB_FILE_DIRECT                                 io_uring
 *   page cache, read                               in line with RWF_NOWAIT, for a hit; what is not in the cache, or all
 *                                                  where the file has no RWF_NOWAIT, through io_uring
 *   page cache, write                              in line with RWF_NOWAIT; what has to wait, through io_uring. Where
 *                                                  the file has no RWF_NOWAIT (ext4, block devices) in line: io_uring
 *                                                  does such writes in a thread, one at a time for each file, at 1.6
 *                                                  times the cost
 *   fdatasync                                      io_uring
 *
 * Whether a file has RWF_NOWAIT shows at the first read and the first write. */
#define XB_FILE_DIRECT 1 /* opened with O_DIRECT */
#define XB_FILE_MEMORY 2 /* on tmpfs, ramfs or hugetlbfs */
#define XB_FILE_URING 4
#define XB_FILE_NOWAIT_READS 8
#define XB_FILE_NOWAIT_WRITES 16

#define XB_FILE_MAX_DIRECT_ALIGNMENT 512
#define XB_FILE_IOV_PER_CALL 1024 /* UIO_MAXIOV */

struct iovec;          /* sys/uio.h */
struct xb_mapped_file; /* mapped_file.h */
struct xb_file;

/* One operation, in the caller's memory, where it stays until it is complete. Zero it before its first use. */
struct xb_file_op {
    struct iovec *iov; /* the caller's array, until complete; it is used up: entries change, iov and nr_iov move on */
    uint32_t nr_iov;
    uint32_t kind;     /* XB_FILE_READ, XB_FILE_WRITE, XB_FILE_FDATASYNC (which needs neither iov nor offset) */
    uint64_t offset;   /* bytes; moves on */
    int32_t result;    /* once complete: 0, or -errno; -EIO also for a file that ended too soon */
    uint32_t unused;
    void *user;              /* the caller's */
    struct xb_file_op *next; /* the file's */
};

/* The alignment in bytes that O_DIRECT needs of `fd`: the larger of that of offsets and lengths and that of memory.
 * 0 if the file says that it has no direct I/O, or -errno. (statx STATX_DIOALIGN, else BLKSSZGET, else 512.) */
int xb_file_direct_alignment(int fd);

/* For at most `depth` operations in flight on `fd`, which stays the caller's and must stay open. `use_uring` 0: all in
 * line. NULL with errno ENOMEM; or EINVAL for an `fd` with O_DIRECT that needs more than XB_FILE_MAX_DIRECT_ALIGNMENT:
 * a blkif segment has no more. No io_uring is no error. */
struct xb_file *xb_file_create(int fd, uint32_t depth, int use_uring);

/* Before the first operation: keep the open file of `held_fd` open until the last one is done, even one that outlives
 * the process. 0, or -errno. */
int xb_file_hold(struct xb_file *file, int held_fd);

/* Before the first operation: the same file, XB_FILE_MEMORY, as it is mapped, or NULL. It stays the caller's, until
 * destroy. No result is another than without it. */
void xb_file_use_mapping(struct xb_file *file, struct xb_mapped_file *mapped);

/* Waits for operations in flight, which are then complete and not reported; does not close the fd. NULL is fine. */
void xb_file_destroy(struct xb_file *file);

uint32_t xb_file_flags(const struct xb_file *file);

/* Operations submitted and not yet reaped. */
uint32_t xb_file_in_flight(const struct xb_file *file);

/* Begin `op`. 1: it is complete, and reap does not report it. 0: it is in flight. Never with `depth` in flight. */
int xb_file_submit(struct xb_file *file, struct xb_file_op *op);

/* Make a hole, in line: xb_discard_file. */
int xb_file_discard(struct xb_file *file, uint64_t offset, uint64_t count);

/* Hand over to the kernel what was submitted since the last time: one system call, or none. */
void xb_file_flush_submissions(struct xb_file *file);

/* Up to `max` completed operations, into `ops`. With none there: waits `wait_ns` for the first (0: does not wait; -1:
 * as long as it takes; never with nothing in flight). Flushes submissions. Returns how many; a wait may end early. */
uint32_t xb_file_reap(struct xb_file *file, struct xb_file_op **ops, uint32_t max, int64_t wait_ns);

/* Before sleeping, after flushing: 1 if a completion is there, call reap. 0: event_fd will become readable at the next
 * one; reap then takes the event. */
int xb_file_final_check(struct xb_file *file);

/* For poll(2); -1, which poll(2) leaves out, if all is done in line. */
int xb_file_event_fd(const struct xb_file *file);
