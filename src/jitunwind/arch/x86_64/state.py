"""How Linux hands over a thread's registers on x86_64: to ptrace(2) and in cores, and to signal handlers."""

from jitunwind.arch.x86_64.registers import R8, R15, RAX, RBP, RBX, RCX, RDI, RDX, RETURN_ADDRESS, RSI, RSP

GENERAL_SIZE = 27 * 8
"""Bytes of struct user_regs_struct (<sys/user.h>), the note NT_PRSTATUS of ptrace(2)."""
GENERAL = (10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16)
"""The word there of each DWARF register from 0 on, the program counter last."""
THREAD_POINTER: int | None = 21
"""The word there that says where the thread's own data is (fs_base), which lies on top of its stack."""
SIGRETURN = bytes.fromhex("48c7c00f0000000f05")
"""`mov $15,%rax; syscall`: what a signal handler returns to (Linux arch/x86/kernel/signal_64.c)."""
_GREGS = 40
"""Bytes from struct ucontext to its registers (Linux arch/x86/include/uapi/asm/ucontext.h, sigcontext.h)."""
INTERRUPTED = {
    register: _GREGS + 8 * place
    for place, register in enumerate(
        (*range(R8, R15 + 1), RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RETURN_ADDRESS)
    )
}
"""By DWARF register: how far above the stack pointer at SIGRETURN the interrupted one is saved."""
