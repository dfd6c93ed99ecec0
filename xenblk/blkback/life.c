#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "grants/arena.h"
#include "xenblk/blkback/internal.h"

/* Create and destroy: all memory and address space that an engine will ever use. */

static uint32_t nr_kept_max(const struct xb_back_config *config)
{
    /* The limit may be raised later, but a guest cannot have more pages kept than it has references. Beside them a
     * batch that is being unmapped. What is not used of it takes no memory. */
    return (config->persistent ? config->grantor->nr_refs : 0) + SEGMENTS_MAX;
}

static uint32_t max_segments(const struct xb_back_config *config)
{
    return config->max_indirect_segments > SEGMENTS_MAX ? config->max_indirect_segments : SEGMENTS_MAX;
}

static uint32_t nr_slots(const struct xb_back_config *config)
{
    /* Kept pages, and the pages of all requests; but no more than the process may have mapped, and beside them a batch
     * that the purge has unmapped and a batch that cannot be mapped. */
    uint64_t wanted = nr_kept_max(config) + (uint64_t)config->nr_records * max_segments(config);
    uint64_t mappable = (uint64_t)config->mapper->max_pages + 2 * SEGMENTS_MAX;

    /* A batch of freed ones waits for a scan. */
    return (uint32_t)(wanted < mappable ? wanted : mappable) + SEGMENTS_MAX;
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
    struct xb_journal_entry *journal;
    struct xb_journal_entry **free_entries;
    void *kept;
    struct xb_gref_entry **idle;
    struct xb_slot *slots;
    uint8_t *freed;
    uint8_t *bounce;
    struct many many; /* of all records */
    struct scratch scratch;
};

static void carve_segments(struct carver *carver, const struct xb_back_config *config, struct parts *parts)
{
    size_t many = (size_t)config->nr_records * config->max_indirect_segments, most = max_segments(config);

    parts->many.segments = carve(carver, many, sizeof(struct xb_blkif_segment));
    parts->many.lent = carve(carver, many, sizeof(struct lent_page));
    parts->many.iov = carve(carver, many, sizeof(struct iovec));
    parts->scratch.unmaps = carve(carver, most, sizeof(struct xb_unmap_grant_ref));
    parts->scratch.copies = carve(carver, most, sizeof(struct xb_copy_segment));
    parts->scratch.buffers = carve(carver, most, sizeof(uint8_t *));
    parts->scratch.missing = carve(carver, most, sizeof(uint32_t));
    parts->scratch.slots = carve(carver, most, sizeof(uint32_t));
}

static struct parts carve_all(struct carver *carver, const struct xb_back_config *config)
{
    uint32_t kept = nr_kept_max(config);
    struct parts parts = {0};

    /* First, so that it is page-aligned as the allocation is: direct I/O asks for that. Statements, because
     * initializers have no order. */
    if (config->grant_copy)
        parts.bounce = carve(carver, config->nr_records, (size_t)max_segments(config) * PAGE_BYTES);
    parts.records = carve(carver, config->nr_records, sizeof(struct record));
    if (!config->journal)
        parts.journal = carve(carver, config->ring->nr_ents, sizeof(struct xb_journal_entry));
    parts.free_entries = carve(carver, config->ring->nr_ents, sizeof(struct xb_journal_entry *));
    parts.live = carve(carver, config->ring->nr_ents, sizeof(uint64_t)); /* a record may be charged again meanwhile */
    parts.kept = carve(carver, xb_gref_map_bytes(kept), 1);
    parts.idle = carve(carver, 2 * (size_t)kept, sizeof(struct xb_gref_entry *));
    parts.slots = carve(carver, nr_slots(config), sizeof(struct xb_slot));
    parts.freed = carve(carver, nr_slots(config), 1);
    carve_segments(carver, config, &parts);
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
    memory = mmap(NULL, carver.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
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
    back->scratch = parts.scratch;
    xb_gref_map_init(&back->kept, parts.kept, nr_kept_max(config), config->secret);
    purge_set_limit(back, config->max_persistent_grants);
    xb_gref_map_show_count(&back->kept, &back->counters->persistent_current);
    xb_slots_init(&back->slots, parts.slots, nr_slots(config));
    records_init(back, &parts.many, parts.bounce);
    back->free_entries = parts.free_entries;
    for (uint32_t i = 0; i < config->ring->nr_ents; i++)
        back->free_entries[back->nr_free_entries++] = (config->journal ? config->journal : parts.journal) + i;
    back->arena = xb_arena_reserve(nr_slots(config));
    if (!config->disk_memory)
        back->file = xb_file_create(config->disk_fd, config->nr_records, 1);
    if (back->file)
        xb_file_use_mapping(back->file, config->disk_mapped);
    if (back->file && config->journal && xb_file_hold(back->file, config->journal_fd) < 0)
        return 0;
    return back->arena && (config->disk_memory || back->file);
}

struct xb_back *xb_back_create(const struct xb_back_config *config)
{
    struct xb_back *back = calloc(1, sizeof(*back));

    if (!back)
        return NULL;
    back->config = *config;
    XB_ASSERT(config->max_indirect_segments <= XB_BLKIF_INDIRECT_SEGMENTS_MAX);
    back->max_segments = max_segments(config);
    back->disk = (struct xb_blkif_disk){
        .sectors = config->disk_sectors,
        .unit_sectors = config->sector_bytes > SECTOR_BYTES ? config->sector_bytes / SECTOR_BYTES : 1,
        .read_only = config->read_only,
    };
    back->ring = config->ring;
    back->counters = config->counters;
    back->overflowed = config->overflowed ? config->overflowed : &back->own_overflowed;
    back->sector_at = config->ring->entry_size == XB_BLKIF_X86_64_SLOT_BYTES ? 16 : 12;
    pthread_mutex_init(&back->charging, NULL);
    pthread_mutex_init(&back->slots_lock, NULL);
    xb_poller_init(&back->poller, config->poll_us);
    xb_copier_init(&back->copier, XB_COPY_MEASURED);
    xb_copier_init(&back->fetcher, XB_COPY_MEASURED);
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
                lend_release(back, &record->loan);
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
