#define _GNU_SOURCE
#include <errno.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "xenblk/assert.h"
#include "xenblk/blkback/uring.h"

#ifndef IORING_SETUP_TASKRUN_FLAG /* headers before Linux 5.19 */
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#define IORING_SQ_TASKRUN (1U << 2)
#endif

/* Completions are posted when the thread next enters the kernel, and sq_flags says that some are due. Otherwise the
 * kernel interrupts the thread for each of them. */
#define SETUP_FLAGS (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG)

static int enter(struct xb_uring *uring, uint32_t to_submit, uint32_t flags)
{
    long done = syscall(__NR_io_uring_enter, uring->fd, to_submit, 0, flags, NULL, 0);

    return done < 0 ? -errno : (int)done;
}

/* Creating */

static int setup(uint32_t nr_entries, struct io_uring_params *params)
{
    long fd;

    memset(params, 0, sizeof(*params));
    params->flags = SETUP_FLAGS;
    fd = syscall(__NR_io_uring_setup, nr_entries, params);
    if (fd < 0 && errno == EINVAL) { /* before Linux 5.19 */
        memset(params, 0, sizeof(*params));
        fd = syscall(__NR_io_uring_setup, nr_entries, params);
    }
    return fd < 0 ? -errno : (int)fd;
}

static void *map(int fd, size_t bytes, uint64_t what)
{
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)what);
}

static int map_rings(struct xb_uring *uring, const struct io_uring_params *params)
{
    size_t sq_bytes = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
    size_t cq_bytes = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
    void *mapped;

    uring->rings_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
    mapped = map(uring->fd, uring->rings_bytes, IORING_OFF_SQ_RING);
    if (mapped == MAP_FAILED)
        return -errno;
    uring->rings = mapped;
    uring->sqes_bytes = params->sq_entries * sizeof(struct io_uring_sqe);
    mapped = map(uring->fd, uring->sqes_bytes, IORING_OFF_SQES);
    if (mapped == MAP_FAILED)
        return -errno;
    uring->sqes = mapped;
    return 0;
}

static uint32_t *word(const struct xb_uring *uring, uint32_t offset)
{
    return (uint32_t *)((uint8_t *)uring->rings + offset);
}

static void find_words(struct xb_uring *uring, const struct io_uring_params *params)
{
    uint32_t *array = word(uring, params->sq_off.array);

    uring->nr_entries = params->sq_entries;
    uring->sq_head = word(uring, params->sq_off.head);
    uring->sq_tail_shared = word(uring, params->sq_off.tail);
    uring->sq_flags = word(uring, params->sq_off.flags);
    uring->sq_mask = *word(uring, params->sq_off.ring_mask);
    uring->cq_head = word(uring, params->cq_off.head);
    uring->cq_tail = word(uring, params->cq_off.tail);
    uring->cq_flags = word(uring, params->cq_off.flags);
    uring->cq_mask = *word(uring, params->cq_off.ring_mask);
    uring->cqes = word(uring, params->cq_off.cqes);
    for (uint32_t at = 0; at < params->sq_entries; at++)
        array[at] = at;
}

static int add_event_fd(struct xb_uring *uring)
{
    uring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (uring->event_fd < 0)
        return -errno;
    if (syscall(__NR_io_uring_register, uring->fd, IORING_REGISTER_EVENTFD, &uring->event_fd, 1) < 0)
        return -errno;
    __atomic_store_n(uring->cq_flags, IORING_CQ_EVENTFD_DISABLED, __ATOMIC_RELAXED);
    return 0;
}

static int build(struct xb_uring *uring, uint32_t nr_entries)
{
    const uint32_t needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
    struct io_uring_params params;
    int status;

    uring->fd = setup(nr_entries, &params);
    if (uring->fd < 0)
        return uring->fd;
    /* cq_off.flags, by which events are asked for, came with Linux 5.8; the features are older. */
    if ((params.features & needed) != needed || params.cq_off.flags == 0)
        return -ENOSYS;
    status = map_rings(uring, &params);
    if (status)
        return status;
    find_words(uring, &params);
    return add_event_fd(uring);
}

int xb_uring_create(struct xb_uring *uring, uint32_t nr_entries)
{
    int status;

    memset(uring, 0, sizeof(*uring));
    uring->fd = uring->event_fd = -1;
    status = build(uring, nr_entries);
    if (status)
        xb_uring_destroy(uring);
    return status;
}

int xb_uring_hold(struct xb_uring *uring, int fd)
{
    return syscall(__NR_io_uring_register, uring->fd, IORING_REGISTER_FILES, &fd, 1) < 0 ? -errno : 0;
}

void xb_uring_destroy(struct xb_uring *uring)
{
    if (uring->sqes)
        munmap(uring->sqes, uring->sqes_bytes);
    if (uring->rings)
        munmap(uring->rings, uring->rings_bytes);
    if (uring->event_fd >= 0)
        close(uring->event_fd);
    if (uring->fd >= 0)
        close(uring->fd);
    memset(uring, 0, sizeof(*uring));
    uring->fd = uring->event_fd = -1;
}

/* Submitting */

/* Only submit lets the kernel move sq_head: without IORING_SETUP_SQPOLL no thread of its own looks at the queue. */
uint32_t xb_uring_nr_queued(const struct xb_uring *uring)
{
    return uring->sq_tail - __atomic_load_n(uring->sq_head, __ATOMIC_ACQUIRE);
}

void xb_uring_queue(struct xb_uring *uring, uint32_t opcode, int fd, void *address, uint32_t length, uint64_t offset,
                    uint32_t op_flags, uint64_t user_data)
{
    struct io_uring_sqe *sqe = (struct io_uring_sqe *)uring->sqes + (uring->sq_tail & uring->sq_mask);

    XB_ASSERT(xb_uring_nr_queued(uring) < uring->nr_entries);
    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = (uint8_t)opcode;
    sqe->fd = fd;
    sqe->addr = (uintptr_t)address;
    sqe->len = length;
    sqe->off = offset;
    sqe->rw_flags = (int)op_flags; /* one union for the flags of every operation */
    sqe->user_data = user_data;
    uring->sq_tail++;
}

int xb_uring_submit(struct xb_uring *uring)
{
    uint32_t queued;

    while ((queued = xb_uring_nr_queued(uring)) > 0) {
        int taken;

        /* Release: the kernel, which loads the tail with acquire inside enter, sees the entries before it. */
        __atomic_store_n(uring->sq_tail_shared, uring->sq_tail, __ATOMIC_RELEASE);
        taken = enter(uring, queued, 0);
        if (taken < 0 && taken != -EINTR)
            return taken;
        if (taken == 0)
            return -EAGAIN;
    }
    return 0;
}

uint64_t xb_uring_take_back(struct xb_uring *uring)
{
    XB_ASSERT(xb_uring_nr_queued(uring) > 0);
    uring->sq_tail--;
    __atomic_store_n(uring->sq_tail_shared, uring->sq_tail, __ATOMIC_RELEASE);
    return ((struct io_uring_sqe *)uring->sqes + (uring->sq_tail & uring->sq_mask))->user_data;
}

/* Completing */

static int completion_is_there(const struct xb_uring *uring)
{
    /* Acquire: the kernel stores the tail with release after the entry that it covers. */
    return __atomic_load_n(uring->cq_tail, __ATOMIC_ACQUIRE) != __atomic_load_n(uring->cq_head, __ATOMIC_RELAXED);
}

/* Let the kernel put what it holds back into the queue: completions that are due in our name, or that had no room. */
static void look(struct xb_uring *uring)
{
    const uint32_t due = IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW;

    if (!completion_is_there(uring) && (__atomic_load_n(uring->sq_flags, __ATOMIC_RELAXED) & due))
        (void)enter(uring, 0, IORING_ENTER_GETEVENTS);
}

static void take_event(struct xb_uring *uring)
{
    uint64_t count;

    __atomic_store_n(uring->cq_flags, IORING_CQ_EVENTFD_DISABLED, __ATOMIC_RELAXED);
    while (read(uring->event_fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
    uring->armed = 0;
}

int xb_uring_reap(struct xb_uring *uring, uint64_t *user_data, int32_t *result)
{
    uint32_t head = __atomic_load_n(uring->cq_head, __ATOMIC_RELAXED);
    const struct io_uring_cqe *cqe;

    if (uring->armed)
        take_event(uring);
    look(uring);
    if (!completion_is_there(uring))
        return 0;
    cqe = (const struct io_uring_cqe *)uring->cqes + (head & uring->cq_mask);
    *user_data = cqe->user_data;
    *result = cqe->res;
    /* Release: the kernel writes over the entry only after it sees, by a load with acquire, that we have read it. */
    __atomic_store_n(uring->cq_head, head + 1, __ATOMIC_RELEASE);
    return 1;
}

int xb_uring_final_check(struct xb_uring *uring)
{
    if (!uring->armed) {
        /* Fence: the kernel stores cq_tail, then, behind a barrier of its own, loads the flag. We store the flag, then
         * load cq_tail. One of the two loads sees the other side's store: there is an event, or we find the completion
         * here. */
        __atomic_store_n(uring->cq_flags, 0, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        uring->armed = 1;
    }
    look(uring);
    return completion_is_there(uring);
}

int xb_uring_wait(struct xb_uring *uring, int64_t timeout_ns)
{
    struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct pollfd event = {uring->event_fd, POLLIN, 0};

    if (xb_uring_final_check(uring))
        return 1;
    if (ppoll(&event, 1, timeout_ns < 0 ? NULL : &timeout, NULL) <= 0)
        return 0;
    return 1;
}
