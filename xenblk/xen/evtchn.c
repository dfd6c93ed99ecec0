#define _GNU_SOURCE
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "xenblk/channel.h"
#include "xenblk/xen/evtchn.h"

#define NS_PER_S 1000000000
#define EVTCHN_NOTIFY 0x044504u /* size << 16 | letter << 8 | number */

void xb_evtchn_device_notify(struct xb_evtchn_device *device)
{
    uint32_t port = device->port;

    ioctl(device->fd, EVTCHN_NOTIFY, &port); /* of a port that was closed meanwhile there is nobody left to tell */
}

static void take_wakeups(int fd)
{
    uint64_t count;
    ssize_t taken = read(fd, &count, sizeof(count)); /* maybe nothing: another thread was first */

    (void)taken;
}

static int take_event(int fd)
{
    uint32_t port;

    if (read(fd, &port, sizeof(port)) != sizeof(port))
        return 0; /* another thread was first */
    /* From here on a further event is handed out again; the caller looks at its ring only after this. */
    return write(fd, &port, sizeof(port)) == sizeof(port);
}

int xb_evtchn_device_wait(struct xb_evtchn_device *device, int64_t timeout_ns)
{
    struct pollfd fds[] = {{.fd = device->fd, .events = POLLIN}, {.fd = device->wake_fd, .events = POLLIN}};
    struct timespec timeout = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};

    if (ppoll(fds, 2, timeout_ns < 0 ? NULL : &timeout, NULL) <= 0)
        return 0;
    if (fds[1].revents & POLLIN)
        take_wakeups(device->wake_fd);
    return (fds[0].revents & POLLIN) && take_event(device->fd);
}

void xb_evtchn_device_wake(struct xb_evtchn_device *device)
{
    uint64_t one = 1;
    ssize_t written = write(device->wake_fd, &one, sizeof(one)); /* one that is full wakes, too */

    (void)written;
}

static void channel_notify(void *context)
{
    xb_evtchn_device_notify(context);
}

static int channel_wait(void *context, int64_t timeout_ns)
{
    return xb_evtchn_device_wait(context, timeout_ns);
}

void xb_evtchn_device_channel(struct xb_evtchn_device *device, struct xb_channel *channel)
{
    *channel = (struct xb_channel){
        .context = device, .notify = channel_notify, .wait = channel_wait, .fd = device->both_fd};
}
