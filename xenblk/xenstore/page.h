/* The xenstore page that a domain shares with xenstored: two rings of bytes, and a few words beside them.
 *
 *     0     requests, 1024 bytes         2048  req_cons    2056  rsp_cons    2064  server_features
 *     1024  replies, 1024 bytes          2052  req_prod    2060  rsp_prod    2068  connection       2072  error
 *
 * All words are u32. Indices run freely modulo 2^32; a byte's place is its index modulo 1024.
 * Source: public/io/xs_wire.h, struct xenstore_domain_interface.
 */

#define XB_XS_RING_BYTES 1024
#define XB_XS_SERVER_FEATURES 2064
#define XB_XS_CONNECTION 2068
#define XB_XS_ERROR 2072

/* Take bytes that the other side put: as many as there are, at most `size`. `server` says which side we are.
 * Returns how many, or -1 if the other side's index is more than a ring ahead of ours. */
int32_t xb_xs_take(uint8_t *page, int server, uint8_t *to, uint32_t size);

/* Put bytes for the other side: as many as there is room for, at most `size`. Returns how many, or -1 as above. */
int32_t xb_xs_put(uint8_t *page, int server, const uint8_t *from, uint32_t size);

/* Set all four indices to 0. Server only, while the domain does not use the page. */
void xb_xs_reset(uint8_t *page);

/* One of the words at the end of the page, by its offset. */
uint32_t xb_xs_load(uint8_t *page, uint32_t offset);
void xb_xs_store(uint8_t *page, uint32_t offset, uint32_t value);
