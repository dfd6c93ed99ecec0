/* Chooses between two ways to copy by what is measured to win: by the stores of xenblk/copying.h into shared pages, or
 * out of them with each page fetched ahead or not (1 or 0). What is said here of stores holds for that too.
 *
 * Which one wins depends on the work and on where the CPUs of the two ends are, which a virtual machine can neither
 * choose nor ask for; and what one end gains the other may lose. So it is the whole that is measured: the time from one
 * batch to the next while both ends are at work.
 *
 *     how = xb_copier_choose(copier, nr_requests, bytes);      (once a batch, xb_copier_slept after each sleep)
 *     xb_copy(how, page, from, n); ...
 *     xb_copy_fence(how);                                      (before the index is published)
 *
 * The time is taken over windows of some batches; a regime is what windows have in common: requests per batch, bytes
 * per request, whether there were sleeps. One window of another kind is thrown away; two in a row, and their regime is
 * entered, with what was learned there before. In each regime one of the two stores is in use, with a running mean of
 * what it costs. The other one is tried for a short window now and then. Its gain over the mean, less a margin, is
 * added up over the trials, not below 0, and it takes over when the sum reaches a bound: at once if it is far better,
 * and after some trials if it is a little better, but not by noise. After a trial there is none for XB_COPIER_SHARE
 * times what it lost (1024 windows at most), so trying costs 1 / XB_COPIER_SHARE of the time; and by up to 4 times as
 * long while they keep losing. This patience ends when the cost of the store in use changes by half, which is how the
 * CPUs' moving shows.
 *
 * The clock is read once a window. A copier belongs to one thread; it allocates nothing.
 */

#define XB_COPY_MEASURED 2

#define XB_COPIER_SHARE 64
#define XB_COPIER_REGIMES 18

struct xb_copier_regime {
    int how;           /* the store in use */
    uint32_t strays;   /* windows in a row whose cost was far from `cost` */
    uint32_t patience; /* trials in a row that lost, to 2 */
    int32_t score;     /* of the other store, in 1/1024 */
    uint64_t cost;     /* of the store in use, 2^-16 ns for each unit of work; 0: not known yet */
    uint64_t tried_ns; /* when the other one was tried last */
    uint64_t gap_ns;   /* to the next trial, without patience */
};

struct xb_copier_statistics {
    uint64_t windows;  /* that were judged, without trials */
    uint64_t trials;   /* that were judged */
    uint64_t dropped;  /* windows and trials of another kind than the regime */
    uint64_t switches; /* the other store took over */
};

/* What came to be copied since start_ns. */
struct xb_copier_window {
    uint64_t start_ns;
    uint64_t batches;
    uint64_t requests;
    uint64_t bytes;
    uint64_t sleeps;
};

struct xb_copier {
    int how;            /* the store in use now */
    int fixed;          /* nothing is measured */
    int settling;       /* the store changed, and the requests of before are still in flight */
    int trying;         /* this is a trial */
    uint32_t regime;    /* an index of `regimes` */
    uint32_t candidate; /* the regime of the last window by itself */
    uint64_t judged;    /* windows since the regime was entered */
    struct xb_copier_window window;
    uint64_t (*now_ns)(void); /* CLOCK_MONOTONIC; a test may set another */
    struct xb_copier_regime regimes[XB_COPIER_REGIMES];
    struct xb_copier_statistics statistics;
};

/* A copier that always says `how`, or one that finds out (XB_COPY_MEASURED). */
void xb_copier_init(struct xb_copier *copier, int how);

/* The store for a batch of `nr_requests` that copies `bytes` in all; both above 0. */
int xb_copier_choose(struct xb_copier *copier, uint32_t nr_requests, uint64_t bytes);

/* This thread slept since the last batch. */
void xb_copier_slept(struct xb_copier *copier);
