/* Does with /dev/xvda what it is told, in a guest: `disk`, on the console, with xen-blkfront.ko as its argument.
 *
 * A line in is NUMBER COMMAND ARGUMENT; a line out, whenever that has ended, is "@NUMBER 0 RESULT" or "@NUMBER ERRNO".
 * Each is done by a process of its own, so that many can be in flight, and one that never ends keeps nobody else.
 *
 *     connect PARAMETERS     load the driver, for a device that is there, until the disk is
 *     read OFFSET BYTES      the result is data, by sectors: `.` and 8 bytes that it repeats, or `:` and all 512 bytes
 *     write OFFSET DATA      from memory that lies in the middle of pages full of other data
 *     flush
 *     discard OFFSET BYTES
 *     look FILE              the result is its first line
 *     close                  take the driver away from the device
 *     gone                   wait until the device is gone, and unload the driver
 *
 * What ends before its length is ENOSPC: a disk that is gone has no length. All goes around the page cache, and no
 * request waits to be joined by another: each is what was asked for. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SECTOR = 512, REPEATED = 8, PAGE = 4096, OTHER_DATA = 0xa5, POLL_MS = 5, EVENT_BYTES = 4096 };

#define DISK "/dev/xvda"
#define QUEUE "/sys/block/xvda/queue/"
#define DEVICE "/sys/bus/xen/devices/vbd-51712"
#define UNBIND "/sys/bus/xen/drivers/vbd/unbind"

static const char *module_path;

static int read_file(const char *path, char *line, size_t room)
{
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return errno;
    ssize_t length = read(fd, line, room - 1);
    close(fd);
    if (length < 0)
        return errno;
    line[length] = 0;
    line[strcspn(line, "\n")] = 0;
    return 0;
}

static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return errno;
    int error = write(fd, text, strlen(text)) < 0 ? errno : 0;
    close(fd);
    return error;
}

/* Until nobody uses it; one that is not loaded is unloaded. */
static int unload(void)
{
    while (syscall(SYS_delete_module, "xen_blkfront", O_NONBLOCK) != 0) {
        if (errno == ENOENT)
            return 0;
        if (errno != EAGAIN && errno != EBUSY)
            return errno;
        usleep(POLL_MS * 1000);
    }
    return 0;
}

static int load(const char *parameters)
{
    int fd = open(module_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    int error = syscall(SYS_finit_module, fd, parameters, 0) != 0 ? errno : 0;
    close(fd);
    return error;
}

/* What the kernel says when it has read a new disk's partitions, and its users may open it. */
static int is_announced(int events)
{
    char event[EVENT_BYTES];
    for (;;) {
        struct pollfd wanted = {.fd = events, .events = POLLIN};
        if (poll(&wanted, 1, POLL_MS) <= 0)
            return 0;
        ssize_t length = recv(events, event, sizeof event - 1, 0);
        if (length <= 0)
            continue;
        event[length] = 0;
        if (strncmp(event, "add@", 4) == 0 && strstr(event, "/block/xvda"))
            return 1;
    }
}

static int await_disk(int events)
{
    char state[64];
    while (!is_announced(events)) {
        int error = read_file(DEVICE "/state", state, sizeof state);
        if (error)
            return error;
        if (strcmp(state, "Closing") == 0 || strcmp(state, "Closed") == 0)
            return ECONNREFUSED;
    }
    int error = write_file(QUEUE "scheduler", "none");
    return error ? error : write_file(QUEUE "nomerges", "2");
}

static int connect_disk(const char *parameters)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int events = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
    if (events < 0 || bind(events, (struct sockaddr *)&kernel, sizeof kernel) != 0)
        return errno;
    int error = unload();
    if (!error)
        error = load(parameters);
    return error ? error : await_disk(events);
}

static unsigned nibble(char digit)
{
    return (unsigned)(digit <= '9' ? digit - '0' : digit - 'a' + 10);
}

static unsigned byte_of(const char *hex)
{
    return nibble(hex[0]) << 4 | nibble(hex[1]);
}

static size_t bytes_in(const char *data)
{
    size_t sectors = 0;
    for (; *data; data++)
        sectors += *data == '.' || *data == ':';
    return sectors * SECTOR;
}

static void parse(const char *data, uint8_t *to)
{
    for (; *data == '.' || *data == ':'; to += SECTOR) {
        int given = *data++ == ':' ? SECTOR : REPEATED;
        for (int n = 0; n < SECTOR; n++)
            to[n] = (uint8_t)byte_of(data + 2 * (n % given));
        data += 2 * given;
    }
}

static char *print_sector(const uint8_t *from, char *text)
{
    int whole = memcmp(from, from + REPEATED, SECTOR - REPEATED) != 0;
    *text++ = whole ? ':' : '.';
    for (int n = 0; n < (whole ? SECTOR : REPEATED); n++) {
        *text++ = "0123456789abcdef"[from[n] >> 4];
        *text++ = "0123456789abcdef"[from[n] & 15];
    }
    return text;
}

static uint8_t *pages(size_t length)
{
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        exit(1);
    return memory;
}

static int open_disk(int flags)
{
    return open(DISK, flags | O_DIRECT | O_CLOEXEC);
}

static int read_disk(const char *argument, char **result)
{
    char *end;
    off_t offset = strtoll(argument, &end, 10);
    size_t length = strtoul(end, NULL, 10);
    uint8_t *memory = pages(length);
    int fd = open_disk(O_RDONLY);
    if (fd < 0)
        return errno;
    ssize_t count = pread(fd, memory, length, offset);
    if (count != (ssize_t)length)
        return count < 0 ? errno : ENOSPC;
    char *text = *result = malloc(2 * length + length / SECTOR + 1);
    for (size_t at = 0; at < length; at += SECTOR)
        text = print_sector(memory + at, text);
    *text = 0;
    return 0;
}

static int write_disk(const char *argument)
{
    char *data;
    off_t offset = strtoll(argument, &data, 10);
    size_t length = bytes_in(data), before = length >= PAGE ? PAGE : PAGE + PAGE / 4;
    uint8_t *memory = pages(length + 2 * PAGE);
    memset(memory, OTHER_DATA, length + 2 * PAGE);
    parse(data + 1, memory + before);
    int fd = open_disk(O_RDWR);
    if (fd < 0)
        return errno;
    ssize_t count = pwrite(fd, memory + before, length, offset);
    return count == (ssize_t)length ? 0 : count < 0 ? errno : ENOSPC;
}

static int flush_disk(void)
{
    int fd = open_disk(O_RDWR);
    return fd < 0 || fsync(fd) != 0 ? errno : 0;
}

static int discard(const char *argument)
{
    char *end;
    uint64_t range[2] = {strtoull(argument, &end, 10), 0};
    range[1] = strtoull(end, NULL, 10);
    int fd = open_disk(O_RDWR);
    return fd < 0 || ioctl(fd, BLKDISCARD, range) != 0 ? errno : 0;
}

static int close_disk(void)
{
    int error = write_file(UNBIND, strrchr(DEVICE, '/') + 1);
    return error ? error : unload();
}

static int await_end(void)
{
    while (access(DEVICE, F_OK) == 0)
        usleep(POLL_MS * 1000);
    return unload();
}

static int look(const char *path, char **result)
{
    *result = malloc(PAGE);
    return read_file(path, *result, PAGE);
}

static int carry_out(const char *command, const char *argument, char **result)
{
    if (strcmp(command, "connect") == 0)
        return connect_disk(argument);
    if (strcmp(command, "read") == 0)
        return read_disk(argument, result);
    if (strcmp(command, "write") == 0)
        return write_disk(argument);
    if (strcmp(command, "flush") == 0)
        return flush_disk();
    if (strcmp(command, "discard") == 0)
        return discard(argument);
    if (strcmp(command, "look") == 0)
        return look(argument, result);
    if (strcmp(command, "close") == 0)
        return close_disk();
    return strcmp(command, "gone") == 0 ? await_end() : EINVAL;
}

/* One call of write is one piece of the console's output. */
static void serve(char *line)
{
    char *number = strtok(line, " "), *command = strtok(NULL, " "), *argument = strtok(NULL, ""), *result = NULL;
    if (command == NULL)
        return;
    int error = carry_out(command, argument ? argument : "", &result);
    char *answer;
    int length = asprintf(&answer, "@%s %d %s\n", number, error, error == 0 && result ? result : "");
    if (write(STDOUT_FILENO, answer, (size_t)length) != length)
        exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    module_path = argv[1];
    signal(SIGCHLD, SIG_IGN);
    printf("@0 0 at your service\n");
    fflush(stdout);
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, stdin)) > 0) {
        line[length - 1] = 0;
        if (fork() == 0) {
            serve(line);
            _exit(0);
        }
    }
    return 0;
}
