/* What differs by architecture, in one place: an architecture that is not here does not compile.
   docs/adding-an-architecture.md says what else it needs. */

#ifndef JITUNWIND_ARCH_H
#define JITUNWIND_ARCH_H

#include <elf.h>

/* MACHINE: e_machine. JUMP_SLOT, GLOBAL_DATA: the relocations that bind a slot to a function (System V psABI x86_64,
   table 4.9; AAELF64, section 5.7.16). RETURN_ADDRESS: its DWARF number. CODE_ALIGNMENT: the factor of a CIE.
   CFA_REGISTERS: a CFA may be counted from the registers below that number; libgcc aborts at others.
   BREAKPOINT: the bytes that debuggers write where they stop. ARCH_NAME: in the names of libunwind's functions. */
#if defined(__x86_64__)
enum { MACHINE = EM_X86_64, JUMP_SLOT = R_X86_64_JUMP_SLOT, GLOBAL_DATA = R_X86_64_GLOB_DAT };
enum { RETURN_ADDRESS = 16, CODE_ALIGNMENT = 1, CFA_REGISTERS = 16 };
#define BREAKPOINT {0xcc} /* int3 */
#define ARCH_NAME "x86_64"
#elif defined(__aarch64__)
enum { MACHINE = EM_AARCH64, JUMP_SLOT = R_AARCH64_JUMP_SLOT, GLOBAL_DATA = R_AARCH64_GLOB_DAT };
enum { RETURN_ADDRESS = 30, CODE_ALIGNMENT = 1, CFA_REGISTERS = 32 };
#define BREAKPOINT {0x00, 0x00, 0x20, 0xd4} /* brk #0 */
#define ARCH_NAME "aarch64"
#else
#error "unknown architecture: give it a row in arch.h"
#endif

#endif
