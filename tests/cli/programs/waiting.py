"""What the command line's programs do: wait for a byte inside hot code, and answer it.

`take(fd)` is what JIT-compiled loops call. The parent sends many `w` to warm the loops up, and then nothing:
so the program stands in read(2), in a place that both know. `p` is answered with `p` (it goes on), `s` with
the stack as the program itself knows it.
"""

import contextlib
import json
import os
import signal
import sys

LONGEST_LIFE = 600
PR_SET_PTRACER, ANY_PROCESS = 0x59616D61, -1


def take(fd: int) -> int:
    byte = os.read(fd, 1)
    if byte == b"w":
        return 1
    answer(byte)
    return 0


def answer(byte: bytes) -> None:
    if byte == b"p":
        os.write(1, b"p\n")
    elif byte == b"s":
        os.write(1, json.dumps(stack(sys._getframe(2))).encode() + b"\n")
    elif byte == b"a":
        os.abort()
    elif byte == b"n":
        import ctypes

        print(ctypes.c_char.from_address(16).value)
    elif not byte:
        os._exit(0)


def stack(frame) -> list[list]:
    """[qualified name, file, line] of each Python frame, innermost first."""
    found = []
    while frame is not None:
        found.append([frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_lineno])
        frame = frame.f_back
    return found


def allow_tracing() -> None:
    """Let a debugger attach that is no ancestor (prctl(2); Yama's ptrace_scope 1 forbids it else)."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(ANY_PROCESS), 0, 0, 0)


def begin() -> None:
    signal.alarm(LONGEST_LIFE)
    with contextlib.suppress(ImportError):
        allow_tracing()
