/* A loan is of max_segments pages at most: what would take more ends the process, before anything is granted or
 * written. One of many pages has its segments in descriptor pages, through the last of which it goes exactly. */
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "grants/mapper.h"
#include "grants/gnttab.h"
#include "grants/table.h"
#include "grants/table_v1.h"
#include "xenblk/assert.h"
#include "xenblk/blkfront/pool.h"
#include "xenblk/blkfront/lending.h"

#define PAGE_SIZE 4096u
#define NR_REFS 1024
#define NR_POOL 300
#define MANY 513 /* needs a second descriptor page, for one segment */
#define NR_FRAMES 300
#define BACKEND 3
#define HANG_S 300

static uint8_t memory[NR_FRAMES * PAGE_SIZE] __attribute__((aligned(PAGE_SIZE))), elsewhere[NR_FRAMES * PAGE_SIZE];
static struct xb_grant_entry entries[NR_REFS];
static struct xb_grant_table_v1 table;
static struct xb_pool_page pages[NR_POOL];
static struct xb_lender lender;
static struct xb_loan loan;
static uint8_t segments[XB_LOAN_SEGMENTS_MAX * 8], many_bytes[MANY * PAGE_SIZE];
static uint32_t many[MANY + 2];

static void begin(void)
{
    static uint32_t stack[NR_REFS], numbers[2 * NR_POOL];
    static uint8_t state[NR_REFS];

    xb_grant_table_v1_init(&table, entries, stack, state, NR_REFS);
    for (uint32_t i = 0; i < NR_POOL; i++)
        pages[i] = (struct xb_pool_page){.data = memory + (size_t)i * PAGE_SIZE, .frame = i};
    xb_pool_init(&lender.pool, &table.table, BACKEND, pages, NR_POOL, numbers, numbers + NR_POOL);
    lender.max_segments = XB_LOAN_SEGMENTS_MAX;
    lender.direct_unit = 512;
    lender.memory = memory;
    lender.memory_bytes = sizeof(memory);
}

static void test_what_fits(uint8_t *buffer, uint32_t nr_bytes)
{
    XB_ASSERT(xb_longest_piece(&lender, buffer, sizeof(elsewhere) / 2, 11) == nr_bytes);
    XB_ASSERT(xb_lend(&lender, buffer, nr_bytes, 1, &loan, segments) == 1);
    XB_ASSERT(loan.count == XB_LOAN_SEGMENTS_MAX);
    XB_ASSERT(xb_take_back(&lender, &loan, 0, NULL) == 0);
}

static void expect_abort(uint8_t *buffer, uint32_t nr_bytes)
{
    pid_t child = fork();
    int status;

    XB_ASSERT(child >= 0);
    if (child == 0) {
        XB_ASSERT(dup2(open("/dev/null", O_WRONLY), STDERR_FILENO) == STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        xb_lend(&lender, buffer, nr_bytes, 1, &loan, segments);
        _exit(0);
    }
    XB_ASSERT(waitpid(child, &status, 0) == child);
    XB_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* The pool has fewer pages than that, so the data is granted in place. */
static void test_descriptors(void)
{
    uint32_t refs[XB_LOAN_INDIRECT_MAX], ref, free = xb_grant_table_v1_nr_free(&table);
    struct xb_lender other = lender;

    other.memory = many_bytes;
    other.memory_bytes = sizeof(many_bytes);
    other.max_segments = MANY;
    loan.many = many;
    XB_ASSERT(xb_longest_piece(&other, many_bytes, sizeof(many_bytes), MANY) == sizeof(many_bytes));
    XB_ASSERT(xb_lend(&other, many_bytes, sizeof(many_bytes), 1, &loan, segments) == 1);
    XB_ASSERT(loan.count == MANY && loan.nr_indirect == 2);
    XB_ASSERT(xb_grant_table_v1_nr_free(&table) == free - MANY - 2);
    memcpy(refs, segments + 4, sizeof(refs));
    XB_ASSERT(refs[0] != 0 && refs[1] != 0 && refs[2] == 0 && refs[7] == 0);
    for (uint32_t i = 0; i < MANY; i++) {
        memcpy(&ref, memory + (size_t)entries[refs[i / 512]].frame * PAGE_SIZE + i % 512 * 8, sizeof(ref));
        XB_ASSERT(entries[ref].frame == i && entries[ref].flags == GTF_permit_access);
    }
    XB_ASSERT(xb_take_back(&other, &loan, 0, NULL) == 0);
    XB_ASSERT(xb_grant_table_v1_nr_free(&table) == free);
    lender.pool = other.pool;
}

int main(void)
{
    alarm(HANG_S);
    begin();
    test_what_fits(memory, 11 * PAGE_SIZE);
    test_what_fits(memory + 512, 11 * PAGE_SIZE - 512);
    test_what_fits(elsewhere, 11 * PAGE_SIZE);
    expect_abort(memory, 12 * PAGE_SIZE);
    expect_abort(memory + 512, 11 * PAGE_SIZE);
    expect_abort(memory, 256 * PAGE_SIZE); /* 0, in the loan's eight bits */
    expect_abort(elsewhere, 12 * PAGE_SIZE);
    expect_abort(elsewhere, 256 * PAGE_SIZE);
    test_descriptors();
    xb_pool_close(&lender.pool);
    return 0;
}
