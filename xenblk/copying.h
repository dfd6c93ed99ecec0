/* Copies into shared pages, with plain or with streaming stores.
 *
 * A streaming store goes past the caches: it costs the writer more, and spares the reader on another CPU the pulling of
 * each line out of the writer's cache. xenblk/copier.h finds out which of them is the better.
 */

#define XB_COPY_PLAIN 0
#define XB_COPY_STREAMING 1

/* Have `n` bytes fetched into the caches, before a copy that nothing before it announced: all lines of a page at once
 * come sooner than those that the CPU sees coming while it copies. It is a hint, and never faults. */
void xb_fetch(const void *at, size_t n);

/* Copy `n` bytes with plain stores; the two must not overlap. Any address and length will do. */
void xb_copy_plain(void *to, const void *from, size_t n);

/* Copy `n` bytes with either store; whole aligned lines are fast. A streaming store needs a fence before the index is
 * published. Meanwhile as many bytes at `next` are fetched into the caches, line by line: what the copy after this one
 * touches comes while this one keeps the CPU busy. It is a hint, and never faults; NULL: nothing is fetched. */
void xb_copy(int how, void *to, const void *from, size_t n, const void *next);

/* Between the last copy of a batch and the store that publishes it: the peer sees the bytes before the index. */
void xb_copy_fence(int how);
