/* Copies into shared pages, with plain or with streaming stores.
 *
 * A streaming store goes past the caches: it costs the writer more, and spares the reader on another CPU the pulling of
 * each line out of the writer's cache. xenblk/copier.h finds out which of them is the better.
 */

#define XB_COPY_PLAIN 0
#define XB_COPY_STREAMING 1

/* Copy `n` bytes; the two must not overlap. Any address and length will do; whole aligned lines are fast. */
void xb_copy_plain(void *to, const void *from, size_t n);

/* The same with stores past the caches where the CPU has them. A fence is needed before the index is published. */
void xb_copy_streaming(void *to, const void *from, size_t n);

/* One of the two. */
void xb_copy(int how, void *to, const void *from, size_t n);

/* Between the last copy of a batch and the store that publishes it: the peer sees the bytes before the index. */
void xb_copy_fence(int how);
