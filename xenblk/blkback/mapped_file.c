#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>

#include "xenblk/blkback/guard.h"
#include "xenblk/blkback/mapped_file.h"
#include "xenblk/copying.h"

#define PAGE_BYTES 4096u
#define WORD_BITS 64

struct xb_mapped_file {
    uint8_t *memory;
    uint64_t nr_pages; /* whole ones: the page that the file ends in is the kernel's */
    uint64_t *known;   /* a bit per page. A hint, so that its order with anything else means nothing */
    size_t known_bytes;
    int64_t stamped_s; /* the second in which the kernel wrote last */
    int writable;
};

/* What is known */

static uint64_t bit_of(uint64_t page)
{
    return (uint64_t)1 << page % WORD_BITS;
}

static int is_known(const struct xb_mapped_file *mapped, uint64_t page)
{
    return page < mapped->nr_pages &&
           (__atomic_load_n(&mapped->known[page / WORD_BITS], __ATOMIC_RELAXED) & bit_of(page)) != 0;
}

static int all_known(const struct xb_mapped_file *mapped, uint64_t offset, uint64_t bytes)
{
    for (uint64_t page = offset / PAGE_BYTES; page * PAGE_BYTES < offset + bytes; page++)
        if (!is_known(mapped, page))
            return 0;
    return 1;
}

static int all_zeros(const uint8_t *memory, size_t bytes)
{
    return bytes == 0 || (memory[0] == 0 && memcmp(memory, memory + 1, bytes - 1) == 0);
}

static void learn_page(struct xb_mapped_file *mapped, uint64_t page)
{
    if (page < mapped->nr_pages && !is_known(mapped, page))
        __atomic_fetch_or(&mapped->known[page / WORD_BITS], bit_of(page), __ATOMIC_RELAXED);
}

void xb_mapped_file_learn(struct xb_mapped_file *mapped, int is_write, const struct iovec *iov, uint64_t offset,
                          uint64_t bytes)
{
    size_t at = 0; /* in *iov */

    while (bytes > 0) {
        size_t piece = PAGE_BYTES - offset % PAGE_BYTES;

        if (piece > iov->iov_len - at)
            piece = iov->iov_len - at;
        if (piece > bytes)
            piece = bytes;
        if (is_write || !all_zeros((const uint8_t *)iov->iov_base + at, piece))
            learn_page(mapped, offset / PAGE_BYTES);
        offset += piece;
        bytes -= piece;
        at += piece;
        if (at == iov->iov_len) {
            iov++;
            at = 0;
        }
    }
}

void xb_mapped_file_forget(struct xb_mapped_file *mapped, uint64_t offset, uint64_t bytes)
{
    for (uint64_t page = offset / PAGE_BYTES; page * PAGE_BYTES < offset + bytes && page < mapped->nr_pages; page++)
        if (is_known(mapped, page))
            __atomic_fetch_and(&mapped->known[page / WORD_BITS], ~bit_of(page), __ATOMIC_RELAXED);
}

/* Moving */

struct copies {
    int is_write;
    uint8_t *memory;
    const struct iovec *iov;
    uint32_t nr_iov;
};

/* Page after page, as the kernel does: neighbouring pages of a guest's may be one page, mapped twice, where the later
 * data is to win, and one copy of both would write them in any order. */
static void copy_pages(int is_write, uint8_t *memory, uint8_t *pages, size_t bytes)
{
    while (bytes > 0) {
        size_t piece = PAGE_BYTES - (uintptr_t)pages % PAGE_BYTES;

        if (piece > bytes)
            piece = bytes;
        if (is_write)
            xb_copy_plain(memory, pages, piece);
        else
            xb_copy_plain(pages, memory, piece);
        memory += piece;
        pages += piece;
        bytes -= piece;
    }
}

static void copy(void *argument)
{
    const struct copies *copies = argument;
    uint8_t *memory = copies->memory;

    for (uint32_t i = 0; i < copies->nr_iov; i++) {
        copy_pages(copies->is_write, memory, copies->iov[i].iov_base, copies->iov[i].iov_len);
        memory += copies->iov[i].iov_len;
    }
}

static int must_be_stamped(struct xb_mapped_file *mapped)
{
    int64_t now_s = (int64_t)time(NULL);

    return __atomic_exchange_n(&mapped->stamped_s, now_s, __ATOMIC_RELAXED) != now_s;
}

int xb_mapped_file_move(struct xb_mapped_file *mapped, int is_write, const struct iovec *iov, uint32_t nr_iov,
                        uint64_t offset)
{
    struct copies copies = {is_write, mapped->memory + offset, iov, nr_iov};
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < nr_iov; i++)
        bytes += iov[i].iov_len;
    if (!all_known(mapped, offset, bytes) || (is_write && (!mapped->writable || must_be_stamped(mapped))))
        return 0;
    if (xb_guard_run(mapped->memory, mapped->nr_pages * PAGE_BYTES, copy, &copies))
        return 1;
    xb_mapped_file_forget(mapped, offset, bytes);
    return 0;
}

/* Creating */

static int is_mappable(int fd, int open_flags)
{
    struct statfs system;

    return open_flags >= 0 && !(open_flags & O_DIRECT) && fstatfs(fd, &system) == 0 && system.f_type == TMPFS_MAGIC;
}

struct xb_mapped_file *xb_mapped_file_create(int fd, uint64_t bytes)
{
    int open_flags = fcntl(fd, F_GETFL), writable = (open_flags & O_ACCMODE) == O_RDWR;
    struct xb_mapped_file *mapped;

    if (!is_mappable(fd, open_flags) || bytes < PAGE_BYTES)
        return NULL;
    xb_guard_take_sigbus();
    mapped = calloc(1, sizeof(*mapped));
    if (!mapped)
        return NULL;
    mapped->writable = writable;
    mapped->nr_pages = bytes / PAGE_BYTES;
    mapped->known_bytes = (mapped->nr_pages + WORD_BITS - 1) / WORD_BITS * sizeof(*mapped->known);
    mapped->memory = mmap(NULL, mapped->nr_pages * PAGE_BYTES, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                          MAP_SHARED, fd, 0);
    /* Takes memory where a page is known, and no more. */
    mapped->known = mmap(NULL, mapped->known_bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped->memory != MAP_FAILED && mapped->known != MAP_FAILED)
        return mapped;
    xb_mapped_file_destroy(mapped);
    return NULL;
}

void xb_mapped_file_destroy(struct xb_mapped_file *mapped)
{
    if (!mapped)
        return;
    if (mapped->memory != MAP_FAILED)
        munmap(mapped->memory, mapped->nr_pages * PAGE_BYTES);
    if (mapped->known != MAP_FAILED)
        munmap(mapped->known, mapped->known_bytes);
    free(mapped);
}
