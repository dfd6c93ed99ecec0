#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "xenblk/discard.h"

#define PAGE_BYTES 4096u

int xb_discard_file(int fd, uint64_t offset, uint64_t count)
{
    int status;

    if (count == 0) /* to fallocate(2) an error */
        return 0;
    do {
        status = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)count);
    } while (status < 0 && errno == EINTR);
    return status < 0 ? -errno : 0;
}

void xb_discard_memory(void *memory, uint64_t count, int secure)
{
    uint8_t *at = memory;
    uint64_t head = -(uintptr_t)at % PAGE_BYTES, whole;

    if (secure) {
        memset(at, 0, count);
        return;
    }
    if (head > count)
        head = count;
    whole = (count - head) / PAGE_BYTES * PAGE_BYTES;
    memset(at, 0, head);
    memset(at + head + whole, 0, count - head - whole);
    /* Memory that is locked cannot be given back. */
    if (whole > 0 && madvise(at + head, whole, MADV_DONTNEED) != 0)
        memset(at + head, 0, whole);
}
