/* A load for an NBD server at a Unix socket: libnbd's asynchronous commands on one connection. See load.h. */
#include "load.h"

#include <libnbd.h>
#include <string.h>

static struct nbd_handle *nbd;
static size_t block_bytes;
static int timeout_ms;
static struct io *ended_ios[DEPTH_MAX];
static unsigned nr_ended;

/* Within submit too: libnbd reads what has come before it writes. */
static int on_end(void *io, int *error)
{
    ((struct io *)io)->failed = *error != 0;
    ended_ios[nr_ended++] = io;
    return 1; /* libnbd may forget the command */
}

static uint64_t nbd_open(const struct load *load)
{
    int64_t disk_bytes;

    block_bytes = load->block_bytes;
    timeout_ms = load->is_polling ? 0 : -1;
    nbd = nbd_create();
    if (!nbd || nbd_set_export_name(nbd, load->export) || nbd_connect_unix(nbd, load->socket) ||
        (disk_bytes = nbd_get_size(nbd)) < 0)
        load_fail("no NBD server at %s: %s", load->socket, nbd_get_error());
    return disk_bytes;
}

static void nbd_submit(struct io *io)
{
    nbd_completion_callback callback = {.callback = on_end, .user_data = io};
    int64_t cookie = io->is_write ? nbd_aio_pwrite(nbd, io->data, block_bytes, io->offset, callback, 0)
                                  : nbd_aio_pread(nbd, io->data, block_bytes, io->offset, callback, 0);

    if (cookie < 0)
        load_fail("a command could not be sent: %s", nbd_get_error());
}

static unsigned nbd_complete(struct io **ended)
{
    unsigned n;

    while (!nr_ended)
        if (nbd_poll(nbd, timeout_ms) < 0)
            load_fail("the NBD server does not answer: %s", nbd_get_error());
    memcpy(ended, ended_ios, nr_ended * sizeof(*ended));
    n = nr_ended;
    nr_ended = 0;
    return n;
}

int main(int argc, char **argv)
{
    static const struct client client = {nbd_open, nbd_submit, nbd_complete};

    return load_main(argc, argv, &client);
}
