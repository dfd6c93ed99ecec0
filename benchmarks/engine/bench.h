/* What the programs in this folder share: time, placement, latencies, and an end when something goes wrong. */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#define PAGE            4096ul
#define LINE            64
#define SUB_BUCKETS     64 /* per power of two: a latency is exact to 1.6 % */
#define SUB_BUCKETS_LOG 6
#define NR_BUCKETS      ((64 - SUB_BUCKETS_LOG) * SUB_BUCKETS + SUB_BUCKETS)
#define PATIENCE_S      20

struct latencies {
    uint64_t nr, buckets[NR_BUCKETS];
};

static inline void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(1);
}

static inline double clock_s(clockid_t clock)
{
    struct timespec ts;

    if (clock_gettime(clock, &ts) < 0)
        fail("no clock: %s", strerror(errno));
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static inline uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* The cheapest clock that there is, in units of its own. */
static inline uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __rdtsc();
#else
    return now_ns();
#endif
}

/* In a loop that waits for another CPU. */
static inline void relax(void)
{
#if defined(__x86_64__)
    _mm_pause();
#endif
}

static inline void pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        fail("CPU %d cannot be used: %s", cpu, strerror(errno));
}

static inline void parse_cpus(const char *text, int cpus[2])
{
    char end;

    if (sscanf(text, "%d,%d%c", &cpus[0], &cpus[1], &end) != 2)
        fail("two CPUs are written 0,1, not %s", text);
}

static inline uint64_t parse_number(const char *name, const char *text, uint64_t least, uint64_t most)
{
    char *end;
    uint64_t number = strtoull(text, &end, 10);

    if (*text == '-' || end == text || *end || number < least || number > most)
        fail("--%s is %lu to %lu, not %s", name, least, most, text);
    return number;
}

/* A power of two, so that a disk is a whole number of blocks. */
static inline size_t parse_block_bytes(const char *text)
{
    size_t bytes = parse_number("block-bytes", text, PAGE, 1 << 20);

    if (bytes & (bytes - 1))
        fail("--block-bytes is a power of two, not %s", text);
    return bytes;
}

static inline double parse_seconds(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds > 0 && seconds <= 3600))
        fail("--seconds is more than 0 and at most 3600, not %s", text);
    return seconds;
}

/* The place of a word in a list of words that ends with NULL. */
static inline int parse_word(const char *name, const char *text, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (!strcmp(text, words[i]))
            return i;
    fail("--%s has no %s", name, text);
}

/* Nothing here runs for ever: SIGALRM ends the process, and whoever asked for PR_SET_PDEATHSIG with it. */
static inline void set_deadline(double seconds)
{
    alarm((unsigned)seconds + PATIENCE_S);
}

static inline void *map_anonymous(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (memory == MAP_FAILED)
        fail("no %zu bytes of memory: %s", size, strerror(errno));
    return memory;
}

static inline void add_latency(struct latencies *found, uint64_t value)
{
    int shift = value < SUB_BUCKETS ? 0 : 63 - __builtin_clzll(value) - SUB_BUCKETS_LOG;

    found->buckets[shift * SUB_BUCKETS + (value >> shift)]++;
    found->nr++;
}

/* In the unit in which the latencies were added. */
static inline double percentile(const struct latencies *found, double share)
{
    uint64_t seen = 0, i = 0, shift;

    while (i < NR_BUCKETS - 1 && (seen += found->buckets[i]) < share * found->nr)
        i++;
    shift = i < 2 * SUB_BUCKETS ? 0 : i / SUB_BUCKETS - 1;
    return (double)((i - shift * SUB_BUCKETS) << shift);
}

/* Which block is next: any of them, or the one after the last. */
struct blocks {
    uint64_t nr, next, state;
    bool random;
};

static inline uint64_t next_block(struct blocks *blocks)
{
    if (!blocks->random)
        return blocks->next = blocks->next + 1 < blocks->nr ? blocks->next + 1 : 0;
    blocks->state = blocks->state * 6364136223846793005ull + 1442695040888963407ull;
    return (blocks->state >> 32) * blocks->nr >> 32;
}
