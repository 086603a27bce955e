"""AArch64's Linux: system calls (svc(2)'s convention is in arch/arm64/kernel/syscall.c), glibc's types."""

from jitunwind.arch.linux import Linux, SystemCalls

LINUX = Linux(
    calls=SystemCalls(
        instruction=bytes.fromhex("010000d4"),  # svc #0
        openat=56,
        close=57,
        read=63,
        mmap=222,
        munmap=215,
        wait_for_child=(220, 435),  # there is no vfork
    ),
    traced=None,
    mutex_size=48,
)
