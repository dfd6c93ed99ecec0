#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "grants/arena.h"
#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/pins.h"
#include "grants/handles.h"
#include "xenblk/assert.h"

#define PAGE_BYTES 4096u
#define PAGE_MASK_BYTES (PAGE_BYTES - 1)
#define TRACK_BUSY 0x80000000u /* in a maptrack entry's flags: a call in progress owns it, no other may unmap it */

_Static_assert(sizeof(struct xb_grant_entry) == 8, "grant_entry_v1");
_Static_assert(sizeof(struct xb_active_entry) == 16, "active entry");
_Static_assert(sizeof(struct xb_maptrack_entry) == 16, "maptrack entry");
_Static_assert(sizeof(struct xb_map_grant_ref) == 32, "GNTTABOP_map_grant_ref");
_Static_assert(offsetof(struct xb_map_grant_ref, status) == 18, "GNTTABOP_map_grant_ref");
_Static_assert(sizeof(struct xb_unmap_grant_ref) == 24, "GNTTABOP_unmap_grant_ref");

/* Grantor's side */

void xb_gnttab_grant(struct xb_grant_entry *entry, uint16_t domid, uint32_t frame, int readonly)
{
    __atomic_store_n(&entry->frame, frame, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->domid, domid, __ATOMIC_RELAXED);
    /* Release: a mapper that sees the flags, in set_mapped's load, sees domid and frame. */
    __atomic_store_n(&entry->flags, (uint16_t)(GTF_permit_access | (readonly ? GTF_readonly : 0)), __ATOMIC_RELEASE);
}

int xb_gnttab_end_access(struct xb_grant_entry *entry)
{
    uint16_t flags = __atomic_load_n(&entry->flags, __ATOMIC_RELAXED);

    do {
        if (flags & (GTF_reading | GTF_writing))
            return 0;
        /* One step: a mapper's compare-and-swap in set_mapped either comes before, and we fail and see its bits, or
         * after, and it fails and sees an invalid entry (XSA-396). Acquire: what the mapper wrote to the page before
         * clear_mapped is seen before the page is used again. */
    } while (!__atomic_compare_exchange_n(&entry->flags, &flags, 0, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    return 1;
}

/* The hypervisor's side: everything below runs with the active entry locked, unless it says otherwise. */

static uint64_t track_grant(const struct xb_gnttab_grantor *grantor, uint32_t ref)
{
    return (uint64_t)grantor->instance << 32 | ref;
}

static uint32_t track_ref(const struct xb_maptrack_entry *track)
{
    return (uint32_t)track->grant;
}

static uint32_t track_instance(const struct xb_maptrack_entry *track)
{
    return (uint32_t)(track->grant >> 32);
}

/* Takes and releases the lock. On success `track` is in use and busy, and `frame` is what may be touched. */
static int pin(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor, uint32_t ref, uint32_t flags,
               struct xb_maptrack_entry *track, uint32_t *frame)
{
    struct xb_active_entry *active;
    int status;

    if (ref >= grantor->base.nr_refs)
        return GNTST_bad_gntref;
    active = &grantor->active[ref];
    if (!lock_take(&active->lock, mapper->owner))
        return GNTST_general_error;
    if (active->read_pins || active->write_pins)
        status = further_pin(grantor, ref, mapper->domid, flags);
    else
        status = first_pin(grantor, ref, mapper->domid, !(flags & GNTMAP_readonly));
    if (status == GNTST_okay) {
        __atomic_store_n(&track->grant, track_grant(grantor, ref), __ATOMIC_RELAXED);
        /* Release: whoever sees the entry in use, in track_is_for's load, sees what for. */
        __atomic_store_n(&track->flags, flags | TRACK_BUSY, __ATOMIC_RELEASE);
        ++*pins_of(active, flags);
        *frame = active->frame;
    }
    lock_release(&active->lock);
    return status;
}

static void unpin_locked(struct xb_gnttab_grantor *grantor, struct xb_maptrack_entry *track)
{
    struct xb_active_entry *active = &grantor->active[track_ref(track)];
    /* Atomic: others may be finding out in set_busy that the entry is not theirs. */
    uint8_t *pins = pins_of(active, __atomic_load_n(&track->flags, __ATOMIC_RELAXED));

    XB_ASSERT(*pins > 0);
    --*pins;
    clear_mapped(&grantor->shared[track_ref(track)], active);
    __atomic_store_n(&track->flags, 0, __ATOMIC_RELEASE);
}

/* Takes and releases the lock. `track` is busy, and ours. */
static int unpin(struct xb_gnttab_grantor *grantor, struct xb_maptrack_entry *track, uint32_t owner)
{
    uint32_t *lock = &grantor->active[track_ref(track)].lock;

    if (!lock_take(lock, owner))
        return GNTST_general_error;
    unpin_locked(grantor, track);
    lock_release(lock);
    return GNTST_okay;
}

static int pin_with_handle(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor, uint32_t ref,
                           uint32_t flags, uint32_t *handle, uint32_t *frame)
{
    int status;

    if (!handle_take(mapper, handle))
        return GNTST_no_space;
    status = pin(mapper, grantor, ref, flags, &mapper->track[*handle], frame);
    if (status != GNTST_okay)
        handle_give(mapper, *handle);
    return status;
}

static int unpin_with_handle(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor, uint32_t handle)
{
    int status = unpin(grantor, &mapper->track[handle], mapper->owner);

    if (status == GNTST_okay)
        handle_give(mapper, handle);
    return status;
}

static void set_idle(struct xb_maptrack_entry *track)
{
    /* Release: the call that takes the entry next, in set_busy, finds our work done. */
    __atomic_fetch_and(&track->flags, ~TRACK_BUSY, __ATOMIC_RELEASE);
}

/* Exactly one of concurrent callers with the same handle gets it; it alone may touch the mapping and the entry. */
static int set_busy(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor, uint32_t handle)
{
    struct xb_maptrack_entry *track;
    uint32_t flags;

    if (handle >= mapper->base.max_pages)
        return GNTST_bad_handle;
    track = &mapper->track[handle];
    flags = __atomic_load_n(&track->flags, __ATOMIC_RELAXED);
    /* Acquire: partner of the release in set_idle. */
    if (!flags || (flags & TRACK_BUSY) || !__atomic_compare_exchange_n(&track->flags, &flags, flags | TRACK_BUSY, 0,
                                                                       __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return GNTST_bad_handle;
    if (track_instance(track) == grantor->instance)
        return GNTST_okay;
    set_idle(track);
    return GNTST_bad_handle;
}

int xb_gnttab_is_crowded(const struct xb_gnttab_mapper *mapper)
{
    return nr_used(mapper) >= mapper->base.max_pages - mapper->base.max_pages / 4;
}

/* Hypercalls */

static int map_one(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor, struct xb_map_grant_ref *op)
{
    uint32_t flags = op->flags & (GNTMAP_host_map | GNTMAP_readonly);
    int protection = PROT_READ | ((flags & GNTMAP_readonly) ? 0 : PROT_WRITE);
    uint32_t frame;
    int status;

    if (!(op->flags & (GNTMAP_host_map | GNTMAP_device_map)))
        return GNTST_bad_gntref;
    if (op->flags & ~(uint32_t)(GNTMAP_host_map | GNTMAP_readonly))
        return GNTST_general_error;
    if (op->dom != grantor->base.domid)
        return GNTST_bad_domain;
    if (op->host_addr == 0 || (op->host_addr & PAGE_MASK_BYTES))
        return GNTST_bad_virt_addr;
    status = pin_with_handle(mapper, grantor, op->ref, flags, &op->handle, &frame);
    if (status != GNTST_okay)
        return status;
    /* MAP_POPULATE: the page is there when the hypercall returns, as under Xen, not at the first touch. */
    if (mmap((void *)(uintptr_t)op->host_addr, PAGE_BYTES, protection, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
             grantor->memory_fd, (off_t)frame * PAGE_BYTES) == MAP_FAILED) {
        /* A failing mmap may have taken the reservation away already. If it did not, and this fails for the same
         * reason, the reservation is as it was; there is never a hole after this. */
        xb_arena_vacate((void *)(uintptr_t)op->host_addr, 1);
        unpin_with_handle(mapper, grantor, op->handle);
        return GNTST_no_space;
    }
    set_idle(&mapper->track[op->handle]);
    return GNTST_okay;
}

void xb_gnttab_map(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor, struct xb_map_grant_ref *ops,
                   uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ops[i].status = (int16_t)map_one(mapper, grantor, &ops[i]);
}

/* What this leaves at GNTST_okay, with an address, is busy until unmap_end. */
static int unmap_begin(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor,
                       const struct xb_unmap_grant_ref *op)
{
    int status = set_busy(mapper, grantor, op->handle);

    if (status != GNTST_okay || (op->host_addr != 0 && !(op->host_addr & PAGE_MASK_BYTES)))
        return status;
    set_idle(&mapper->track[op->handle]);
    return op->host_addr == 0 ? GNTST_okay : GNTST_bad_virt_addr;
}

static int is_begun(const struct xb_unmap_grant_ref *op)
{
    return op->status == GNTST_okay && op->host_addr != 0;
}

static int unmap_end(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor, uint32_t handle, int vacated)
{
    int status = vacated ? unpin_with_handle(mapper, grantor, handle) : GNTST_general_error;

    if (status != GNTST_okay)
        set_idle(&mapper->track[handle]); /* still mapped, or still to be unpinned */
    return status;
}

/* Ends the first operation, which is begun, and those behind it whose pages follow. Returns how many that were. */
static uint32_t unmap_row(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor,
                          struct xb_unmap_grant_ref *ops, uint32_t count)
{
    uint32_t length = 1;
    int vacated;

    while (length < count && is_begun(&ops[length]) && ops[length].host_addr == ops[length - 1].host_addr + PAGE_BYTES)
        length++;
    /* The pages go first, the pins second: the grantor must not get back a page that we can still touch. */
    vacated = xb_arena_vacate((void *)(uintptr_t)ops[0].host_addr, length);
    for (uint32_t i = 0; i < length; i++)
        ops[i].status = (int16_t)unmap_end(mapper, grantor, ops[i].handle, vacated);
    return length;
}

void xb_gnttab_unmap(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor,
                     struct xb_unmap_grant_ref *ops, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ops[i].status = (int16_t)unmap_begin(mapper, grantor, &ops[i]);
    for (uint32_t i = 0; i < count;)
        i += is_begun(&ops[i]) ? unmap_row(mapper, grantor, &ops[i], count - i) : 1;
}

static int move(int fd, char *buffer, size_t left, off_t at, int to_file)
{
    while (left > 0) {
        ssize_t moved = to_file ? pwrite(fd, buffer, left, at) : pread(fd, buffer, left, at);

        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0)
            return GNTST_general_error;
        buffer += moved;
        at += moved;
        left -= (size_t)moved;
    }
    return GNTST_okay;
}

static int copy_one(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor,
                    const struct xb_copy_segment *segment)
{
    uint32_t flags = GNTMAP_host_map | (segment->to_grant ? 0 : GNTMAP_readonly);
    uint32_t handle, frame;
    int status, unpinned;

    if (segment->len == 0)
        return GNTST_okay;
    if ((uint32_t)segment->offset + segment->len > PAGE_BYTES)
        return GNTST_bad_copy_arg;
    status = pin_with_handle(mapper, grantor, segment->ref, flags, &handle, &frame);
    if (status != GNTST_okay)
        return status;
    status = move(grantor->memory_fd, (char *)(uintptr_t)segment->virt, segment->len,
                  (off_t)frame * PAGE_BYTES + segment->offset, segment->to_grant);
    unpinned = unpin_with_handle(mapper, grantor, handle);
    return status != GNTST_okay ? status : unpinned;
}

void xb_gnttab_copy(struct xb_gnttab_mapper *mapper, struct xb_gnttab_grantor *grantor,
                    struct xb_copy_segment *segments, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        segments[i].status = (int16_t)copy_one(mapper, grantor, &segments[i]);
}

/* Host's side */

/* What a dead or living process wrote into its maptrack is looked at once, and used only within the table's bounds.
 * Of a living one it is true only for a reference that is locked: no entry can begin or cease to be for that one. */
static uint32_t track_is_for(struct xb_maptrack_entry *track, const struct xb_gnttab_grantor *grantor, uint32_t *ref)
{
    uint32_t flags = __atomic_load_n(&track->flags, __ATOMIC_ACQUIRE); /* partner: the release in pin */
    uint64_t grant = __atomic_load_n(&track->grant, __ATOMIC_RELAXED);

    *ref = (uint32_t)grant;
    return grant >> 32 == grantor->instance && *ref < grantor->base.nr_refs ? flags : 0;
}

static uint32_t forget_ref(struct xb_gnttab_grantor *grantor, struct xb_maptrack_entry *dead, uint32_t nr_track,
                           uint32_t ref)
{
    uint32_t forgotten = 0, other;

    for (uint32_t i = 0; i < nr_track; i++) {
        if (track_is_for(&dead[i], grantor, &other) && other == ref) {
            dead[i].flags = 0;
            forgotten++;
        }
    }
    return forgotten;
}

/* The dead process held this entry's lock, so no survivor can change its own entries for it: count them again. */
static void recount(struct xb_gnttab_grantor *grantor, uint32_t ref, struct xb_maptrack_entry **survivors,
                    uint32_t nr_survivors, uint32_t nr_track)
{
    struct xb_active_entry *active = &grantor->active[ref];
    uint32_t flags, other;

    active->read_pins = active->write_pins = 0;
    for (uint32_t s = 0; s < nr_survivors; s++) {
        for (uint32_t i = 0; i < nr_track; i++) {
            flags = track_is_for(&survivors[s][i], grantor, &other);
            if (flags && other == ref)
                ++*pins_of(active, flags);
        }
    }
    clear_mapped(&grantor->shared[ref], active);
    lock_release(&active->lock);
}

static uint32_t release_one(struct xb_gnttab_grantor *grantor, struct xb_maptrack_entry *track, uint32_t owner)
{
    uint32_t ref, flags = track_is_for(track, grantor, &ref);
    struct xb_active_entry *active;

    if (!flags)
        return 0;
    active = &grantor->active[ref];
    if (!lock_take(&active->lock, owner))
        return 0; /* its holder died too: releasing that one counts this reference again, without the dead */
    if (*pins_of(active, flags) > 0)
        unpin_locked(grantor, track);
    else
        track->flags = 0; /* the dead process wrote nonsense; the host outlives that */
    lock_release(&active->lock);
    return 1;
}

uint32_t xb_gnttab_release_dead(struct xb_gnttab_grantor *grantor, uint32_t owner, struct xb_maptrack_entry *dead,
                                struct xb_maptrack_entry **survivors, uint32_t nr_survivors, uint32_t nr_track)
{
    uint32_t released = 0;

    for (uint32_t ref = 0; ref < grantor->base.nr_refs; ref++) {
        if (__atomic_load_n(&grantor->active[ref].lock, __ATOMIC_ACQUIRE) == owner) {
            released += forget_ref(grantor, dead, nr_track, ref);
            recount(grantor, ref, survivors, nr_survivors, nr_track);
        }
    }
    for (uint32_t i = 0; i < nr_track; i++)
        released += release_one(grantor, &dead[i], owner);
    return released;
}
