"""Publishing the code of any JIT: `publish` tells debuggers and unwinders of a region until it is withdrawn."""

import ctypes
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Literal

from jitunwind.agent.library import GDB, LIBGCC, loaded_agent
from jitunwind.arch.known import decoder, native
from jitunwind.publishing.described import described, frames_of
from jitunwind.publishing.invariant import FramePointer
from jitunwind.recover.table import recover
from jitunwind.region import Line, Region
from jitunwind.rows import UnwindTable


class Publication:
    """A published region; also a context manager, which withdraws it at the end."""

    def __init__(self, region: Region, table: UnwindTable, handle: int) -> None:
        self.region = region
        self.table = table
        """What was published: rows, and an `Unknown` where nothing was."""
        self._handle = handle

    def withdraw(self) -> None:
        """Take it back: before the code's memory is freed or written to. Doing it again does nothing."""
        handle, self._handle = self._handle, 0
        if handle:
            loaded_agent().withdraw([handle])

    def __enter__(self) -> "Publication":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.withdraw()


def publish(
    region: Region,
    table: UnwindTable | FramePointer | Literal["recover"] = "recover",
    *,
    lines: Sequence[Line] = (),
    consumers: Collection[str] = (GDB, LIBGCC),
) -> Publication:
    """Tell debuggers and unwinders in this process of `region`, whose code is complete.

    `table` is its unwind table, with offsets from the region's start; or "recover": it is derived from the machine
    code, which is entered at its start by the platform's calling convention; or `frame_pointer()`: the code is
    checked to keep to that at each instruction. `lines` are the source lines, by rising offset. `consumers` are
    "gdb" (GDB, LLDB), "libgcc" (C++ exceptions, `backtrace`), "libunwind" (nongnu libunwind, where it is loaded),
    "jitdump" (perf inject) and "perf_map" (perf report), which write /tmp/jit-PID.dump and /tmp/perf-PID.map.

    ValueError for a table of another size, an unknown consumer, or a region that makes no sense; BrokenInvariant;
    AgentMissing; AgentFailed, if the region overlaps one that is published, there is no memory, or a file for perf
    cannot be made.
    """
    known = loaded_agent().consumers
    unknown = set(consumers) - known.keys()
    if unknown or not consumers:
        raise ValueError(
            f"consumers are some of {', '.join(sorted(known))}; not {', '.join(map(repr, consumers))}"
        )
    if region.size <= 0 or not 0 < region.start < region.end <= 1 << 64:
        raise ValueError(f"{region.size:#x} bytes at {region.start:#x} are no region")
    arch = native()
    if not isinstance(table, UnwindTable):
        code = ctypes.string_at(region.start, region.size)
        if table == "recover":
            table = recover(arch, code, decoder(arch), {0: arch.at_entry(arch.platform)})
        elif isinstance(table, FramePointer):
            table = table.checked(arch, code, decoder(arch))
        else:
            raise ValueError(f"table is an UnwindTable, frame_pointer() or 'recover', not {table!r}")
    elif table.size != region.size:
        raise ValueError(f"the table is of {table.size:#x} bytes, the region of {region.size:#x}")
    (handle,) = loaded_agent().publish(
        [described(region, frames_of(arch, region.start, table), lines)], consumers
    )
    return Publication(region, table, handle)
