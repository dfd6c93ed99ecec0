#define _GNU_SOURCE
#include "load.h"

#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES      4096
#define BLOCK_BYTES_MAX (1 << 20)
#define READ_BACK_MAX   1024 /* blocks */
#define PATIENCE_S      30
#define STEPS_SHIFT     6
#define NR_STEPS        (1 << STEPS_SHIFT) /* buckets of latencies between two powers of two: 1.6 per cent each */
#define NR_BUCKETS      (64 * NR_STEPS)

static struct load load = {
    .export = "", .block_bytes = PAGE_BYTES, .depth = 1, .seconds = 1, .cpu = -1, .seed = 1,
};
static const struct client *client;
static struct io ios[DEPTH_MAX];
static uint64_t nr_blocks, next_block, nr_started, nr_ended, nr_errors, random_state;
static uint64_t buckets[NR_BUCKETS];

/* Of each block: twice the number of its writes, and one more while it is being written. Nobody else writes. */
static uint32_t *versions;

void load_fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(1);
}

static void give_up(int signal)
{
    static const char sentence[] = "the load did not end: the server does not answer\n";

    (void)signal;
    if (write(STDERR_FILENO, sentence, sizeof(sentence) - 1) < 0)
        _exit(2);
    _exit(1);
}

static uint64_t time_ns(clockid_t clock)
{
    struct timespec ts;

    if (clock_gettime(clock, &ts))
        load_fail("the server's process is gone");
    return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

static uint64_t now_ns(void)
{
    return time_ns(CLOCK_MONOTONIC);
}

static uint64_t server_cpu_ns(void)
{
    clockid_t clock;

    if (!load.server)
        return 0;
    if (clock_getcpuclockid(load.server, &clock))
        load_fail("there is no process %d", load.server);
    return time_ns(clock);
}

static uint64_t random_number(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint64_t stamp(uint64_t offset, uint32_t version)
{
    return offset / PAGE_BYTES << 32 | version;
}

static void put_stamps(struct io *io)
{
    for (size_t at = 0; at < load.block_bytes; at += PAGE_BYTES) {
        uint64_t first = stamp(io->offset + at, io->version), last = ~first;

        memcpy(io->data + at, &first, sizeof(first));
        memcpy(io->data + at + PAGE_BYTES - sizeof(last), &last, sizeof(last));
    }
}

/* A page that this process has not written may have any version. */
static bool check_stamps(const struct io *io)
{
    uint32_t version = versions[io->offset / load.block_bytes];

    for (size_t at = 0; at < load.block_bytes; at += PAGE_BYTES) {
        uint64_t first, last;

        memcpy(&first, io->data + at, sizeof(first));
        memcpy(&last, io->data + at + PAGE_BYTES - sizeof(last), sizeof(last));
        if (last != ~first || first != stamp(io->offset + at, version ? version - 1 : (uint32_t)first))
            return false;
    }
    return true;
}

/* Two writes of one block under way would leave either's data. */
static uint64_t choose_block(void)
{
    uint64_t block = load.is_sequential ? next_block : random_number() % nr_blocks;

    while (load.is_write && versions[block] % 2)
        block = (block + 1) % nr_blocks;
    next_block = (block + 1) % nr_blocks;
    return block;
}

static void start(struct io *io, uint64_t block)
{
    io->offset = block * load.block_bytes;
    io->is_write = load.is_write;
    io->failed = false;
    if (io->is_write) {
        io->version = ++versions[block];
        put_stamps(io);
    }
    nr_started++;
    client->submit(io);
}

static void record_latency(uint64_t latency_ns)
{
    uint64_t ns = latency_ns < NR_STEPS ? NR_STEPS : latency_ns;
    int exponent = 63 - __builtin_clzll(ns);

    buckets[exponent * NR_STEPS + (ns >> (exponent - STEPS_SHIFT)) % NR_STEPS]++;
}

/* The lower end of the bucket in which the wanted latency lies. */
static double percentile_us(double share)
{
    uint64_t seen = 0;
    int i = 0;

    while (i < NR_BUCKETS - 1 && (seen += buckets[i]) < share * nr_ended)
        i++;
    return (double)((uint64_t)(NR_STEPS + i % NR_STEPS) << (i / NR_STEPS - STEPS_SHIFT)) / 1000;
}

static void end(struct io *io)
{
    nr_ended++;
    if (io->is_write)
        versions[io->offset / load.block_bytes]++;
    if (!io->failed && (io->is_write || check_stamps(io)))
        return;
    if (!nr_errors++)
        fprintf(stderr, "the %s of %zu bytes at %lu %s\n", io->is_write ? "write" : "read", load.block_bytes,
                io->offset, io->failed ? "failed" : "found other data than was written");
}

/* Until the deadline or so many operations, whichever comes first, and until all of them ended. */
static void run(uint64_t deadline_ns, uint64_t nr_wanted)
{
    struct io *ended[DEPTH_MAX];
    uint64_t now = now_ns();

    nr_started = nr_ended = 0;
    for (unsigned i = 0; i < load.depth && nr_started < nr_wanted; i++) {
        ios[i].begin_ns = now;
        start(&ios[i], choose_block());
    }
    while (nr_ended < nr_started) {
        unsigned n = client->complete(ended);

        for (unsigned i = 0; i < n; i++) {
            end(ended[i]);
            now = now_ns();
            record_latency(now - ended[i]->begin_ns);
            ended[i]->begin_ns = now;
            if (now < deadline_ns && nr_started < nr_wanted)
                start(ended[i], choose_block());
        }
    }
}

static void measure(void)
{
    uint64_t client_ns = time_ns(CLOCK_PROCESS_CPUTIME_ID), server_ns = server_cpu_ns(), begin_ns = now_ns();
    uint64_t deadline_ns = load.is_fill ? UINT64_MAX : begin_ns + load.seconds * 1e9;
    double secs;

    run(deadline_ns, load.is_fill ? nr_blocks : UINT64_MAX);
    secs = (now_ns() - begin_ns) / 1e9;
    server_ns = server_cpu_ns() - server_ns;
    client_ns = time_ns(CLOCK_PROCESS_CPUTIME_ID) - client_ns;
    printf("{\"iops\": %.1f, \"p50_us\": %.3f, \"p99_us\": %.3f, \"client_cpu_s\": %.6f, ", nr_ended / secs,
           percentile_us(0.5), percentile_us(0.99), client_ns / 1e9);
    if (load.server)
        printf("\"server_cpu_s\": %.6f, ", server_ns / 1e9);
    else
        printf("\"server_cpu_s\": null, ");
    printf("\"ios\": %lu, \"secs\": %.6f, ", nr_ended, secs);
}

/* Some of what was written, from a place that the seed chooses. */
static void read_back(void)
{
    load.is_write = false;
    load.is_sequential = true;
    next_block = random_number() % nr_blocks;
    run(UINT64_MAX, nr_blocks < READ_BACK_MAX ? nr_blocks : READ_BACK_MAX);
}

static void prepare(void)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    CPU_SET(load.cpu < 0 ? 0 : load.cpu, &cpus);
    if (load.cpu >= 0 && sched_setaffinity(0, sizeof(cpus), &cpus))
        load_fail("CPU %d cannot be used", load.cpu);
    signal(SIGALRM, give_up);
    alarm(load.seconds + PATIENCE_S);
    random_state = load.seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    for (unsigned i = 0; i < load.depth; i++) {
        ios[i].slot = i;
        ios[i].data = aligned_alloc(PAGE_BYTES, load.block_bytes);
        memset(ios[i].data, i, load.block_bytes);
    }
    nr_blocks = client->open(&load) / load.block_bytes;
    if (nr_blocks < 2 * load.depth)
        load_fail("%lu blocks of %zu bytes are too few for a depth of %u", nr_blocks, load.block_bytes, load.depth);
    versions = calloc(nr_blocks, sizeof(*versions));
}

/* One of two words. */
static bool is_second(const char *word, const char *first, const char *second)
{
    if (strcmp(word, first) && strcmp(word, second))
        load_fail("it is %s or %s, not %s", first, second, word);
    return !strcmp(word, second);
}

static long number(const char *text, long least, long most)
{
    char *rest;
    long found = strtol(text, &rest, 10);

    if (*rest || rest == text || found < least || found > most)
        load_fail("a number from %ld to %ld is needed, not %s", least, most, text);
    return found;
}

static void set_option(int option)
{
    switch (option) {
    case 'o':
        load.is_fill = !strcmp(optarg, "fill");
        load.is_write = load.is_fill || is_second(optarg, "read", "write");
        break;
    case 'p': load.is_sequential = is_second(optarg, "random", "sequential"); break;
    case 'b': load.block_bytes = number(optarg, 1, BLOCK_BYTES_MAX / PAGE_BYTES * PAGE_BYTES); break;
    case 'd': load.depth = number(optarg, 1, DEPTH_MAX); break;
    case 's': load.seconds = atof(optarg); break;
    case 'c': load.cpu = number(optarg, 0, CPU_SETSIZE - 1); break;
    case 'P': load.server = number(optarg, 1, INT32_MAX); break;
    case 'w': load.is_polling = true; break;
    case 'e': load.export = optarg; break;
    case 'S': load.seed = number(optarg, 0, INT32_MAX); break;
    default: exit(2);
    }
}

static void parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"operation", 1, NULL, 'o'}, {"pattern", 1, NULL, 'p'}, {"block-bytes", 1, NULL, 'b'},
        {"depth", 1, NULL, 'd'},     {"seconds", 1, NULL, 's'}, {"cpu", 1, NULL, 'c'},
        {"server-pid", 1, NULL, 'P'}, {"poll", 0, NULL, 'w'},   {"seed", 1, NULL, 'S'},
        {"export", 1, NULL, 'e'},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        set_option(option);
    load.socket = argv[optind];
    load.is_sequential |= load.is_fill;
    if (!load.socket || argv[optind + 1])
        load_fail("one socket is needed");
    if (load.block_bytes % PAGE_BYTES)
        load_fail("blocks are of whole pages of %d bytes, not of %zu bytes", PAGE_BYTES, load.block_bytes);
}

int load_main(int argc, char **argv, const struct client *the_client)
{
    client = the_client;
    parse(argc, argv);
    prepare();
    measure();
    if (load.is_write)
        read_back();
    printf("\"errors\": %lu}\n", nr_errors);
    return nr_errors != 0;
}
