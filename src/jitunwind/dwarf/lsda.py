"""The call-site table of a function's exception table (`.gcc_except_table`): where a throwing call lands.

LSB core 5.0 leaves the format to the Itanium C++ ABI's "Exception Handling Tables"; GCC's
libgcc/unwind-pe.h and LLVM's EHStreamer write it. Bytes in, (call range, landing pad) out.
"""

from collections.abc import Iterator
from typing import NamedTuple

from jitunwind.dwarf.constants import OMITTED
from jitunwind.dwarf.decode import Cursor


class CallSite(NamedTuple):
    """Calls in [start, end) that throw go on at `landing_pad`; all are addresses."""

    start: int
    end: int
    landing_pad: int


def call_sites(data: bytes, address: int, function: int) -> Iterator[CallSite]:
    """The call sites that have a landing pad. `data` are the bytes from the table's start (at `address`) on,
    as many as there are; `function` is the FDE's start. MalformedFrames for a table that is none."""
    cursor = Cursor(data, address)
    encoding = cursor.unsigned(1)
    pads = cursor.pointer(encoding, function)
    base = function if encoding == OMITTED or pads is None else pads
    if cursor.unsigned(1) != OMITTED:
        cursor.uleb()  # the offset of the types
    encoding = cursor.unsigned(1)
    end = cursor.uleb()
    end += cursor.at
    while cursor.at < end:
        start, size, pad = (cursor.pointer(encoding) or 0 for _ in range(3))
        cursor.uleb()  # the action
        if pad:
            yield CallSite(function + start, function + start + size, base + pad)
