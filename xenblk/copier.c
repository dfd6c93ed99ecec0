#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "xenblk/clock.h"
#include "xenblk/copier.h"
#include "xenblk/copying.h"

/* A window has the requests of two rings of one page, and some batches: one may be early or late. */
#define WINDOW_REQUESTS 64
#define WINDOW_BATCHES 4
#define SETTLING_REQUESTS 32
#define SETTLING_BATCHES 2
#define SHORTEST_GAP 4 /* windows */
#define LONGEST_GAP 1024
#define PATIENCE 2
#define STRAYS 3

/* A request without its bytes is worth one page of copying, and no window counts for more than a second. */
#define REQUEST_WORK 4096
#define LONGEST_NS 1000000000

/* In 1/1024: what a trial must be better by to count, what it may count at most, what the other store needs to win. */
#define SCORE_ONE 1024
#define SCORE_MARGIN 30
#define SCORE_MOST 400
#define SCORE_WINS 300

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

void xb_copier_init(struct xb_copier *copier, int how)
{
    memset(copier, 0, sizeof(*copier));
    copier->fixed = how != XB_COPY_MEASURED;
    copier->how = copier->fixed ? how : XB_COPY_PLAIN;
    copier->now_ns = xb_monotonic_ns;
    copier->settling = 1;
}

static void start_window(struct xb_copier *copier, int how, uint64_t now_ns)
{
    copier->settling = how != copier->how;
    copier->how = how;
    copier->window = (struct xb_copier_window){.start_ns = now_ns};
}

static uint64_t window_work(const struct xb_copier_window *window)
{
    return window->requests * REQUEST_WORK + window->bytes;
}

/* Slept or not (0, 1), small, middle or large requests (0, 2, 4), a batch of one, of some or of many (0, 6, 12). */
static uint32_t window_kind(const struct xb_copier_window *window)
{
    uint32_t size = window->bytes <= 8192 * window->requests ? 0 : window->bytes <= 32768 * window->requests ? 1 : 2;
    uint32_t depth = 2 * window->requests < 3 * window->batches ? 0 : window->requests < 6 * window->batches ? 1 : 2;

    return (window->sleeps != 0) + 2 * size + 6 * depth;
}

/* A window far from the mean is left out; if all of them are, the machine has changed and the mean begins anew. */
static void learn_cost(struct xb_copier_regime *regime, uint64_t cost)
{
    int stray = 2 * cost > 3 * regime->cost || 3 * cost < 2 * regime->cost;

    regime->strays = stray ? regime->strays + 1 : 0;
    if (regime->cost == 0 || regime->strays == STRAYS) {
        regime->cost = cost;
        regime->strays = 0;
        regime->patience = 0;
        regime->score = 0;
    } else if (!stray) {
        regime->cost += cost / 8 - regime->cost / 8;
    }
}

/* Two times what the window lost, because the settling before it lost as well. */
static void set_gap(struct xb_copier_regime *regime, int64_t elapsed_ns, int64_t expected_ns, uint64_t now_ns)
{
    int64_t lost_ns = 2 * (elapsed_ns - expected_ns);

    regime->tried_ns = now_ns;
    regime->gap_ns = (uint64_t)clamp(XB_COPIER_SHARE * lost_ns, SHORTEST_GAP * expected_ns, LONGEST_GAP * expected_ns);
}

/* A regime whose store leads out of it again, by batches or sleeps that another store would not cause, is forgotten;
 * one of which nothing is known begins with the store in use. So no two regimes throw us to and fro. */
static void enter_regime(struct xb_copier *copier, uint32_t kind)
{
    if (copier->judged == 0)
        copier->regimes[copier->regime].cost = 0;
    copier->regime = kind;
    copier->judged = 0;
    if (copier->regimes[kind].cost == 0)
        copier->regimes[kind].how = copier->how;
}

static void judge_window(struct xb_copier *copier, int64_t elapsed_ns, uint64_t cost, uint64_t now_ns)
{
    uint32_t kind = window_kind(&copier->window);
    struct xb_copier_regime *regime;

    if (kind != copier->regime && kind == copier->candidate)
        enter_regime(copier, kind);
    copier->candidate = kind;
    regime = &copier->regimes[copier->regime];
    if (kind != copier->regime || regime->how != copier->how) {
        copier->statistics.dropped++;
        start_window(copier, regime->how, now_ns);
        return;
    }
    copier->statistics.windows++;
    copier->judged++;
    if (regime->cost == 0)
        set_gap(regime, elapsed_ns, elapsed_ns, now_ns);
    learn_cost(regime, cost);
    copier->trying = now_ns - regime->tried_ns >= regime->gap_ns << regime->patience && regime->strays == 0;
    start_window(copier, copier->trying ? !regime->how : regime->how, now_ns);
}

static void score_trial(struct xb_copier *copier, struct xb_copier_regime *regime, uint64_t cost)
{
    int64_t score = SCORE_ONE - SCORE_MARGIN - (int64_t)(cost * SCORE_ONE / regime->cost);

    regime->score = (int32_t)clamp(regime->score + clamp(score, -SCORE_MOST, SCORE_MOST), 0, SCORE_WINS);
    if (regime->score == 0) {
        regime->patience += regime->patience < PATIENCE;
        return;
    }
    regime->patience = 0;
    if (regime->score < SCORE_WINS)
        return;
    copier->statistics.switches++;
    regime->how = !regime->how;
    regime->cost = cost;
    regime->score = 0;
}

/* The batches may follow from the store, and so may the end of sleeping; a new sleep may be for lack of work. */
static int is_comparable(uint32_t trial, uint32_t regime)
{
    return trial % 6 / 2 == regime % 6 / 2 && trial % 2 <= regime % 2;
}

static void judge_trial(struct xb_copier *copier, int64_t elapsed_ns, uint64_t cost, uint64_t now_ns)
{
    struct xb_copier_regime *regime = &copier->regimes[copier->regime];

    set_gap(regime, elapsed_ns, (int64_t)(regime->cost * window_work(&copier->window) >> 16), now_ns);
    if (is_comparable(window_kind(&copier->window), copier->regime)) {
        copier->statistics.trials++;
        score_trial(copier, regime, cost);
    } else {
        copier->statistics.dropped++;
    }
    copier->trying = 0;
    start_window(copier, regime->how, now_ns);
}

static void end_window(struct xb_copier *copier)
{
    uint64_t now_ns = copier->now_ns();
    int64_t elapsed_ns = clamp((int64_t)(now_ns - copier->window.start_ns), 0, LONGEST_NS);
    uint64_t cost = ((uint64_t)elapsed_ns << 16) / window_work(&copier->window) + 1;

    if (copier->settling)
        start_window(copier, copier->how, now_ns);
    else if (copier->trying)
        judge_trial(copier, elapsed_ns, cost, now_ns);
    else
        judge_window(copier, elapsed_ns, cost, now_ns);
}

static int is_complete(const struct xb_copier_window *window, int settling)
{
    if (settling)
        return window->requests >= SETTLING_REQUESTS && window->batches >= SETTLING_BATCHES;
    return window->requests >= WINDOW_REQUESTS && window->batches >= WINDOW_BATCHES;
}

/* A window goes from the start of a batch to the start of another: what the peer did with them is within it. */
int xb_copier_choose(struct xb_copier *copier, uint32_t nr_requests, uint64_t bytes)
{
    if (copier->fixed)
        return copier->how;
    if (is_complete(&copier->window, copier->settling))
        end_window(copier);
    copier->window.batches++;
    copier->window.requests += nr_requests;
    copier->window.bytes += bytes;
    return copier->how;
}

void xb_copier_slept(struct xb_copier *copier)
{
    copier->window.sleeps++;
}
