/* What the two sides of ideal.c share: options, the ring, and how they wait for each other. */
#define SLOTS_MAX       4096
#define NEVER           UINT64_MAX
#define WORD_WRITE      (1ull << 55)
#define WORD_GENERATION 56
#define WORD_BLOCK      (WORD_WRITE - 1)
#define APART           __attribute__((aligned(128))) /* lines are fetched in pairs */

static struct options {
    bool writes, random, streaming;
    unsigned depth, copies, slots, batch, wake; /* of the last three, 0: see settle() */
    size_t block_bytes, disk_bytes;
    uint64_t spin_ns;
    double seconds;
    int cpus[2];
} options = {
    .random = true, .depth = 32, .copies = 2, .block_bytes = PAGE, .disk_bytes = 1ul << 30, .spin_ns = NEVER,
    .seconds = 1, .cpus = {0, 1},
};

/* Each line has one writer. An index counts up for ever, its slot is that modulo the number of slots. */
static struct shared {
    APART uint64_t words[SLOTS_MAX]; /* the client's: a word is published by having its turn's generation */
    APART uint64_t done;             /* the server's: so many were answered, in the order of publishing */
    APART uint64_t server_event;     /* who is about to sleep writes in its own which entry it wants to be woken for */
    APART uint64_t client_event;
    APART bool stop;                 /* the client's */
    APART bool ready;                /* the server's, as all below */
    uint64_t checks_failed, kicks;
    double disk_huge;
} *shared;

static char *buffers;
static uint64_t mask;

static uint64_t generation(uint64_t index)
{
    return (index / (mask + 1) + 1) << WORD_GENERATION;
}

static char *buffer_of(uint64_t index)
{
    return buffers + (index & mask) * options.block_bytes;
}

static void to_buffer(char *to, const char *from)
{
    if (options.streaming)
        copy_streaming(to, from, options.block_bytes);
    else
        memcpy(to, from, options.block_bytes);
}

/* Wake the other side if it waits for an entry in [from, to). The index was stored before: this fence has that seen by
 * a side which reads it after the fence in wait_for(), or its event seen here. */
static void kick(uint64_t *event, uint64_t from, uint64_t to, int fd, uint64_t *nr_kicks)
{
    uint64_t one = 1;

    if (options.spin_ns == NEVER)
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(event, __ATOMIC_RELAXED) - from < to - from) {
        ++*nr_kicks;
        if (write(fd, &one, 8) != 8)
            fail("an eventfd was not written: %s", strerror(errno));
    }
}

static bool stopping(void)
{
    return __atomic_load_n(&shared->stop, __ATOMIC_RELAXED);
}

/* Until look() is past `from`, or the end is asked for; what look() said. */
static uint64_t wait_for(uint64_t (*look)(uint64_t), uint64_t from, uint64_t *event, unsigned nr_wanted, int fd)
{
    uint64_t index, count, begin_ns = 0;

    for (unsigned turns = 0; (index = look(from)) == from && !stopping(); turns++) {
        relax();
        if (options.spin_ns == NEVER || turns % 16)
            continue;
        if (turns == 0)
            begin_ns = now_ns();
        if (options.spin_ns && now_ns() - begin_ns < options.spin_ns)
            continue;
        __atomic_store_n(event, from + nr_wanted - 1, __ATOMIC_RELAXED);
        /* With the fence in kick(): the entry is seen here, or the event there. */
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (look(from) == from && !stopping() && read(fd, &count, 8) != 8 && errno != EINTR)
            fail("an eventfd was not read: %s", strerror(errno));
        turns = -1;
    }
    return index;
}

static uint64_t look_done(uint64_t from)
{
    (void)from;
    return __atomic_load_n(&shared->done, __ATOMIC_ACQUIRE);
}

static uint64_t look_words(uint64_t from)
{
    uint64_t to = from;

    while (to - from <= mask &&
           (__atomic_load_n(&shared->words[to & mask], __ATOMIC_ACQUIRE) ^ generation(to)) >> WORD_GENERATION == 0)
        to++;
    return to;
}
