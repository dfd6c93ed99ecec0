/* Writes and reads a disk all the time, around its caches, and knows every byte: `verify DISK WORKERS`, in a guest.
 *
 * Each worker is a process with an equal part of /dev/DISK, and has one request at a time: it writes a block, then
 * reads one that any round has written or that was there at the start. "WRONG" on the console says what it found, and
 * ends the worker. /tmp/rounds.DISK has the rounds that each worker has made, a u64 each. At SIGTERM all end, and
 * /tmp/shadow.DISK is what the disk should hold. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK = 64 << 10, FLUSH_EVERY = 16, WORKERS_MAX = 64, PAUSE_US = 2000 };

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

static void *shared(int fd, size_t length)
{
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        perror("WRONG: mmap");
        exit(1);
    }
    return memory;
}

static int open_or_exit(const char *folder, const char *disk, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "%s%s", folder, disk);
    int fd = open(path, flags, 0600);
    if (fd < 0) {
        printf("WRONG: cannot open %s\n", path);
        exit(1);
    }
    return fd;
}

static void fill(uint64_t *block, uint64_t *seed)
{
    for (size_t i = 0; i < BLOCK / sizeof *block; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        block[i] = *seed;
    }
}

static void wrong(const char *disk, const char *what, unsigned block, uint64_t round)
{
    printf("WRONG: %s: %s block %u in round %llu\n", disk, what, block, (unsigned long long)round);
    fflush(stdout);
    exit(1);
}

/* Blocks first..end-1, until stopped; `shadow` is the whole disk's. */
static void work(const char *disk, int fd, char *shadow, unsigned first, unsigned end, volatile uint64_t *rounds)
{
    char *found = shared(-1, BLOCK);
    uint64_t seed = 1 + first;
    for (; !stopped; ++*rounds) {
        unsigned at = first + (seed >> 33) % (end - first), other = first + (seed >> 13) % (end - first);
        off_t start = (off_t)at * BLOCK, place = (off_t)other * BLOCK;
        fill((uint64_t *)(shadow + start), &seed);
        if (pwrite(fd, shadow + start, BLOCK, start) != BLOCK)
            wrong(disk, "writing", at, *rounds);
        if (*rounds % FLUSH_EVERY == 0 && fsync(fd) != 0)
            wrong(disk, "flushing after", at, *rounds);
        if (pread(fd, found, BLOCK, place) != BLOCK || memcmp(found, shadow + place, BLOCK) != 0)
            wrong(disk, "reading", other, *rounds);
        usleep(PAUSE_US); /* domain 0 shares the CPU */
    }
}

/* What the disk holds now, in memory that all workers share. */
static char *read_all(const char *disk, int fd, size_t length)
{
    char *shadow = shared(-1, length);
    for (size_t at = 0; at < length; at += BLOCK)
        if (pread(fd, shadow + at, BLOCK, (off_t)at) != BLOCK)
            wrong(disk, "reading, at the start,", (unsigned)(at / BLOCK), 0);
    return shadow;
}

/* Let workers work until this process is told to end, and then end them. */
static void run(const char *disk, int fd, char *shadow, unsigned blocks, unsigned workers, uint64_t *rounds)
{
    sigset_t end;
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    signal(SIGTERM, stop);
    pid_t group[WORKERS_MAX];
    for (unsigned n = 0; n < workers; n++)
        if ((group[n] = fork()) == 0) {
            sigprocmask(SIG_UNBLOCK, &end, NULL);
            work(disk, fd, shadow, blocks * n / workers, blocks * (n + 1) / workers, rounds + n);
            exit(0);
        }
    int signal_number;
    sigwait(&end, &signal_number);
    for (unsigned n = 0; n < workers; n++)
        kill(group[n], SIGTERM);
    for (unsigned n = 0; n < workers; n++)
        waitpid(group[n], NULL, 0);
}

int main(int argc, char **argv)
{
    if (argc != 3 || atoi(argv[2]) < 1 || atoi(argv[2]) > WORKERS_MAX)
        return 2;
    const char *disk = argv[1];
    unsigned workers = (unsigned)atoi(argv[2]);
    int fd = open_or_exit("/dev/", disk, O_RDWR | O_DIRECT);
    size_t length = (size_t)lseek(fd, 0, SEEK_END);
    char *shadow = read_all(disk, fd, length);
    int rounds_fd = open_or_exit("/tmp/rounds.", disk, O_RDWR | O_CREAT | O_TRUNC);
    if (ftruncate(rounds_fd, (off_t)(workers * sizeof(uint64_t))) != 0)
        return 1;
    run(disk, fd, shadow, (unsigned)(length / BLOCK), workers, shared(rounds_fd, workers * sizeof(uint64_t)));
    int out = open_or_exit("/tmp/shadow.", disk, O_WRONLY | O_CREAT | O_TRUNC);
    return write(out, shadow, length) == (ssize_t)length ? 0 : 1;
}
