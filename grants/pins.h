/* Inside of gnttab.c, which includes gnttab.h first: the lock of an active entry, and what the first and each further
 * pin of a reference ask. All but the lock itself run with that entry locked. */
#pragma once
#include <sched.h>
#include <stdint.h>

#define CAS_ATTEMPTS_MAX 5
#define SUB_PAGE 0x100u /* GTF_sub_page: version 2 only, refused here */
#define SPINS_BEFORE_YIELD 128u
#define SPINS_MAX (1u << 22) /* bounds the wait for a lock whose holder died and whose host is gone too */

static inline int lock_take(uint32_t *lock, uint32_t owner)
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

static inline void lock_release(uint32_t *lock)
{
    /* Release: the next holder's lock_take sees all that we wrote while holding it. */
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

static inline uint32_t *flags_and_domid(struct xb_grant_entry *entry)
{
    return (uint32_t *)(void *)entry;
}

static inline int set_mapped(struct xb_grant_entry *entry, uint16_t domid, int write)
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

static inline void clear_mapped(struct xb_grant_entry *entry, const struct xb_active_entry *active)
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

static inline uint8_t *pins_of(struct xb_active_entry *active, uint32_t flags)
{
    return (flags & GNTMAP_readonly) ? &active->read_pins : &active->write_pins;
}

static inline int first_pin(struct xb_gnttab_grantor *grantor, uint32_t ref, uint16_t domid, int write)
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

static inline int further_pin(struct xb_gnttab_grantor *grantor, uint32_t ref, uint16_t domid, uint32_t flags)
{
    struct xb_active_entry *active = &grantor->active[ref];

    if (active->domid != domid || *pins_of(active, flags) == XB_PINS_MAX)
        return GNTST_general_error;
    if (!(flags & GNTMAP_readonly) && active->write_pins == 0)
        return set_mapped(&grantor->shared[ref], domid, 1);
    return GNTST_okay;
}
