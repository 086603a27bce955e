"""How Linux hands over a thread's registers on AArch64: to ptrace(2) and in cores, and to signal handlers."""

from jitunwind.arch.aarch64.registers import PC

GENERAL_SIZE = 34 * 8
"""Bytes of struct user_pt_regs (Linux arch/arm64/include/uapi/asm/ptrace.h), the note NT_PRSTATUS of ptrace(2)."""
GENERAL = tuple(range(PC + 1))
"""The word there of each DWARF register from 0 on, the program counter last."""
THREAD_POINTER: int | None = None
"""It is not among them (NT_ARM_TLS has it)."""
SIGRETURN = bytes.fromhex("681180d2010000d4")
"""`mov x8,#139; svc #0`: what a signal handler returns to (Linux arch/arm64/kernel/vdso/sigreturn.S)."""
_REGS = 128 + 176 + 8
"""Bytes from struct rt_sigframe to its registers: siginfo_t, the ucontext up to its struct sigcontext, and there
fault_address (Linux arch/arm64/include/uapi/asm/ucontext.h, sigcontext.h)."""
INTERRUPTED = {register: _REGS + 8 * register for register in range(PC + 1)}
"""By DWARF register: how far above the stack pointer at SIGRETURN the interrupted one is saved."""
