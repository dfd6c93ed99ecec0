#include <stdint.h>

#include "xenblk/emulated/evtchn.h"

/* Every operation is sequentially consistent. The sender stores its ring index before it sets PENDING; the receiver
 * clears PENDING before it loads that index. So whoever loses the race on the word still sees the other's work:
 * either the receiver sees the index, or the sender saw PENDING clear and wakes the receiver again. */

int xb_evtchn_set_pending(uint32_t *word)
{
    uint32_t before = __atomic_fetch_or(word, XB_EVTCHN_PENDING, __ATOMIC_SEQ_CST);

    return (before & (XB_EVTCHN_PENDING | XB_EVTCHN_MASKED)) == 0;
}

int xb_evtchn_clear_pending(uint32_t *word)
{
    uint32_t before = __atomic_fetch_and(word, ~(uint32_t)XB_EVTCHN_PENDING, __ATOMIC_SEQ_CST);

    return (before & XB_EVTCHN_PENDING) != 0;
}

void xb_evtchn_mask(uint32_t *word)
{
    __atomic_fetch_or(word, XB_EVTCHN_MASKED, __ATOMIC_SEQ_CST);
}

int xb_evtchn_unmask(uint32_t *word)
{
    uint32_t before = __atomic_fetch_and(word, ~(uint32_t)XB_EVTCHN_MASKED, __ATOMIC_SEQ_CST);

    return (before & XB_EVTCHN_PENDING) != 0;
}

void xb_evtchn_set_unbound(uint32_t *word, int unbound)
{
    if (unbound)
        __atomic_fetch_or(word, XB_EVTCHN_UNBOUND, __ATOMIC_SEQ_CST);
    else
        __atomic_fetch_and(word, ~(uint32_t)XB_EVTCHN_UNBOUND, __ATOMIC_SEQ_CST);
}

uint32_t xb_evtchn_load(uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}
