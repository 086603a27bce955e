/* A walker for sampler.c: nongnu libunwind's unw_step, from the registers of the interrupted frame on. */

#define UNW_LOCAL_ONLY
#include <libunwind.h>

#include "sampler.h"

#if defined(__x86_64__)
static const int numbers[] = {UNW_X86_64_RBX, UNW_X86_64_RBP, UNW_X86_64_R12,
                              UNW_X86_64_R13, UNW_X86_64_R14, UNW_X86_64_R15};
#else
static const int numbers[] = {UNW_AARCH64_X19, UNW_AARCH64_X20, UNW_AARCH64_X21,
                              UNW_AARCH64_X22, UNW_AARCH64_X23, UNW_AARCH64_X24};
#endif

static int
walk_on(unw_context_t *context, int flags, struct frame *frames, int most)
{
    unw_cursor_t cursor;
    int count = 0;
    if (unw_init_local2(&cursor, context, flags)) {
        return 0;
    }
    do {
        unw_word_t value = 0;
        struct frame *frame = &frames[count++];
        *frame = (struct frame){.pc = 0};
        unw_get_reg(&cursor, UNW_REG_IP, &value);
        frame->pc = value;
        unw_get_reg(&cursor, UNW_REG_SP, &value);
        frame->sp = value;
        for (int i = 0; i < KEPT; i++) {
            if (!unw_get_reg(&cursor, numbers[i], &value)) {
                frame->kept[i] = value;
            }
        }
    } while (count < most && unw_step(&cursor) > 0);
    return count;
}

void
prepare_walker(void)
{
    unw_context_t context;
    struct frame frame;
    unw_getcontext(&context);
    walk_on(&context, 0, &frame, 1);
}

int
walk_from(ucontext_t *at, struct frame *frames, int most)
{
    return walk_on(at, UNW_INIT_SIGNAL_FRAME, frames, most);
}
