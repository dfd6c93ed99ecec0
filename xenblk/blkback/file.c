#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "xenblk/assert.h"
#include "xenblk/blkback/file.h"
#include "xenblk/blkback/mapped_file.h"
#include "xenblk/blkback/uring.h"
#include "xenblk/discard.h"

#include "xenblk/blkback/file_calls.h" /* speaks of the types above */

struct xb_file {
    int fd;
    uint32_t flags;
    uint32_t depth;
    uint32_t in_flight;
    struct xb_file_op *done_first; /* complete without the ring, not yet reaped */
    struct xb_mapped_file *mapped;
    struct xb_uring uring;
};

/* One buffer, as a small request has, is the cheaper call: the kernel copies no vector in. */
static ssize_t read_at(int fd, const struct iovec *iov, int nr_iov, off_t offset, int flags)
{
    return nr_iov == 1 && flags == 0 ? pread(fd, iov->iov_base, iov->iov_len, offset)
                                     : preadv2(fd, iov, nr_iov, offset, flags);
}

static ssize_t write_at(int fd, const struct iovec *iov, int nr_iov, off_t offset, int flags)
{
    return nr_iov == 1 && flags == 0 ? pwrite(fd, iov->iov_base, iov->iov_len, offset)
                                     : pwritev2(fd, iov, nr_iov, offset, flags);
}

struct xb_file_calls xb_file_calls = {
    xb_file_direct_alignment, read_at, write_at, fdatasync, xb_uring_submit, xb_uring_reap,
};

/* Creating */

static int logical_block_bytes(int fd)
{
    struct stat status;
    int bytes = 0;

    if (fstat(fd, &status) < 0)
        return -errno;
    if (S_ISBLK(status.st_mode))
        return ioctl(fd, BLKSSZGET, &bytes) < 0 ? -errno : bytes;
    return XB_FILE_MAX_DIRECT_ALIGNMENT;
}

int xb_file_direct_alignment(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx status;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 && (status.stx_mask & STATX_DIOALIGN)) {
        uint32_t memory = status.stx_dio_mem_align, offset = status.stx_dio_offset_align;

        return (int)(memory > offset ? memory : offset);
    }
#endif
    return logical_block_bytes(fd);
}

static uint32_t flags_of(int fd)
{
    struct statfs system;
    int open_flags = fcntl(fd, F_GETFL);
    uint32_t flags = open_flags >= 0 && (open_flags & O_DIRECT) ? XB_FILE_DIRECT : 0;

    if (fstatfs(fd, &system) < 0)
        return flags;
    if (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC || system.f_type == HUGETLBFS_MAGIC)
        flags |= XB_FILE_MEMORY;
    return flags;
}

static int direct_fits(int fd)
{
    int alignment = xb_file_calls.direct_alignment(fd);

    return alignment > 0 && alignment <= XB_FILE_MAX_DIRECT_ALIGNMENT;
}

int xb_file_hold(struct xb_file *file, int held_fd)
{
    /* In line, a process does not end before its operation does. */
    return file->flags & XB_FILE_URING ? xb_uring_hold(&file->uring, held_fd) : 0;
}

void xb_file_use_mapping(struct xb_file *file, struct xb_mapped_file *mapped)
{
    XB_ASSERT(!mapped || file->flags & XB_FILE_MEMORY);
    file->mapped = mapped;
}

struct xb_file *xb_file_create(int fd, uint32_t depth, int use_uring)
{
    uint32_t flags = flags_of(fd);
    struct xb_file *file;

    XB_ASSERT(depth > 0);
    if ((flags & XB_FILE_DIRECT) && !direct_fits(fd)) {
        errno = EINVAL;
        return NULL;
    }
    file = calloc(1, sizeof(*file));
    if (!file)
        return NULL;
    file->fd = fd;
    file->depth = depth;
    file->flags = flags;
    file->uring.event_fd = -1;
    if (use_uring && !(flags & XB_FILE_MEMORY) && xb_uring_create(&file->uring, depth) == 0)
        file->flags |= XB_FILE_URING | (flags & XB_FILE_DIRECT ? 0 : XB_FILE_NOWAIT_READS | XB_FILE_NOWAIT_WRITES);
    return file;
}

void xb_file_destroy(struct xb_file *file)
{
    struct xb_file_op *op;

    if (!file)
        return;
    while (file->in_flight > 0)
        xb_file_reap(file, &op, 1, -1);
    if (file->flags & XB_FILE_URING)
        xb_uring_destroy(&file->uring);
    free(file);
}

uint32_t xb_file_flags(const struct xb_file *file)
{
    return file->flags;
}

uint32_t xb_file_in_flight(const struct xb_file *file)
{
    return file->in_flight;
}

int xb_file_event_fd(const struct xb_file *file)
{
    return file->uring.event_fd;
}

/* One operation */

/* `done` bytes further; passes empty entries too. */
static void advance(struct xb_file_op *op, size_t done)
{
    op->offset += done;
    while (op->nr_iov > 0 && done >= op->iov->iov_len) {
        done -= op->iov->iov_len;
        op->iov++;
        op->nr_iov--;
    }
    if (done > 0) {
        XB_ASSERT(op->nr_iov > 0);
        op->iov->iov_base = (uint8_t *)op->iov->iov_base + done;
        op->iov->iov_len -= done;
    }
}

/* What one call of the kernel's came to: bytes, or -errno. 1 if `op` is complete, 0 if the rest is to be done. */
static int take_result(struct xb_file_op *op, ssize_t done)
{
    op->result = done < 0 ? (int32_t)done : 0;
    if (done < 0 || op->kind == XB_FILE_FDATASYNC)
        return 1;
    if (done == 0) {
        op->result = -EIO; /* the file ended: shorter than when its size was asked for */
        return 1;
    }
    advance(op, (size_t)done);
    return op->nr_iov == 0;
}

/* What one call of the kernel's takes; the rest is continued. */
static uint32_t nr_iov_now(const struct xb_file_op *op)
{
    return op->nr_iov < XB_FILE_IOV_PER_CALL ? op->nr_iov : XB_FILE_IOV_PER_CALL;
}

static ssize_t call(const struct xb_file *file, const struct xb_file_op *op, int flags)
{
    ssize_t done;

    do {
        if (op->kind == XB_FILE_READ)
            done = xb_file_calls.read_at(file->fd, op->iov, (int)nr_iov_now(op), (off_t)op->offset, flags);
        else if (op->kind == XB_FILE_WRITE)
            done = xb_file_calls.write_at(file->fd, op->iov, (int)nr_iov_now(op), (off_t)op->offset, flags);
        else
            done = xb_file_calls.fdatasync(file->fd);
    } while (done < 0 && errno == EINTR);
    if (done > 0 && file->mapped)
        xb_mapped_file_learn(file->mapped, op->kind == XB_FILE_WRITE, op->iov, op->offset, (uint64_t)done);
    return done < 0 ? -errno : done;
}

/* 1 if `op` is complete, without a call of the kernel's. */
static int move_mapped(const struct xb_file *file, const struct xb_file_op *op)
{
    return file->mapped && op->kind != XB_FILE_FDATASYNC &&
           xb_mapped_file_move(file->mapped, op->kind == XB_FILE_WRITE, op->iov, op->nr_iov, op->offset);
}

static void do_in_line(const struct xb_file *file, struct xb_file_op *op)
{
    if (move_mapped(file, op))
        return;
    while (!take_result(op, call(file, op, 0)))
        ;
}

static void queue(struct xb_file *file, struct xb_file_op *op)
{
    static const uint32_t opcodes[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC};
    int is_sync = op->kind == XB_FILE_FDATASYNC;

    xb_uring_queue(&file->uring, opcodes[op->kind], file->fd, is_sync ? NULL : op->iov, is_sync ? 0 : nr_iov_now(op),
                   is_sync ? 0 : op->offset, is_sync ? IORING_FSYNC_DATASYNC : 0, (uintptr_t)op);
}

/* Many operations */

/* 1 if `op` is complete. A page cache hit costs less in line than a way through the ring. */
static int try_without_waiting(struct xb_file *file, struct xb_file_op *op)
{
    uint32_t kind_flag = op->kind == XB_FILE_READ ? XB_FILE_NOWAIT_READS : XB_FILE_NOWAIT_WRITES;
    ssize_t done;

    if (op->kind == XB_FILE_FDATASYNC || !(file->flags & kind_flag))
        return 0;
    done = call(file, op, RWF_NOWAIT);
    if (done == -EOPNOTSUPP)
        file->flags &= ~kind_flag;
    if (done == -EOPNOTSUPP || done == -EAGAIN)
        return 0;
    return take_result(op, done);
}

static int must_be_in_line(const struct xb_file *file, const struct xb_file_op *op)
{
    if (!(file->flags & XB_FILE_URING))
        return 1;
    return op->kind == XB_FILE_WRITE && !(file->flags & (XB_FILE_DIRECT | XB_FILE_NOWAIT_WRITES));
}

int xb_file_submit(struct xb_file *file, struct xb_file_op *op)
{
    XB_ASSERT(op->kind <= XB_FILE_FDATASYNC);
    op->result = 0;
    if (op->kind != XB_FILE_FDATASYNC) {
        advance(op, 0);
        if (op->nr_iov == 0)
            return 1;
    }
    if (try_without_waiting(file, op))
        return 1;
    if (must_be_in_line(file, op)) {
        do_in_line(file, op);
        return 1;
    }
    XB_ASSERT(file->in_flight < file->depth);
    queue(file, op);
    file->in_flight++;
    return 0;
}

int xb_file_discard(struct xb_file *file, uint64_t offset, uint64_t count)
{
    if (file->mapped)
        xb_mapped_file_forget(file->mapped, offset, count);
    return xb_discard_file(file->fd, offset, count);
}

static void add_done(struct xb_file *file, struct xb_file_op *op)
{
    op->next = file->done_first;
    file->done_first = op;
}

void xb_file_flush_submissions(struct xb_file *file)
{
    if (!(file->flags & XB_FILE_URING) || xb_uring_nr_queued(&file->uring) == 0)
        return;
    if (xb_file_calls.submit(&file->uring) == 0)
        return;
    /* Short of memory, or forbidden meanwhile. Later is no better time: nothing may be in flight to wait for. */
    while (xb_uring_nr_queued(&file->uring) > 0) {
        struct xb_file_op *op = (struct xb_file_op *)(uintptr_t)xb_uring_take_back(&file->uring);

        do_in_line(file, op);
        add_done(file, op);
    }
}

/* 1 if `op` is complete; 0 if the rest of it is queued. */
static int complete(struct xb_file *file, struct xb_file_op *op, int32_t result)
{
    /* No way to wait there; or the thread that submitted is gone, and its address space with it: an EFAULT may be one
     * of the kernel's worker only. */
    if (result == -EAGAIN || result == -ECANCELED || result == -EFAULT) {
        do_in_line(file, op);
        return 1;
    }
    if (result != -EINTR && take_result(op, result))
        return 1;
    queue(file, op);
    return 0;
}

static uint32_t collect(struct xb_file *file, struct xb_file_op **ops, uint32_t max)
{
    uint32_t count = 0;
    uint64_t user_data;
    int32_t result;

    while (count < max && file->done_first) {
        ops[count++] = file->done_first;
        file->done_first = file->done_first->next;
    }
    while (count < max && xb_file_calls.reap(&file->uring, &user_data, &result)) {
        struct xb_file_op *op = (struct xb_file_op *)(uintptr_t)user_data;

        if (complete(file, op, result))
            ops[count++] = op;
    }
    file->in_flight -= count;
    return count;
}

uint32_t xb_file_reap(struct xb_file *file, struct xb_file_op **ops, uint32_t max, int64_t wait_ns)
{
    uint32_t count;

    if (file->in_flight == 0 || max == 0)
        return 0;
    xb_file_flush_submissions(file);
    count = collect(file, ops, max);
    xb_file_flush_submissions(file); /* what collect continued */
    while (count == 0 && wait_ns != 0) {
        if (!file->done_first)
            xb_uring_wait(&file->uring, wait_ns);
        count = collect(file, ops, max);
        xb_file_flush_submissions(file);
        if (wait_ns > 0)
            break;
    }
    return count;
}

int xb_file_final_check(struct xb_file *file)
{
    if (file->in_flight == 0)
        return 0;
    xb_file_flush_submissions(file);
    return file->done_first || xb_uring_final_check(&file->uring);
}
