/* Event channels where the kernel cannot read an eventfd without waiting: wake-ups are taken all the same. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "xenblk/assert.h"
#include "xenblk/channel.h"
#include "xenblk/emulated/evtchn.h"

#define FULL 0xfffffffffffffffeull
#define HANG_S 300

static uint32_t words[2];
static struct xb_evtchn_port front, back;

static void refuse_preadv2(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_preadv2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(rules) / sizeof(*rules), rules};

    XB_ASSERT(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    XB_ASSERT(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int is_readable(int fd)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};

    return poll(&pollfd, 1, 0) == 1;
}

static void test_an_event_is_taken_once(void)
{
    xb_evtchn_notify(&front);
    XB_ASSERT(is_readable(back.fd));
    XB_ASSERT(xb_evtchn_wait(&back, 0) == 1);
    XB_ASSERT(!is_readable(back.fd));
    XB_ASSERT(xb_evtchn_wait(&back, 0) == 0);
}

static void test_a_full_eventfd_blocks_nobody(void)
{
    uint64_t full = FULL;

    XB_ASSERT(write(back.fd, &full, sizeof(full)) == sizeof(full));
    xb_evtchn_wake(&back);
    XB_ASSERT(xb_evtchn_wait(&back, 0) == 1);
    XB_ASSERT(!is_readable(back.fd));
}

int main(void)
{
    int fds[] = {eventfd(0, 0), eventfd(0, 0)};

    alarm(HANG_S);
    XB_ASSERT(fds[0] >= 0 && fds[1] >= 0);
    front = (struct xb_evtchn_port){.word = &words[0], .remote_word = &words[1], .fd = fds[0], .remote_fd = fds[1]};
    back = (struct xb_evtchn_port){.word = &words[1], .remote_word = &words[0], .fd = fds[1], .remote_fd = fds[0]};
    test_an_event_is_taken_once();
    test_a_full_eventfd_blocks_nobody();
    refuse_preadv2();
    test_an_event_is_taken_once();
    test_a_full_eventfd_blocks_nobody();
    close(fds[0]);
    close(fds[1]);
    return 0;
}
