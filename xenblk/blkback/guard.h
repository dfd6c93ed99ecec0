/* Looking at memory that may be gone: a mapping of a file ends where the file does, and who truncates it asks nobody.
 * The kernel says so by SIGBUS, in the thread that touched it (mmap(2)). */

/* Before the first guard_run: take SIGBUS, for good; again is fine, and takes it back from whoever has it now. One that
 * no guard expects goes to whoever had it when it was first taken. */
void xb_guard_take_sigbus(void);

/* Have `step` done, which may touch the `bytes` at `memory`: 1, or 0 if some of them were not there. Then `step` ended
 * where it met that, so it holds no lock and owns nothing. No guard within a guard. */
int xb_guard_run(const void *memory, uint64_t bytes, void (*step)(void *), void *argument);
