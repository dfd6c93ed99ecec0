/*
 * A load for a block device that another process serves, and the figures of it; what the clients of all peers share.
 * A client is a struct client and a main() that gives it to load_main.
 *
 *     CLIENT SOCKET [--operation read|write|fill] [--pattern random|sequential] [--block-bytes N] [--depth N]
 *                   [--seconds S] [--cpu N] [--server-pid PID] [--poll] [--seed N]
 *                   [--export NAME]
 *
 * With --poll it spins until something ended, otherwise it sleeps.
 *
 * Each 4 KiB page of the disk carries its number and the count of its writes, at both ends. `fill` writes all pages
 * once, and is needed before anything can be read; `read` checks every page in the client's own memory; `write` reads
 * back some of what it wrote, after the time that is measured. The result is one line of JSON:
 *
 *     {"iops", "p50_us", "p99_us", "client_cpu_s", "server_cpu_s", "ios", "secs", "errors"}
 *
 * A latency runs from the moment when the data is ready to be written, or a read is wanted, until the data is checked.
 * The CPU times are user and system time of all threads while the load ran; server_cpu_s is null without --server-pid.
 * Operations that failed and pages with other contents than they should have are errors; any leads to status 1.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEPTH_MAX 128

struct load {
    const char *socket, *export;
    bool is_write, is_fill, is_sequential, is_polling;
    size_t block_bytes;
    unsigned depth;
    double seconds;
    int cpu;   /* -1: anywhere */
    int server; /* process id, 0 if nobody asks */
    uint64_t seed;
};

/* One of `depth` operations that are under way at a time. */
struct io {
    unsigned slot; /* 0 to depth - 1 */
    bool is_write, failed;
    uint64_t offset;  /* of the disk, in bytes */
    char *data;       /* block_bytes of the client's own memory */
    uint32_t version; /* of a write; the number that goes into the pages */
    uint64_t begin_ns;
};

struct client {
    /* Connects, and gives the size of the disk in bytes. */
    uint64_t (*open)(const struct load *load);
    /* Queues one operation; data to be written may be taken from io->data until it is complete. */
    void (*submit)(struct io *io);
    /* Sends what was queued and waits for at least one operation to end; gives the ended ones, their `failed` set. */
    unsigned (*complete)(struct io **ended);
};

int load_main(int argc, char **argv, const struct client *client);

/* Says why nothing more can be done, and ends the client with status 1. */
void load_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
