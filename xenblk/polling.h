/* Busy polling before sleeping: a poller says how long a ring may be looked at in vain, and whether at all.
 *
 *     xb_poller_begin(poller);
 *     while (!xb_back_ring_look(ring))
 *         if (!xb_poller_again(poller))
 *             goto sleep;                      (final_check, wait, then xb_poller_slept)
 *     xb_poller_found(poller);
 *
 * A poll lasts up to poll_us, or is not tried at all; there is nothing between, because a window that is too short for
 * the peer is all in vain. Whether it is tried depends on a credit, counted in polling time: a poll in vain takes one
 * window from it, a poll that finds something gives one window back, and time gives 1 / XB_POLLER_SHARE of itself; it
 * holds XB_POLLER_CREDIT windows at most, and starts with these. So, over any time,
 *
 *     polls in vain <= XB_POLLER_CREDIT + polls that found + time / (XB_POLLER_SHARE * poll_us)
 *
 * and a ring whose polls find nothing, be it idle or be its peer on our own CPU where it runs only while we sleep,
 * costs 1 / XB_POLLER_SHARE of one CPU; while at least every second poll finds something, each one is tried. A peer
 * that becomes fast is noticed by the next poll that time pays for: after XB_POLLER_SHARE * poll_us at most.
 *
 * The clock is read once in XB_POLLER_SPINS spins, never in a poll that finds something before that, and a window is
 * two times so many spins long at least. A poller belongs to one thread.
 */

#define XB_POLLER_SPINS 32
#define XB_POLLER_CREDIT 4
#define XB_POLLER_SHARE 128

struct xb_poller_statistics {
    uint64_t polls;    /* tried: found + vain + one that may be under way */
    uint64_t found;    /* that found something after one spin or more */
    uint64_t vain;     /* that lasted to the end of the window */
    uint64_t slept;    /* sleeps */
    uint64_t vain_ns;  /* time of the polls in vain */
};

struct xb_poller {
    uint64_t poll_ns;         /* the window; 0: never poll */
    uint64_t credit_ns;       /* polling in vain that is paid for */
    uint64_t credited_at_ns;  /* time is credited up to here */
    uint64_t start_ns;        /* when the clock was read first in this poll, after XB_POLLER_SPINS */
    uint64_t spins;           /* in this poll; 0: none is under way */
    uint64_t (*now_ns)(void); /* CLOCK_MONOTONIC; a test may set another before the first poll */
    struct xb_poller_statistics statistics;
};

/* A poller whose polls last `poll_us`; 0 never polls. */
void xb_poller_init(struct xb_poller *poller, uint32_t poll_us);

/* Before the first look. */
void xb_poller_begin(struct xb_poller *poller);

/* After a look that saw nothing: returns 1 to look again, after a pause, or 0 to go to sleep. */
int xb_poller_again(struct xb_poller *poller);

/* After a look that saw something. */
void xb_poller_found(struct xb_poller *poller);

/* After a sleep. */
void xb_poller_slept(struct xb_poller *poller);
