#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "xenblk/clock.h"
#include "xenblk/polling.h"

/* Leaves the core's shared resources to its other thread, and keeps the loop from running ahead on stale loads. */
static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void credit(struct xb_poller *poller, uint64_t earned_ns)
{
    uint64_t limit_ns = XB_POLLER_CREDIT * poller->poll_ns;

    poller->credit_ns += earned_ns;
    if (poller->credit_ns > limit_ns)
        poller->credit_ns = limit_ns;
}

static void credit_time(struct xb_poller *poller, uint64_t now_ns)
{
    credit(poller, (now_ns - poller->credited_at_ns) / XB_POLLER_SHARE);
    poller->credited_at_ns = now_ns;
}

/* Reads the clock only if the rest of the credit is too small: not while polls find something. */
static int may_poll(struct xb_poller *poller)
{
    if (poller->poll_ns == 0)
        return 0;
    if (poller->credit_ns < poller->poll_ns)
        credit_time(poller, poller->now_ns());
    return poller->credit_ns >= poller->poll_ns;
}

static void end_in_vain(struct xb_poller *poller, uint64_t now_ns)
{
    uint64_t measured_ns = now_ns - poller->start_ns;

    poller->statistics.vain++;
    /* The spins before the first reading of the clock took as long as the later ones. */
    poller->statistics.vain_ns += measured_ns + measured_ns * XB_POLLER_SPINS / (poller->spins - XB_POLLER_SPINS);
    /* Before the window is taken: what time gave while the credit was full must not be given afterwards. */
    credit_time(poller, now_ns);
    /* Not the measured time: that has in it what others ran when they took the CPU from us. */
    poller->credit_ns -= poller->poll_ns;
    poller->spins = 0;
}

static int within_window(struct xb_poller *poller)
{
    uint64_t now_ns = poller->now_ns();

    if (poller->spins == XB_POLLER_SPINS) {
        poller->start_ns = now_ns;
        return 1;
    }
    if (now_ns - poller->start_ns < poller->poll_ns)
        return 1;
    end_in_vain(poller, now_ns);
    return 0;
}

void xb_poller_init(struct xb_poller *poller, uint32_t poll_us)
{
    memset(poller, 0, sizeof(*poller));
    poller->now_ns = xb_monotonic_ns;
    poller->poll_ns = (uint64_t)poll_us * 1000;
    poller->credit_ns = XB_POLLER_CREDIT * poller->poll_ns;
}

void xb_poller_begin(struct xb_poller *poller)
{
    poller->spins = 0;
}

int xb_poller_again(struct xb_poller *poller)
{
    if (poller->spins == 0) {
        if (!may_poll(poller))
            return 0;
        poller->statistics.polls++;
    }
    pause_cpu();
    poller->spins++;
    return poller->spins % XB_POLLER_SPINS != 0 || within_window(poller);
}

void xb_poller_found(struct xb_poller *poller)
{
    /* What the first look saw was there without polling, and says nothing for it. */
    if (poller->spins == 0)
        return;
    poller->statistics.found++;
    credit(poller, poller->poll_ns);
    poller->spins = 0;
}

void xb_poller_slept(struct xb_poller *poller)
{
    poller->statistics.slept++;
}
