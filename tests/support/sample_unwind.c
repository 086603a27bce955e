/* A walker for sampler.c: libgcc's _Unwind_Backtrace, with the registers of each frame. */

#include <stdbool.h>
#include <unwind.h>

#include "sampler.h"

struct walk {
    struct frame *frames;
    int count, most;
};

static _Unwind_Reason_Code
take(struct _Unwind_Context *context, void *argument)
{
    static const int numbers[] = KEPT_DWARF;
    struct walk *walk = argument;
    if (walk->count == walk->most) {
        return _URC_END_OF_STACK;
    }
    struct frame *frame = &walk->frames[walk->count++];
    frame->pc = _Unwind_GetIP(context);
    frame->sp = _Unwind_GetCFA(context); /* of the frame that was unwound: here it is the stack pointer */
    for (int i = 0; i < KEPT; i++) {
        frame->kept[i] = _Unwind_GetGR(context, numbers[i]);
    }
    return _URC_NO_REASON;
}

void
prepare_walker(void)
{
    struct frame frame;
    struct walk walk = {&frame, 0, 1};
    _Unwind_Backtrace(take, &walk);
}

int
walk_from(ucontext_t *at, struct frame *frames, int most)
{
    struct walk walk = {frames, 0, most};
    (void)at;
    _Unwind_Backtrace(take, &walk);
    return walk.count;
}
