/* The front engine by itself: data both ways through pool and loans in place, no lost wake-up between two threads,
 * liars. */
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <poll.h>
#include <unistd.h>

#include "tests/native/front_guest.h"
#include "xenblk/blkfront/lending.h"
#include "xenblk/copier.h"
#include "xenblk/copying.h"
#include "xenblk/polling.h"
#include "xenblk/blkfront/front.h"
#include "xenblk/assert.h"

#define DISK_BYTES (1 << 20)
#define DEPTH 48
#define NR_RECOVERED 40
#define ROUNDS 300
#define HANG_S 300

static uint8_t disk[DISK_BYTES], buffers[DEPTH][20 * PAGE_SIZE];
static int to_back, to_front, stop;

static void notify(void *context)
{
    uint64_t one = 1;

    XB_ASSERT(write(*(int *)context, &one, sizeof(one)) == sizeof(one));
}

static int take_event(int fd, int timeout_ms)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    uint64_t count;

    return poll(&pollfd, 1, timeout_ms) > 0 && read(fd, &count, sizeof(count)) == sizeof(count);
}

static int wait_event(void *context, int64_t timeout_ns)
{
    (void)context;
    return take_event(to_front, timeout_ns < 0 ? -1 : (int)(timeout_ns / 1000000));
}

static const struct xb_channel channel = {.context = &to_back, .notify = notify, .wait = wait_event};

/* What the backend does with a request: move the data, and keep pages mapped if it may. */
static void serve(const struct xb_blkif_request *request, int keep)
{
    size_t at = request->sector_number * 512;
    int is_indirect = request->operation == XB_BLKIF_INDIRECT;
    const uint8_t *described = memory + (size_t)entries[request->indirect_grefs[0]].frame * PAGE_SIZE;

    for (uint32_t i = 0; i < request->nr_segments; i++) {
        struct xb_blkif_segment segment = request->segments[is_indirect ? 0 : i];
        struct xb_grant_entry *entry;
        uint8_t *page;
        size_t part;

        if (is_indirect)
            memcpy(&segment, described + (size_t)i * 8, sizeof(segment));
        entry = &entries[segment.gref];
        page = memory + (size_t)entry->frame * PAGE_SIZE + segment.first_sect * 512;
        part = (segment.last_sect - segment.first_sect + 1) * 512;
        XB_ASSERT(at + part <= DISK_BYTES);
        if ((is_indirect ? request->indirect_op : request->operation) == XB_BLKIF_WRITE)
            memcpy(disk + at, page, part);
        else
            memcpy(page, disk + at, part);
        at += part;
        if (keep)
            __atomic_fetch_or(&entry->flags, GTF_reading | GTF_writing, __ATOMIC_SEQ_CST);
    }
    if (keep && is_indirect)
        __atomic_fetch_or(&entries[request->indirect_grefs[0]].flags, GTF_reading | GTF_writing, __ATOMIC_SEQ_CST);
}

static int serve_one(int keep)
{
    uint8_t slot[XB_BLKIF_X86_64_SLOT_BYTES], answer[XB_BLKIF_X86_64_SLOT_BYTES];
    struct xb_blkif_request request = {0};

    if (xb_back_ring_consume(&back_ring, slot) != 1)
        return 0;
    xb_blkif_parse(slot, sizeof(slot), &request);
    serve(&request, keep);
    if (request.operation == XB_BLKIF_INDIRECT)
        request.operation = request.indirect_op;
    xb_blkif_pack_response(answer, sizeof(answer), request.id, request.operation, XB_BLKIF_OKAY);
    XB_ASSERT(xb_back_ring_put(&back_ring, answer) == 1);
    return 1;
}

static void *backend(void *keep)
{
    while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
        int served = 0;

        while (served < 5 && serve_one(keep != NULL))
            served++;
        if (xb_back_ring_push(&back_ring))
            notify(&to_front);
        if (served == 0 && !xb_back_ring_final_check(&back_ring))
            take_event(to_back, -1);
    }
    return NULL;
}

static uint64_t next_number(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

/* A bio on a part of the disk that is its own: writes carry a number, and reads must find the last. */
static void prepare(struct xb_bio *bio, uint32_t number, int round, int in_place, uint64_t *random)
{
    uint32_t nr_sectors = 1 + next_number(random) % 42;

    bio->op = round % 2 ? XB_BLKIF_READ : XB_BLKIF_WRITE;
    bio->offset = number * 42 * 512;
    bio->nr_bytes = round % 2 ? bio->nr_bytes : nr_sectors * 512;
    bio->buffer = in_place && number < 12 ? memory + (NR_POOL + number * 8) * PAGE_SIZE + 512 : buffers[number];
    bio->user_data = number;
    memset(bio->buffer, round % 2 ? 0xff : (int)(round + number) & 0x7f, bio->nr_bytes);
}

static void check_data(const struct xb_bio *bio, int round)
{
    for (uint64_t i = 0; i < bio->nr_bytes; i++)
        XB_ASSERT(bio->buffer[i] == ((round - 1 + bio->user_data) & 0x7f));
}

static void run_round(struct xb_bio *bios, int round)
{
    struct xb_bio *done[7];
    uint32_t left = DEPTH;

    for (uint32_t i = 0; i < DEPTH; i++)
        xb_front_submit(front, &bios[i]);
    while (left > 0) {
        uint32_t count = xb_front_poll(front, done, 7, -1);

        XB_ASSERT(xb_front_fault(front)->code == XB_FRONT_SOUND);
        for (uint32_t i = 0; i < count; i++) {
            XB_ASSERT(done[i]->error == 0);
            if (done[i]->op == XB_BLKIF_READ)
                check_data(done[i], round);
        }
        left -= count;
    }
    XB_ASSERT(!xb_front_busy(front));
    xb_front_check(front);
}

static void test_two_threads(int persistent, int in_place, uint32_t poll_us, uint32_t max_segments)
{
    static struct xb_bio bios[DEPTH];
    uint64_t random = 88172645463325252u;
    pthread_t thread;

    create_front_with(&channel, persistent, poll_us, max_segments, NULL);
    stop = 0;
    XB_ASSERT(pthread_create(&thread, NULL, backend, persistent ? &stop : NULL) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < DEPTH; i++)
            prepare(&bios[i], i, round, in_place, &random);
        run_round(bios, round);
        xb_front_reclaim(front, (uint64_t)round * 5000000000u);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
    notify(&to_back);
    pthread_join(thread, NULL);
    XB_ASSERT(persistent || xb_grant_table_v1_nr_free(&table) == NR_REFS - XB_GRANT_TABLE_RESERVED);
    for (uint32_t i = 0; i < NR_REFS; i++)
        entries[i].flags &= GTF_permit_access;
    xb_front_destroy(front);
    XB_ASSERT(xb_grant_table_v1_nr_free(&table) == NR_REFS - XB_GRANT_TABLE_RESERVED);
    XB_ASSERT(counters.notify_sent > 0);
}

static void answer_with(uint64_t id, uint8_t operation)
{
    uint8_t slot[XB_BLKIF_X86_64_SLOT_BYTES];

    XB_ASSERT(xb_back_ring_consume(&back_ring, slot) == 1);
    xb_blkif_pack_response(slot, sizeof(slot), id, operation, XB_BLKIF_OKAY);
    XB_ASSERT(xb_back_ring_put(&back_ring, slot) == 1);
}

static void test_lies(void)
{
    const struct {
        uint64_t id;
        uint8_t operation, code;
    } lies[] = {{1, XB_BLKIF_READ, XB_FRONT_UNKNOWN_ID},
                {UINT64_MAX, XB_BLKIF_READ, XB_FRONT_UNKNOWN_ID},
                {0, XB_BLKIF_WRITE, XB_FRONT_WRONG_OPERATION}};

    for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
        struct xb_bio bio = {.op = XB_BLKIF_READ, .buffer = buffers[0], .nr_bytes = 512}, *done[1];

        create_front(&channel, 1, 0);
        xb_front_submit(front, &bio);
        XB_ASSERT(xb_front_step(front, done, 1) == 0);
        answer_with(lies[i].id, lies[i].operation);
        xb_back_ring_push(&back_ring);
        XB_ASSERT(xb_front_poll(front, done, 1, -1) == 0);
        XB_ASSERT(xb_front_fault(front)->code == lies[i].code);
        XB_ASSERT(xb_front_fault(front)->id == lies[i].id);
        XB_ASSERT(xb_front_final_check(front) == 1);
        XB_ASSERT(xb_front_fail_all(front, EIO) == &bio && bio.next == NULL && bio.error == EIO);
        xb_front_destroy(front);
    }
}

/* While the data of a response is copied out, what the next one seems to be about is fetched. */
static void test_a_lie_behind_a_true_response(void)
{
    const uint64_t ids[] = {0, 1, 2, UINT32_MAX, UINT64_MAX, 1ull << 32};

    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        struct xb_bio bios[2], *done[2];

        create_front(&channel, 1, 0);
        for (size_t j = 0; j < 2; j++) {
            bios[j] = (struct xb_bio){.op = XB_BLKIF_READ, .buffer = buffers[j], .nr_bytes = 512};
            xb_front_submit(front, &bios[j]);
        }
        XB_ASSERT(xb_front_step(front, done, 2) == 0);
        answer_with(0, XB_BLKIF_READ);
        answer_with(ids[i], XB_BLKIF_READ);
        xb_back_ring_push(&back_ring);
        XB_ASSERT(xb_front_poll(front, done, 2, -1) == (ids[i] == 1 ? 2 : 1) && done[0] == &bios[0]);
        XB_ASSERT(xb_front_fault(front)->code == (ids[i] == 1 ? XB_FRONT_SOUND : XB_FRONT_UNKNOWN_ID));
        xb_front_destroy(front);
    }
}

static void fill_with(int how, struct xb_bio *bio)
{
    *bio = (struct xb_bio){.op = XB_BLKIF_WRITE, .buffer = buffers[0], .nr_bytes = PAGE_SIZE};
    xb_copier_init(&front->copier, how);
    xb_front_submit(front, bio);
    xb_front_fill(front);
    XB_ASSERT(front->lender.how == how);
}

/* Regression: a fence was chosen by the last fill before it, so that what an earlier one streamed went without. */
static void test_what_was_streamed_is_fenced_though_the_store_changed(void)
{
    struct xb_bio bios[4];

    create_front(&channel, 1, 0);
    fill_with(XB_COPY_STREAMING, &bios[0]);
    fill_with(XB_COPY_PLAIN, &bios[1]);
    XB_ASSERT(front->stored == XB_COPY_STREAMING);
    xb_front_push(front);
    XB_ASSERT(front->stored == XB_COPY_PLAIN);
    fill_with(XB_COPY_PLAIN, &bios[2]);
    XB_ASSERT(front->stored == XB_COPY_PLAIN);
    fill_with(XB_COPY_STREAMING, &bios[3]);
    XB_ASSERT(front->stored == XB_COPY_STREAMING);
    xb_front_fail_all(front, EIO);
    xb_front_destroy(front);
}

/* All operations on the ring and behind it, none of them answered; then again in another engine. */
static void test_what_is_unfinished_comes_in_order(void)
{
    static const uint8_t ops[] = {XB_BLKIF_READ, XB_BLKIF_WRITE_BARRIER, XB_BLKIF_FLUSH_DISKCACHE, XB_BLKIF_DISCARD};
    struct xb_front_features all = {1, 1, 1, 1};
    struct xb_bio bios[NR_RECOVERED], *done[NR_RECOVERED], *bio;
    uint32_t left = NR_RECOVERED;

    create_front_with(&channel, 1, 0, 20, &all);
    for (uint32_t i = 0; i < NR_RECOVERED; i++) {
        bios[i] = (struct xb_bio){.op = ops[i % 4], .buffer = buffers[0], .nr_bytes = 13 * PAGE_SIZE};
        bios[i].nr_bytes = ops[i % 4] == XB_BLKIF_FLUSH_DISKCACHE ? 0 : bios[i].nr_bytes;
        xb_front_submit(front, &bios[i]);
    }
    xb_front_step(front, done, NR_RECOVERED);
    bio = xb_front_take_unfinished(front);
    for (uint32_t i = 0; i < NR_RECOVERED; i++, bio = bio->next)
        XB_ASSERT(bio == &bios[i]);
    XB_ASSERT(bio == NULL && xb_front_take_unfinished(front) == NULL);
    xb_front_destroy(front);
    create_front_with(&channel, 0, 0, 0, &all);
    for (uint32_t i = 0; i < NR_RECOVERED; i++)
        xb_front_submit(front, &bios[i]);
    while (left > 0) {
        left -= xb_front_step(front, done, NR_RECOVERED);
        while (serve_one(0))
            ;
        xb_back_ring_push(&back_ring);
    }
    XB_ASSERT(!xb_front_busy(front));
    xb_front_destroy(front);
}

int main(void)
{
    alarm(HANG_S);
    to_back = eventfd(0, EFD_NONBLOCK);
    to_front = eventfd(0, EFD_NONBLOCK);
    XB_ASSERT(to_back >= 0 && to_front >= 0);
    test_lies();
    test_a_lie_behind_a_true_response();
    test_what_was_streamed_is_fenced_though_the_store_changed();
    test_what_is_unfinished_comes_in_order();
    test_two_threads(1, 0, 0, 0);
    test_two_threads(1, 0, 50, 0);
    test_two_threads(0, 1, 0, 0);
    test_two_threads(1, 0, 0, 20);
    test_two_threads(0, 1, 0, 20);
    return 0;
}
