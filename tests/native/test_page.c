/* The xenstore page's C: two threads stream bytes through both rings at once, indices run over, and an index that no
 * honest peer writes is refused without a byte being touched. */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "xenblk/assert.h"
#include "xenblk/xenstore/page.h"

#define PAGE_SIZE 4096
#define PIECE_MAX 3000
#define STREAM_BYTES (1u << 21)
#define HANG_S 300
#define REQ_CONS 2048
#define REQ_PROD 2052
#define RSP_CONS 2056
#define RSP_PROD 2060

static uint64_t seed;

/* Of its own size, so that a sanitizer sees whoever leaves it. */
static uint8_t *page;

static uint32_t roll(uint64_t *dice)
{
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    return (uint32_t)(*dice >> 32);
}

/* What is at a place of the stream that a side sends. */
static uint8_t byte_at(uint32_t place, int server)
{
    return (uint8_t)((place * 2654435761u) >> 24) + (uint8_t)server;
}

static void start_at(uint32_t requests, uint32_t replies)
{
    memset(page, 0xa5, PAGE_SIZE);
    xb_xs_store(page, REQ_CONS, requests);
    xb_xs_store(page, REQ_PROD, requests);
    xb_xs_store(page, RSP_CONS, replies);
    xb_xs_store(page, RSP_PROD, replies);
}

/* Sides differ in what they put; each buffer has exactly the size that it is said to have. */
static uint32_t put_piece(uint64_t *dice, int server, uint32_t sent)
{
    uint32_t size = roll(dice) % PIECE_MAX;
    uint8_t *piece;
    int32_t put;

    if (size > STREAM_BYTES - sent)
        size = STREAM_BYTES - sent;
    piece = malloc(size + !size);
    for (uint32_t i = 0; i < size; i++)
        piece[i] = byte_at(sent + i, server);
    put = xb_xs_put(page, server, piece, size);
    free(piece);
    XB_ASSERT(put >= 0 && put <= XB_XS_RING_BYTES && (uint32_t)put <= size);
    return put;
}

static uint32_t take_piece(uint64_t *dice, int server, uint32_t received)
{
    uint32_t size = roll(dice) % PIECE_MAX;
    uint8_t *piece = malloc(size + !size);
    int32_t taken = xb_xs_take(page, server, piece, size);

    XB_ASSERT(taken >= 0 && taken <= XB_XS_RING_BYTES && (uint32_t)taken <= size);
    for (int32_t i = 0; i < taken; i++)
        XB_ASSERT(piece[i] == byte_at(received + i, !server));
    free(piece);
    return taken;
}

static void *stream(void *argument)
{
    int server = argument != NULL;
    uint64_t dice = seed + 1 + server;
    uint32_t sent = 0, received = 0;

    while (sent < STREAM_BYTES || received < STREAM_BYTES) {
        uint32_t put = put_piece(&dice, server, sent);
        uint32_t taken = take_piece(&dice, server, received);

        sent += put;
        received += taken;
        if (!put && !taken)
            sched_yield();
    }
    return NULL;
}

/* Both rings start close below 2^32, and go around it. */
static void test_two_threads(void)
{
    pthread_t server;

    start_at(0xffffff00, 0xfffffffe);
    XB_ASSERT(pthread_create(&server, NULL, stream, page) == 0);
    stream(NULL);
    XB_ASSERT(pthread_join(server, NULL) == 0);
    XB_ASSERT(xb_xs_load(page, REQ_PROD) == 0xffffff00 + STREAM_BYTES);
    XB_ASSERT(xb_xs_load(page, RSP_CONS) == 0xfffffffe + STREAM_BYTES);
    for (uint32_t i = RSP_PROD + 4; i < PAGE_SIZE; i++)
        XB_ASSERT(page[i] == 0xa5);
}

/* Each ring from each side: where its indices are, and where its bytes. */
static const struct ring {
    int server_puts;
    uint32_t ring, cons, prod;
} rings[] = {{0, 0, REQ_CONS, REQ_PROD}, {1, XB_XS_RING_BYTES, RSP_CONS, RSP_PROD}};

/* Fill a ring to the brim at any index, and empty it: all 1024 bytes, and not one beside them. */
static void test_full_and_empty(const struct ring *ring, uint32_t start)
{
    uint8_t bytes[XB_XS_RING_BYTES + 1], copy[XB_XS_RING_BYTES];

    for (uint32_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = byte_at(i, 0);
    start_at(start, start);
    XB_ASSERT(xb_xs_put(page, ring->server_puts, bytes, sizeof(bytes)) == XB_XS_RING_BYTES);
    XB_ASSERT(xb_xs_put(page, ring->server_puts, bytes, 1) == 0);
    XB_ASSERT(page[ring->ring + start % XB_XS_RING_BYTES] == bytes[0]);
    XB_ASSERT(page[XB_XS_RING_BYTES - ring->ring] == 0xa5 && page[2 * XB_XS_RING_BYTES - 1 - ring->ring] == 0xa5);
    XB_ASSERT(xb_xs_load(page, ring->prod) == start + XB_XS_RING_BYTES);
    XB_ASSERT(xb_xs_take(page, !ring->server_puts, copy, sizeof(copy)) == XB_XS_RING_BYTES);
    XB_ASSERT(memcmp(copy, bytes, sizeof(copy)) == 0);
    XB_ASSERT(xb_xs_take(page, !ring->server_puts, copy, sizeof(copy)) == 0);
    XB_ASSERT(xb_xs_load(page, ring->cons) == start + XB_XS_RING_BYTES);
}

/* The other side's index claims `ahead` bytes: an error, and page and buffer stay as they were. */
static void test_refused(const struct ring *ring, uint32_t start, uint32_t ahead)
{
    uint8_t before[PAGE_SIZE], buffer[PAGE_SIZE], copy[PAGE_SIZE];

    start_at(start, start);
    memset(buffer, 0x5a, sizeof(buffer));
    memcpy(copy, buffer, sizeof(copy));
    xb_xs_store(page, ring->prod, start + ahead);
    memcpy(before, page, PAGE_SIZE);
    XB_ASSERT(xb_xs_take(page, !ring->server_puts, buffer, sizeof(buffer)) == -1);
    XB_ASSERT(xb_xs_put(page, ring->server_puts, buffer, sizeof(buffer)) == -1);
    XB_ASSERT(memcmp(buffer, copy, sizeof(buffer)) == 0);
    XB_ASSERT(memcmp(before, page, PAGE_SIZE) == 0);
}

static void test_indices(uint64_t *dice)
{
    static const uint32_t aheads[] = {XB_XS_RING_BYTES + 1, 2000, 0x7fffffff, 0x80000000, 0xfffffc00, 0xffffffff};

    for (int round = 0; round < 2000; round++) {
        uint32_t start = round % 2 ? roll(dice) : 0xffffffff - roll(dice) % (2 * XB_XS_RING_BYTES);
        uint32_t ahead = roll(dice);

        for (int i = 0; i < 2; i++) {
            test_full_and_empty(&rings[i], start);
            test_refused(&rings[i], start, ahead > XB_XS_RING_BYTES ? ahead : ~ahead);
            test_refused(&rings[i], start, aheads[round % (sizeof(aheads) / sizeof(aheads[0]))]);
        }
    }
}

static void test_reset(void)
{
    start_at(17, 0xfffffff0);
    XB_ASSERT(xb_xs_put(page, 0, (const uint8_t *)"left", 4) == 4);
    xb_xs_reset(page);
    for (uint32_t at = REQ_CONS; at <= RSP_PROD; at += 4)
        XB_ASSERT(xb_xs_load(page, at) == 0);
    XB_ASSERT(xb_xs_load(page, XB_XS_CONNECTION) == 0xa5a5a5a5);
    XB_ASSERT(xb_xs_take(page, 1, page, PAGE_SIZE) == 0);
}

/* With a seed as argument, that one. */
int main(int argc, char **argv)
{
    uint64_t dice;

    alarm(HANG_S);
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    page = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
    XB_ASSERT(page != NULL);
    dice = seed ^ 0x9e3779b97f4a7c15;
    test_indices(&dice);
    test_reset();
    test_two_threads();
    free(page);
    return 0;
}
