/* Copies of whole pages with stores that go past the caches. Plain ones are the C library's memcpy(). */
#if defined(__x86_64__)
static inline void copy_streaming_sse(void *to, const void *from, size_t size)
{
    for (size_t i = 0; i < size; i += 64) {
        __m128i a = _mm_load_si128((const __m128i *)((const char *)from + i));
        __m128i b = _mm_load_si128((const __m128i *)((const char *)from + i + 16));
        __m128i c = _mm_load_si128((const __m128i *)((const char *)from + i + 32));
        __m128i d = _mm_load_si128((const __m128i *)((const char *)from + i + 48));

        _mm_stream_si128((__m128i *)((char *)to + i), a);
        _mm_stream_si128((__m128i *)((char *)to + i + 16), b);
        _mm_stream_si128((__m128i *)((char *)to + i + 32), c);
        _mm_stream_si128((__m128i *)((char *)to + i + 48), d);
    }
}

static inline __attribute__((target("avx512f"))) void copy_streaming_avx512(void *to, const void *from, size_t size)
{
    for (size_t i = 0; i < size; i += 256) {
        __m512i a = _mm512_load_si512((const char *)from + i);
        __m512i b = _mm512_load_si512((const char *)from + i + 64);
        __m512i c = _mm512_load_si512((const char *)from + i + 128);
        __m512i d = _mm512_load_si512((const char *)from + i + 192);

        _mm512_stream_si512((void *)((char *)to + i), a);
        _mm512_stream_si512((void *)((char *)to + i + 64), b);
        _mm512_stream_si512((void *)((char *)to + i + 128), c);
        _mm512_stream_si512((void *)((char *)to + i + 192), d);
    }
}

static int use_avx512 = 0;
static inline void copy_streaming(void *to, const void *from, size_t size)
{
    if (use_avx512)
        copy_streaming_avx512(to, from, size);
    else
        copy_streaming_sse(to, from, size);
}

static inline void streaming_done(void)
{
    _mm_sfence();
}
#endif
