#include <poll.h>

#include "xenblk/blkback/internal.h"
#include "xenblk/clock.h"

/* The ring's thread: requests come off the ring, responses go on it, and between batches it polls, then sleeps. */

#define RESPONSE_BYTES 16

/* Serving */

static void publish(struct xb_back *back)
{
    if (back->nr_responses == 0)
        return;
    xb_copy_fence(back->how); /* the guest that sees the responses sees the data */
    back->pushed = 1;
    back->notify |= (uint32_t)xb_back_ring_push(back->ring);
    while (back->nr_responses > 0) {
        struct xb_journal_entry *entry = back->answered[--back->nr_responses];

        xb_journal_forget(entry);
        back->free_entries[back->nr_free_entries++] = entry;
    }
}

static void respond(struct xb_back *back, struct record *record)
{
    uint8_t response[RESPONSE_BYTES];
    int put;

    xb_blkif_pack_response(response, RESPONSE_BYTES, record->request.id, record->request.operation, record->status);
    xb_journal_answer(record->entry, back->ring->rsp_prod_pvt);
    put = xb_back_ring_put_head(back->ring, response, RESPONSE_BYTES);
    XB_ASSERT(put); /* each record is a request that was consumed */
    if (back->barrier == record)
        back->barrier = NULL;
    back->answered[back->nr_responses++] = record->entry;
    record_give(back, record);
    if (back->nr_responses == PUBLISH_EVERY)
        publish(back);
}

/* The barrier's turn has come. */
static void begin_barrier(struct xb_back *back)
{
    struct record *record = back->barrier;

    if (move_drained(back, record))
        respond(back, record);
}

/* Answer what the file is done with; returns how many that were. */
static uint32_t reap(struct xb_back *back)
{
    struct xb_file_op *ops[REAP_MAX];
    uint32_t count;

    if (!back->file || xb_file_in_flight(back->file) == 0)
        return 0;
    count = xb_file_reap(back->file, ops, REAP_MAX, 0);
    for (uint32_t i = 0; i < count; i++) {
        if (move_continue(back, ops[i]->user))
            respond(back, ops[i]->user);
    }
    /* One that had begun would be in flight itself. */
    if (back->barrier && xb_file_in_flight(back->file) == 0)
        begin_barrier(back);
    return count;
}

/* Take one request off the ring: 1, 0 if there is none, no record for it or a barrier before it, or XB_RING_BROKEN. */
static int take_request(struct xb_back *back)
{
    struct record *record;

    if (back->barrier || !xb_back_ring_look(back->ring))
        return 0;
    if (back->ring->broken)
        return XB_RING_BROKEN;
    record = record_take(back);
    if (!record) {
        back->counters->oo_req++;
        return 0;
    }
    /* A slot is ours until its response is published; only a guest that does not wait for that makes us need more. */
    if (back->nr_free_entries == 0)
        publish(back);
    XB_ASSERT(back->nr_free_entries > 0);
    record->entry = back->free_entries[--back->nr_free_entries];
    xb_back_ring_consume(back->ring, record->entry->slot);
    xb_journal_take(record->entry, back->ring->req_cons - 1);
    xb_blkif_parse(record->entry->slot, back->ring->entry_size, &record->request);
    if (back->config.charged_by_hand) {
        XB_ASSERT(back->nr_live < back->ring->nr_ents); /* all were told since the last batch */
        back->live[back->nr_live++] = record->user_id;
    }
    memory_translate_ahead(back);
    if (move_begin(back, record))
        respond(back, record);
    return 1;
}

static void notify_once(struct xb_back *back)
{
    if (!back->pushed)
        return;
    if (back->notify) {
        back->counters->notify_sent++;
        back->config.channel->notify(back->config.channel->context);
    } else
        back->counters->notify_held++;
    back->pushed = back->notify = 0;
}

int xb_back_serve(struct xb_back *back, uint64_t now_ns)
{
    uint32_t served;
    int taken = 1;

    back->now_ns = now_ns;
    back->how = back->fetches = -1;
    served = reap(back);
    for (uint32_t i = 0; i < back->ring->nr_ents && taken > 0; i++) {
        taken = take_request(back);
        served += taken > 0;
    }
    if (back->file)
        xb_file_flush_submissions(back->file);
    publish(back);
    notify_once(back);
    return taken == XB_RING_BROKEN ? XB_RING_BROKEN : (int)served;
}

int xb_back_final_check(struct xb_back *back)
{
    buffers_shrink_idle(back);
    return xb_back_ring_final_check(back->ring);
}

/* Running */

static int is_stopping(const struct xb_back *back)
{
    /* Acquire: whoever stops us is done with what it did before; its wake brings us here. */
    return __atomic_load_n(&back->stopping, __ATOMIC_ACQUIRE) != 0;
}

void xb_back_stop(struct xb_back *back)
{
    __atomic_store_n(&back->stopping, 1, __ATOMIC_RELEASE);
}

uint32_t xb_back_unsupported(struct xb_back *back)
{
    uint32_t operations = back->unsupported;

    back->unsupported = 0;
    return operations;
}

void xb_back_resize(struct xb_back *back, uint64_t disk_sectors)
{
    XB_ASSERT(back->file);
    __atomic_store_n(&back->disk.sectors, disk_sectors, __ATOMIC_RELAXED); /* of use by itself */
}

static int has_file_work(struct xb_back *back)
{
    return back->file && xb_file_in_flight(back->file) > 0;
}

static int has_room(struct xb_back *back)
{
    return back->free.top || __atomic_load_n(&back->charged.top, __ATOMIC_RELAXED) != NULL;
}

/* Without a record for it, or behind a barrier, what is on the ring is no reason to stay awake: a record comes with the
 * disk's event, or the caller's. That the ring is broken is to be told at once. */
static int has_ring_work(struct xb_back *back)
{
    return !back->barrier && xb_back_ring_look(back->ring) && (has_room(back) || back->ring->broken);
}

static int has_work(struct xb_back *back)
{
    return has_ring_work(back) || (has_file_work(back) && xb_file_final_check(back->file));
}

/* Look for a while whether something comes; 1 if so. */
static int poll_a_little(struct xb_back *back)
{
    xb_poller_begin(&back->poller);
    while (!has_work(back)) {
        if (is_stopping(back) || !xb_poller_again(&back->poller))
            return 0;
    }
    xb_poller_found(&back->poller);
    return 1;
}

static void sleep_for_both(struct xb_back *back)
{
    const struct xb_channel *channel = back->config.channel;
    struct pollfd fds[] = {{.fd = channel->fd, .events = POLLIN},
                           {.fd = xb_file_event_fd(back->file), .events = POLLIN}};

    if (poll(fds, 2, -1) > 0 && fds[0].revents)
        channel->wait(channel->context, 0);
}

/* Before sleeping: 1 if the ring has something for us already. */
static int check_ring(struct xb_back *back)
{
    if (back->barrier)
        return 0;
    if (has_room(back))
        return xb_back_final_check(back);
    back->counters->oo_req += xb_back_ring_look(back->ring) && !back->ring->broken;
    return back->ring->broken;
}

/* Sleep until the guest, the disk or the caller has something for us; not at all if it has already. */
static void sleep_until_event(struct xb_back *back)
{
    if (check_ring(back))
        return;
    if (has_file_work(back) && xb_file_final_check(back->file))
        return;
    if (has_file_work(back))
        sleep_for_both(back);
    else
        back->config.channel->wait(back->config.channel->context, -1);
    xb_poller_slept(&back->poller);
    xb_copier_slept(&back->copier);
    xb_copier_slept(&back->fetcher);
}

int xb_back_run(struct xb_back *back)
{
    while (!is_stopping(back)) {
        int served;

        if (!poll_a_little(back)) {
            sleep_until_event(back);
            continue;
        }
        served = xb_back_serve(back, xb_monotonic_coarse_ns());
        if (served < 0)
            return XB_RING_BROKEN;
        if (back->nr_live > 0)
            return XB_BACK_LIVE;
        if (back->unsupported)
            return XB_BACK_UNSUPPORTED;
    }
    return XB_BACK_STOPPED;
}
