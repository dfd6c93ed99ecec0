/* The kernel's io_uring, raw: two rings in memory shared with the kernel, one of what is to be done (submission
 * queue), one of what was done (completion queue). See io_uring(7), io_uring_setup(2), io_uring_enter(2).
 *
 * All memory is there after create. One thread at a time. Of a thread that ends, the kernel cancels what it submitted.
 */

struct xb_uring {
    int fd;       /* of the ring; -1: there is none */
    int event_fd; /* readable after a completion that final_check asked for */
    uint32_t nr_entries;
    uint32_t sq_tail; /* entries queued; the kernel has seen those that submit published */
    uint32_t armed;   /* final_check asked for an event, and nobody took it since */
    uint32_t *sq_head;
    uint32_t *sq_tail_shared;
    uint32_t *sq_flags;
    uint32_t sq_mask;
    uint32_t *cq_head;
    uint32_t *cq_tail;
    uint32_t *cq_flags;
    uint32_t cq_mask;
    void *sqes;
    void *cqes;
    void *rings;
    size_t rings_bytes;
    size_t sqes_bytes;
};

/* A ring for `nr_entries` operations at a time. 0, or -errno: ENOSYS, EPERM, EACCES if the kernel or its policy has
 * none, ENOMEM, EMFILE; then nothing needs to be destroyed. */
int xb_uring_create(struct xb_uring *uring, uint32_t nr_entries);

/* Keep the open file of `fd` open, and with it its lock, until the ring is no more and the last operation is done: a
 * disk may go on with one after the process that submitted it has died. 0, or -errno. */
int xb_uring_hold(struct xb_uring *uring, int fd);

/* Give back the ring. Operations in flight must have been waited for. */
void xb_uring_destroy(struct xb_uring *uring);

/* Queue one operation (IORING_OP_*); there must be room. `address` must stay as it is until submit has taken the entry,
 * and the memory that it speaks of until the completion. */
void xb_uring_queue(struct xb_uring *uring, uint32_t opcode, int fd, void *address, uint32_t length, uint64_t offset,
                    uint32_t op_flags, uint64_t user_data);

/* Entries that are queued and that the kernel did not take yet. */
uint32_t xb_uring_nr_queued(const struct xb_uring *uring);

/* Hand over what is queued, in one system call. 0, or -errno if the kernel left some of it: it stays queued. */
int xb_uring_submit(struct xb_uring *uring);

/* Take back the newest entry that the kernel did not take; its user_data. There must be one. */
uint64_t xb_uring_take_back(struct xb_uring *uring);

/* Take one completion, with its result: 0 or more, or -errno. 1, or 0 if there is none. */
int xb_uring_reap(struct xb_uring *uring, uint64_t *user_data, int32_t *result);

/* Before sleeping: ask for the event of the next completion. 1 if there is one already: reap. 0: event_fd will become
 * readable. The next reap takes the event. */
int xb_uring_final_check(struct xb_uring *uring);

/* Sleep until there is a completion; 0 after `timeout_ns` (-1: none) or at a signal, else 1. */
int xb_uring_wait(struct xb_uring *uring, int64_t timeout_ns);
