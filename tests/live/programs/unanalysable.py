"""Machine code that nobody can unwind by looking at it: its frame's size is in a register, and rbp is scratch.

It calls pause(2). With the argument "published" it is published, with rows.
"""

import ctypes
import mmap
import sys

from handshake import allow_tracing

from jitunwind import CfaRule, Region, Row, SavedAt, UnwindTable, publish

PARTS = (
    ("55", 8),  # push rbp
    ("bd01000000", 16),  # mov ebp, 1
    ("b848000000", 16),  # mov eax, 0x48
    ("4829c4", 16),  # sub rsp, rax
    ("ffd7", 16 + 0x48),  # call rdi
    ("4883c448", 16 + 0x48),  # add rsp, 0x48
    ("5d", 16),  # pop rbp
    ("c3", 8),  # ret
)
"""Each instruction, and how far below the CFA the stack pointer is before it."""
RBX, RBP, RSP, R12, R15, RETURN_ADDRESS = 3, 6, 7, 12, 15, 16


def table() -> UnwindTable:
    offsets, rows, at = [], [], 0
    for code, depth in PARTS:
        offsets.append(at)
        saved = [(RBP, SavedAt(-16))] if depth > 8 else []
        rows.append(Row(CfaRule(RSP, depth), (*saved, (RETURN_ADDRESS, SavedAt(-8)))))
        at += len(code) // 2
    return UnwindTable(at, offsets, rows)


code = bytes.fromhex("".join(part for part, _ in PARTS))
memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(code)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
if "published" in sys.argv:
    publish(Region(start, len(code), "made::of_hand"), table())
allow_tracing()
print("ready", flush=True)
pause = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p)
ctypes.CFUNCTYPE(None, ctypes.c_void_p)(start)(pause)
