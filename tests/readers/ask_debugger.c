/* A debugger, to which a JIT tells an ELF file by GDB's JIT interface; it stops in `ask`. */

#include <stdlib.h>

#include "program.h"

const int tells_registers = 1, in_child = 0;

struct entry {
    struct entry *next, *previous;
    const char *file;
    uint64_t size;
};

/* As GDB's manual says, chapter "JIT Compilation Interface". */
struct {
    uint32_t version, action;
    struct entry *relevant, *first;
} __jit_debug_descriptor = {1, 0, 0, 0};

void __attribute__((noinline))
__jit_debug_register_code(void)
{
    __asm__ volatile("" ::: "memory");
}

void
tell(const struct slot *slot)
{
    enum { REGISTER = 1 };
    struct entry *entry = malloc(sizeof *entry), *next = __jit_debug_descriptor.first;
    *entry = (struct entry){next, 0, (const char *)slot->image, slot->image_size};
    if (next) {
        next->previous = entry;
    }
    __jit_debug_descriptor.relevant = __jit_debug_descriptor.first = entry;
    __jit_debug_descriptor.action = REGISTER;
    __jit_debug_register_code();
}

void __attribute__((noinline))
ask(void)
{
    __asm__ volatile("" ::: "memory");
}
