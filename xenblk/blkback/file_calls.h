/* What a file disk asks of the kernel. The table is there to be replaced: a test makes the kernel interrupt, refuse and
 * stop short, which a healthy disk never does when it is wanted. */
struct xb_file_calls {
    int (*direct_alignment)(int fd);
    ssize_t (*read_at)(int fd, const struct iovec *iov, int nr_iov, off_t offset, int flags);
    ssize_t (*write_at)(int fd, const struct iovec *iov, int nr_iov, off_t offset, int flags);
    int (*fdatasync)(int fd);
    int (*submit)(struct xb_uring *uring);
    int (*reap)(struct xb_uring *uring, uint64_t *user_data, int32_t *result);
};

extern struct xb_file_calls xb_file_calls;
