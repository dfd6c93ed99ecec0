/* Copies into shared pages, with plain or with streaming stores.
 *
 * A streaming store goes past the caches: it costs the writer more, and spares the reader on another CPU the pulling of
 * each line out of the writer's cache. xenblk/copier.h finds out which of them is the better.
 */

#define XB_COPY_PLAIN 0
#define XB_COPY_STREAMING 1

/* Have `n` bytes fetched into the caches, for a copy that comes soon: what that would wait for comes while this thread
 * does something else. It is a hint, and never faults; NULL: nothing is fetched. */
void xb_fetch(const void *at, size_t n);

/* Copy `n` bytes with plain stores; the two must not overlap. Any address and length will do. */
void xb_copy_plain(void *to, const void *from, size_t n);

/* Copy `n` bytes with either store; whole aligned lines are fast. A streaming store needs a fence before the index is
 * published. */
void xb_copy(int how, void *to, const void *from, size_t n);

/* Between the last copy of a batch and the store that publishes it: the peer sees the bytes before the index. */
void xb_copy_fence(int how);
