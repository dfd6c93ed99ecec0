/* Include xenblk/channel.h first.
 *
 * Event channels of real Xen: Linux's /dev/xen/evtchn (include/uapi/xen/evtchn.h). One descriptor has one port here, so
 * that whoever waits for it wakes for nothing else.
 *
 * The device masks a port when it hands out its event, and unmasks it when the port is written back. An event that
 * comes meanwhile is handed out then; so nothing is lost to who writes the port back first, and looks at his ring
 * after that.
 */

/* As its owner uses it. The descriptors are the caller's, and do not block. */
struct xb_evtchn_device {
    int fd;       /* the device, with one port */
    int wake_fd;  /* an eventfd */
    int both_fd;  /* an epoll of the two */
    uint32_t port;
};

/* Send an event; lost if nobody is bound at the other end. */
void xb_evtchn_device_notify(struct xb_evtchn_device *device);

/* Take an event: 1, or 0 after `timeout_ns` (less than 0: never), a signal, or somebody's wake. */
int xb_evtchn_device_wait(struct xb_evtchn_device *device, int64_t timeout_ns);

/* Let the owner's own wait return; from any thread. */
void xb_evtchn_device_wake(struct xb_evtchn_device *device);

/* `channel` becomes a way to use the device, as long as that lives. */
void xb_evtchn_device_channel(struct xb_evtchn_device *device, struct xb_channel *channel);
