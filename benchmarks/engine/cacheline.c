/*
 * How long one cache line takes from one CPU to the other and back, in nanoseconds: the median of short windows.
 *
 *     cacheline CPU,CPU
 *
 * One line of JSON: "round_trip_ns", and the least and the most of the windows.
 */
#include "bench.h"

#define NR_WINDOWS    15
#define NR_ROUNDTRIPS 4000

static __attribute__((aligned(128))) uint32_t line;
static int cpus[2];

static void bounce(uint32_t mine)
{
    for (int i = 0; i < NR_ROUNDTRIPS; i++) {
        while (__atomic_load_n(&line, __ATOMIC_ACQUIRE) % 2 != mine)
            ;
        __atomic_fetch_add(&line, 1, __ATOMIC_RELEASE);
    }
}

static void *answer(void *unused)
{
    pin(cpus[1]);
    for (int i = 0; i < NR_WINDOWS; i++)
        bounce(1);
    return unused;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    double windows_ns[NR_WINDOWS];
    pthread_t thread;

    if (argc != 2)
        fail("usage: cacheline CPU,CPU");
    parse_cpus(argv[1], cpus);
    if (cpus[0] == cpus[1])
        fail("a line has nowhere to go from CPU %d to itself", cpus[0]);
    set_deadline(0);
    pin(cpus[0]);
    if ((errno = pthread_create(&thread, NULL, answer, NULL)))
        fail("no thread: %s", strerror(errno));
    for (int i = 0; i < NR_WINDOWS; i++) {
        uint64_t begin_ns = now_ns();

        bounce(0);
        windows_ns[i] = (double)(now_ns() - begin_ns) / NR_ROUNDTRIPS;
    }
    pthread_join(thread, NULL);
    qsort(windows_ns, NR_WINDOWS, sizeof(*windows_ns), compare);
    printf("{\"round_trip_ns\": %.1f, \"least_ns\": %.1f, \"most_ns\": %.1f}\n", windows_ns[NR_WINDOWS / 2],
           windows_ns[0], windows_ns[NR_WINDOWS - 1]);
    return 0;
}
