"""`.eh_frame_hdr`, the index of an `.eh_frame` (LSB core 5.0, section 10.6.2): an address in, its FDE's place out."""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable

from jitunwind.dwarf.constants import PointerBase, PointerFormat
from jitunwind.dwarf.decode import Cursor
from jitunwind.errors import MalformedFrames

_SORTED_TABLE = PointerBase.DATAREL | PointerFormat.SDATA4
"""The encoding that all linkers write: pairs of (first instruction, FDE), both relative to the header."""
_USUAL_HEADER = 12
_LARGEST_COUNT = 1 << 26


class FrameIndex:
    """The header at `address`. `read(address, size)` gives exactly those bytes of memory; the table is read when it
    is asked for the first time.

    `frames` is the address of the `.eh_frame`. MalformedFrames, and what `read` raises.
    """

    def __init__(self, read: Callable[[int, int], bytes], address: int) -> None:
        self._read, self._address = read, address
        cursor = Cursor(read(address, _USUAL_HEADER), address)
        version, frames, count, self._encoding = (cursor.unsigned(1) for _ in range(4))
        if version != 1:
            raise MalformedFrames(f"the .eh_frame_hdr at {address:#x} has version {version}")
        found = cursor.pointer(frames)
        if found is None:
            raise MalformedFrames(f"the .eh_frame_hdr at {address:#x} leads to no .eh_frame")
        self.frames = found
        is_usual = (count, self._encoding) == (PointerFormat.UDATA4, _SORTED_TABLE)
        self.count = cursor.unsigned(4) if is_usual else 0
        if self.count > _LARGEST_COUNT:
            raise MalformedFrames(f"the .eh_frame_hdr at {address:#x} claims {self.count} entries")
        self.has_table = is_usual and bool(self.count)
        """Without one (`count` encoded as DW_EH_PE_omit, 0xFF) the `.eh_frame` has to be read from its begin."""
        self._starts: array[int] | None = None
        self._entries: array[int] = array("i")

    def fde_of(self, pc: int) -> int | None:
        """The address of the FDE that may cover `pc`: that of the last function that begins at or before it. None,
        where there is none."""
        if self._starts is None:
            table = array("i", self._read(self._address + _USUAL_HEADER, 8 * self.count))
            if sys.byteorder != "little":
                table.byteswap()
            self._starts, self._entries = table[::2], table[1::2]
        index = bisect_right(self._starts, pc - self._address) - 1
        return self._address + self._entries[index] if index >= 0 else None
