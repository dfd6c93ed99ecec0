#include "xenblk/blkback/internal.h"

/* Records go round: free, in use by a request, and free again; or, charged by hand, spent until somebody charges one.
 * Then two threads are at work, so spent and charged are stacks that one side pushes to and the other empties whole:
 * taking all at once leaves no record that could be pushed again while somebody still holds its old place. */

static void push(struct record_stack *stack, struct record *record)
{
    record->next = __atomic_load_n(&stack->top, __ATOMIC_RELAXED);
    /* Release: who takes the record, in take_all, sees what we wrote to it. */
    while (!__atomic_compare_exchange_n(&stack->top, &record->next, record, 1, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        ;
}

static struct record *take_all(struct record_stack *stack)
{
    return __atomic_exchange_n(&stack->top, NULL, __ATOMIC_ACQUIRE); /* partner: push */
}

static struct record *pop(struct record_stack *owned)
{
    struct record *record = owned->top;

    if (record)
        owned->top = record->next;
    return record;
}

void records_init(struct xb_back *back, const struct many *many, uint8_t *bounce)
{
    struct record_stack *stack = back->config.charged_by_hand ? &back->spent : &back->free;

    for (uint32_t i = back->config.nr_records; i-- > 0;) {
        struct record *record = &back->records[i];
        size_t at = (size_t)i * back->config.max_indirect_segments;

        record->many = (struct many){many->segments + at, many->lent + at, many->iov + at};
        if (bounce)
            record->bounce = bounce + (size_t)i * back->max_segments * PAGE_BYTES;
        push(stack, record);
    }
}

/* In the order in which they were charged. */
static void collect_charged(struct xb_back *back)
{
    struct record *record = take_all(&back->charged);

    while (record) {
        struct record *older = record->next;

        record->next = back->free.top;
        back->free.top = record;
        record = older;
    }
}

struct record *record_take(struct xb_back *back)
{
    if (!back->free.top && back->config.charged_by_hand)
        collect_charged(back);
    return pop(&back->free);
}

void record_give(struct xb_back *back, struct record *record)
{
    buffers_shrink(back, record);
    if (back->config.charged_by_hand)
        push(&back->spent, record);
    else {
        record->next = back->free.top;
        back->free.top = record;
    }
}

int xb_back_charge(struct xb_back *back, uint64_t user_id)
{
    struct record *record, *rest;

    pthread_mutex_lock(&back->charging);
    record = take_all(&back->spent);
    for (rest = record ? record->next : NULL; rest;) {
        struct record *next = rest->next;

        push(&back->spent, rest);
        rest = next;
    }
    pthread_mutex_unlock(&back->charging);
    if (!record)
        return 0;
    record->user_id = user_id;
    push(&back->charged, record);
    return 1;
}

int xb_back_live(struct xb_back *back, uint64_t *user_id)
{
    if (back->nr_live_told == back->nr_live) {
        back->nr_live_told = back->nr_live = 0;
        return 0;
    }
    *user_id = back->live[back->nr_live_told++];
    return 1;
}

int xb_back_discharge(struct xb_back *back, uint64_t *user_id)
{
    struct record *record = record_take(back);

    if (!record || !back->config.charged_by_hand)
        return 0;
    *user_id = record->user_id;
    push(&back->spent, record);
    return 1;
}
