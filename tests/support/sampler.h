/* What a walker of stacks gives to sampler.c: one of the files sample_*.c is compiled together with it. */

#ifndef SAMPLER_H
#define SAMPLER_H

#include <stdint.h>
#include <ucontext.h>

enum { KEPT = 6 };

/* A frame as a walker sees it: where it goes on, its stack pointer, and its callee-saved registers: rbx, rbp, r12 to
   r15; or x19 to x24. What the walker does not tell is 0. */
struct frame {
    uint64_t pc, sp, kept[KEPT];
};

#if defined(__x86_64__)
#define KEPT_DWARF {3, 6, 12, 13, 14, 15}
#else
#define KEPT_DWARF {19, 20, 21, 22, 23, 24}
#endif

/* Called once, not in a handler: what the walker loads or allocates when it is first used. */
void prepare_walker(void);

/* Called in a signal's handler, with what it was given: the frames of this thread, the innermost first, at most `most`;
   returns how many. Frames of the handler itself may come before the interrupted one. */
int walk_from(ucontext_t *at, struct frame *frames, int most);

#endif
