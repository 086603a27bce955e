/* A walker for sampler.c: glibc's backtrace(), which is libgcc's unwinder. It tells program counters only. */

#include <execinfo.h>

#include "sampler.h"

enum { MOST = 512 };

void
prepare_walker(void)
{
    void *pc;
    backtrace(&pc, 1); /* loads libgcc */
}

int
walk_from(ucontext_t *at, struct frame *frames, int most)
{
    void *pcs[MOST];
    (void)at;
    int count = backtrace(pcs, most < MOST ? most : MOST);
    for (int i = 0; i < count; i++) {
        frames[i] = (struct frame){.pc = (uintptr_t)pcs[i]};
    }
    return count;
}
