/* The raw ring: what goes in comes out once, what the kernel did not take can be taken back, and a sleeper is woken. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <unistd.h>

#include "xenblk/assert.h"
#include "xenblk/blkback/uring.h"

#define ENTRIES 8
#define ROUNDS 2000
#define HANG_S 300

static void queue_nop(struct xb_uring *uring, uint64_t user_data)
{
    xb_uring_queue(uring, IORING_OP_NOP, -1, NULL, 0, 0, 0, user_data);
}

static int is_readable(int fd)
{
    struct pollfd event = {fd, POLLIN, 0};

    return poll(&event, 1, 0) == 1;
}

/* The indexes go around many times; each operation completes once. */
static void test_all_come_back(struct xb_uring *uring)
{
    uint64_t next = 1, user_data;
    int32_t result;

    for (int round = 0; round < ROUNDS; round++) {
        uint32_t count = 1 + round % ENTRIES;
        uint64_t seen = 0;

        for (uint32_t at = 0; at < count; at++)
            queue_nop(uring, next + at);
        XB_ASSERT(xb_uring_nr_queued(uring) == count);
        XB_ASSERT(xb_uring_submit(uring) == 0 && xb_uring_nr_queued(uring) == 0);
        for (uint32_t at = 0; at < count; at++) {
            while (!xb_uring_reap(uring, &user_data, &result))
                xb_uring_wait(uring, -1);
            XB_ASSERT(result == 0 && user_data >= next && user_data < next + count);
            XB_ASSERT(!(seen & 1ull << (user_data - next)));
            seen |= 1ull << (user_data - next);
        }
        XB_ASSERT(!xb_uring_reap(uring, &user_data, &result));
        next += count;
    }
}

static void test_take_back(struct xb_uring *uring)
{
    uint64_t user_data;
    int32_t result;

    XB_ASSERT(xb_uring_submit(uring) == 0);
    for (uint64_t at = 0; at < ENTRIES; at++)
        queue_nop(uring, at);
    for (uint64_t at = ENTRIES; at-- > 1;)
        XB_ASSERT(xb_uring_take_back(uring) == at);
    XB_ASSERT(xb_uring_nr_queued(uring) == 1 && xb_uring_submit(uring) == 0);
    XB_ASSERT(xb_uring_reap(uring, &user_data, &result) && user_data == 0 && result == 0);
    XB_ASSERT(!xb_uring_reap(uring, &user_data, &result));
}

/* A read of an empty pipe is in flight for as long as the test likes. */
static void test_event(struct xb_uring *uring)
{
    uint64_t user_data;
    int32_t result;
    char byte = 0;
    int ends[2];

    XB_ASSERT(pipe(ends) == 0);
    xb_uring_queue(uring, IORING_OP_READ, ends[0], &byte, 1, 0, 0, 77);
    XB_ASSERT(xb_uring_submit(uring) == 0);
    XB_ASSERT(!xb_uring_reap(uring, &user_data, &result));
    XB_ASSERT(xb_uring_wait(uring, 1000000) == 0);
    XB_ASSERT(!xb_uring_final_check(uring) && !is_readable(uring->event_fd));
    XB_ASSERT(write(ends[1], "x", 1) == 1);
    XB_ASSERT(xb_uring_wait(uring, -1) == 1);
    XB_ASSERT(xb_uring_reap(uring, &user_data, &result) && user_data == 77 && result == 1 && byte == 'x');
    XB_ASSERT(!is_readable(uring->event_fd));
    queue_nop(uring, 78); /* nobody asked for this one's event */
    XB_ASSERT(xb_uring_submit(uring) == 0 && !is_readable(uring->event_fd));
    XB_ASSERT(xb_uring_final_check(uring));
    XB_ASSERT(xb_uring_reap(uring, &user_data, &result) && user_data == 78);
    close(ends[0]);
    close(ends[1]);
}

static void *write_bytes(void *context)
{
    for (int at = 0; at < ROUNDS; at++)
        XB_ASSERT(write(*(int *)context, "x", 1) == 1);
    return NULL;
}

/* Completions race with going to sleep: a lost event would hang here. */
static void test_sleeper_is_woken(struct xb_uring *uring)
{
    pthread_t writer;
    uint64_t user_data;
    int32_t result;
    int ends[2];
    char byte;

    XB_ASSERT(pipe(ends) == 0 && pthread_create(&writer, NULL, write_bytes, &ends[1]) == 0);
    for (int at = 0; at < ROUNDS; at++) {
        xb_uring_queue(uring, IORING_OP_READ, ends[0], &byte, 1, 0, 0, (uint64_t)at);
        XB_ASSERT(xb_uring_submit(uring) == 0);
        while (!xb_uring_reap(uring, &user_data, &result))
            xb_uring_wait(uring, -1);
        XB_ASSERT(user_data == (uint64_t)at && result == 1);
    }
    XB_ASSERT(pthread_join(writer, NULL) == 0);
    close(ends[0]);
    close(ends[1]);
}

/* Whichever descriptor is one too many: an errno, and none is left open. */
static void test_descriptors(void)
{
    int first_free = dup(0);
    struct rlimit before, limit;
    struct xb_uring uring;

    close(first_free);
    XB_ASSERT(getrlimit(RLIMIT_NOFILE, &before) == 0);
    for (int more = 0; more < 2; more++) {
        limit = before;
        limit.rlim_cur = (rlim_t)(first_free + more);
        XB_ASSERT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
        XB_ASSERT(xb_uring_create(&uring, ENTRIES) == -EMFILE);
        XB_ASSERT(setrlimit(RLIMIT_NOFILE, &before) == 0);
        XB_ASSERT(dup(0) == first_free);
        close(first_free);
    }
    XB_ASSERT(xb_uring_create(&uring, 0) == -EINVAL);
    XB_ASSERT(xb_uring_create(&uring, ENTRIES) == 0);
    xb_uring_destroy(&uring);
    XB_ASSERT(dup(0) == first_free);
    close(first_free);
}

/* A file that is held is open, and so is its lock held, as long as the ring is there: whoever waits for the lock waits
 * for the last operation, too. */
static void test_hold(void)
{
    char path[] = "/tmp/xenblk_test_uring.XXXXXX";
    int fd = mkstemp(path), other = open(path, O_RDWR | O_CLOEXEC);
    struct xb_uring uring;

    XB_ASSERT(fd >= 0 && other >= 0 && unlink(path) == 0);
    XB_ASSERT(flock(fd, LOCK_EX) == 0);
    XB_ASSERT(xb_uring_create(&uring, ENTRIES) == 0);
    XB_ASSERT(xb_uring_hold(&uring, fd) == 0);
    close(fd);
    XB_ASSERT(flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    xb_uring_destroy(&uring);
    XB_ASSERT(flock(other, LOCK_EX) == 0);
    close(other);
}

int main(void)
{
    struct xb_uring uring;
    int status = xb_uring_create(&uring, ENTRIES);

    alarm(HANG_S);
    if (status == -ENOSYS || status == -EPERM || status == -EACCES) {
        printf("test_uring: this kernel gives no io_uring (%s): nothing to test\n", strerror(-status));
        return 0;
    }
    XB_ASSERT(status == 0 && uring.nr_entries == ENTRIES);
    test_all_come_back(&uring);
    test_take_back(&uring);
    test_event(&uring);
    test_sleeper_is_woken(&uring);
    xb_uring_destroy(&uring);
    test_descriptors();
    test_hold();
    printf("test_uring: ok\n");
    return 0;
}
