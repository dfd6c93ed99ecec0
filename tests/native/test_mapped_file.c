/* A mapped file: what the kernel is asked and what not, holes that stay holes, files that end too soon, SIGBUS that is
 * somebody else's. That the data is right is test_file.c's. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "xenblk/assert.h"
#include "xenblk/blkback/file.h"
#include "xenblk/blkback/mapped_file.h"
#include "xenblk/blkback/uring.h"

#include "xenblk/blkback/file_calls.h"

#define PAGE 4096
#define NR_PAGES 64
#define FILE_BYTES (NR_PAGES * PAGE + 512) /* the last page is not whole */
#define HANG_S 300

static uint8_t page[PAGE] __attribute__((aligned(PAGE)));
static struct xb_file_calls healthy;
static uint64_t nr_calls;

static ssize_t counted_read_at(int fd, const struct iovec *iov, int nr_iov, off_t offset, int flags)
{
    nr_calls++;
    return healthy.read_at(fd, iov, nr_iov, offset, flags);
}

static ssize_t counted_write_at(int fd, const struct iovec *iov, int nr_iov, off_t offset, int flags)
{
    nr_calls++;
    return healthy.write_at(fd, iov, nr_iov, offset, flags);
}

struct disk {
    int fd;
    struct xb_file *file;
    struct xb_mapped_file *mapped;
};

static int open_file(const char *folder, int flags, off_t bytes)
{
    char path[256];
    int fd;

    snprintf(path, sizeof(path), "%s/xb_test_mapped_file_%d", folder, (int)getpid());
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    XB_ASSERT(fd >= 0 && ftruncate(fd, bytes) == 0);
    close(fd);
    fd = open(path, flags | O_CLOEXEC);
    unlink(path);
    return fd;
}

static struct disk disk_create(int flags)
{
    struct disk disk = {.fd = open_file("/dev/shm", flags, FILE_BYTES)};

    XB_ASSERT(disk.fd >= 0);
    disk.file = xb_file_create(disk.fd, 1, 1);
    disk.mapped = xb_mapped_file_create(disk.fd, FILE_BYTES);
    XB_ASSERT(disk.file && disk.mapped);
    xb_file_use_mapping(disk.file, disk.mapped);
    return disk;
}

static void disk_destroy(struct disk *disk)
{
    xb_file_destroy(disk->file);
    xb_mapped_file_destroy(disk->mapped);
    close(disk->fd);
}

static int32_t move(struct disk *disk, uint32_t kind, uint64_t offset, size_t bytes)
{
    struct iovec iov = {page, bytes};
    struct xb_file_op op = {.iov = &iov, .nr_iov = 1, .kind = kind, .offset = offset};

    XB_ASSERT(xb_file_submit(disk->file, &op));
    return op.result;
}

static void write_page(struct disk *disk, uint64_t number, int byte)
{
    memset(page, byte, PAGE);
    XB_ASSERT(move(disk, XB_FILE_WRITE, number * PAGE, PAGE) == 0);
}

static void read_page(struct disk *disk, uint64_t number, int byte)
{
    memset(page, ~byte, PAGE);
    XB_ASSERT(move(disk, XB_FILE_READ, number * PAGE, PAGE) == 0);
    for (int i = 0; i < PAGE; i++)
        XB_ASSERT(page[i] == (uint8_t)byte);
}

/* How often the kernel was asked since the last time. */
static uint64_t calls(void)
{
    uint64_t count = nr_calls;

    nr_calls = 0;
    return count;
}

static struct stat status_of(const struct disk *disk)
{
    struct stat status;

    XB_ASSERT(fstat(disk->fd, &status) == 0);
    return status;
}

static int64_t nr_pages_of(const struct disk *disk)
{
    return status_of(disk).st_blocks * 512 / PAGE;
}

static void what_was_written_is_not_asked_for_again(void)
{
    struct disk disk = disk_create(O_RDWR);

    write_page(&disk, 3, 'a');
    XB_ASSERT(calls() == 1);
    for (int i = 0; i < 100; i++)
        read_page(&disk, 3, 'a');
    XB_ASSERT(calls() == 0);
    for (int i = 0; i < 100; i++)
        write_page(&disk, 3, 'b');
    XB_ASSERT(calls() < 50); /* one a second, on whatever machine */
    XB_ASSERT(pread(disk.fd, page, PAGE, 3 * PAGE) == PAGE && page[0] == 'b' && page[PAGE - 1] == 'b');
    disk_destroy(&disk);
}

static void what_was_read_is_not_asked_for_again(void)
{
    struct disk disk = disk_create(O_RDONLY);
    char path[64];
    int writer;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", disk.fd);
    writer = open(path, O_RDWR | O_CLOEXEC);
    memset(page, 'a', PAGE);
    XB_ASSERT(writer >= 0 && pwrite(writer, page, PAGE, 5 * PAGE) == PAGE);
    read_page(&disk, 5, 'a');
    XB_ASSERT(calls() == 1);
    memset(page, 'b', PAGE);
    XB_ASSERT(pwrite(writer, page, PAGE, 5 * PAGE) == PAGE); /* it is the file's own page, whoever writes it */
    read_page(&disk, 5, 'b');
    XB_ASSERT(calls() == 0);
    XB_ASSERT(move(&disk, XB_FILE_WRITE, 5 * PAGE, PAGE) == -EBADF); /* the kernel's answer */
    XB_ASSERT(calls() == 1);
    close(writer);
    disk_destroy(&disk);
}

static void a_hole_stays_one(void)
{
    struct disk disk = disk_create(O_RDWR);

    write_page(&disk, 1, 'a');
    for (int round = 0; round < 2; round++)
        for (uint64_t number = 0; number < NR_PAGES; number++)
            read_page(&disk, number, number == 1 ? 'a' : 0);
    XB_ASSERT(nr_pages_of(&disk) == 1);
    XB_ASSERT(xb_file_discard(disk.file, PAGE, PAGE) == 0);
    read_page(&disk, 1, 0);
    XB_ASSERT(nr_pages_of(&disk) == 0);
    disk_destroy(&disk);
}

/* Two pages of which one is known are the kernel's, as is the page that the file ends in. */
static void what_is_not_known_whole_is_the_kernels(void)
{
    struct disk disk = disk_create(O_RDWR);
    struct iovec iov[] = {{page, 512}, {page + 512, 1024}};
    struct xb_file_op op = {.iov = iov, .nr_iov = 2, .kind = XB_FILE_READ, .offset = 3 * PAGE - 512};

    write_page(&disk, 2, 'a');
    calls();
    XB_ASSERT(xb_file_submit(disk.file, &op) && op.result == 0 && calls() == 1);
    XB_ASSERT(page[511] == 'a' && page[512] == 0 && nr_pages_of(&disk) == 1);
    for (uint64_t times = 1; times <= 3; times++) {
        XB_ASSERT(move(&disk, XB_FILE_WRITE, NR_PAGES * PAGE, 512) == 0 && calls() == 1);
        XB_ASSERT(move(&disk, XB_FILE_READ, NR_PAGES * PAGE, 512) == 0 && calls() == 1);
    }
    disk_destroy(&disk);
}

/* As a guest may name a page twice in one request. */
static void test_regression_of_one_page_mapped_twice_the_later_data_stays(void)
{
    struct disk disk = disk_create(O_RDWR);
    int memory = memfd_create("page", MFD_CLOEXEC);
    uint8_t *twice = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec iov = {twice, 2 * PAGE};
    struct xb_file_op op = {.iov = &iov, .nr_iov = 1, .kind = XB_FILE_READ, .offset = 4 * PAGE};

    XB_ASSERT(memory >= 0 && ftruncate(memory, PAGE) == 0 && twice != MAP_FAILED);
    for (uint8_t *at = twice; at < twice + 2 * PAGE; at += PAGE)
        XB_ASSERT(mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory, 0) == at);
    write_page(&disk, 4, 'a');
    write_page(&disk, 5, 'b');
    calls();
    XB_ASSERT(xb_file_submit(disk.file, &op) && op.result == 0 && calls() == 0);
    for (int i = 0; i < PAGE; i++)
        XB_ASSERT(twice[i] == 'b');
    munmap(twice, 2 * PAGE);
    close(memory);
    disk_destroy(&disk);
}

static void a_file_that_ended_is_an_error(void)
{
    struct disk disk = disk_create(O_RDWR);

    write_page(&disk, 7, 'a');
    read_page(&disk, 7, 'a');
    XB_ASSERT(ftruncate(disk.fd, PAGE) == 0);
    calls();
    XB_ASSERT(move(&disk, XB_FILE_READ, 7 * PAGE, PAGE) == -EIO && calls() == 1);
    XB_ASSERT(ftruncate(disk.fd, FILE_BYTES) == 0);
    read_page(&disk, 7, 0);
    XB_ASSERT(nr_pages_of(&disk) == 0); /* and is a hole again */
    disk_destroy(&disk);
}

static int stopping;

static void *truncate_often(void *fd)
{
    while (!__atomic_load_n(&stopping, __ATOMIC_ACQUIRE)) {
        XB_ASSERT(ftruncate(*(int *)fd, 0) == 0);
        XB_ASSERT(ftruncate(*(int *)fd, FILE_BYTES) == 0);
    }
    return NULL;
}

static void a_file_that_ends_meanwhile_is_survived(void)
{
    struct disk disk = disk_create(O_RDWR);
    pthread_t thread;
    uint64_t nr_ended = 0;

    XB_ASSERT(pthread_create(&thread, NULL, truncate_often, &disk.fd) == 0);
    for (uint32_t i = 0; i < 20000 || nr_ended == 0; i++) {
        int32_t result = move(&disk, i & 1 ? XB_FILE_READ : XB_FILE_WRITE, i / 2 % NR_PAGES * PAGE, PAGE);

        XB_ASSERT(result == 0 || result == -EIO);
        nr_ended += result != 0;
    }
    __atomic_store_n(&stopping, 1, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    disk_destroy(&disk);
}

static void the_files_time_goes_on(void)
{
    static const struct timespec long_ago[2] = {{1, 0}, {1, 0}};
    struct disk disk = disk_create(O_RDWR);

    write_page(&disk, 0, 'a');
    XB_ASSERT(futimens(disk.fd, long_ago) == 0);
    while (status_of(&disk).st_mtim.tv_sec == 1)
        write_page(&disk, 0, 'b');
    disk_destroy(&disk);
}

static void what_cannot_be_mapped(void)
{
    int direct = open_file("/dev/shm", O_RDWR | O_DIRECT, FILE_BYTES), small = open_file("/dev/shm", O_RDWR, 512);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    XB_ASSERT(!xb_mapped_file_create(direct, FILE_BYTES)); /* closed, where the kernel has no direct I/O in memory */
    XB_ASSERT(!xb_mapped_file_create(small, 512));
    XB_ASSERT(!xb_mapped_file_create(null, FILE_BYTES));
    xb_mapped_file_destroy(NULL);
    if (direct >= 0)
        close(direct);
    close(small);
    close(null);
}

/* SIGBUS, each in a process of its own */

static sigjmp_buf escape;

static void escape_plainly(int number)
{
    siglongjmp(escape, number);
}

static void escape_informed(int number, siginfo_t *info, void *context)
{
    (void)context;
    XB_ASSERT(info->si_signo == number);
    siglongjmp(escape, number);
}

static void touch_what_ended(void)
{
    int fd = open_file("/dev/shm", O_RDWR, PAGE);
    volatile uint8_t *memory = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

    XB_ASSERT(memory != MAP_FAILED && ftruncate(fd, 0) == 0);
    (void)memory[0];
}

static void send_it(void)
{
    raise(SIGBUS);
}

/* The status of a process that had `before`, took SIGBUS, and got one of its own. Escapes are exit statuses. */
static int status_after(struct sigaction before, void (*get_one)(void))
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        struct disk disk;

        sigaction(SIGBUS, &before, NULL);
        disk = disk_create(O_RDWR);
        for (int times = 0; times < 2; times++) {
            if (sigsetjmp(escape, 1) == 0)
                get_one();
            else if (times == 1)
                _exit(SIGBUS);
        }
        a_file_that_ended_is_an_error();
        disk_destroy(&disk);
        _exit(0);
    }
    XB_ASSERT(child > 0 && waitpid(child, &status, 0) == child);
    return status;
}

static void a_sigbus_of_another_is_passed_on(void)
{
    struct sigaction plain = {.sa_handler = escape_plainly};
    struct sigaction informed = {.sa_sigaction = escape_informed, .sa_flags = SA_SIGINFO};
    struct sigaction ignoring = {.sa_handler = SIG_IGN}, nobody = {.sa_handler = SIG_DFL};
    void (*const ways[])(void) = {touch_what_ended, send_it};
    int status;

    for (int way = 0; way < 2; way++) {
        status = status_after(plain, ways[way]);
        XB_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == SIGBUS);
        status = status_after(informed, ways[way]);
        XB_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == SIGBUS);
        status = status_after(nobody, ways[way]);
        XB_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    }
    status = status_after(ignoring, send_it);
    XB_ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    status = status_after(ignoring, touch_what_ended);
    XB_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

int main(void)
{
    alarm(HANG_S);
    healthy = xb_file_calls;
    xb_file_calls.read_at = counted_read_at;
    xb_file_calls.write_at = counted_write_at;
    a_sigbus_of_another_is_passed_on(); /* first: the handler of the beginning is the one that gets it */
    what_was_written_is_not_asked_for_again();
    what_was_read_is_not_asked_for_again();
    a_hole_stays_one();
    what_is_not_known_whole_is_the_kernels();
    test_regression_of_one_page_mapped_twice_the_later_data_stays();
    a_file_that_ended_is_an_error();
    a_file_that_ends_meanwhile_is_survived();
    the_files_time_goes_on();
    what_cannot_be_mapped();
    printf("test_mapped_file: ok\n");
    return 0;
}
