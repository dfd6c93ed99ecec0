/*
 * The same block I/O with no second process: one thread and one file.
 *
 *     direct FILE [--how io_uring|psync|mmap] [--op read|write] [--order random|sequential] [--block-bytes N]
 *            [--depth N] [--wait N] [--direct 0|1] [--cpu N] [--fill BYTES] [--check 0|1] [--seconds S]
 *
 * io_uring is asked by its system calls alone, for whole batches: all that was answered is asked again and then so
 * many answers waited for as --wait says. psync is pread() and pwrite(), mmap is memcpy() from and to the mapped
 * file; both have a depth of one. All data go through memory of the thread's own, one buffer for each request of
 * the depth. --fill writes so many bytes of stamps (see ideal.c) before anything is measured. Stamps are checked
 * where the file was filled, or --check says that it was. Without --cpu the thread runs where it likes, and so do
 * the kernel's workers. One line of JSON. Latency is from the call that asks until the data were used.
 */
#include "bench.h"
#include "stamp.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define DEPTH_MAX 4096

static const char *const HOWS[] = {"io_uring", "psync", "mmap", NULL}, *const OPS[] = {"read", "write", NULL},
                  *const ORDERS[] = {"random", "sequential", NULL};
enum { IO_URING, PSYNC, MMAP };

static struct options {
    int how, cpu;
    bool writes, random, direct, check;
    unsigned depth, wait;
    size_t block_bytes, fill_bytes;
    double seconds;
} options = {.cpu = -1, .random = true, .depth = 1, .wait = 1, .block_bytes = PAGE, .seconds = 1};

static struct uring {
    int fd;
    unsigned *sq_tail, *sq_mask, *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
} uring;

static int file;
static char *buffers, *mapped;
static struct blocks blocks;
static struct latencies latencies;
static uint64_t nr_done, nr_calls, checks_failed, block_of[DEPTH_MAX], begin_of[DEPTH_MAX];

static char *buffer_of(unsigned slot)
{
    return buffers + slot * options.block_bytes;
}

static void prepare(unsigned slot)
{
    block_of[slot] = next_block(&blocks);
    if (options.writes)
        stamp(buffer_of(slot), block_of[slot], options.block_bytes, true);
}

static void finish(unsigned slot)
{
    if (!options.writes && options.check)
        checks_failed += check(buffer_of(slot), block_of[slot], options.block_bytes, true);
    nr_done++;
}

/* --- one call for each request --- */

static void move_block(uint64_t number)
{
    char *buffer = buffer_of(0), *block = mapped + number * options.block_bytes;
    off_t offset = number * options.block_bytes;
    ssize_t moved = options.block_bytes;

    nr_calls += options.how == PSYNC;
    if (options.how == MMAP)
        memcpy(options.writes ? block : buffer, options.writes ? buffer : block, options.block_bytes);
    else
        moved = options.writes ? pwrite(file, buffer, options.block_bytes, offset)
                               : pread(file, buffer, options.block_bytes, offset);
    if (moved != (ssize_t)options.block_bytes)
        fail("%zd of %zu bytes were moved: %s", moved, options.block_bytes, strerror(errno));
}

static void call(uint64_t end_ns)
{
    for (unsigned turns = 0; turns % 16 || now_ns() < end_ns; turns++) {
        uint64_t begin = ticks();

        prepare(0);
        move_block(block_of[0]);
        finish(0);
        add_latency(&latencies, ticks() - begin);
    }
}

/* --- io_uring --- */

static void *map_uring(size_t size, off_t what)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, uring.fd, what);

    if (memory == MAP_FAILED)
        fail("io_uring's memory cannot be mapped: %s", strerror(errno));
    return memory;
}

static void open_uring(void)
{
    struct io_uring_params p = {0};
    unsigned *array;
    char *sq, *cq;

    uring.fd = syscall(SYS_io_uring_setup, options.depth, &p);
    if (uring.fd < 0)
        fail("no io_uring: %s", strerror(errno));
    sq = map_uring(p.sq_off.array + p.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    cq = map_uring(p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
    uring.sqes = map_uring(p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    uring.sq_tail = (unsigned *)(sq + p.sq_off.tail);
    uring.sq_mask = (unsigned *)(sq + p.sq_off.ring_mask);
    uring.cq_head = (unsigned *)(cq + p.cq_off.head);
    uring.cq_tail = (unsigned *)(cq + p.cq_off.tail);
    uring.cq_mask = (unsigned *)(cq + p.cq_off.ring_mask);
    uring.cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
    array = (unsigned *)(sq + p.sq_off.array);
    for (unsigned i = 0; i < p.sq_entries; i++)
        array[i] = i;
}

static void ask(unsigned slot, unsigned tail)
{
    prepare(slot);
    uring.sqes[tail & *uring.sq_mask] = (struct io_uring_sqe){
        .opcode = options.writes ? IORING_OP_WRITE : IORING_OP_READ,
        .fd = file,
        .off = block_of[slot] * options.block_bytes,
        .addr = (uintptr_t)buffer_of(slot),
        .len = options.block_bytes,
        .user_data = slot,
    };
}

/* The kernel takes all of them inside this call, which waits for at least so many answers. */
static void enter(unsigned nr_asked, unsigned nr_wanted)
{
    int taken;

    do {
        nr_calls++;
        taken = syscall(SYS_io_uring_enter, uring.fd, nr_asked, nr_wanted, IORING_ENTER_GETEVENTS, NULL, 0);
    } while (taken < 0 && errno == EINTR);
    if (taken != (int)nr_asked)
        fail("io_uring took %d of %u requests: %s", taken, nr_asked, strerror(errno));
}

/* All answers that are there, each asked again if so wished; how many. */
static unsigned take_answers(bool again)
{
    unsigned head = *uring.cq_head, tail = *uring.sq_tail, nr = 0;
    unsigned end = __atomic_load_n(uring.cq_tail, __ATOMIC_ACQUIRE); /* the kernel's store releases the entries */

    for (; head != end; head++, nr++) {
        struct io_uring_cqe *cqe = &uring.cqes[head & *uring.cq_mask];
        unsigned slot = cqe->user_data;

        if (cqe->res != (int)options.block_bytes)
            fail("a request was answered with %d, not %zu", cqe->res, options.block_bytes);
        finish(slot);
        add_latency(&latencies, ticks() - begin_of[slot]);
        if (!again)
            continue;
        ask(slot, tail++);
        begin_of[slot] = ticks();
    }
    __atomic_store_n(uring.cq_head, head, __ATOMIC_RELEASE); /* the kernel writes there again after they were read */
    __atomic_store_n(uring.sq_tail, tail, __ATOMIC_RELEASE); /* the kernel reads the entries after this */
    return nr;
}

static void batches(uint64_t end_ns)
{
    unsigned nr = options.depth, outstanding = options.depth;

    for (unsigned slot = 0; slot < options.depth; slot++) {
        ask(slot, *uring.sq_tail + slot);
        begin_of[slot] = ticks();
    }
    __atomic_store_n(uring.sq_tail, *uring.sq_tail + options.depth, __ATOMIC_RELEASE); /* as in take_answers() */
    while (now_ns() < end_ns) {
        enter(nr, options.wait);
        nr = take_answers(true);
    }
    enter(nr, outstanding);
    while (outstanding)
        outstanding -= take_answers(false);
}

/* --- */

static void fill(void)
{
    char *block = map_anonymous(options.block_bytes);

    for (uint64_t i = 0; i < options.fill_bytes / options.block_bytes; i++) {
        stamp(block, i, options.block_bytes, true);
        if (pwrite(file, block, options.block_bytes, i * options.block_bytes) != (ssize_t)options.block_bytes)
            fail("the file could not be filled: %s", strerror(errno));
    }
}

static void open_file(const char *path)
{
    struct stat about;

    file = open(path, O_RDWR | O_CLOEXEC | (options.fill_bytes ? O_CREAT : 0) | (options.direct ? O_DIRECT : 0), 0600);
    if (file < 0)
        fail("%s: %s", path, strerror(errno));
    fill();
    if (fstat(file, &about) < 0 || (size_t)about.st_size < options.block_bytes)
        fail("%s has less than a block", path);
    blocks = (struct blocks){about.st_size / options.block_bytes, 0, 1, options.random};
    if (options.how != MMAP)
        return;
    mapped = mmap(NULL, about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    if (mapped == MAP_FAILED)
        fail("%s cannot be mapped: %s", path, strerror(errno));
}

static void measure(void)
{
    void (*run)(uint64_t) = options.how == IO_URING ? batches : call;
    uint64_t begin_ns, begin_ticks;
    double cpu_s, ns, ns_per_tick;

    run(now_ns() + (uint64_t)(options.seconds * 1e8)); /* a tenth, not counted */
    latencies = (struct latencies){0}, nr_done = nr_calls = 0;
    cpu_s = clock_s(CLOCK_PROCESS_CPUTIME_ID), begin_ticks = ticks(), begin_ns = now_ns();
    run(begin_ns + (uint64_t)(options.seconds * 1e9));
    ns = now_ns() - begin_ns, ns_per_tick = ns / (ticks() - begin_ticks);
    cpu_s = clock_s(CLOCK_PROCESS_CPUTIME_ID) - cpu_s;
    printf("{\"iops\": %.1f, \"p50_ns\": %.1f, \"p99_ns\": %.1f, \"operations\": %lu, \"seconds\": %.6f, "
           "\"cpu_s\": %.6f, \"system_calls\": %lu, \"checks_failed\": %lu}\n",
           nr_done * 1e9 / ns, percentile(&latencies, 0.5) * ns_per_tick, percentile(&latencies, 0.99) * ns_per_tick,
           nr_done, ns / 1e9, cpu_s, nr_calls, checks_failed);
}

static void parse(int argc, char **argv)
{
    static const struct option known[] = {{"how", 1, NULL, 'h'},     {"op", 1, NULL, 'o'},    {"order", 1, NULL, 'r'},
                                          {"block-bytes", 1, NULL, 'b'}, {"depth", 1, NULL, 'd'},
                                          {"wait", 1, NULL, 'w'},
                                          {"direct", 1, NULL, 'D'},
                                          {"cpu", 1, NULL, 'c'},     {"seconds", 1, NULL, 's'}, {"fill", 1, NULL, 'f'},
                                          {"check", 1, NULL, 'C'}, {0}};
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) >= 0) {
        switch (c) {
        case 'h': options.how = parse_word("how", optarg, HOWS); break;
        case 'o': options.writes = parse_word("op", optarg, OPS) == 1; break;
        case 'r': options.random = parse_word("order", optarg, ORDERS) == 0; break;
        case 'b': options.block_bytes = parse_block_bytes(optarg); break;
        case 'd': options.depth = parse_number("depth", optarg, 1, DEPTH_MAX); break;
        case 'w': options.wait = parse_number("wait", optarg, 1, DEPTH_MAX); break;
        case 'D': options.direct = parse_number("direct", optarg, 0, 1); break;
        case 'c': options.cpu = parse_number("cpu", optarg, 0, CPU_SETSIZE - 1); break;
        case 's': options.seconds = parse_seconds(optarg); break;
        case 'f': options.fill_bytes = parse_number("fill", optarg, 0, 1ul << 40); break;
        case 'C': options.check = parse_number("check", optarg, 0, 1); break;
        default: exit(2);
        }
    }
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    if (optind != argc - 1)
        fail("usage: direct FILE [--how io_uring|psync|mmap] ...");
    if (options.how != IO_URING && options.depth != 1)
        fail("only io_uring has more than one request at a time");
    set_deadline(options.seconds);
    options.check |= options.fill_bytes > 0;
    if (options.wait > options.depth)
        fail("--wait is at most --depth, %u, not %u", options.depth, options.wait);
    if (options.cpu >= 0)
        pin(options.cpu);
    buffers = map_anonymous(options.depth * options.block_bytes);
    open_file(argv[optind]);
    if (options.how == IO_URING)
        open_uring();
    measure();
    return 0;
}
