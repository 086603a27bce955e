/* GDB's JIT interface: the structures that debuggers read (GDB manual, "JIT Compilation Interface"). */

#ifndef JITUNWIND_DEBUGGER_H
#define JITUNWIND_DEBUGGER_H

#include <stddef.h>
#include <stdint.h>

enum jit_action { JIT_NO_ACTION, JIT_REGISTER, JIT_UNREGISTER };

struct jit_code_entry {
    struct jit_code_entry *next;
    struct jit_code_entry *prev;
    const void *symbol_file;
    uint64_t symbol_file_size;
};

struct jit_descriptor {
    uint32_t version;
    uint32_t action;
    struct jit_code_entry *relevant;
    struct jit_code_entry *first;
};

#pragma GCC visibility push(default)
extern struct jit_descriptor __jit_debug_descriptor;
void __jit_debug_register_code(void);
#pragma GCC visibility pop

#endif
