/* Address space to map granted pages into: reserved once, so that a page's address is known before it is mapped. */

/* Reserve `nr_pages` pages that cannot be touched; NULL if there is no room. */
void *xb_arena_reserve(size_t nr_pages);

/* Reserve `nr_pages` pages from `start` on again: what is mapped there goes, by one system call. 0 if a limit of the
 * process forbids that, and then all is as it was. A system without any memory for it ends the process. */
int xb_arena_vacate(void *start, size_t nr_pages);

/* Give the region back, with whatever is still mapped in it. */
void xb_arena_release(void *arena, size_t nr_pages);
