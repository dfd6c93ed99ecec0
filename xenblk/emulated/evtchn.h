/* Event channels of the emulated Xen: one 32-bit word per end of a channel, in memory that both ends and the host
 * share.
 *
 * The word has the FIFO ABI's two bits that matter (public/event_channel.h: PENDING 31, MASKED 30) and one of the
 * emulation's own: UNBOUND, set by the host while nobody holds the other end. The word says whether there is an
 * event; the eventfd beside it only wakes a sleeper, so a send to a port that is already pending costs no system call.
 */

#define XB_EVTCHN_PENDING 0x80000000
#define XB_EVTCHN_MASKED 0x40000000
#define XB_EVTCHN_UNBOUND 0x00000001

/* Mark the port of `word` pending. Returns 1 if its owner must be woken, 0 if the event coalesced or is masked. */
int xb_evtchn_set_pending(uint32_t *word);

/* Take the event: returns 1 if the port was pending. The caller looks at its ring after this, never before. */
int xb_evtchn_clear_pending(uint32_t *word);

/* Withhold deliveries. */
void xb_evtchn_mask(uint32_t *word);

/* Allow deliveries. Returns 1 if an event came meanwhile, so that the caller delivers it now. */
int xb_evtchn_unmask(uint32_t *word);

/* Set or clear UNBOUND. Host only. */
void xb_evtchn_set_unbound(uint32_t *word, int unbound);

/* The word as it is now. */
uint32_t xb_evtchn_load(uint32_t *word);

/* One end, as its owner uses it. The descriptors are eventfds, and the caller's. They block: to sleep is then one
 * read. */
struct xb_evtchn_port {
    uint32_t *word;
    uint32_t *remote_word;
    int fd;
    int remote_fd;
    uint64_t sent;
    uint64_t coalesced; /* sends that met an event not taken yet */
    uint64_t delivered;
    uint64_t spurious; /* waits that ended without an event */
};

/* Set the other end's bit, and wake its owner if that was news; nothing while it is unbound. */
void xb_evtchn_notify(struct xb_evtchn_port *port);

/* Take an event: 1, or 0 after `timeout_ns`, a signal, or somebody's wake. Less than 0 waits for ever, and costs
 * less. */
int xb_evtchn_wait(struct xb_evtchn_port *port, int64_t timeout_ns);

/* Let the owner's own wait return, or its notify, should the other end have made that block; from any thread. */
void xb_evtchn_wake(struct xb_evtchn_port *port);

/* Wake who sleeps at an eventfd; never blocks. */
void xb_evtchn_kick(int fd);

/* `channel` becomes a way to use the port, as long as that lives. */
void xb_evtchn_channel(struct xb_evtchn_port *port, struct xb_channel *channel);
