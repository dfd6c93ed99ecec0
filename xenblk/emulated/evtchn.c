#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "xenblk/channel.h"
#include "xenblk/emulated/evtchn.h"

#define NS_PER_S 1000000000

/* Every operation is sequentially consistent. The sender stores its ring index before it sets PENDING; the receiver
 * clears PENDING before it loads that index. So whoever loses the race on the word still sees the other's work:
 * either the receiver sees the index, or the sender saw PENDING clear and wakes the receiver again. */

int xb_evtchn_set_pending(uint32_t *word)
{
    uint32_t before = __atomic_fetch_or(word, XB_EVTCHN_PENDING, __ATOMIC_SEQ_CST);

    return (before & (XB_EVTCHN_PENDING | XB_EVTCHN_MASKED)) == 0;
}

int xb_evtchn_clear_pending(uint32_t *word)
{
    uint32_t before = __atomic_fetch_and(word, ~(uint32_t)XB_EVTCHN_PENDING, __ATOMIC_SEQ_CST);

    return (before & XB_EVTCHN_PENDING) != 0;
}

void xb_evtchn_mask(uint32_t *word)
{
    __atomic_fetch_or(word, XB_EVTCHN_MASKED, __ATOMIC_SEQ_CST);
}

int xb_evtchn_unmask(uint32_t *word)
{
    uint32_t before = __atomic_fetch_and(word, ~(uint32_t)XB_EVTCHN_MASKED, __ATOMIC_SEQ_CST);

    return (before & XB_EVTCHN_PENDING) != 0;
}

void xb_evtchn_set_unbound(uint32_t *word, int unbound)
{
    if (unbound)
        __atomic_fetch_or(word, XB_EVTCHN_UNBOUND, __ATOMIC_SEQ_CST);
    else
        __atomic_fetch_and(word, ~(uint32_t)XB_EVTCHN_UNBOUND, __ATOMIC_SEQ_CST);
}

uint32_t xb_evtchn_load(uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static void sleep_until_read(int fd)
{
    uint64_t count;
    ssize_t taken = read(fd, &count, sizeof(count)); /* nothing, if a signal came */

    (void)taken;
}

/* Empty it, if it is not empty. */
static void take_wakeups(int fd)
{
    uint64_t count;
    struct iovec to = {&count, sizeof(count)};
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};

    /* Maybe nothing: another thread was first, or closed it. */
    if (preadv2(fd, &to, 1, -1, RWF_NOWAIT) >= 0 || errno != EOPNOTSUPP)
        return;
    /* A kernel that cannot ask so of an eventfd. If another thread takes the wake-ups in between, we sleep until the
     * next one; left there, they would keep every later wait from sleeping. */
    if (poll(&pollfd, 1, 0) > 0 && (pollfd.revents & POLLIN))
        sleep_until_read(fd);
}

static void write_one(int fd)
{
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof(one)); /* a descriptor that is closed has nobody left to wake */

    (void)written;
}

/* A full eventfd would block; only a peer that means harm fills one. */
static void make_room(int fd)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLOUT};

    if (poll(&pollfd, 1, 0) == 0)
        take_wakeups(fd);
}

void xb_evtchn_kick(int fd)
{
    make_room(fd);
    write_one(fd);
}

void xb_evtchn_notify(struct xb_evtchn_port *port)
{
    if (xb_evtchn_load(port->word) & XB_EVTCHN_UNBOUND)
        return;
    port->sent++;
    if (xb_evtchn_set_pending(port->remote_word))
        write_one(port->remote_fd);
    else
        port->coalesced++;
}

static void sleep_until_readable(int fd, int64_t timeout_ns)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    struct timespec timeout = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};

    if (ppoll(&pollfd, 1, &timeout, NULL) > 0)
        take_wakeups(fd);
}

/* The eventfd is emptied before the bit is cleared. In that order a sender that finds the bit still set may skip the
 * eventfd: we clear the bit later, and look at the ring after that. The other way round a wake-up could be eaten
 * together with an older one. */
int xb_evtchn_wait(struct xb_evtchn_port *port, int64_t timeout_ns)
{
    if (timeout_ns < 0)
        sleep_until_read(port->fd);
    else
        sleep_until_readable(port->fd, timeout_ns);
    if (xb_evtchn_clear_pending(port->word)) {
        port->delivered++;
        return 1;
    }
    port->spurious++;
    return 0;
}

void xb_evtchn_wake(struct xb_evtchn_port *port)
{
    xb_evtchn_set_pending(port->word);
    xb_evtchn_kick(port->fd);
    make_room(port->remote_fd);
}

static void channel_notify(void *context)
{
    xb_evtchn_notify(context);
}

static int channel_wait(void *context, int64_t timeout_ns)
{
    return xb_evtchn_wait(context, timeout_ns);
}

void xb_evtchn_channel(struct xb_evtchn_port *port, struct xb_channel *channel)
{
    *channel = (struct xb_channel){.context = port, .notify = channel_notify, .wait = channel_wait, .fd = port->fd};
}
