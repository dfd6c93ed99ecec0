#include <stdint.h>

#include "xenblk/assert.h"
#include "xenblk/blkif.h"

#include "xenblk/blkback/journal.h"

_Static_assert(XB_JOURNAL_SLOT_BYTES == XB_BLKIF_SLOT_BYTES_MAX, "a slot of any layout has room");
_Static_assert(sizeof(struct xb_journal_entry) == 128, "the file's layout");

/* Release: the compiler, too, keeps to the order of stores that journal.h speaks of. */
static void set_state(struct xb_journal_entry *entry, uint32_t state)
{
    __atomic_store_n(&entry->state, state, __ATOMIC_RELEASE);
}

void xb_journal_take(struct xb_journal_entry *entry, uint32_t index)
{
    XB_ASSERT(entry->state == XB_JOURNAL_FREE);
    entry->index = index;
    set_state(entry, XB_JOURNAL_TAKEN);
}

void xb_journal_answer(struct xb_journal_entry *entry, uint32_t position)
{
    XB_ASSERT(entry->state == XB_JOURNAL_TAKEN);
    entry->position = position;
    set_state(entry, XB_JOURNAL_ANSWERED);
}

void xb_journal_forget(struct xb_journal_entry *entry)
{
    XB_ASSERT(entry->state == XB_JOURNAL_ANSWERED);
    set_state(entry, XB_JOURNAL_FREE);
}

int xb_journal_is_unanswered(const struct xb_journal_entry *entry, uint32_t rsp_prod)
{
    /* A place before rsp_prod is near it: it is forgotten soon after. */
    int published = (int32_t)(entry->position - rsp_prod) < 0;

    return entry->state == XB_JOURNAL_TAKEN || (entry->state == XB_JOURNAL_ANSWERED && !published);
}
