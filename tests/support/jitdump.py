"""jitdump files by the kernel's tools/perf/Documentation/jitdump-specification.txt."""

import struct

from jitunwind.arch import Architecture
from jitunwind.dwarf.encode import TERMINATOR, eh_frame
from jitunwind.rows import UnwindTable

EM_X86_64 = 62
HEADER = struct.pack("<4s5I2Q", b"DTiJ", 1, 40, EM_X86_64, 0, 1234, 0, 0)
"""Magic 0x4A695444, version, size of the header, machine, padding, pid, timestamp, flags."""
_LOAD, _MOVE, _UNWINDING_INFO = 0, 1, 4


def _record(kind: int, body: bytes) -> bytes:
    return struct.pack("<2IQ", kind, 16 + len(body), 0) + body


def load(arch: Architecture, start: int, table: UnwindTable, index: int) -> bytes:
    """The records on one piece of code: its unwind information, then the code itself (all of it zeros)."""
    frames = eh_frame(arch, [(start, table)], start + (table.size + 7) // 8 * 8) + TERMINATOR
    header = b"\x01\x1b\x03\x3b" + bytes(8)  # an .eh_frame_hdr that says nothing
    unwinding = struct.pack("<3Q", len(frames) + len(header), len(header), 0) + frames + header
    code = struct.pack("<2I4Q", 1, 1, start, start, table.size, index) + b"name\0" + bytes(table.size)
    return _record(_UNWINDING_INFO, unwinding) + _record(_LOAD, code)


def move(old: int, new: int, size: int, index: int) -> bytes:
    return _record(_MOVE, struct.pack("<2I5Q", 1, 1, new, old, new, size, index))
