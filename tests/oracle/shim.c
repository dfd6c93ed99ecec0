/*
 * Lets an unmodified C xenstored run where there is no Xen: preloaded into it, this answers what the daemon asks of
 * libxenctrl, libxengnttab, libxenevtchn and /proc/xen, from files in the directory that XEN_SHIM_DIR names.
 *
 *     dom/N        a domain; its first byte says r(unning), s(hut down), c(rashed) or d(ying)
 *     page/N       its xenstore page, 4096 bytes, mapped shared by both sides
 *     evtchn       datagram socket of the daemon: a u32 domid says "that domain notifies", VIRQ says "look at domains"
 *     notify/N     datagram socket of a domain, if it wants to be woken; a lost datagram is a wake-up too many
 *     xsd_port     the text "1": the port of domain 0
 *
 * Only what xenstored 4.17 calls is here. Layouts come from that release's own headers (libxen-dev).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

#define VIRQ      0xFFFFFFFFu
#define PAGE      4096
#define PORTS_MAX 8192

static uint32_t port_domid[PORTS_MAX];
static bool port_bound[PORTS_MAX];
static int evtchn_fd = -1;

static void in_dir(char *path, size_t size, const char *format, ...)
{
    const char *dir = getenv("XEN_SHIM_DIR");
    size_t used = snprintf(path, size, "%s/", dir ? dir : ".");
    va_list args;

    va_start(args, format);
    vsnprintf(path + used, size - used, format, args);
    va_end(args);
}

/* /proc/xen */

int open(const char *path, int flags, ...)
{
    static int (*next)(const char *, int, ...);
    char redirected[256];
    mode_t mode = 0;

    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list args;

        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    if (!next)
        next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    if (!strcmp(path, "/proc/xen/xsd_port"))
        in_dir(redirected, sizeof(redirected), "xsd_port");
    else if (!strcmp(path, "/proc/xen/xsd_kva"))
        in_dir(redirected, sizeof(redirected), "page/0");
    else
        return next(path, flags, mode);
    return next(redirected, flags, mode);
}

/* Time: XEN_SHIM_TIME_SCALE makes it run faster, and what the daemon waits for by itself come sooner. */

static unsigned long time_scale(void)
{
    const char *scale = getenv("XEN_SHIM_TIME_SCALE");

    return scale ? strtoul(scale, NULL, 10) : 1;
}

int clock_gettime(clockid_t clock, struct timespec *ts)
{
    int ret = syscall(SYS_clock_gettime, clock, ts);

    if (clock == CLOCK_MONOTONIC) {
        unsigned long long ns = (ts->tv_sec * 1000000000ull + ts->tv_nsec) * time_scale();

        ts->tv_sec = ns / 1000000000;
        ts->tv_nsec = ns % 1000000000;
    }
    return ret;
}

int poll(struct pollfd *fds, nfds_t nr_fds, int timeout_ms)
{
    unsigned long scale = time_scale();

    return syscall(SYS_poll, fds, nr_fds, timeout_ms > 0 ? (int)((timeout_ms + scale - 1) / scale) : timeout_ms);
}

/* libxenctrl */

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dombuild, unsigned flags)
{
    (void)logger, (void)dombuild, (void)flags;
    return (xc_interface *)&evtchn_fd;
}

int xc_interface_close(xc_interface *xch)
{
    (void)xch;
    return 0;
}

int xc_domain_getinfo(xc_interface *xch, uint32_t first_domid, unsigned int max_doms, xc_dominfo_t *info)
{
    char path[256], state = 0;
    int fd;

    (void)xch, (void)max_doms;
    in_dir(path, sizeof(path), "dom/%u", first_domid);
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return 0;
    if (read(fd, &state, 1) != 1)
        state = 'r';
    close(fd);
    memset(info, 0, sizeof(*info));
    info->domid = first_domid;
    info->shutdown = state == 's' || state == 'c';
    info->crashed = state == 'c';
    info->dying = state == 'd';
    return 1;
}

/* libxengnttab */

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return (xengnttab_handle *)&evtchn_fd;
}

int xengnttab_close(xengnttab_handle *xgt)
{
    (void)xgt;
    return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *xgt, uint32_t nr_grants)
{
    (void)xgt, (void)nr_grants;
    return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *xgt, uint32_t domid, uint32_t ref, int prot)
{
    char path[256];
    void *page;
    int fd;

    (void)xgt, (void)ref;
    in_dir(path, sizeof(path), "page/%u", domid);
    fd = open(path, O_RDWR);
    if (fd < 0) {
        errno = EINVAL; /* as the gntdev driver says of a domain that is none */
        return NULL;
    }
    page = mmap(NULL, PAGE, prot, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

int xengnttab_unmap(xengnttab_handle *xgt, void *start_address, uint32_t count)
{
    (void)xgt;
    return munmap(start_address, (size_t)count * PAGE);
}

/* libxenevtchn */

static void address(struct sockaddr_un *addr, const char *format, uint32_t domid)
{
    memset(addr, 0, sizeof(*addr));
    addr->sun_family = AF_UNIX;
    in_dir(addr->sun_path, sizeof(addr->sun_path), format, domid);
}

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned int flags)
{
    struct sockaddr_un addr;

    (void)logger, (void)flags;
    address(&addr, "evtchn", 0);
    evtchn_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (evtchn_fd < 0 || bind(evtchn_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return NULL;
    return (xenevtchn_handle *)&evtchn_fd;
}

int xenevtchn_fd(xenevtchn_handle *xce)
{
    (void)xce;
    return evtchn_fd;
}

static xenevtchn_port_or_error_t bind_port(uint32_t domid)
{
    for (int port = 1; port < PORTS_MAX; port++)
        if (!port_bound[port]) {
            port_bound[port] = true;
            port_domid[port] = domid;
            return port;
        }
    errno = ENOSPC;
    return -1;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *xce, uint32_t domid, evtchn_port_t remote_port)
{
    (void)xce, (void)remote_port;
    return bind_port(domid);
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *xce, unsigned int virq)
{
    (void)xce, (void)virq;
    return bind_port(VIRQ);
}

int xenevtchn_unbind(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce;
    port_bound[port] = false;
    return 0;
}

int xenevtchn_notify(xenevtchn_handle *xce, evtchn_port_t port)
{
    struct sockaddr_un addr;
    uint32_t one = 1;

    (void)xce;
    address(&addr, "notify/%u", port_domid[port]);
    sendto(evtchn_fd, &one, sizeof(one), MSG_DONTWAIT, (struct sockaddr *)&addr, sizeof(addr));
    return 0;
}

/* A datagram for a domain that is not bound any more must not stop the daemon: port 0 is nobody's. */
xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *xce)
{
    uint32_t domid;

    (void)xce;
    if (recv(evtchn_fd, &domid, sizeof(domid), 0) == sizeof(domid))
        for (int port = 1; port < PORTS_MAX; port++)
            if (port_bound[port] && port_domid[port] == domid)
                return port;
    return 0;
}

int xenevtchn_unmask(xenevtchn_handle *xce, evtchn_port_t port)
{
    (void)xce, (void)port;
    return 0;
}
