/* A walker for walker.c: nongnu libunwind, step by step. The note is what a frame of `hold` has in its registers:
   "held" and rbx, rbp, r12 to r15; or x19 to x24. */

#define UNW_LOCAL_ONLY
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libunwind.h>
#include <stdio.h>
#include <string.h>

#include "walker.h"

#if defined(__x86_64__)
static const int saved[] = {UNW_X86_64_RBX, UNW_X86_64_RBP, UNW_X86_64_R12,
                            UNW_X86_64_R13, UNW_X86_64_R14, UNW_X86_64_R15};
#else
static const int saved[] = {UNW_AARCH64_X19, UNW_AARCH64_X20, UNW_AARCH64_X21,
                            UNW_AARCH64_X22, UNW_AARCH64_X23, UNW_AARCH64_X24};
#endif

static void
note_if_held(unw_cursor_t *cursor, unw_word_t pc)
{
    Dl_info found;
    if (!dladdr((void *)(pc - 1), &found) || !found.dli_sname || strcmp(found.dli_sname, "hold")) {
        return;
    }
    strcpy(walker_note, "held");
    for (unsigned i = 0; i < sizeof saved / sizeof saved[0]; i++) {
        unw_word_t value = 0;
        int failed = unw_get_reg(cursor, saved[i], &value);
        size_t length = strlen(walker_note);
        snprintf(walker_note + length, sizeof walker_note - length, failed ? " lost" : " %#lx", (unsigned long)value);
    }
    strcat(walker_note, "\n");
}

int
walk(uintptr_t *pcs, int most)
{
    unw_context_t context;
    unw_cursor_t cursor;
    unw_word_t pc;
    int count = 0;
    unw_getcontext(&context);
    unw_init_local(&cursor, &context);
    while (count < most && unw_step(&cursor) > 0 && !unw_get_reg(&cursor, UNW_REG_IP, &pc)) {
        pcs[count++] = pc;
        note_if_held(&cursor, pc);
    }
    return count;
}
