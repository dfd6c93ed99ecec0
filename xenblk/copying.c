#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "xenblk/copying.h"

#define LINE 64

/* Into the second-level cache, as a core waits for more lines there than for the first level. All of them at once:
 * that is a tenth faster than line by line while another page is copied. */
void xb_fetch(const void *at, size_t n)
{
    for (size_t i = 0; at && i < n; i += LINE)
        __builtin_prefetch((const uint8_t *)at + i, 0, 2);
}

/* Kept apart: where the compiler sees that n is at most a page it makes a string instruction of it, which takes twice
 * as long as the library's memcpy. */
void __attribute__((noipa)) xb_copy_plain(void *to, const void *from, size_t n)
{
    memcpy(to, from, n);
}

/* The lines of streaming copies. */
#if defined(__x86_64__)
static __attribute__((target("avx"))) void stream_lines_avx(uint8_t *to, const uint8_t *from, size_t nr_lines)
{
    for (; nr_lines; nr_lines--, to += LINE, from += LINE) {
        __m256i low = _mm256_loadu_si256((const __m256i *)from);
        __m256i high = _mm256_loadu_si256((const __m256i *)(from + 32));

        _mm256_stream_si256((__m256i *)to, low);
        _mm256_stream_si256((__m256i *)(to + 32), high);
    }
}

/* A line by one store, and four of them loaded before the first is stored: a tenth faster for a page. As all sectors
 * have it, nr_lines is a multiple of four. */
static __attribute__((target("avx512f"))) void stream_fours_avx512(uint8_t *to, const uint8_t *from, size_t nr_lines)
{
    for (; nr_lines; nr_lines -= 4, to += 4 * LINE, from += 4 * LINE) {
        __m512i line[4];

#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            line[i] = _mm512_loadu_si512(from + i * LINE);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            _mm512_stream_si512((__m512i *)(to + i * LINE), line[i]);
    }
}

static void stream_lines_sse2(uint8_t *to, const uint8_t *from, size_t nr_lines)
{
    for (size_t at = 0; at < nr_lines * LINE; at += 16)
        _mm_stream_si128((__m128i *)(to + at), _mm_loadu_si128((const __m128i *)(from + at)));
}

static void stream_lines(uint8_t *to, const uint8_t *from, size_t nr_lines)
{
    if (nr_lines % 4 == 0 && __builtin_cpu_supports("avx512f"))
        stream_fours_avx512(to, from, nr_lines);
    else if (__builtin_cpu_supports("avx"))
        stream_lines_avx(to, from, nr_lines);
    else
        stream_lines_sse2(to, from, nr_lines);
}
#else
static void stream_lines(uint8_t *to, const uint8_t *from, size_t nr_lines)
{
    memcpy(to, from, nr_lines * LINE);
}
#endif

/* Whole lines only: a line that is streamed in part is read from memory first. */
static void copy_streaming(uint8_t *to, const uint8_t *from, size_t n)
{
    size_t head = -(uintptr_t)to % LINE;
    size_t bulk;

    if (head > n)
        head = n;
    bulk = (n - head) / LINE * LINE;
    memcpy(to, from, head);
    stream_lines(to + head, from + head, bulk / LINE);
    memcpy(to + head + bulk, from + head + bulk, n - head - bulk);
}

void xb_copy(int how, void *to, const void *from, size_t n)
{
    if (how == XB_COPY_STREAMING)
        copy_streaming(to, from, n);
    else
        xb_copy_plain(to, from, n);
}

void xb_copy_fence(int how)
{
#if defined(__x86_64__)
    /* Streaming stores are not ordered with later plain ones, so the release store of prod ([P] in ring/sring.c) does
     * not wait for them by itself. After this fence the peer that sees prod, at its [C], sees the bytes. */
    if (how == XB_COPY_STREAMING)
        _mm_sfence();
#else
    (void)how; /* the stores were plain, and [P] orders them */
#endif
}
