/* Include grants/mapper.h first.
 *
 * Grants of other domains, mapped and copied by real Xen: Linux's /dev/xen/gntdev (include/uapi/xen/gntdev.h).
 *
 * An ioctl announces references and gives an index; mmap at that index maps them. What was announced together can only
 * be unmapped together. So pages that are to be unmapped one by one are mapped one by one, and a row of pages of one
 * request, whose addresses follow each other, by two system calls. A reference that cannot be mapped shows in mmap, and
 * not which one it was: such a row is mapped again one by one, so that each reference gets a status of its own. Linux
 * does not tell the reason: GNTST_general_error.
 */

struct xb_gntdev; /* begins with a struct xb_mapper */

/* `fd` is the device, the caller's. `call_max` is how many references the device takes in a call. NULL if there is no
 * memory for it. */
struct xb_gntdev *xb_gntdev_create(int fd, uint32_t max_pages, uint32_t call_max);

/* Pages that are mapped now. */
uint32_t xb_gntdev_nr_mapped(const struct xb_gntdev *gntdev);

/* Nothing is mapped any more. */
void xb_gntdev_destroy(struct xb_gntdev *gntdev);
