/*
 * A load for a vhost-user-blk server: one split virtqueue in a memfd that the server maps. See load.h.
 *
 * The data is copied from the client's own memory into the memfd and out of it, as a kernel that bounces its requests
 * does. Defined by QEMU's docs/interop/vhost-user.rst and by Virtio 1.1, 2.6 "Split Virtqueues" and 5.2 "Block Device".
 * Where client and server meet without a lock, what the server does is given by those names: it reads avail->idx before
 * the ring, writes the ring before used->idx, and after changing one of the two flags looks at the other's idx again.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NR_DESCRIPTORS    512 /* three for each request */
#define PAGE_BYTES        4096
#define SECTOR_BYTES      512
#define VERSION           1
#define VERSION_MASK      3
#define FLAG_REPLY        (1 << 2)
#define FLAG_NEED_REPLY   (1 << 3)
#define F_PROTOCOL        (UINT64_C(1) << 30)
#define PROTOCOL_FEATURES (1 << 3 | 1 << 9) /* REPLY_ACK, CONFIG */
#define NOT_DONE          0xff
#define SPINS_MAX         (1 << 20) /* until a client that spins looks whether the server is still there */

enum {
    GET_FEATURES = 1,
    SET_FEATURES,
    SET_OWNER,
    SET_MEM_TABLE = 5,
    SET_VRING_NUM = 8,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_KICK = 12,
    SET_VRING_CALL,
    GET_PROTOCOL_FEATURES = 15,
    SET_PROTOCOL_FEATURES,
    SET_VRING_ENABLE = 18,
    GET_CONFIG = 24,
};

struct message {
    uint32_t request, flags, size;
    union {
        uint64_t number;
        struct vhost_vring_state { uint32_t index, number; } state;
        struct vhost_vring_addr { uint32_t index, flags; uint64_t desc, used, avail, log; } addresses;
        struct { uint32_t nr_regions, padding; uint64_t guest_address, size, address, offset; } memory;
        struct { uint32_t offset, size, flags; uint64_t capacity; } __attribute__((packed)) config;
    };
} __attribute__((packed));

#define HEADER_BYTES offsetof(struct message, number)

/* What is in the memfd; each thing is also where the server looks for it. */
static struct shared {
    struct vring_desc descriptors[NR_DESCRIPTORS];
    struct { uint16_t flags, idx, ring[NR_DESCRIPTORS]; } avail __attribute__((aligned(64)));
    struct { uint16_t flags, idx; struct vring_used_elem ring[NR_DESCRIPTORS]; } used __attribute__((aligned(64)));
    struct request {
        struct virtio_blk_outhdr header __attribute__((aligned(64)));
        uint8_t status;
    } requests[DEPTH_MAX];
    char data[] __attribute__((aligned(PAGE_BYTES)));
} *shared;

static size_t block_bytes, shared_bytes;
static bool is_polling;
static int connection, memfd, kick_fd, call_fd;
static uint16_t nr_available, nr_used;
static struct io *under_way[DEPTH_MAX];

static void send_message(struct message *message, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec bytes = {message, HEADER_BYTES + message->size};
    struct msghdr header = {.msg_iov = &bytes, .msg_iovlen = 1};

    if (fd >= 0) {
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        *CMSG_FIRSTHDR(&header) = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&header)), &fd, sizeof(fd));
    }
    if (sendmsg(connection, &header, MSG_NOSIGNAL) != (ssize_t)bytes.iov_len)
        load_fail("message %u could not be sent: %s", message->request, strerror(errno));
}

static void receive(void *buffer, size_t size)
{
    if (recv(connection, buffer, size, MSG_WAITALL) != (ssize_t)size)
        load_fail("the server left the connection");
}

/* The answer to a message, in place of the message; its size must be `size`. */
static void receive_answer(struct message *message, uint32_t size)
{
    uint32_t request = message->request;

    receive(message, HEADER_BYTES);
    if (message->request != request || message->size != size || !(message->flags & FLAG_REPLY))
        load_fail("request %u was answered by %u bytes to request %u", request, message->size, message->request);
    receive(&message->number, size);
}

static uint64_t get(uint32_t request)
{
    struct message message = {.request = request, .flags = VERSION};

    send_message(&message, -1);
    receive_answer(&message, sizeof(message.number));
    return message.number;
}

/* Before the protocol's features are agreed on, nothing is acknowledged. */
static void tell(uint32_t request, uint64_t number)
{
    struct message message = {.request = request, .flags = VERSION, .size = sizeof(number), .number = number};

    send_message(&message, -1);
}

/* The message's size is that of the member of the union that it uses. */
static void set(struct message message, int fd)
{
    uint32_t request = message.request;

    message.flags = VERSION | FLAG_NEED_REPLY;
    send_message(&message, fd);
    receive_answer(&message, sizeof(message.number));
    if (message.number)
        load_fail("the server refused request %u", request);
}

static uint64_t disk_bytes(void)
{
    struct message message = {.request = GET_CONFIG, .flags = VERSION, .size = sizeof(message.config)};

    message.config.size = sizeof(message.config.capacity);
    send_message(&message, -1);
    receive_answer(&message, sizeof(message.config));
    return message.config.capacity * SECTOR_BYTES;
}

static void connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(connection, (struct sockaddr *)&address, sizeof(address)))
        load_fail("no vhost-user server at %s: %s", path, strerror(errno));
}

static void agree_on_features(void)
{
    uint64_t wanted = UINT64_C(1) << VIRTIO_F_VERSION_1 | F_PROTOCOL, offered;

    tell(SET_OWNER, 0);
    offered = get(GET_FEATURES);
    if ((offered & wanted) != wanted)
        load_fail("the server offers features %#lx, not all of %#lx", offered, wanted);
    offered = get(GET_PROTOCOL_FEATURES);
    if ((offered & PROTOCOL_FEATURES) != PROTOCOL_FEATURES)
        load_fail("the server offers protocol features %#lx, not all of %#x", offered, PROTOCOL_FEATURES);
    tell(SET_PROTOCOL_FEATURES, PROTOCOL_FEATURES);
    set((struct message){.request = SET_FEATURES, .size = sizeof(uint64_t), .number = wanted}, -1);
}

/* Requests keep their descriptors: header, data, status. Only the direction of the data changes. */
static void make_descriptors(unsigned slot)
{
    struct request *request = &shared->requests[slot];
    struct vring_desc *d = &shared->descriptors[3 * slot];
    uintptr_t data = (uintptr_t)shared->data + slot * block_bytes;

    d[0] = (struct vring_desc){(uintptr_t)&request->header, sizeof(request->header), VRING_DESC_F_NEXT, 3 * slot + 1};
    d[1] = (struct vring_desc){data, block_bytes, VRING_DESC_F_NEXT, 3 * slot + 2};
    d[2] = (struct vring_desc){(uintptr_t)&request->status, 1, VRING_DESC_F_WRITE, 0};
}

static void make_memory(unsigned depth)
{
    shared_bytes = sizeof(*shared) + depth * block_bytes;
    memfd = memfd_create("vhost-user", MFD_CLOEXEC);
    if (memfd < 0 || ftruncate(memfd, shared_bytes))
        load_fail("there is no room for %zu bytes of shared memory", shared_bytes);
    shared = mmap(NULL, shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memfd, 0);
    if (shared == MAP_FAILED)
        load_fail("shared memory could not be mapped: %s", strerror(errno));
    for (unsigned slot = 0; slot < depth; slot++)
        make_descriptors(slot);
    shared->avail.flags = VRING_AVAIL_F_NO_INTERRUPT;
}

/* The addresses of a "guest" are those of this process, so that one number serves for both. */
static void share_memory(void)
{
    uintptr_t start = (uintptr_t)shared;
    struct message memory = {.request = SET_MEM_TABLE, .size = sizeof(memory.memory)};
    struct message addresses = {.request = SET_VRING_ADDR, .size = sizeof(addresses.addresses)};

    memory.memory.nr_regions = 1;
    memory.memory.guest_address = memory.memory.address = start;
    memory.memory.size = shared_bytes;
    set(memory, memfd);
    addresses.addresses.desc = (uintptr_t)shared->descriptors;
    addresses.addresses.avail = (uintptr_t)&shared->avail;
    addresses.addresses.used = (uintptr_t)&shared->used;
    set((struct message){.request = SET_VRING_NUM, .size = 8, .state = {0, NR_DESCRIPTORS}}, -1);
    set((struct message){.request = SET_VRING_BASE, .size = 8, .state = {0, 0}}, -1);
    set(addresses, -1);
}

/* The server takes the queue into use when it gets the kick. */
static void start_queue(void)
{
    kick_fd = eventfd(0, EFD_CLOEXEC);
    call_fd = eventfd(0, EFD_CLOEXEC);
    set((struct message){.request = SET_VRING_CALL, .size = 8, .number = 0}, call_fd);
    set((struct message){.request = SET_VRING_KICK, .size = 8, .number = 0}, kick_fd);
    set((struct message){.request = SET_VRING_ENABLE, .size = 8, .state = {0, 1}}, -1);
}

static uint64_t vhost_open(const struct load *load)
{
    uint64_t bytes;

    block_bytes = load->block_bytes;
    is_polling = load->is_polling;
    connect_to(load->socket);
    agree_on_features();
    bytes = disk_bytes();
    make_memory(load->depth);
    share_memory();
    start_queue();
    return bytes;
}

static void vhost_submit(struct io *io)
{
    struct request *request = &shared->requests[io->slot];

    request->header.type = io->is_write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
    request->header.sector = io->offset / SECTOR_BYTES;
    request->status = NOT_DONE;
    shared->descriptors[3 * io->slot + 1].flags = VRING_DESC_F_NEXT | (io->is_write ? 0 : VRING_DESC_F_WRITE);
    if (io->is_write)
        memcpy(shared->data + io->slot * block_bytes, io->data, block_bytes);
    under_way[io->slot] = io;
    shared->avail.ring[nr_available++ % NR_DESCRIPTORS] = 3 * io->slot;
}

/* What was submitted since the last time, and a kick if the server wants one. */
static void publish(void)
{
    uint64_t one = 1;

    if (shared->avail.idx == nr_available)
        return;
    /* The server sees requests, data and ring before it sees idx; its partner is its read of avail->idx. */
    __atomic_store_n(&shared->avail.idx, nr_available, __ATOMIC_RELEASE);
    /* The server sees idx, or we see that it wants a kick; the partner stands after its change of used->flags. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!(__atomic_load_n(&shared->used.flags, __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY))
        if (write(kick_fd, &one, sizeof(one)) < 0)
            load_fail("the server could not be kicked: %s", strerror(errno));
}

static bool has_ended(void)
{
    /* We see ring, status and data as they were before the server's write of used->idx, the partner. */
    return __atomic_load_n(&shared->used.idx, __ATOMIC_ACQUIRE) != nr_used;
}

/* The server made the eventfd non-blocking; its connection has nothing more to say than that the server is gone. */
static void await_call(int timeout_ms)
{
    struct pollfd fds[] = {{.fd = call_fd, .events = POLLIN}, {.fd = connection, .events = POLLIN}};
    uint64_t count;

    if (poll(fds, 2, timeout_ms) < 0 || fds[1].revents)
        load_fail("the server left the connection");
    if (fds[0].revents && read(call_fd, &count, sizeof(count)) < 0)
        load_fail("the server's call could not be taken: %s", strerror(errno));
}

/* Calls are on only while we sleep, so that none comes for what we see anyway. */
static void sleep_until_called(void)
{
    __atomic_store_n(&shared->avail.flags, 0, __ATOMIC_RELAXED);
    /* We see used->idx, or the server sees that it must call; the partner stands after its write of used->idx. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!has_ended())
        await_call(-1);
    __atomic_store_n(&shared->avail.flags, VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_RELAXED);
}

/* A processor with two threads gives the other one its turn. */
static void relax(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static struct io *take_ended(void)
{
    uint32_t head = shared->used.ring[nr_used++ % NR_DESCRIPTORS].id;
    struct io *io = head / 3 < DEPTH_MAX && head % 3 == 0 ? under_way[head / 3] : NULL;

    if (!io)
        load_fail("the server ended request %u, which is not under way", head);
    under_way[io->slot] = NULL;
    io->failed = shared->requests[io->slot].status != VIRTIO_BLK_S_OK;
    if (!io->is_write)
        memcpy(io->data, shared->data + io->slot * block_bytes, block_bytes);
    return io;
}

static unsigned vhost_complete(struct io **ended)
{
    unsigned n = 0;

    publish();
    for (unsigned spins = 1; !has_ended(); spins++)
        if (!is_polling)
            sleep_until_called();
        else if (spins % SPINS_MAX)
            relax();
        else
            await_call(0);
    for (uint16_t end = __atomic_load_n(&shared->used.idx, __ATOMIC_ACQUIRE); nr_used != end && n < DEPTH_MAX;)
        ended[n++] = take_ended();
    return n;
}

int main(int argc, char **argv)
{
    static const struct client client = {vhost_open, vhost_submit, vhost_complete};

    return load_main(argc, argv, &client);
}
