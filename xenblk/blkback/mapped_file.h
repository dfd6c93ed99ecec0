/* A file that is memory already (tmpfs), mapped: its pages are copied to and from without a system call each, which
 * costs more than the copying.
 *
 *     xb_mapped_file_move -- 1: all is moved
 *         |
 *         0: nothing may be -- the caller asks the kernel, pread or pwrite -- xb_mapped_file_learn
 *
 * A mapping does what the two calls do not: to look at a hole fills it, and behind the file's end it is a SIGBUS. So
 * only pages that are known to be there are touched: those that were written, or read and were not zeros. A page of
 * zeros may be a hole, and stays the kernel's. If the file is truncated beneath us, the copy ends where it meets the
 * end, and the kernel says what is to be said. To know too much costs a page of memory, to know too little costs time:
 * neither can hurt the data.
 *
 * Nobody stamps a file that is written through a mapping: so the first write in every second is the kernel's.
 *
 * Any thread may call anything but destroy at any time. Nothing is allocated after create.
 */

struct iovec; /* sys/uio.h */
struct xb_mapped_file;

/* Map the first `bytes` of `fd`, which may be closed then. NULL if it is not a file on tmpfs, or cannot be mapped, or
 * is open with O_DIRECT: whoever asks for that wants the kernel's way. Takes SIGBUS: guard.h. */
struct xb_mapped_file *xb_mapped_file_create(int fd, uint64_t bytes);

/* NULL is fine. */
void xb_mapped_file_destroy(struct xb_mapped_file *mapped);

/* Copy between the file at `offset` and `iov`: 1 if it is done, 0 if it is the kernel's to do, even if a part was. */
int xb_mapped_file_move(struct xb_mapped_file *mapped, int is_write, const struct iovec *iov, uint32_t nr_iov,
                        uint64_t offset);

/* The kernel has moved `bytes` between the file at `offset` and `iov`, which still says where. */
void xb_mapped_file_learn(struct xb_mapped_file *mapped, int is_write, const struct iovec *iov, uint64_t offset,
                          uint64_t bytes);

/* A hole is about to be made. */
void xb_mapped_file_forget(struct xb_mapped_file *mapped, uint64_t offset, uint64_t bytes);
