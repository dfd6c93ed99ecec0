/* What the slot table refuses: each invariant is broken and found, each misuse ends the process. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grants/slots.h"
#include "xenblk/assert.h"

#define HANG_S 300

static struct xb_slots slots;
static struct xb_slot entries[8];

/* Slots 0, 3 and 6 of 8 live; clusters at 1, 4 and 7. */
static void start_sound(void)
{
    static const uint8_t flags[] = {0, 1, 1, 0, 1, 1, 0, 1};

    memset(entries, 0, sizeof(entries));
    xb_slots_init(&slots, entries, 8);
    XB_ASSERT(xb_slots_allocate_run(&slots, 8) == 0);
    xb_slots_scan_flags(&slots, flags, NULL);
    XB_ASSERT(xb_slots_check(&slots) == XB_SLOTS_SOUND);
}

static void expect(int code, uint32_t *word, uint32_t value)
{
    uint32_t before = *word;

    *word = value;
    XB_ASSERT(xb_slots_check(&slots) == code);
    *word = before;
    XB_ASSERT(xb_slots_check(&slots) == XB_SLOTS_SOUND);
}

static void test_check_finds_what_is_broken(void)
{
    start_sound();
    expect(XB_SLOTS_BAD_LENGTH, &entries[4].length, 0);
    expect(XB_SLOTS_BAD_LENGTH, &entries[4].length, 5);
    expect(XB_SLOTS_BAD_LENGTH, &entries[7].length, 2);
    expect(XB_SLOTS_BAD_LENGTH, &entries[1].length, XB_SLOTS_NONE);
    expect(XB_SLOTS_BAD_ORDER, &entries[4].next, 1);
    expect(XB_SLOTS_BAD_ORDER, &entries[4].next, 4);
    expect(XB_SLOTS_BAD_ORDER, &entries[4].next, 5);
    expect(XB_SLOTS_BAD_ORDER, &entries[7].next, 9);
    expect(XB_SLOTS_BAD_ORDER, &entries[7].next, XB_SLOTS_NONE);
    expect(XB_SLOTS_BAD_ORDER, &slots.first_free, 9);
    expect(XB_SLOTS_UNMERGED, &entries[1].next, 3);
    expect(XB_SLOTS_BAD_FREE, &entries[2].length, 1);
    expect(XB_SLOTS_BAD_FREE, &entries[2].next, 4);
    expect(XB_SLOTS_UNMERGED, &entries[1].length, 3);
    expect(XB_SLOTS_BAD_LIVE, &entries[1].length, 1);
    expect(XB_SLOTS_BAD_LIVE, &entries[3].length, 1);
    expect(XB_SLOTS_BAD_LIVE, &entries[1].next, 7);
    expect(XB_SLOTS_BAD_LIVE, &slots.first_free, 4);
    expect(XB_SLOTS_BAD_COUNT, &slots.nr_live, 2);
    expect(XB_SLOTS_BAD_NEWEST, &slots.newest, 3);
    expect(XB_SLOTS_BAD_NEWEST, &slots.newest, 1);
    XB_ASSERT(xb_slots_allocate(&slots) == 1 && xb_slots_allocate(&slots) == 2);
    expect(XB_SLOTS_BAD_NEWEST, &entries[1].next, 2);
    expect(XB_SLOTS_BAD_NEWEST, &entries[1].next, 1);
    expect(XB_SLOTS_SCANNING, &slots.scanning, 1);
}

/* Misuse: each of these ends the process by XB_ASSERT. */

static int yes(void *context, uint32_t slot)
{
    (void)context, (void)slot;
    return 1;
}

static int allocates(void *context, uint32_t slot)
{
    (void)slot;
    return xb_slots_allocate(context) != XB_SLOTS_NONE;
}

static void scans(void *context, uint32_t start_slot, uint32_t length)
{
    (void)start_slot, (void)length;
    xb_slots_scan(context, yes, NULL, NULL);
}

static void cancel_not_the_newest(void)
{
    xb_slots_cancel(&slots, 1);
}

static void cancel_twice(void)
{
    xb_slots_cancel(&slots, 2);
    xb_slots_cancel(&slots, 2);
}

static void cancel_after_a_scan(void)
{
    static const uint8_t flags[8];

    xb_slots_scan_flags(&slots, flags, NULL);
    xb_slots_cancel(&slots, 2);
}

static void cancel_after_a_run(void)
{
    XB_ASSERT(xb_slots_allocate_run(&slots, 2) == 3);
    xb_slots_cancel(&slots, 2);
}

static void cancel_nothing(void)
{
    xb_slots_cancel(&slots, XB_SLOTS_NONE);
}

static void allocate_in_a_scan(void)
{
    xb_slots_scan(&slots, allocates, NULL, &slots);
}

static void scan_in_a_scan(void)
{
    xb_slots_scan(&slots, yes, scans, &slots);
}

static void run_of_nothing(void)
{
    xb_slots_allocate_run(&slots, 0);
}

static void no_slots(void)
{
    xb_slots_init(&slots, entries, 0);
}

static void too_many_slots(void)
{
    xb_slots_init(&slots, entries, XB_SLOTS_MAX + 1);
}

static void scan_of_a_broken_table(void)
{
    entries[3].length = 6;
    xb_slots_scan(&slots, yes, NULL, NULL);
}

/* Each with slots 0, 1 and 2 of 8 allocated, in a process of its own. */
static void expect_abort(void (*misuse)(void))
{
    pid_t child;
    int status;

    memset(entries, 0, sizeof(entries));
    xb_slots_init(&slots, entries, 8);
    for (uint32_t slot = 0; slot < 3; slot++)
        XB_ASSERT(xb_slots_allocate(&slots) == slot);
    child = fork();
    XB_ASSERT(child >= 0);
    if (child == 0) {
        XB_ASSERT(dup2(open("/dev/null", O_WRONLY), STDERR_FILENO) == STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        misuse();
        _exit(0);
    }
    XB_ASSERT(waitpid(child, &status, 0) == child);
    XB_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void test_misuse_is_stopped(void)
{
    static void (*const misuses[])(void) = {
        cancel_not_the_newest, cancel_twice,   cancel_after_a_scan, cancel_after_a_run, cancel_nothing,
        allocate_in_a_scan,    scan_in_a_scan, run_of_nothing,      no_slots,           too_many_slots,
        scan_of_a_broken_table,
    };

    for (size_t i = 0; i < sizeof(misuses) / sizeof(misuses[0]); i++)
        expect_abort(misuses[i]);
}

int main(void)
{
    alarm(HANG_S);
    test_check_finds_what_is_broken();
    test_misuse_is_stopped();
    return 0;
}
