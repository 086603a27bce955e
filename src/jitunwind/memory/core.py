"""What a core file says of the memory it holds: its program headers (System V gABI, chapter 5)."""

import struct
from pathlib import Path

_PT_LOAD = 1
_PF_X = 1
_MOST_HEADERS = 1 << 20
_PN_XNUM = 0xFFFF
"""With more headers than this, e_phnum is this, and the number stands in the first section's sh_info."""


def load_segments(path: str) -> list[tuple[int, int, bool]]:
    """The (start, end, executable) of each PT_LOAD segment of the 64-bit little-endian ELF file at `path`.

    Empty for files that are none. OSError, if the file cannot be read.
    """
    with Path(path).open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            return []
        (offset,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        if count == _PN_XNUM:
            (sections,) = struct.unpack_from("<Q", header, 40)
            file.seek(sections + 44)
            count = int.from_bytes(file.read(4), "little")
        if size < 56 or count > _MOST_HEADERS:
            return []
        file.seek(offset)
        table = file.read(size * count)
    segments = []
    for at in range(0, len(table) - 55, size):
        kind, flags = struct.unpack_from("<II", table, at)
        (address,) = struct.unpack_from("<Q", table, at + 16)
        (length,) = struct.unpack_from("<Q", table, at + 40)
        if kind == _PT_LOAD:
            segments.append((address, address + length, bool(flags & _PF_X)))
    return segments
