#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "grants/gnttab.h"
#include "xenblk/assert.h"

#define PAGE_BYTES 4096u
#define PAGE_MASK_BYTES (PAGE_BYTES - 1)
#define SUB_PAGE 0x100u /* GTF_sub_page: version 2 only, refused here */
#define CAS_ATTEMPTS_MAX 5
#define SPINS_BEFORE_YIELD 128u
#define SPINS_MAX (1u << 22) /* bounds the wait for a lock whose holder died and whose host is gone too */

_Static_assert(sizeof(struct xb_grant_entry) == 8, "grant_entry_v1");
_Static_assert(sizeof(struct xb_active_entry) == 16, "active entry");
_Static_assert(sizeof(struct xb_maptrack_entry) == 16, "maptrack entry");
_Static_assert(sizeof(struct xb_map_grant_ref) == 32, "GNTTABOP_map_grant_ref");
_Static_assert(offsetof(struct xb_map_grant_ref, status) == 18, "GNTTABOP_map_grant_ref");
_Static_assert(sizeof(struct xb_unmap_grant_ref) == 24, "GNTTABOP_unmap_grant_ref");

static int lock_take(uint32_t *lock, uint32_t owner)
{
    for (uint32_t spin = 0; spin < SPINS_MAX; spin++) {
        uint32_t unlocked = 0;

        /* Acquire: we see what the last holder wrote before lock_release let it go. */
        if (__atomic_compare_exchange_n(lock, &unlocked, owner, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return 1;
        if (spin >= SPINS_BEFORE_YIELD)
            sched_yield();
    }
    return 0;
}

static void lock_release(uint32_t *lock)
{
    /* Release: the next holder's lock_take sees all that we wrote while holding it. */
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

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

static uint32_t *flags_and_domid(struct xb_grant_entry *entry)
{
    return (uint32_t *)(void *)entry;
}

static int set_mapped(struct xb_grant_entry *entry, uint16_t domid, int write)
{
    uint32_t *word = flags_and_domid(entry);
    uint32_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE); /* partner: the release in xb_gnttab_grant */
    uint32_t bits = GTF_reading | (write ? GTF_writing : 0);

    for (int attempt = 0; attempt < CAS_ATTEMPTS_MAX; attempt++) {
        if ((seen & GTF_type_mask) != GTF_permit_access || (seen & SUB_PAGE) || seen >> 16 != domid)
            return GNTST_general_error;
        if (write && (seen & GTF_readonly))
            return GNTST_general_error;
        if (__atomic_compare_exchange_n(word, &seen, seen | bits, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            return GNTST_okay;
    }
    return GNTST_general_error; /* the grantor keeps changing it */
}

static void clear_mapped(struct xb_grant_entry *entry, const struct xb_active_entry *active)
{
    uint16_t bits = 0;

    if (active->write_pins == 0)
        bits |= GTF_writing;
    if (active->write_pins == 0 && active->read_pins == 0)
        bits |= GTF_reading;
    /* Release: our use of the page comes before the grantor's xb_gnttab_end_access can succeed. */
    if (bits)
        __atomic_fetch_and(&entry->flags, (uint16_t)~bits, __ATOMIC_RELEASE);
}

static int first_pin(struct xb_grantor *grantor, uint32_t ref, uint16_t domid, int write)
{
    struct xb_grant_entry *entry = &grantor->shared[ref];
    struct xb_active_entry *active = &grantor->active[ref];
    int status = set_mapped(entry, domid, write);

    if (status != GNTST_okay)
        return status;
    active->frame = __atomic_load_n(&entry->frame, __ATOMIC_RELAXED);
    active->domid = domid;
    if (active->frame >= grantor->nr_frames) {
        clear_mapped(entry, active);
        return GNTST_bad_page;
    }
    return GNTST_okay;
}

static int further_pin(struct xb_grantor *grantor, uint32_t ref, uint16_t domid, int write)
{
    struct xb_active_entry *active = &grantor->active[ref];

    if (active->domid != domid)
        return GNTST_general_error;
    if ((write ? active->write_pins : active->read_pins) == XB_PINS_MAX)
        return GNTST_general_error;
    if (write && active->write_pins == 0)
        return set_mapped(&grantor->shared[ref], domid, 1);
    return GNTST_okay;
}

/* Takes and releases the lock. On success `handle` is in use and `frame` is what may be touched. */
static int pin(struct xb_mapper *mapper, struct xb_grantor *grantor, uint32_t ref, uint32_t flags, uint32_t handle,
               uint32_t *frame)
{
    struct xb_active_entry *active;
    struct xb_maptrack_entry *track = &mapper->track[handle];
    int write = !(flags & GNTMAP_readonly);
    int status;

    if (ref >= grantor->nr_entries)
        return GNTST_bad_gntref;
    active = &grantor->active[ref];
    if (!lock_take(&active->lock, mapper->owner))
        return GNTST_general_error;
    if (active->read_pins || active->write_pins)
        status = further_pin(grantor, ref, mapper->domid, write);
    else
        status = first_pin(grantor, ref, mapper->domid, write);
    if (status == GNTST_okay) {
        track->ref = ref;
        track->instance = grantor->instance;
        __atomic_store_n(&track->flags, flags, __ATOMIC_RELEASE);
        if (write)
            active->write_pins++;
        else
            active->read_pins++;
        *frame = active->frame;
    }
    lock_release(&active->lock);
    return status;
}

/* Takes and releases the lock. Exactly one of two concurrent callers with the same entry succeeds. */
static int unpin(struct xb_grantor *grantor, struct xb_maptrack_entry *track, uint32_t owner)
{
    struct xb_active_entry *active;
    uint32_t flags = __atomic_load_n(&track->flags, __ATOMIC_ACQUIRE);

    if (!flags || track->instance != grantor->instance)
        return GNTST_bad_handle;
    active = &grantor->active[track->ref];
    if (!lock_take(&active->lock, owner))
        return GNTST_general_error;
    if (!__atomic_compare_exchange_n(&track->flags, &flags, 0, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        lock_release(&active->lock);
        return GNTST_bad_handle;
    }
    if (flags & GNTMAP_readonly) {
        XB_ASSERT(active->read_pins > 0);
        active->read_pins--;
    } else {
        XB_ASSERT(active->write_pins > 0);
        active->write_pins--;
    }
    clear_mapped(&grantor->shared[track->ref], active);
    lock_release(&active->lock);
    return GNTST_okay;
}

/* Handles: a stack of free ones, and the entries above nr_touched that were never used. */

static int handle_take(struct xb_mapper *mapper, uint32_t *handle)
{
    int found = 1;

    if (!lock_take(&mapper->lock, 1))
        return 0;
    if (mapper->nr_free > 0)
        *handle = mapper->free[--mapper->nr_free];
    else if (mapper->nr_touched < mapper->nr_track)
        *handle = mapper->nr_touched++;
    else
        found = 0;
    lock_release(&mapper->lock);
    return found;
}

static void handle_give(struct xb_mapper *mapper, uint32_t handle)
{
    int locked = lock_take(&mapper->lock, 1);

    XB_ASSERT(locked && mapper->nr_free < mapper->nr_track);
    mapper->free[mapper->nr_free++] = handle;
    lock_release(&mapper->lock);
}

static int pin_with_handle(struct xb_mapper *mapper, struct xb_grantor *grantor, uint32_t ref, uint32_t flags,
                           uint32_t *handle, uint32_t *frame)
{
    int status;

    if (!handle_take(mapper, handle))
        return GNTST_no_space;
    status = pin(mapper, grantor, ref, flags, *handle, frame);
    if (status != GNTST_okay)
        handle_give(mapper, *handle);
    return status;
}

static int unpin_with_handle(struct xb_mapper *mapper, struct xb_grantor *grantor, uint32_t handle)
{
    int status;

    if (handle >= mapper->nr_track)
        return GNTST_bad_handle;
    status = unpin(grantor, &mapper->track[handle], mapper->owner);
    if (status == GNTST_okay)
        handle_give(mapper, handle);
    return status;
}

/* Hypercalls */

static int map_one(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_map_grant_ref *op)
{
    uint32_t flags = op->flags & (GNTMAP_host_map | GNTMAP_readonly);
    int protection = PROT_READ | ((flags & GNTMAP_readonly) ? 0 : PROT_WRITE);
    uint32_t frame;
    int status;

    if (!(op->flags & (GNTMAP_host_map | GNTMAP_device_map)))
        return GNTST_bad_gntref;
    if (op->flags & ~(uint32_t)(GNTMAP_host_map | GNTMAP_readonly))
        return GNTST_general_error;
    if (op->dom != grantor->domid)
        return GNTST_bad_domain;
    if (op->host_addr == 0 || (op->host_addr & PAGE_MASK_BYTES))
        return GNTST_bad_virt_addr;
    status = pin_with_handle(mapper, grantor, op->ref, flags, &op->handle, &frame);
    if (status != GNTST_okay)
        return status;
    /* MAP_POPULATE: the page is there when the hypercall returns, as under Xen, not at the first touch. */
    if (mmap((void *)(uintptr_t)op->host_addr, PAGE_BYTES, protection, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
             grantor->memory_fd, (off_t)frame * PAGE_BYTES) == MAP_FAILED) {
        unpin_with_handle(mapper, grantor, op->handle);
        return GNTST_no_space;
    }
    return GNTST_okay;
}

void xb_gnttab_map(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_map_grant_ref *ops, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ops[i].status = (int16_t)map_one(mapper, grantor, &ops[i]);
}

static int unmap_one(struct xb_mapper *mapper, struct xb_grantor *grantor, const struct xb_unmap_grant_ref *op)
{
    if (op->handle >= mapper->nr_track || !__atomic_load_n(&mapper->track[op->handle].flags, __ATOMIC_ACQUIRE))
        return GNTST_bad_handle;
    if (op->host_addr & PAGE_MASK_BYTES)
        return GNTST_bad_virt_addr;
    /* The page goes first, the pin second: the grantor must not get back a page that we can still touch. Reserving the
     * address instead of unmapping it keeps another thread's mmap from taking it. */
    if (op->host_addr != 0 && mmap((void *)(uintptr_t)op->host_addr, PAGE_BYTES, PROT_NONE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
        return GNTST_general_error;
    return unpin_with_handle(mapper, grantor, op->handle);
}

void xb_gnttab_unmap(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_unmap_grant_ref *ops,
                     uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        ops[i].status = (int16_t)unmap_one(mapper, grantor, &ops[i]);
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

static int copy_one(struct xb_mapper *mapper, struct xb_grantor *grantor, const struct xb_copy_segment *segment)
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
    XB_ASSERT(unpinned == GNTST_okay);
    return status;
}

void xb_gnttab_copy(struct xb_mapper *mapper, struct xb_grantor *grantor, struct xb_copy_segment *segments,
                    uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        segments[i].status = (int16_t)copy_one(mapper, grantor, &segments[i]);
}

/* Host's side */

static uint32_t forget_ref(struct xb_maptrack_entry *dead, uint32_t nr_track, uint32_t instance, uint32_t ref)
{
    uint32_t forgotten = 0;

    for (uint32_t i = 0; i < nr_track; i++) {
        if (dead[i].flags && dead[i].instance == instance && dead[i].ref == ref) {
            dead[i].flags = 0;
            forgotten++;
        }
    }
    return forgotten;
}

/* The dead process held this entry's lock, so no survivor can change its own entries for it: count them again. */
static void recount(struct xb_grantor *grantor, uint32_t ref, struct xb_maptrack_entry **survivors,
                    uint32_t nr_survivors, uint32_t nr_track)
{
    struct xb_active_entry *active = &grantor->active[ref];

    active->read_pins = active->write_pins = 0;
    for (uint32_t s = 0; s < nr_survivors; s++) {
        for (uint32_t i = 0; i < nr_track; i++) {
            struct xb_maptrack_entry *track = &survivors[s][i];
            uint32_t flags = __atomic_load_n(&track->flags, __ATOMIC_ACQUIRE);

            if (!flags || track->instance != grantor->instance || track->ref != ref)
                continue;
            if (flags & GNTMAP_readonly)
                active->read_pins++;
            else
                active->write_pins++;
        }
    }
    clear_mapped(&grantor->shared[ref], active);
    lock_release(&active->lock);
}

uint32_t xb_gnttab_release_dead(struct xb_grantor *grantor, uint32_t owner, struct xb_maptrack_entry *dead,
                                struct xb_maptrack_entry **survivors, uint32_t nr_survivors, uint32_t nr_track)
{
    uint32_t released = 0;

    for (uint32_t ref = 0; ref < grantor->nr_entries; ref++) {
        if (__atomic_load_n(&grantor->active[ref].lock, __ATOMIC_ACQUIRE) == owner) {
            released += forget_ref(dead, nr_track, grantor->instance, ref);
            recount(grantor, ref, survivors, nr_survivors, nr_track);
        }
    }
    for (uint32_t i = 0; i < nr_track; i++)
        released += unpin(grantor, &dead[i], owner) == GNTST_okay;
    return released;
}
