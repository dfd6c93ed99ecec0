/* File disks against a model in memory: random vectored operations, many at a time, on a disk and on tmpfs, mapped and
 * not, through the page cache and around it, with io_uring and without, on a kernel that is well and on one that
 * interrupts, refuses and stops short. Nothing is allocated after create. The seed is printed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "xenblk/assert.h"
#include "xenblk/blkback/file.h"
#include "xenblk/blkback/mapped_file.h"
#include "xenblk/blkback/uring.h"

#include "xenblk/blkback/file_calls.h"

#define DEPTH 16
#define REGION 65536 /* each operation of a batch has one of its own: what overlaps has no order */
#define FILE_BYTES (DEPTH * REGION)
#define NR_IOV 11
#define ROUNDS 60
#define HANG_S 300

struct slot {
    struct xb_file_op op;
    struct iovec iov[NR_IOV];
    uint8_t *memory;
    uint64_t offset;
    size_t bytes;
    int complete;
};

static struct slot slots[DEPTH];
static uint8_t *model;
static uint64_t dice;
static uint64_t nr_faults;
static int faulty;
static int nr_allocations;
static int nr_mapped;

void __sanitizer_malloc_hook(const volatile void *memory, size_t bytes);

void __sanitizer_malloc_hook(const volatile void *memory, size_t bytes)
{
    (void)memory;
    (void)bytes;
    nr_allocations++;
}

static uint32_t roll(uint32_t sides)
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (uint32_t)(dice >> 32) % sides;
}

static int strikes(void)
{
    if (!faulty || roll(3) != 0)
        return 0;
    nr_faults++;
    return 1;
}

/* The kernel that is not well */

static struct xb_file_calls healthy;

static ssize_t fail(int error)
{
    errno = error;
    return -1;
}

static ssize_t faulty_rw(ssize_t (*real)(int, const struct iovec *, int, off_t, int), int fd, const struct iovec *iov,
                         int nr_iov, off_t offset, int flags)
{
    struct iovec first = {iov->iov_base, 512};

    if (!strikes())
        return real(fd, iov, nr_iov, offset, flags);
    if (roll(2))
        return fail(EINTR);
    if ((flags & RWF_NOWAIT) && roll(2))
        return fail(roll(8) ? EAGAIN : EOPNOTSUPP);
    return real(fd, &first, 1, offset, flags);
}

static ssize_t faulty_read_at(int fd, const struct iovec *iov, int nr_iov, off_t offset, int flags)
{
    return faulty_rw(healthy.read_at, fd, iov, nr_iov, offset, flags);
}

static ssize_t faulty_write_at(int fd, const struct iovec *iov, int nr_iov, off_t offset, int flags)
{
    return faulty_rw(healthy.write_at, fd, iov, nr_iov, offset, flags);
}

static int faulty_fdatasync(int fd)
{
    return strikes() ? (int)fail(EINTR) : fdatasync(fd);
}

static int faulty_submit(struct xb_uring *uring)
{
    return strikes() ? -EAGAIN : xb_uring_submit(uring);
}

/* Less was done than the kernel says: what is done again is the same. */
static int faulty_reap(struct xb_uring *uring, uint64_t *user_data, int32_t *result)
{
    static const int32_t refusals[] = {-EINTR, -EAGAIN, -ECANCELED};

    if (!xb_uring_reap(uring, user_data, result))
        return 0;
    if (strikes())
        *result = *result > 512 && roll(2) ? 512 * (1 + (int32_t)roll((uint32_t)*result / 512)) : refusals[roll(3)];
    return 1;
}

static const struct xb_file_calls faulty_calls = {
    xb_file_direct_alignment, faulty_read_at, faulty_write_at, faulty_fdatasync, faulty_submit, faulty_reap,
};

/* The disk and the model */

/* Segments as a guest's: whole sectors, each within its page, with empty ones among them. */
static void prepare(struct slot *slot, uint32_t kind, uint64_t region)
{
    uint32_t nr_iov = roll(NR_IOV + 1);

    slot->bytes = 0;
    for (uint32_t at = 0; at < nr_iov; at++) {
        uint32_t first = roll(8), sectors = roll(9 - first);

        slot->iov[at] = (struct iovec){slot->memory + at * 4096 + first * 512, sectors * 512};
        slot->bytes += sectors * 512;
    }
    slot->offset = region + 512 * roll((uint32_t)((REGION - slot->bytes) / 512) + 1);
    slot->complete = 0;
    slot->op = (struct xb_file_op){.iov = slot->iov, .nr_iov = nr_iov, .kind = kind, .offset = slot->offset};
    slot->op.result = 1;
    slot->op.user = slot;
}

static void fill(const struct slot *slot)
{
    uint64_t at = slot->offset;

    for (uint32_t i = 0; i < slot->op.nr_iov; i++) {
        uint8_t *bytes = slot->iov[i].iov_base;

        for (size_t sector = 0; sector < slot->iov[i].iov_len; sector += 512) {
            memset(bytes + sector, (int)roll(256), 512);
            memcpy(bytes + sector + 4, &at, sizeof(at));
        }
        memcpy(model + at, bytes, slot->iov[i].iov_len);
        at += slot->iov[i].iov_len;
    }
}

static void verify(const struct slot *slot, const struct iovec *iov, uint32_t nr_iov)
{
    uint64_t at = slot->offset;

    for (uint32_t i = 0; i < nr_iov; i++) {
        XB_ASSERT(memcmp(model + at, iov[i].iov_base, iov[i].iov_len) == 0);
        at += iov[i].iov_len;
    }
}

static void finish(struct slot *slot)
{
    XB_ASSERT(!slot->complete && slot->op.result == 0 && slot->op.user == slot);
    slot->complete = 1;
}

static void reap_all(struct xb_file *file, uint32_t in_flight)
{
    struct xb_file_op *ops[DEPTH];

    while (in_flight > 0) {
        uint32_t count;

        if (roll(2) && !xb_file_final_check(file)) {
            struct pollfd event = {xb_file_event_fd(file), POLLIN, 0};

            XB_ASSERT(event.fd >= 0 && poll(&event, 1, -1) == 1);
        }
        count = xb_file_reap(file, ops, 1 + roll(DEPTH), roll(2) ? -1 : 0);
        XB_ASSERT(count <= in_flight);
        for (uint32_t at = 0; at < count; at++)
            finish(ops[at]->user);
        in_flight -= count;
        XB_ASSERT(xb_file_in_flight(file) == in_flight);
    }
}

static void batch(struct xb_file *file)
{
    struct iovec before[DEPTH][NR_IOV];
    uint32_t nr_iov[DEPTH], in_flight = 0, depth = 1 + roll(DEPTH);

    for (uint32_t at = 0; at < depth; at++) {
        struct slot *slot = &slots[at];

        prepare(slot, roll(8) ? roll(2) : XB_FILE_FDATASYNC, (uint64_t)at * REGION);
        memcpy(before[at], slot->iov, sizeof(slot->iov));
        nr_iov[at] = slot->op.nr_iov;
        if (slot->op.kind == XB_FILE_WRITE)
            fill(slot);
        if (xb_file_submit(file, &slot->op))
            finish(slot);
        else
            in_flight++;
    }
    if (roll(2))
        xb_file_flush_submissions(file);
    reap_all(file, in_flight);
    for (uint32_t at = 0; at < depth; at++) {
        XB_ASSERT(slots[at].complete);
        if (slots[at].op.kind == XB_FILE_READ)
            verify(&slots[at], before[at], nr_iov[at]);
    }
}

static int open_image(const char *folder, int direct)
{
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/xb_test_file_%d", folder, (int)getpid());
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | (direct ? O_DIRECT : 0), 0600);
    XB_ASSERT(fd >= 0 || errno == EINVAL);
    unlink(path);
    XB_ASSERT(fd < 0 || ftruncate(fd, FILE_BYTES) == 0);
    return fd;
}

/* As anybody else sees it. */
static void verify_image(int fd)
{
    static uint8_t image[FILE_BYTES];

    XB_ASSERT(fcntl(fd, F_SETFL, 0) == 0); /* without O_DIRECT */
    XB_ASSERT(pread(fd, image, FILE_BYTES, 0) == FILE_BYTES && memcmp(image, model, FILE_BYTES) == 0);
}

static void punch(struct xb_file *file)
{
    uint64_t offset = 512 * roll(FILE_BYTES / 512), count = 512 * roll(64);

    if (offset + count > FILE_BYTES)
        return;
    XB_ASSERT(xb_file_discard(file, offset, count) == 0);
    memset(model + offset, 0, count);
}

static void run(const char *folder, int direct, int use_uring, int is_mapped)
{
    int fd = open_image(folder, direct);
    struct xb_mapped_file *mapped;
    struct xb_file *file;
    int allocations;

    if (fd < 0) {
        printf("test_file: %s has no O_DIRECT\n", folder);
        return;
    }
    memset(model, 0, FILE_BYTES);
    allocations = nr_allocations;
    file = xb_file_create(fd, DEPTH, use_uring);
    XB_ASSERT(file && nr_allocations > allocations);
    if (!use_uring)
        XB_ASSERT(!(xb_file_flags(file) & XB_FILE_URING) && xb_file_event_fd(file) == -1);
    XB_ASSERT(!(xb_file_flags(file) & XB_FILE_DIRECT) == !direct);
    mapped = is_mapped ? xb_mapped_file_create(fd, FILE_BYTES) : NULL;
    nr_mapped += mapped != NULL;
    xb_file_use_mapping(file, mapped);
    allocations = nr_allocations;
    for (int round = 0; round < ROUNDS; round++) {
        if (!direct && roll(10) == 0) /* so that some of it must wait */
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        batch(file);
        if (roll(4) == 0)
            punch(file);
    }
    XB_ASSERT(nr_allocations == allocations);
    xb_file_destroy(file);
    xb_mapped_file_destroy(mapped);
    verify_image(fd);
    close(fd);
}

int main(int argc, char **argv)
{
    static const char *const folders[] = {"/tmp", "/dev/shm", "."};
    uint8_t *memory = mmap(NULL, DEPTH * NR_IOV * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;

    healthy = xb_file_calls;
    alarm(HANG_S);
    printf("test_file: seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    dice = seed;
    model = malloc(FILE_BYTES);
    XB_ASSERT(model && memory != MAP_FAILED);
    for (uint32_t at = 0; at < DEPTH; at++)
        slots[at].memory = memory + at * NR_IOV * 4096;
    for (uint32_t mode = 0; mode < 3 * 16; mode++) {
        faulty = mode & 1;
        xb_file_calls = faulty ? faulty_calls : healthy;
        run(folders[mode / 16], (mode >> 1) & 1, (mode >> 2) & 1, (mode >> 3) & 1);
    }
    XB_ASSERT(nr_faults > 0 && nr_mapped >= 4);
    free(model);
    printf("test_file: ok, %llu faults\n", (unsigned long long)nr_faults);
    return 0;
}
