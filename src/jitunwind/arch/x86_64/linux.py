"""x86_64's Linux: system calls (System V psABI, section A.2), registers under ptrace(2), glibc's types."""

from struct import Struct

from jitunwind.arch.linux import Linux, SystemCalls, TracedRegisters

LINUX = Linux(
    calls=SystemCalls(
        instruction=b"\x0f\x05",  # syscall
        openat=257,
        close=3,
        read=0,
        mmap=9,
        munmap=11,
        wait_for_child=(56, 58, 435),
    ),
    traced=TracedRegisters(
        layout=Struct("<27Q"),
        by_dwarf=(10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16),
        flags=18,
        original_call=15,
        call=(10, 14, 13, 12, 7, 9, 8),
    ),
    mutex_size=40,
)
