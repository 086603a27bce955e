/* A walker for sampler.c: LLVM's libunwind, in the file that SAMPLER_LLVM names. Its functions have the same names as
   those of nongnu libunwind; so they are looked up in that one object, and declared here (libunwind.h of LLVM 14 to 19).
   Of JIT code it knows what the agent has told it.

   It takes each program counter for a return address, so a row of a table does not hold for it at the very instruction
   that it begins with (parseFDEInstructions of DwarfParser.hpp). To begin behind a byte of the interrupted instruction
   makes that right. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "sampler.h"

typedef struct {
    uint64_t words[256]; /* more than any version has */
} state;

enum { IP = -1, SP = -2, CONTEXT_REGISTERS = 17 };

static int (*init_local)(state *cursor, state *context);
static int (*step)(state *cursor);
static int (*get_reg)(state *cursor, int number, uint64_t *value);

static void
find(void *library, const char *name, void *into)
{
    void *found = dlsym(library, name);
    if (!found) {
        abort();
    }
    memcpy(into, &found, sizeof found);
}

void
prepare_walker(void)
{
    void *library = dlopen(getenv("SAMPLER_LLVM"), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        abort();
    }
    find(library, "unw_init_local", &init_local);
    find(library, "unw_step", &step);
    find(library, "unw_get_reg", &get_reg);
}

static void
take(state *cursor, struct frame *frame)
{
    static const int numbers[] = KEPT_DWARF;
    *frame = (struct frame){.pc = 0};
    get_reg(cursor, IP, &frame->pc);
    get_reg(cursor, SP, &frame->sp);
    for (int i = 0; i < KEPT; i++) {
        get_reg(cursor, numbers[i], &frame->kept[i]);
    }
}

int
walk_from(ucontext_t *at, struct frame *frames, int most)
{
    /* unw_context_t of x86_64 is rax, rbx, rcx, rdx, rdi, rsi, rbp, rsp, r8 to r15, rip, and more that is not needed. */
    static const int registers[CONTEXT_REGISTERS] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RDI, REG_RSI,
                                                     REG_RBP, REG_RSP, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                                     REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    state context = {{0}}, cursor;
    int count = 0;
    for (int i = 0; i < CONTEXT_REGISTERS; i++) {
        context.words[i] = (uint64_t)at->uc_mcontext.gregs[registers[i]];
    }
    context.words[CONTEXT_REGISTERS - 1]++;
    if (init_local(&cursor, &context)) {
        return 0;
    }
    int more;
    do { /* to a frame that it knows nothing of it comes, too, and says that there is no more */
        take(&cursor, &frames[count++]);
        more = step(&cursor);
    } while (count < most && more > 0);
    if (count < most && !more) {
        take(&cursor, &frames[count]);
        count += frames[count].pc && frames[count].sp != frames[count - 1].sp;
    }
    frames[0].pc--;
    return count;
}
