#define _GNU_SOURCE
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "grants/arena.h"
#include "xenblk/blkback/internal.h"
#include "xenblk/clock.h"

#define PUBLISH_EVERY 4     /* responses: the guest's next requests come while we serve the rest */
#define REAP_MAX 32
#define RESPONSE_BYTES 16

/* Life of the engine */

static uint32_t nr_kept_max(const struct xb_back_config *config)
{
    uint32_t limit = config->persistent ? config->max_persistent_grants : 0;

    /* A guest cannot have more pages kept than it has references. Beside them a batch that is being unmapped. */
    return (limit < config->grantor->nr_entries ? limit : config->grantor->nr_entries) + SEGMENTS_MAX;
}

static uint32_t nr_slots(const struct xb_back_config *config)
{
    /* Kept pages, a batch of them that waits for a scan, and the pages of all requests. */
    return nr_kept_max(config) + SEGMENTS_MAX + config->nr_records * SEGMENTS_MAX;
}

/* Hands out parts of one allocation; with `memory` NULL, only counts them. */
struct carver {
    uint8_t *memory;
    size_t bytes;
};

static void *carve(struct carver *carver, size_t count, size_t size)
{
    void *part = carver->memory ? carver->memory + carver->bytes : NULL;

    carver->bytes += (count * size + 63) & ~(size_t)63;
    return part;
}

struct parts {
    struct record *records;
    uint64_t *live;
    void *kept;
    struct xb_gref_entry **idle;
    struct xb_slot *slots;
    uint8_t *freed;
    uint8_t *bounce;
};

static struct parts carve_all(struct carver *carver, const struct xb_back_config *config)
{
    uint32_t kept = nr_kept_max(config);
    struct parts parts = {0};

    /* First, so that it is page-aligned as the allocation is: direct I/O asks for that. Statements, because initializers
     * have no order. */
    if (config->grant_copy)
        parts.bounce = carve(carver, config->nr_records, BOUNCE_BYTES);
    parts.records = carve(carver, config->nr_records, sizeof(struct record));
    parts.live = carve(carver, config->ring->nr_ents, sizeof(uint64_t)); /* a record may be charged again meanwhile */
    parts.kept = carve(carver, xb_gref_map_bytes(kept), 1);
    parts.idle = carve(carver, 2 * (size_t)kept, sizeof(struct xb_gref_entry *));
    parts.slots = carve(carver, nr_slots(config), sizeof(struct xb_slot));
    parts.freed = carve(carver, nr_slots(config), 1);
    return parts;
}

static int allocate(struct xb_back *back)
{
    const struct xb_back_config *config = &back->config;
    struct carver carver = {0};
    struct parts parts;
    void *memory;

    carve_all(&carver, config);
    /* Pages of zeros that take memory when they are touched first: most of a bounce buffer may never be. */
    memory = mmap(NULL, carver.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 0;
    back->memory = memory;
    back->memory_bytes = carver.bytes;
    carver = (struct carver){.memory = memory};
    parts = carve_all(&carver, config);
    back->records = parts.records;
    back->live = parts.live;
    back->idle = parts.idle;
    back->freed = parts.freed;
    xb_gref_map_init(&back->kept, parts.kept, nr_kept_max(config), config->secret);
    xb_gref_map_set_limit(&back->kept, nr_kept_max(config) - SEGMENTS_MAX);
    xb_gref_map_show_count(&back->kept, &back->counters->persistent_current);
    xb_slots_init(&back->slots, parts.slots, nr_slots(config));
    records_init(back, parts.bounce);
    back->arena = xb_arena_reserve(nr_slots(config));
    if (!config->disk_memory)
        back->file = xb_file_create(config->disk_fd, config->nr_records, 1);
    return back->arena && (config->disk_memory || back->file);
}

struct xb_back *xb_back_create(const struct xb_back_config *config)
{
    struct xb_back *back = calloc(1, sizeof(*back));

    if (!back)
        return NULL;
    back->config = *config;
    back->ring = config->ring;
    back->counters = config->counters;
    back->sector_at = config->ring->entry_size == XB_BLKIF_X86_64_SLOT_BYTES ? 16 : 12;
    pthread_mutex_init(&back->charging, NULL);
    pthread_mutex_init(&back->slots_lock, NULL);
    xb_poller_init(&back->poller, config->poll_us);
    xb_copier_init(&back->copier, XB_COPY_MEASURED);
    if (allocate(back))
        return back;
    xb_back_destroy(back);
    return NULL;
}

static void give_up_requests(struct xb_back *back)
{
    struct xb_file_op *ops[REAP_MAX];

    while (back->file && xb_file_in_flight(back->file) > 0) {
        uint32_t count = xb_file_reap(back->file, ops, REAP_MAX, -1);

        for (uint32_t i = 0; i < count; i++) {
            struct record *record = ops[i]->user;

            /* The ring's guest gets no answer any more; a flush's data is not written. */
            if (!record->flushing && !back->config.grant_copy)
                lend_release(back, record);
        }
    }
}

void xb_back_destroy(struct xb_back *back)
{
    if (back->arena) {
        give_up_requests(back);
        purge_all(back);
        xb_arena_release(back->arena, back->slots.nr_slots);
    }
    xb_file_destroy(back->file);
    pthread_mutex_destroy(&back->slots_lock);
    pthread_mutex_destroy(&back->charging);
    if (back->memory)
        munmap(back->memory, back->memory_bytes);
    free(back);
}

/* Serving */

static void publish(struct xb_back *back)
{
    if (back->nr_responses == 0)
        return;
    xb_copy_fence(back->how); /* the guest that sees the responses sees the data */
    back->nr_responses = 0;
    back->pushed = 1;
    back->notify |= (uint32_t)xb_back_ring_push(back->ring);
}

static void respond(struct xb_back *back, struct record *record)
{
    uint8_t response[RESPONSE_BYTES];
    int put;

    xb_blkif_pack_response(response, RESPONSE_BYTES, record->request.id, record->request.operation, record->status);
    put = xb_back_ring_put_head(back->ring, response, RESPONSE_BYTES);
    XB_ASSERT(put); /* each record is a request that was consumed */
    record_give(back, record);
    if (++back->nr_responses >= PUBLISH_EVERY)
        publish(back);
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
    return count;
}

/* Take one request off the ring: 1, 0 if there is none or no record for it, or XB_RING_BROKEN. */
static int take_request(struct xb_back *back)
{
    uint8_t slot[XB_BLKIF_SLOT_BYTES_MAX];
    struct record *record;

    if (!xb_back_ring_look(back->ring))
        return 0;
    if (back->ring->broken)
        return XB_RING_BROKEN;
    record = record_take(back);
    if (!record) {
        back->counters->oo_req++;
        return 0;
    }
    xb_back_ring_consume(back->ring, slot);
    xb_blkif_parse(slot, back->ring->entry_size, &record->request);
    if (back->config.charged_by_hand) {
        XB_ASSERT(back->nr_live < back->ring->nr_ents); /* all were told since the last batch */
        back->live[back->nr_live++] = record->user_id;
    }
    move_fetch_ahead(back);
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
    back->how = -1;
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

static int has_file_work(struct xb_back *back)
{
    return back->file && xb_file_in_flight(back->file) > 0;
}

static int has_room(struct xb_back *back)
{
    return back->free.top || __atomic_load_n(&back->charged.top, __ATOMIC_RELAXED) != NULL;
}

/* Without a record for it, what is on the ring is no reason to stay awake: a record comes with the disk's event, or the
 * caller's. That the ring is broken is to be told at once. */
static int has_ring_work(struct xb_back *back)
{
    return xb_back_ring_look(back->ring) && (has_room(back) || back->ring->broken);
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
}

int xb_back_run(struct xb_back *back)
{
    while (!is_stopping(back)) {
        int served;

        if (!poll_a_little(back)) {
            sleep_until_event(back);
            continue;
        }
        served = xb_back_serve(back, xb_monotonic_ns());
        if (served < 0)
            return XB_RING_BROKEN;
        if (back->nr_live > 0)
            return XB_BACK_LIVE;
    }
    return XB_BACK_STOPPED;
}
