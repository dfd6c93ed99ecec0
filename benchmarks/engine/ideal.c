/*
 * The limit: block I/O between two processes that share memory, with nothing in it that is not needed for that.
 *
 *     ideal [--op read|write] [--order random|sequential] [--block-bytes N] [--depth N] [--copies 1|2]
 *           [--stores plain|streaming] [--spin-us N] [--cpus CLIENT,SERVER] [--seconds S] [--disk-bytes N]
 *           [--slots N] [--batch N] [--wake N]
 *
 * The client publishes requests, words of eight bytes, and the server answers them in order by counting up `done`.
 * Each slot of the ring has a buffer in shared memory for the data. The server's disk is anonymous memory. One
 * copy: the server copies between disk and buffer, the client reads or writes eight bytes of each page in place.
 * Two copies: the client also copies all of it out of the buffer into its own memory, or from there into it.
 * `--stores` is for the copy into the buffer. A side that finds nothing to do spins for --spin-us before it sleeps
 * on an eventfd; without, it always spins. Every page begins and ends with a stamp, its number on the disk, which
 * whoever took the data last checks. Both publish after --batch requests, or when there is nothing to do; a client
 * that sleeps is woken for --wake answers. The result is one line of JSON. "disk_huge" is the share of the disk
 * that is in huge pages. Latency is from publishing a request until its data were used and the next is published.
 */
#include "bench.h"
#include "copy.h"
#include "stamp.h"
#include "ideal_ring.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static char *own, *disk;
static int server_fd, client_fd;
static volatile bool ending;

static struct client {
    uint64_t submitted, published, reaped, recorded, kicks, checks_failed;
    uint64_t begin[SLOTS_MAX], block[SLOTS_MAX];
    struct blocks blocks;
    struct latencies latencies;
} client;

static char *own_of(uint64_t index)
{
    return own + (index & mask) * options.block_bytes;
}

/* --- the server --- */

/* The first lines of a page that is read next; by then the hardware's prefetcher has seen where it goes. For pages
 * that are written it does harm. */
static void prefetch_page(const char *page)
{
    for (int i = 0; i < 8; i++)
        __builtin_prefetch(page + i * LINE);
}

static void serve_one(uint64_t index, bool has_next)
{
    uint64_t word = shared->words[index & mask], number = word & WORD_BLOCK;
    char *block = disk + number * options.block_bytes, *buffer = buffer_of(index);

    if (word & WORD_WRITE) {
        memcpy(block, buffer, options.block_bytes);
        shared->checks_failed += check(block, number, options.block_bytes, options.copies == 2);
    } else {
        if (has_next)
            prefetch_page(disk + (shared->words[(index + 1) & mask] & WORD_BLOCK) * options.block_bytes);
        to_buffer(buffer, block);
    }
}

static void serve(void)
{
    uint64_t index = 0, shown = 0, known = 0;

    for (;;) {
        known = wait_for(look_words, index, &shared->server_event, 1, server_fd);
        if (known == index)
            return;
        while (index != known) {
            serve_one(index, index + 1 != known);
            if (++index - shown < options.batch && index != known)
                continue;
            if (options.streaming)
                streaming_done();
            __atomic_store_n(&shared->done, index, __ATOMIC_RELEASE); /* after the data, for look_done() */
            kick(&shared->client_event, shown, index, client_fd, &shared->kicks);
            shown = index;
        }
    }
}

/* In huge pages, if there are any. A disk to write to has no stamps: a page that is not copied there is missed. */
static void make_disk(void)
{
    size_t align = 2ul << 20, huge_kib = 0, kib;
    uintptr_t memory = (uintptr_t)mmap(NULL, options.disk_bytes + align, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[256];

    if ((void *)memory == MAP_FAILED)
        fail("no memory for a disk of %zu bytes: %s", options.disk_bytes, strerror(errno));
    disk = (char *)((memory + align - 1) / align * align);
    madvise(disk, options.disk_bytes, MADV_HUGEPAGE);
    memset(disk, 0, options.disk_bytes);
    for (uint64_t i = 0; !options.writes && i < options.disk_bytes / options.block_bytes; i++)
        stamp(disk + i * options.block_bytes, i, options.block_bytes, true);
    while (maps && fgets(line, sizeof(line), maps))
        if (sscanf(line, "AnonHugePages: %zu", &kib) == 1)
            huge_kib += kib;
    shared->disk_huge = huge_kib * 1024.0 / options.disk_bytes;
}

static void server(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    set_deadline(options.seconds);
    pin(options.cpus[1]);
    make_disk();
    for (size_t i = 0; i < options.slots * options.block_bytes; i += PAGE)
        *(volatile char *)(buffers + i) = 0;
    __atomic_store_n(&shared->ready, true, __ATOMIC_RELEASE); /* after the disk, for main() */
    serve();
    _exit(0);
}

/* --- the client --- */

static void prepare(uint64_t index)
{
    uint64_t number = next_block(&client.blocks);

    client.block[index & mask] = number;
    if (options.writes && options.copies == 1) {
        stamp(buffer_of(index), number, options.block_bytes, false);
    } else if (options.writes) {
        stamp(own_of(index), number, options.block_bytes, true);
        to_buffer(buffer_of(index), own_of(index));
    }
}

static void finish(uint64_t index)
{
    uint64_t number = client.block[index & mask];
    const char *data;

    if (options.writes)
        return;
    if (options.copies == 2)
        memcpy(own_of(index), buffer_of(index), options.block_bytes);
    data = options.copies == 2 ? own_of(index) : buffer_of(index);
    client.checks_failed += check(data, number, options.block_bytes, options.copies == 2);
}

/* All that was prepared. What was finished since the last time counts as finished now. */
static void publish(void)
{
    uint64_t now = ticks(), from = client.published, flags = options.writes ? WORD_WRITE : 0;

    for (; client.recorded != client.reaped; client.recorded++)
        add_latency(&client.latencies, now - client.begin[client.recorded & mask]);
    if (options.streaming && options.writes)
        streaming_done();
    for (; client.published != client.submitted; client.published++) {
        uint64_t i = client.published & mask;

        client.begin[i] = now;
        /* After the data in the buffer, for look_words(). */
        __atomic_store_n(&shared->words[i], client.block[i] | flags | generation(client.published), __ATOMIC_RELEASE);
    }
    kick(&shared->server_event, from, client.published, server_fd, &client.kicks);
}

/* Keep `depth` requests outstanding until then. */
static void drive(uint64_t end_ns)
{
    for (unsigned turns = 0; turns % 16 || now_ns() < end_ns; turns++) {
        uint64_t done = wait_for(look_done, client.reaped, &shared->client_event, options.wake, client_fd);

        while (client.reaped != done) {
            finish(client.reaped++);
            prepare(client.submitted++);
            if (client.submitted - client.published >= options.batch)
                publish();
        }
        if (client.submitted != client.published)
            publish();
    }
}

static void drain(void)
{
    while (client.reaped != client.published) {
        uint64_t done = wait_for(look_done, client.reaped, &shared->client_event, 1, client_fd);

        while (client.reaped != done)
            finish(client.reaped++);
    }
}

static void report(uint64_t nr, double seconds, double ns_per_tick, double client_cpu_s, double server_cpu_s)
{
    printf("{\"iops\": %.1f, \"p50_ns\": %.1f, \"p99_ns\": %.1f, \"operations\": %lu, \"seconds\": %.6f, "
           "\"client_cpu_s\": %.6f, \"server_cpu_s\": %.6f, \"client_kicks\": %lu, \"server_kicks\": %lu, "
           "\"disk_huge\": %.3f, \"checks_failed\": %lu}\n",
           nr / seconds, percentile(&client.latencies, 0.5) * ns_per_tick,
           percentile(&client.latencies, 0.99) * ns_per_tick, nr, seconds, client_cpu_s, server_cpu_s, client.kicks,
           shared->kicks, shared->disk_huge, client.checks_failed + shared->checks_failed);
}

static void measure(pid_t pid)
{
    clockid_t server_clock;
    double client_cpu_s, server_cpu_s;
    uint64_t begin_ns, begin_ticks, begin_nr;

    if (clock_getcpuclockid(pid, &server_clock))
        fail("the server has no clock");
    while (client.submitted < options.depth)
        prepare(client.submitted++);
    publish();
    drive(now_ns() + (uint64_t)(options.seconds * 1e8)); /* a tenth is not counted, until the caches are full */
    client.latencies = (struct latencies){0};
    client.kicks = shared->kicks = 0;
    client_cpu_s = clock_s(CLOCK_PROCESS_CPUTIME_ID), server_cpu_s = clock_s(server_clock);
    begin_nr = client.reaped, begin_ticks = ticks(), begin_ns = now_ns();
    drive(begin_ns + (uint64_t)(options.seconds * 1e9));
    double ns = now_ns() - begin_ns, ns_per_tick = ns / (ticks() - begin_ticks);
    uint64_t nr = client.reaped - begin_nr;
    client_cpu_s = clock_s(CLOCK_PROCESS_CPUTIME_ID) - client_cpu_s;
    server_cpu_s = clock_s(server_clock) - server_cpu_s;
    drain();
    report(nr, ns / 1e9, ns_per_tick, client_cpu_s, server_cpu_s);
}

static void server_ended(int signal)
{
    static const char said[] = "the server ended too early\n";

    (void)signal;
    if (!ending) {
        if (write(2, said, sizeof(said) - 1) < 0)
            _exit(2);
        _exit(1);
    }
}

static const char *const OPS[] = {"read", "write", NULL}, *const ORDERS[] = {"random", "sequential", NULL},
                  *const STORES[] = {"plain", "streaming", NULL};

static void parse(int argc, char **argv)
{
    static const char *const names[] = {"op",   "order",   "block-bytes", "depth", "copies", "stores", "spin-us",
                                        "cpus", "seconds", "disk-bytes",  "slots", "batch",  "wake"};
    struct option known[sizeof(names) / sizeof(*names) + 1] = {0};
    int c;

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        known[i] = (struct option){names[i], required_argument, NULL, i};
    while ((c = getopt_long(argc, argv, "", known, NULL)) >= 0) {
        switch (c) {
        case 0: options.writes = parse_word("op", optarg, OPS) == 1; break;
        case 1: options.random = parse_word("order", optarg, ORDERS) == 0; break;
        case 2: options.block_bytes = parse_block_bytes(optarg); break;
        case 3: options.depth = parse_number("depth", optarg, 1, SLOTS_MAX); break;
        case 4: options.copies = parse_number("copies", optarg, 1, 2); break;
        case 5: options.streaming = parse_word("stores", optarg, STORES) == 1; break;
        case 6: options.spin_ns = parse_number("spin-us", optarg, 0, 1000000) * 1000; break;
        case 7: parse_cpus(optarg, options.cpus); break;
        case 8: options.seconds = parse_seconds(optarg); break;
        case 9: options.disk_bytes = parse_number("disk-bytes", optarg, 1 << 20, 1ul << 40); break;
        case 10: options.slots = parse_number("slots", optarg, 0, SLOTS_MAX); break;
        case 11: options.batch = parse_number("batch", optarg, 0, SLOTS_MAX); break;
        case 12: options.wake = parse_number("wake", optarg, 0, SLOTS_MAX); break;
        default: exit(2);
        }
    }
}

/* What was measured to be best, where nothing was said. Two CPUs work side by side: publish early, at once to a side
 * that would sleep otherwise, which is woken while the other still has work. On one CPU each switch is lost time: all
 * goes in one batch. */
static void settle(void)
{
    bool one_cpu = options.cpus[0] == options.cpus[1];
    unsigned slots = options.slots > options.depth ? options.slots : options.depth;

    if (one_cpu && options.spin_ns)
        fail("on one CPU who spins keeps the other from working: --spin-us 0 is needed");
    for (options.slots = 1; options.slots < slots;)
        options.slots *= 2;
    mask = options.slots - 1;
    if (!options.batch)
        options.batch = one_cpu ? options.depth : options.spin_ns == NEVER ? 8 : 1;
    if (!options.wake)
        options.wake = one_cpu ? options.depth : (options.depth + 1) / 2;
    if (options.wake > options.depth)
        options.wake = options.depth;
    if (options.disk_bytes % options.block_bytes)
        fail("--disk-bytes is a multiple of --block-bytes, not %zu", options.disk_bytes);
    client.blocks = (struct blocks){options.disk_bytes / options.block_bytes, 0, 1, options.random};
}

static void share_memory(void)
{
    size_t pool = options.slots * options.block_bytes, head = (sizeof(*shared) + PAGE - 1) / PAGE * PAGE;
    int fd = memfd_create("ideal", MFD_CLOEXEC);

    if (fd < 0 || ftruncate(fd, head + pool) < 0)
        fail("no shared memory: %s", strerror(errno));
    shared = mmap(NULL, head + pool, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (shared == MAP_FAILED)
        fail("no shared memory: %s", strerror(errno));
    close(fd);
    buffers = (char *)shared + head;
    shared->server_event = shared->client_event = NEVER;
    server_fd = eventfd(0, EFD_CLOEXEC), client_fd = eventfd(0, EFD_CLOEXEC);
    if (server_fd < 0 || client_fd < 0)
        fail("no eventfd: %s", strerror(errno));
}

static pid_t start_server(void)
{
    pid_t self = getpid(), pid;

    signal(SIGCHLD, server_ended);
    pid = fork();
    if (pid < 0)
        fail("no second process: %s", strerror(errno));
    if (pid == 0)
        server(self);
    return pid;
}

static void stop_server(pid_t pid)
{
    uint64_t one = 1;

    ending = true;
    __atomic_store_n(&shared->stop, true, __ATOMIC_RELAXED);
    if (write(server_fd, &one, 8) != 8 || waitpid(pid, NULL, 0) != pid)
        fail("the server did not end: %s", strerror(errno));
}

int main(int argc, char **argv)
{
    pid_t pid;

    parse(argc, argv);
    settle();
    set_deadline(options.seconds);
    share_memory();
    pid = start_server();
    pin(options.cpus[0]);
    own = map_anonymous(options.slots * options.block_bytes);
    while (!__atomic_load_n(&shared->ready, __ATOMIC_ACQUIRE)) /* with server(): after the disk */
        usleep(100);
    measure(pid);
    stop_server(pid);
    return 0;
}
