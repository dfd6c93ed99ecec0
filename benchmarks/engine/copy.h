/* Copies of whole pages with stores that go past the caches, as wide as the CPU has them. */
#if defined(__x86_64__)
static inline void stream_16(char *to, const char *from, size_t size)
{
    for (size_t i = 0; i < size; i += LINE)
        for (size_t j = i; j < i + LINE; j += 16)
            _mm_stream_si128((__m128i *)(to + j), _mm_load_si128((const __m128i *)(from + j)));
}

/* Four loads before four stores: a fifth faster than with the narrow ones, for reads. */
static inline __attribute__((target("avx512f"))) void stream_64(char *to, const char *from, size_t size)
{
    for (size_t i = 0; i < size; i += 4 * LINE) {
        __m512i a = _mm512_load_si512(from + i), b = _mm512_load_si512(from + i + LINE);
        __m512i c = _mm512_load_si512(from + i + 2 * LINE), d = _mm512_load_si512(from + i + 3 * LINE);

        _mm512_stream_si512((void *)(to + i), a);
        _mm512_stream_si512((void *)(to + i + LINE), b);
        _mm512_stream_si512((void *)(to + i + 2 * LINE), c);
        _mm512_stream_si512((void *)(to + i + 3 * LINE), d);
    }
}

static inline void copy_streaming(char *to, const char *from, size_t size)
{
    (__builtin_cpu_supports("avx512f") ? stream_64 : stream_16)(to, from, size);
}

/* Such stores are not ordered by the release store that publishes them: this is. */
static inline void streaming_done(void)
{
    _mm_sfence();
}
#else
static inline void copy_streaming(char *to, const char *from, size_t size)
{
    (void)to, (void)from, (void)size;
    fail("there are no streaming stores for this CPU here: --stores plain");
}

static inline void streaming_done(void)
{
}
#endif
