/* What a backend took off a ring and has not answered, in memory that outlives its process: the next backend goes on
 * with exactly that, on the same ring, and the guest sees a pause.
 *
 * The ring alone does not say it. A response takes the place of a request, maybe of another one than it answers, and
 * responses overtake each other. So each request is copied here before it counts as taken, and each response says here
 * which place it gets before it is published. What counts is one store each, and whoever is killed between two
 * instructions has either done it or not:
 *
 *     taken      xb_journal_take stores the state; before that, the request still stands on the ring
 *     answered   the ring's rsp_prod passes the response's place; before that, the request is to be done again
 *
 * So after rsp_prod lie as many requests as entries are unanswered, and behind them those that nobody took. An entry is
 * used again only after xb_journal_forget, that is after its response was published.
 *
 * The order of stores is that of one thread; a process that dies takes no store back. Nothing is fenced for others:
 * nobody reads while the process lives. It is no journal against a crash of the machine, which ends the guest, too. */

#define XB_JOURNAL_FREE 0
#define XB_JOURNAL_TAKEN 1
#define XB_JOURNAL_ANSWERED 2
#define XB_JOURNAL_SLOT_BYTES 112 /* XB_BLKIF_SLOT_BYTES_MAX */

struct xb_journal_entry {
    uint8_t slot[112];
    uint32_t index;    /* of the request on the ring: the order in which they were taken */
    uint32_t position; /* of its response */
    uint32_t state;
    uint32_t unused;
};

/* The request in entry->slot, which was at `index`, is ours. */
void xb_journal_take(struct xb_journal_entry *entry, uint32_t index);

/* Its response is put, or about to be, at `position`. */
void xb_journal_answer(struct xb_journal_entry *entry, uint32_t position);

/* Its response is published. */
void xb_journal_forget(struct xb_journal_entry *entry);

/* Whether its request was taken and, on a ring whose responses are published up to `rsp_prod`, not answered. */
int xb_journal_is_unanswered(const struct xb_journal_entry *entry, uint32_t rsp_prod);
