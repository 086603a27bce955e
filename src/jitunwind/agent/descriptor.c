/* GDB's JIT interface, for a process that has none: loaded only then, since there must not be two in one process
   (GDB manual, "JIT Compilation Interface"). */

#include "debugger.h"

struct jit_descriptor __jit_debug_descriptor = {1, JIT_NO_ACTION, NULL, NULL};

/* A debugger has a breakpoint here: it must not be inlined, nor its calls merged. */
__attribute__((noinline)) void __jit_debug_register_code(void)
{
    __asm__ volatile("" ::: "memory");
}
