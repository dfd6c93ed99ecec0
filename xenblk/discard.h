/* Parts of a disk that are not needed any more: they read as zeros afterwards, and their memory or blocks are free for
 * others. */

/* Make a hole in a file or block device: 0, or -errno; -EOPNOTSUPP where its file system has no holes. */
int xb_discard_file(int fd, uint64_t offset, uint64_t count);

/* Give back private anonymous memory; what is left of a page at either end is zeroed. With `secure` all of it is
 * overwritten where it stands, and kept. */
void xb_discard_memory(void *memory, uint64_t count, int secure);
