"""A jitdump file (the kernel's tools/perf/Documentation/jitdump-specification.txt): what a JIT leaves for perf.

In come the file's bytes; out come the unwind tables that it has for the code in it. `tables.sources` asks.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

from jitunwind.arch import Architecture
from jitunwind.dwarf.decode import eh_frame, table_of
from jitunwind.errors import MalformedFrames
from jitunwind.rows import UnwindTable

_HEADER = struct.Struct("<6I2Q")
"""Magic, version, size of this header, ELF machine, padding, pid, timestamp, flags (section III)."""
_MAGIC = 0x4A695444
_PREFIX = struct.Struct("<2IQ")
"""Of each record: its kind, its size with this, a timestamp (section IV)."""
_LOAD = struct.Struct("<2I4Q")
"""Pid, tid, vma, address, size, index; then a name and the code (section V)."""
_MOVE = struct.Struct("<2I5Q")
"""Pid, tid, vma, old address, new address, size, index (section VI)."""
_UNWINDING = struct.Struct("<3Q")
"""Size of `.eh_frame` and `.eh_frame_hdr`, of the latter, and of what is mapped; then the two (section VIII)."""


class _Kind(IntEnum):
    LOAD = 0
    MOVE = 1
    UNWINDING_INFO = 4


def frames_in(data: bytes, arch: Architecture) -> list[tuple[int, int, UnwindTable]]:
    """(start, size, table) of each FDE; where code came to lie over other code, that of the later.

    An unwinding record is about the load behind it, and its bytes are as if they lay behind the code, at the
    next multiple of 8: so perf places them (tools/perf/util/genelf.c). MalformedFrames.
    """
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[0] != _MAGIC:
        raise MalformedFrames("it does not begin as a little-endian jitdump file does")
    unwinding = b""
    loaded: dict[int, list[tuple[int, int, UnwindTable]]] = {}
    """By the code's index."""
    for kind, body in _records(data):
        if kind == _Kind.UNWINDING_INFO:
            size, header_size, _ = _UNWINDING.unpack_from(body)
            unwinding = body[_UNWINDING.size :][: size - header_size]
        elif kind == _Kind.LOAD:
            *_, address, size, index = _LOAD.unpack_from(body)
            fdes = eh_frame(unwinding, address + (size + 7) // 8 * 8)
            loaded.pop(index, None)
            loaded[index] = [(fde.start, fde.size, table_of(fde, arch.unspecified)) for fde in fdes]
            unwinding = b""
        elif kind == _Kind.MOVE:
            *_, old, new, _, index = _MOVE.unpack_from(body)
            tables = loaded.pop(index, [])
            loaded[index] = [(start + new - old, size, table) for start, size, table in tables]
    found = {each[0]: each for tables in loaded.values() for each in tables}
    return [found[start] for start in sorted(found)]


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each whole record's kind and body: the last one may be in the making."""
    at = _HEADER.unpack_from(data)[2]
    while at + _PREFIX.size <= len(data):
        kind, size, _ = _PREFIX.unpack_from(data, at)
        if size < _PREFIX.size:
            raise MalformedFrames(f"the jitdump record at +{at:#x} has a size of {size}")
        if at + size > len(data):
            return
        yield kind, data[at + _PREFIX.size : at + size]
        at += size
