"""Unwind tables that only a file tells of, not the process's memory, by its section headers.

That is `.debug_frame`, of the file or its debug file, and the `.eh_frame` of a static program, which has no header for
it that the loader would map.
"""

from bisect import bisect_right
from contextlib import suppress
from typing import NamedTuple

from jitunwind.dwarf.decode import Fde, debug_frame, eh_frame
from jitunwind.elf.headers import PT_GNU_EH_FRAME, Headers
from jitunwind.errors import MalformedFrames
from jitunwind.memory.backing import BackingFiles
from jitunwind.stacks.symbols import Symbols

_LARGEST = 1 << 26
"""Bytes of a section that is taken apart: it has no index."""


class FileFrames:
    """Those of a process's files."""

    def __init__(self, files: BackingFiles, symbols: Symbols) -> None:
        self._files, self._symbols = files, symbols
        self._by_file: dict[int, _Frames] = {}

    def at(self, address: int) -> tuple[Fde, int] | None:
        """The FDE for that address of the process, and what to add to its addresses; None where there is none."""
        file = self._files.at(address)
        if file is None:
            return None
        frames = self._by_file.get(id(file.headers))
        if frames is None:
            debug_file = self._symbols.of_file(file).debug_file
            found = _frames_in(file.headers)
            if not found and debug_file is not None:
                found = _frames_in(debug_file.headers)
            frames = self._by_file[id(file.headers)] = _Frames([fde.start for fde in found], found)
        index = bisect_right(frames.starts, address - file.bias) - 1
        fde = frames.fdes[index] if index >= 0 else None
        return (fde, file.bias) if fde is not None and address - file.bias < fde.start + fde.size else None


class _Frames(NamedTuple):
    """By rising start."""

    starts: list[int]
    fdes: list[Fde]


def _frames_in(headers: Headers) -> list[Fde]:
    found: list[Fde] = []
    has_index = any(segment.kind == PT_GNU_EH_FRAME for segment in headers.segments)
    for name in (".debug_frame", *(() if has_index else (".eh_frame",))):
        section = headers.section(name)
        data = headers.content(section)
        if section is None or not 0 < len(data) <= _LARGEST:
            continue
        entries = bytes(data)
        with suppress(MalformedFrames):
            found += debug_frame(entries) if name == ".debug_frame" else eh_frame(entries, section.address)
    return sorted(found, key=lambda fde: fde.start)
