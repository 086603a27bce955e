/* LLVM's libunwind, whose __register_frame takes one FDE at a time. Its library is loaded by the path in LLVM_LIBUNWIND,
   so that its functions are not mistaken for libgcc's. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

const int tells_registers = 1, in_child = 1;

/* Its own libunwind.h: the registers of x86_64 as DWARF numbers them, -1 and -2 for pc and sp. */
enum { IP = -1, SP = -2, RBX = 3 };

struct context {
    uint64_t data[64];
};

struct cursor {
    uint64_t data[64];
};

static int (*getcontext_)(struct context *), (*init)(struct cursor *, struct context *), (*step_)(struct cursor *),
    (*get_reg)(struct cursor *, int, uint64_t *);

static void *
function(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    return found;
}

void
tell(const struct slot *slot)
{
    void *library = dlopen(getenv("LLVM_LIBUNWIND"), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    *(void **)&getcontext_ = function(library, "unw_getcontext");
    *(void **)&init = function(library, "unw_init_local");
    *(void **)&step_ = function(library, "unw_step");
    *(void **)&get_reg = function(library, "unw_get_reg");
    void (*register_frame)(void *);
    *(void **)&register_frame = function(library, "__register_frame");
    uint32_t count;
    memcpy(&count, (char *)slot->header + 8, sizeof count);
    for (uint32_t i = 0; i < count; i++) {
        int32_t fde;
        memcpy(&fde, (char *)slot->header + 12 + 8 * i + 4, sizeof fde);
        register_frame((char *)slot->header + fde);
    }
}

void
ask(void)
{
    struct context context;
    struct cursor cursor;
    getcontext_(&context);
    init(&cursor, &context);
    for (;;) {
        uint64_t pc = 0, sp = 0, rbx = 0;
        get_reg(&cursor, IP, &pc);
        get_reg(&cursor, SP, &sp);
        get_reg(&cursor, RBX, &rbx);
        if (!frame(pc, &sp, &rbx)) {
            return;
        }
        int step = step_(&cursor);
        if (step <= 0) {
            ended(step);
            return;
        }
    }
}
