"""What Linux and its C library fix for each architecture: the vocabulary of `arch.ARCH.linux`."""

from struct import Struct
from typing import NamedTuple


class SystemCalls(NamedTuple):
    """How a system call is made, and the numbers of some (include/uapi/asm-generic/unistd.h; x86_64's are in
    arch/x86/entry/syscalls/syscall_64.tbl).

    `instruction`: its bytes. `wait_for_child`: clone, vfork and clone3. With CLONE_VFORK they return when the child has
    ended, or runs another program.
    """

    instruction: bytes
    openat: int
    close: int
    read: int
    mmap: int
    munmap: int
    wait_for_child: tuple[int, ...]


class TracedRegisters(NamedTuple):
    """What PTRACE_GETREGS gives: struct user_regs_struct (<sys/user.h>), of words.

    Indices in it: `by_dwarf`, of the registers by DWARF number, the program counter last; `flags`; `original_call`, of
    the number of the system call that is to be started anew; `call`, of a system call's number and arguments.
    """

    layout: Struct
    by_dwarf: tuple[int, ...]
    flags: int
    original_call: int
    call: tuple[int, ...]


class Linux(NamedTuple):
    """`traced`: None where there is no PTRACE_GETREGS; such processes are stepped behind a stub. `mutex_size`: bytes of
    glibc's pthread_mutex_t."""

    calls: SystemCalls
    traced: TracedRegisters | None
    mutex_size: int
