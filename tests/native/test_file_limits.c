/* File disks at their ends: files that end too soon, descriptors and memory that are not there, a kernel that forbids
 * io_uring at first or later, and files that go while operations are in flight. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "xenblk/assert.h"
#include "xenblk/blkback/file.h"
#include "xenblk/blkback/uring.h"

#include "xenblk/blkback/file_calls.h"

#define DEPTH 32
#define BLOCK 4096
#define HANG_S 300

/* Ways to do an operation. */
enum { IN_LINE, CACHED, DIRECT, NR_WAYS };

static uint8_t *memory; /* DEPTH blocks */
static struct iovec iov[DEPTH];
static struct xb_file_op ops[DEPTH];

static int open_image(int way, size_t bytes)
{
    char path[] = "./xb_test_limits_XXXXXX";
    int plain = mkostemp(path, O_CLOEXEC), fd;

    XB_ASSERT(plain >= 0);
    for (size_t at = 0; at < bytes; at += 512) {
        uint8_t sector[512];

        memset(sector, (int)(at / BLOCK) + 1, sizeof(sector));
        XB_ASSERT(pwrite(plain, sector, 512, (off_t)at) == 512);
    }
    XB_ASSERT(fsync(plain) == 0 && posix_fadvise(plain, 0, 0, POSIX_FADV_DONTNEED) == 0);
    fd = way == DIRECT ? open(path, O_RDWR | O_CLOEXEC | O_DIRECT) : dup(plain);
    if (fd < 0 && errno == EINVAL) /* no O_DIRECT on this file system */
        fd = dup(plain);
    XB_ASSERT(fd >= 0);
    close(plain);
    unlink(path);
    return fd;
}

static struct xb_file_op *block_op(uint32_t at, uint32_t kind, uint64_t offset, void *base, size_t bytes)
{
    iov[at] = (struct iovec){base, bytes};
    ops[at] = (struct xb_file_op){.iov = &iov[at], .nr_iov = 1, .kind = kind, .offset = offset, .result = 1};
    return &ops[at];
}

static int32_t finish(struct xb_file *file, struct xb_file_op *op)
{
    struct xb_file_op *done = op;

    if (!xb_file_submit(file, op))
        XB_ASSERT(xb_file_reap(file, &done, 1, -1) == 1);
    XB_ASSERT(done == op);
    return op->result;
}

/* Indirect requests have as many. */
static void test_256_segments(int way)
{
    int fd = open_image(way, DEPTH * BLOCK);
    struct xb_file *file = xb_file_create(fd, 1, way != IN_LINE);
    struct iovec segments[256];
    struct xb_file_op op;

    for (uint32_t kind = XB_FILE_READ; kind <= XB_FILE_WRITE; kind++) {
        for (uint32_t at = 0; at < 256; at++) /* the last sector first */
            segments[at] = (struct iovec){memory + (255 - at) * 512, 512};
        op = (struct xb_file_op){.iov = segments, .nr_iov = 256, .kind = kind};
        memset(memory, 0xee, DEPTH * BLOCK);
        XB_ASSERT(finish(file, &op) == 0);
        for (uint32_t at = 0; at < 256; at++)
            XB_ASSERT(memory[at * 512] == (kind == XB_FILE_READ ? (255 - at) / 8 + 1 : 0xee));
    }
    XB_ASSERT(finish(file, block_op(0, XB_FILE_READ, 0, memory, DEPTH * BLOCK)) == 0);
    for (uint32_t at = 0; at < DEPTH * BLOCK; at++)
        XB_ASSERT(memory[at] == 0xee);
    xb_file_destroy(file);
    close(fd);
}

static void test_file_that_ends(int way)
{
    int fd = open_image(way, 2 * BLOCK);
    struct xb_file *file = xb_file_create(fd, DEPTH, way != IN_LINE);

    memset(memory, 0, 4 * BLOCK);
    XB_ASSERT(finish(file, block_op(0, XB_FILE_READ, BLOCK, memory, 2 * BLOCK)) == -EIO);
    XB_ASSERT(memory[0] == 2 && memory[BLOCK - 1] == 2 && memory[BLOCK] == 0);
    XB_ASSERT(finish(file, block_op(0, XB_FILE_READ, 2 * BLOCK, memory, 512)) == -EIO);
    XB_ASSERT(ftruncate(fd, 512) == 0);
    XB_ASSERT(finish(file, block_op(0, XB_FILE_READ, 0, memory, BLOCK)) == -EIO);
    XB_ASSERT(finish(file, block_op(0, XB_FILE_READ, 0, memory, 512)) == 0 && memory[0] == 1);
    xb_file_destroy(file);
    close(fd);
}

static void test_errors(int way)
{
    void *hole = mmap(NULL, BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open_image(way, 2 * BLOCK), null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    struct xb_file *file = xb_file_create(fd, DEPTH, way != IN_LINE);
    struct xb_file *deaf = xb_file_create(null, DEPTH, way != IN_LINE);

    XB_ASSERT(finish(file, block_op(0, XB_FILE_READ, 0, hole, BLOCK)) == -EFAULT);
    XB_ASSERT(finish(file, block_op(0, XB_FILE_WRITE, 0, hole, BLOCK)) == -EFAULT);
    XB_ASSERT(finish(file, block_op(0, XB_FILE_READ, 0, memory, BLOCK)) == 0 && memory[0] == 1);
    XB_ASSERT(finish(deaf, block_op(0, XB_FILE_WRITE, 0, memory, 512)) == -EBADF);
    XB_ASSERT(finish(deaf, block_op(0, XB_FILE_READ, 0, memory, 512)) == -EIO);
    XB_ASSERT(finish(deaf, block_op(0, XB_FILE_FDATASYNC, 0, NULL, 0)) == -EINVAL);
    xb_file_destroy(file);
    xb_file_destroy(deaf);
    close(fd);
    close(null);
    munmap(hole, BLOCK);
}

/* Reads from a cold file, half of them not even handed over: all of them are over when destroy returns. */
static void test_destroy_in_flight(int way)
{
    for (int round = 0; round < 10; round++) {
        int fd = open_image(way, DEPTH * BLOCK);
        struct xb_file *file = xb_file_create(fd, DEPTH, way != IN_LINE);

        memset(memory, 0, DEPTH * BLOCK);
        for (uint32_t at = 0; at < DEPTH; at++) {
            xb_file_submit(file, block_op(at, XB_FILE_READ, at * BLOCK, memory + at * BLOCK, BLOCK));
            if (at == DEPTH / 2)
                xb_file_flush_submissions(file);
        }
        xb_file_destroy(file);
        close(fd);
        for (uint32_t at = 0; at < DEPTH; at++)
            XB_ASSERT(ops[at].result == 0 && memory[at * BLOCK] == at + 1 && memory[at * BLOCK + BLOCK - 1] == at + 1);
    }
}

static void *submit_and_leave(void *context)
{
    struct xb_file *file = context;

    for (uint32_t at = 0; at < DEPTH; at++)
        xb_file_submit(file, block_op(at, XB_FILE_READ, at * BLOCK, memory + at * BLOCK, BLOCK));
    xb_file_flush_submissions(file);
    return NULL;
}

/* The thread that submitted is gone, and the kernel may have cancelled what it left. */
static void test_thread_that_leaves(int way)
{
    for (int round = 0; round < 10; round++) {
        int fd = open_image(way, DEPTH * BLOCK);
        struct xb_file *file = xb_file_create(fd, DEPTH, way != IN_LINE);
        pthread_t thread;

        memset(memory, 0, DEPTH * BLOCK);
        XB_ASSERT(pthread_create(&thread, NULL, submit_and_leave, file) == 0 && pthread_join(thread, NULL) == 0);
        xb_file_destroy(file);
        close(fd);
        for (uint32_t at = 0; at < DEPTH; at++)
            XB_ASSERT(ops[at].result == 0 && memory[at * BLOCK] == at + 1);
    }
}

static int lowest_free_fd(void)
{
    int fd = dup(0);

    close(fd);
    return fd;
}

static void test_no_descriptors(void)
{
    int fd = open_image(CACHED, 2 * BLOCK), first_free = lowest_free_fd();
    struct rlimit before, limit;
    struct xb_file *file;

    XB_ASSERT(getrlimit(RLIMIT_NOFILE, &before) == 0);
    for (int more = 0; more < 3; more++) {
        limit = before;
        limit.rlim_cur = (rlim_t)(first_free + more);
        XB_ASSERT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        file = xb_file_create(fd, DEPTH, 1);
        XB_ASSERT(setrlimit(RLIMIT_NOFILE, &before) == 0);
        if (more < 2)
            XB_ASSERT(!(xb_file_flags(file) & XB_FILE_URING) && xb_file_event_fd(file) == -1);
        XB_ASSERT(finish(file, block_op(0, XB_FILE_READ, BLOCK, memory, BLOCK)) == 0 && memory[0] == 2);
        xb_file_destroy(file);
        XB_ASSERT(lowest_free_fd() == first_free);
    }
    close(fd);
}

static int large_blocks(int fd)
{
    (void)fd;
    return 4096;
}

static int no_direct(int fd)
{
    (void)fd;
    return 0;
}

/* Whoever replaces the table puts it back. */
static void test_direct_alignment(void)
{
    const struct xb_file_calls healthy = xb_file_calls;
    int fd = open_image(DIRECT, 2 * BLOCK), is_direct = fcntl(fd, F_GETFL) & O_DIRECT;
    int cached = open_image(CACHED, 2 * BLOCK);
    struct xb_file *file;

    for (int at = 0; at < 2; at++) {
        xb_file_calls.direct_alignment = at ? no_direct : large_blocks;
        file = xb_file_create(fd, DEPTH, 1);
        XB_ASSERT(is_direct ? !file && errno == EINVAL : file != NULL);
        xb_file_destroy(file);
        file = xb_file_create(cached, DEPTH, 1);
        XB_ASSERT(file && !(xb_file_flags(file) & XB_FILE_DIRECT));
        xb_file_destroy(file);
    }
    xb_file_calls = healthy;
    XB_ASSERT(xb_file_direct_alignment(-1) == -EBADF);
    close(fd);
    close(cached);
}

static void forbid(unsigned int number)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(rules) / sizeof(*rules), rules};

    XB_ASSERT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    XB_ASSERT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* `later`: the ring is there, and then the kernel takes nothing any more. */
static void test_forbidden(int way, int later)
{
    int fd = open_image(way, DEPTH * BLOCK);
    struct xb_file *file = NULL;

    if (later)
        file = xb_file_create(fd, DEPTH, 1);
    forbid(later ? __NR_io_uring_enter : __NR_io_uring_setup);
    if (!later)
        file = xb_file_create(fd, DEPTH, 1);
    XB_ASSERT(later || !(xb_file_flags(file) & XB_FILE_URING));
    for (uint32_t at = 0; at < DEPTH; at++)
        xb_file_submit(file, block_op(at, XB_FILE_READ, at * BLOCK, memory + at * BLOCK, BLOCK));
    xb_file_destroy(file);
    for (uint32_t at = 0; at < DEPTH; at++)
        XB_ASSERT(ops[at].result == 0 && memory[at * BLOCK] == at + 1);
    close(fd);
}

static void in_a_child(int way, int later)
{
    pid_t child = fork();
    int status;

    XB_ASSERT(child >= 0);
    if (child == 0) {
        alarm(HANG_S);
        test_forbidden(way, later);
        _exit(0);
    }
    XB_ASSERT(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
    alarm(HANG_S);
    memory = mmap(NULL, DEPTH * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    XB_ASSERT(memory != MAP_FAILED);
    for (int way = IN_LINE; way < NR_WAYS; way++) {
        test_256_segments(way);
        test_file_that_ends(way);
        test_errors(way);
        test_destroy_in_flight(way);
        test_thread_that_leaves(way);
        in_a_child(way, 0);
        in_a_child(way, 1);
    }
    test_no_descriptors();
    test_direct_alignment();
    printf("test_file_limits: ok\n");
    return 0;
}
