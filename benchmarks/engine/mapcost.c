/*
 * What it costs to map pages of another's memory, touch them and take them out again, with no block I/O around it.
 *
 *     mapcost [--batch N] [--access write|read|none] [--unmap each|run] [--order scattered|neighbours]
 *             [--threads 1|2] [--cpus A,B] [--seconds S]
 *
 * A batch is N pages of a memfd, each mapped by one mmap(MAP_FIXED | MAP_POPULATE) into a reserved range, then
 * each touched, then covered with PROT_NONE memory again: one system call for each page, or one for the run.
 * Neighbours in the range are neighbours in the file, or not: the kernel makes one mapping of neighbours. With two
 * threads both do the same, each in a range of its own. One line of JSON. "ns_per_page" is the time of a thread,
 * "shootdowns_per_page" counts the machine's TLB interrupts, null if the kernel does not say.
 */
#include "bench.h"

#define BATCH_MAX 1024

static struct options {
    int batch, threads, access, cpus[2];
    bool run, scattered;
    double seconds;
} options = {.batch = 1, .threads = 1, .cpus = {0, 1}, .scattered = true, .seconds = 1};

enum { WRITE, READ, NONE };

static struct worker {
    pthread_t thread;
    int cpu;
    char *range;
    uint64_t nr_pages;
    double begin_s, end_s, cpu_s;
} workers[2];

static int fd;
static pthread_barrier_t barrier;
static _Atomic bool over;

/* All CPUs' together; -1 if the kernel does not count them. */
static long shootdowns(void)
{
    FILE *file = fopen("/proc/interrupts", "r");
    char line[16384], *next, *at;
    long sum = -1, one;

    while (file && fgets(line, sizeof(line), file))
        if ((at = strstr(line, "TLB:")))
            for (sum = 0, at += 4; one = strtol(at, &next, 10), next != at; at = next)
                sum += one;
    if (file)
        fclose(file);
    return sum;
}

/* The page of the file that goes to a place of the range; scattered, no two neighbours follow each other. */
static off_t offset_of(int place)
{
    return (options.scattered ? options.batch - 1 - place : place) * PAGE;
}

static void map_page(char *range, int place)
{
    char *at = range + place * PAGE;

    if (mmap(at, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, offset_of(place)) != at)
        fail("a page could not be mapped: %s", strerror(errno));
}

static void unmap(char *at, int nr_pages)
{
    if (mmap(at, nr_pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != at)
        fail("a page could not be unmapped: %s", strerror(errno));
}

static void touch(char *range)
{
    for (int i = 0; options.access != NONE && i < options.batch; i++) {
        volatile uint64_t *at = (volatile uint64_t *)(range + i * PAGE);

        if (at[1] != (uint64_t)offset_of(i))
            fail("another page was mapped than the one asked for");
        if (options.access == WRITE)
            at[0]++;
    }
}

static void one_batch(char *range)
{
    for (int i = 0; i < options.batch; i++)
        map_page(range, i);
    touch(range);
    if (options.run)
        unmap(range, options.batch);
    else
        for (int i = 0; i < options.batch; i++)
            unmap(range + i * PAGE, 1);
}

static void *work(void *argument)
{
    struct worker *w = argument;

    pin(w->cpu);
    one_batch(w->range);
    pthread_barrier_wait(&barrier);
    w->begin_s = clock_s(CLOCK_MONOTONIC), w->cpu_s = clock_s(CLOCK_THREAD_CPUTIME_ID);
    for (; !over; w->nr_pages += options.batch) {
        one_batch(w->range);
        if (clock_s(CLOCK_MONOTONIC) - w->begin_s >= options.seconds)
            over = true;
    }
    w->end_s = clock_s(CLOCK_MONOTONIC), w->cpu_s = clock_s(CLOCK_THREAD_CPUTIME_ID) - w->cpu_s;
    return NULL;
}

static void make_file(void)
{
    fd = memfd_create("mapcost", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, options.batch * PAGE) < 0)
        fail("no shared memory: %s", strerror(errno));
    for (uint64_t i = 0, offset; i < (uint64_t)options.batch; i++) {
        offset = i * PAGE;
        if (pwrite(fd, &offset, 8, offset + 8) != 8)
            fail("no shared memory: %s", strerror(errno));
    }
}

static void start(struct worker *w, int cpu)
{
    w->cpu = cpu;
    /* A page more: what lies behind the range is no neighbour of it. */
    w->range = mmap(NULL, (options.batch + 1) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (w->range == MAP_FAILED || (errno = pthread_create(&w->thread, NULL, work, w)))
        fail("no thread: %s", strerror(errno));
}

static void report(long nr_shootdowns)
{
    double wall_s = 0, cpu_s = 0;
    uint64_t nr_pages = 0;

    for (int i = 0; i < options.threads; i++) {
        wall_s += workers[i].end_s - workers[i].begin_s;
        cpu_s += workers[i].cpu_s;
        nr_pages += workers[i].nr_pages;
    }
    printf("{\"ns_per_page\": %.1f, \"cpu_ns_per_page\": %.1f, \"pages\": %lu, \"shootdowns_per_page\": ",
           wall_s * 1e9 / nr_pages, cpu_s * 1e9 / nr_pages, nr_pages);
    printf(nr_shootdowns < 0 ? "null}\n" : "%.4f}\n", (double)nr_shootdowns / nr_pages);
}

static const char *const ACCESSES[] = {"write", "read", "none", NULL}, *const UNMAPS[] = {"each", "run", NULL},
                  *const ORDERS[] = {"scattered", "neighbours", NULL};

static void parse(int argc, char **argv)
{
    static const struct option known[] = {{"batch", 1, NULL, 'b'},   {"access", 1, NULL, 'a'}, {"unmap", 1, NULL, 'u'},
                                          {"order", 1, NULL, 'o'},   {"threads", 1, NULL, 't'}, {"cpus", 1, NULL, 'c'},
                                          {"seconds", 1, NULL, 's'}, {0}};
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) >= 0) {
        switch (c) {
        case 'b': options.batch = parse_number("batch", optarg, 1, BATCH_MAX); break;
        case 'a': options.access = parse_word("access", optarg, ACCESSES); break;
        case 'u': options.run = parse_word("unmap", optarg, UNMAPS) == 1; break;
        case 'o': options.scattered = parse_word("order", optarg, ORDERS) == 0; break;
        case 't': options.threads = parse_number("threads", optarg, 1, 2); break;
        case 'c': parse_cpus(optarg, options.cpus); break;
        case 's': options.seconds = parse_seconds(optarg); break;
        default: exit(2);
        }
    }
}

int main(int argc, char **argv)
{
    long before;

    parse(argc, argv);
    set_deadline(options.seconds);
    make_file();
    pthread_barrier_init(&barrier, NULL, options.threads + 1);
    for (int i = 0; i < options.threads; i++)
        start(&workers[i], options.cpus[i]);
    before = shootdowns();
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < options.threads; i++)
        pthread_join(workers[i].thread, NULL);
    report(before < 0 ? -1 : shootdowns() - before);
    return 0;
}
