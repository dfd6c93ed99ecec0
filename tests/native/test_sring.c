/* The ring's C: the notification rule, impossible indexes, wrap, and no lost wake-up between two threads. */
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ring/sring.h"
#include "xenblk/assert.h"

#define PAGE_SIZE 4096
#define NR_ENTS 32
#define ENTRY_SIZE 112
#define HANG_S 300

static uint8_t page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static struct xb_front_ring front;
static struct xb_back_ring back;

static struct xb_sring *sring(void)
{
    return (struct xb_sring *)page;
}

/* An idle ring whose indexes all stand at `start`. */
static void connect_at(uint32_t start)
{
    xb_front_ring_init(&front, page, sizeof(page), NR_ENTS, ENTRY_SIZE);
    front.req_prod_pvt = front.req_prod_pushed = front.rsp_cons = front.rsp_prod_seen = start;
    sring()->req_prod = sring()->rsp_prod = start;
    sring()->req_event = sring()->rsp_event = start + 1;
    XB_ASSERT(xb_back_ring_attach(&back, page, NR_ENTS, ENTRY_SIZE) == 0);
}

static void check(void)
{
    xb_front_ring_check(&front);
    xb_back_ring_check(&back);
}

static void test_must_notify(void)
{
    XB_ASSERT(xb_ring_must_notify(5, 6, 6));
    XB_ASSERT(!xb_ring_must_notify(5, 6, 7));
    XB_ASSERT(!xb_ring_must_notify(5, 6, 5));
    XB_ASSERT(xb_ring_must_notify(5, 9, 8));
    XB_ASSERT(xb_ring_must_notify(0xffffffff, 1, 0));
    XB_ASSERT(!xb_ring_must_notify(5, 5, 5));
}

/* Fill, answer and empty the ring until the indexes have gone around 2^32. */
static void test_wrap(void)
{
    uint8_t entry[ENTRY_SIZE] = {0}, copy[ENTRY_SIZE];
    uint32_t number = 0;

    connect_at(0xfffffff0);
    for (int round = 0; round < 4; round++, number += NR_ENTS) {
        for (uint32_t i = 0; i < NR_ENTS; i++) {
            memcpy(entry, &(uint32_t){number + i}, 4);
            XB_ASSERT(xb_front_ring_put(&front, entry) == 1);
        }
        XB_ASSERT(xb_front_ring_put(&front, entry) == 0);
        XB_ASSERT(xb_front_ring_push(&front) == 1);
        for (uint32_t i = 0; i < NR_ENTS; i++) {
            XB_ASSERT(xb_back_ring_consume(&back, copy) == 1);
            XB_ASSERT(memcmp(copy, &(uint32_t){number + i}, 4) == 0);
            check();
        }
        XB_ASSERT(xb_back_ring_consume(&back, copy) == 0);
        for (uint32_t i = 0; i < NR_ENTS; i++)
            XB_ASSERT(xb_back_ring_put(&back, entry) == 1);
        XB_ASSERT(xb_back_ring_put(&back, entry) == 0);
        XB_ASSERT(xb_back_ring_push(&back) == 1);
        for (uint32_t i = 0; i < NR_ENTS; i++)
            XB_ASSERT(xb_front_ring_consume(&front, copy) == 1);
        XB_ASSERT(xb_front_ring_final_check(&front) == 0);
        XB_ASSERT(xb_back_ring_final_check(&back) == 0);
        check();
    }
    XB_ASSERT(front.rsp_cons == (uint32_t)(0xfffffff0 + 4 * NR_ENTS));
}

static void test_bogus_producers(void)
{
    uint8_t copy[ENTRY_SIZE];

    for (int lie = -1; lie <= 1; lie += 2) { /* one behind what was consumed; one beyond the ring */
        connect_at(0xfffffff0);
        sring()->req_prod = 0xfffffff0 + (lie < 0 ? -1 : NR_ENTS + 1);
        XB_ASSERT(xb_back_ring_final_check(&back) == 1);
        XB_ASSERT(xb_back_ring_consume(&back, copy) == XB_RING_BROKEN);
        sring()->req_prod = 0xfffffff0;
        XB_ASSERT(xb_back_ring_consume(&back, copy) == XB_RING_BROKEN);

        sring()->rsp_prod = 0xfffffff0 + (lie < 0 ? -1 : 1);
        XB_ASSERT(xb_front_ring_consume(&front, copy) == XB_RING_BROKEN);
        check();
    }
}

/* A doorbell that sleeps until it is rung: the only way that the other thread learns of work is a notification that
 * push asked for. One that is missing hangs the test, and the alarm ends it. */
static uint32_t doorbell_of_back, doorbell_of_front;

static void ring_doorbell(uint32_t *doorbell)
{
    __atomic_store_n(doorbell, 1, __ATOMIC_SEQ_CST);
}

static void sleep_until_rung(uint32_t *doorbell)
{
    while (!__atomic_exchange_n(doorbell, 0, __ATOMIC_SEQ_CST))
        sched_yield();
}

struct exchange {
    uint32_t total;
    uint32_t depth;
};

static void *serve(void *argument)
{
    const struct exchange *exchange = argument;
    uint8_t entry[ENTRY_SIZE];
    uint32_t served = 0;

    while (served < exchange->total) {
        while (xb_back_ring_consume(&back, entry) == 1) {
            XB_ASSERT(memcmp(entry, &served, 4) == 0);
            XB_ASSERT(xb_back_ring_put(&back, entry) == 1);
            served++;
            if (xb_back_ring_push(&back))
                ring_doorbell(&doorbell_of_front);
        }
        if (!xb_back_ring_final_check(&back) && served < exchange->total)
            sleep_until_rung(&doorbell_of_back);
    }
    return NULL;
}

static void request(const struct exchange *exchange)
{
    uint8_t entry[ENTRY_SIZE] = {0};
    uint32_t sent = 0, received = 0;

    while (received < exchange->total) {
        while (sent < exchange->total && sent - received < exchange->depth) {
            memcpy(entry, &sent, 4);
            XB_ASSERT(xb_front_ring_put(&front, entry) == 1);
            sent++;
            if (xb_front_ring_push(&front))
                ring_doorbell(&doorbell_of_back);
        }
        if (xb_front_ring_consume(&front, entry) == 1) {
            XB_ASSERT(memcmp(entry, &received, 4) == 0);
            received++;
        } else if (!xb_front_ring_final_check(&front)) {
            sleep_until_rung(&doorbell_of_front);
        }
    }
}

static void test_no_lost_wakeup(struct exchange exchange)
{
    pthread_t server;

    connect_at(0xfffffff0);
    doorbell_of_back = doorbell_of_front = 0;
    XB_ASSERT(pthread_create(&server, NULL, serve, &exchange) == 0);
    request(&exchange);
    XB_ASSERT(pthread_join(server, NULL) == 0);
    check();
    XB_ASSERT(front.statistics.responses == exchange.total && back.statistics.requests == exchange.total);
    printf("depth %u: %u exchanges, notified %llu + %llu times\n", exchange.depth, exchange.total,
           (unsigned long long)front.statistics.notify_asked, (unsigned long long)back.statistics.notify_asked);
}

int main(void)
{
    alarm(HANG_S);
    test_must_notify();
    test_wrap();
    test_bogus_producers();
    test_no_lost_wakeup((struct exchange){.total = 1000000, .depth = 1});
    test_no_lost_wakeup((struct exchange){.total = 200000, .depth = 5});
    return 0;
}
