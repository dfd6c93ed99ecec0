#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

#include "xenblk/blkback/guard.h"

struct guard {
    sigjmp_buf escape;
    const void *memory;
    uint64_t bytes;
};

/* Of the kind that a signal handler may look at in any thread: it is never allocated late. */
static __thread struct guard *guarded __attribute__((tls_model("initial-exec")));
static pthread_mutex_t handling = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static int have_previous;

static void pass_on(int number, siginfo_t *info, void *context)
{
    int is_sent = info->si_code <= 0; /* by kill(2): no instruction meets it again */

    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else if (!is_sent || previous.sa_handler == SIG_DFL) {
        signal(number, SIG_DFL);
        if (is_sent)
            raise(number);
    }
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    struct guard *guard = guarded;

    if (guard && info->si_code > 0 && (uintptr_t)info->si_addr - (uintptr_t)guard->memory < guard->bytes) {
        /* What returning would do, and saving the mask before each copy would cost a system call. */
        pthread_sigmask(SIG_SETMASK, &((ucontext_t *)context)->uc_sigmask, NULL);
        siglongjmp(guard->escape, 1);
    }
    pass_on(number, info, context);
}

void xb_guard_take_sigbus(void)
{
    struct sigaction ours = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};

    pthread_mutex_lock(&handling);
    /* Again each time, as somebody may have taken it from us; but whoever did may pass on to us, and to pass on to him
     * would go round in circles. */
    sigaction(SIGBUS, &ours, have_previous ? NULL : &previous);
    have_previous = 1;
    pthread_mutex_unlock(&handling);
}

int xb_guard_run(const void *memory, uint64_t bytes, void (*step)(void *), void *argument)
{
    struct guard guard = {.memory = memory, .bytes = bytes};

    if (sigsetjmp(guard.escape, 0) != 0) {
        guarded = NULL;
        return 0;
    }
    guarded = &guard;
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* with the handler, in this thread: no access before the guard stands, */
    step(argument);
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* and none after it */
    guarded = NULL;
    return 1;
}
