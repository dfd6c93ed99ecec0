/* An end of an event channel as an engine uses it: the platform fills in how. */

struct xb_channel {
    void *context;

    /* Send an event to the other end; one that it has not taken yet and this one are one. */
    void (*notify)(void *context);

    /* Take an event, sleeping until there is one, for at most `timeout_ns` (less than 0: for ever). Returns 1, or 0 if
     * there was none; that may happen at any time. Whoever waits looks at its ring after this, never before. */
    int (*wait)(void *context, int64_t timeout_ns);

    /* Readable when wait would not sleep: for whoever has something else to wait for too. */
    int fd;
};
