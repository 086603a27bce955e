"""Whether stencils leave the frame pointer alone: what CPython 3.15's own unwind information rests on.

An object goes in, with or without FDEs (CPython compiles stencils without); out comes each instruction that
saves, writes or reads the frame pointer, and each exit that leaves the stack pointer elsewhere than the entry
found it. `cli/check.py` calls it.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator

from jitunwind.check.files import Listing, Names, Place, Reports
from jitunwind.check.functions import Program
from jitunwind.dwarf.decode import Cie, Fde
from jitunwind.rows import Unknown, UnwindTable

NO_TABLE = "no FDE covers this function"
UNPROVEN = "leaves with a stack pointer of which it is not known where it is"

_COLD = re.compile(r".*\.cold(\.\d+)?")
"""What GCC and Clang call a part of a function that no call enters."""
_NO_CIE = Cie(0, 1, "", 1, -8, 16, 0, 0xFF, None, False, b"")


class Stencils(Program):
    """An object's functions by its FDEs, and by its symbols where no FDE is."""

    contents = "unwind table and no function symbol"

    def _functions(self) -> list[Fde]:
        fdes = super()._functions()
        found: dict[int, Fde] = {}
        cold: set[int] = set()
        starts = sorted({symbol.address for symbol in self.elf.functions()})
        following = dict(zip(starts, [*starts, 1 << 64][1:], strict=True))
        for symbol in self.elf.functions():
            section = self.elf.section_of(symbol.address)
            if section is None or not section.executable:
                continue
            end = min(following[symbol.address], section.end)
            size = min(symbol.size, end - symbol.address) if symbol.size else end - symbol.address
            found[symbol.address] = Fde(0, _NO_CIE, symbol.address, size, None, b"", 0)
            if _COLD.fullmatch(symbol.name):
                cold.add(symbol.address)
        begins = [fde.start for fde in fdes]
        for start in list(found):
            at = bisect_right(begins, start) - 1
            if at >= 0 and start < begins[at] + fdes[at].size:
                del found[start]
        self._bare, self._cold = frozenset(found), frozenset(cold)
        return sorted((*fdes, *found.values()), key=lambda fde: fde.start)

    @property
    def tables(self) -> int:
        return len(self.fdes) - len(self._bare)

    def described(self) -> list[Fde]:
        return [fde for fde in self.fdes if fde.start not in self._bare]

    def table(self, index: int) -> UnwindTable:
        fde = self.fdes[index]
        return (
            UnwindTable(fde.size, [0], [Unknown(NO_TABLE)])
            if fde.start in self._bare
            else super().table(index)
        )

    def is_entry(self, index: int) -> bool:
        start = self.fdes[index].start
        return start not in self._cold if start in self._bare else super().is_entry(index)


def violations(program: Program, reports: Reports) -> Iterator[Place]:
    """Where the rule is broken, function by function; `about` says how, and is UNPROVEN where it may not be."""
    names = Names(program.elf)
    for index, report in sorted(reports.items()):
        fde = program.fdes[index]
        listing = Listing(program, index)
        found = list(program.compiled.frame_pointer_uses(program.elf.read(fde.start, fde.size)))
        entry = -program.arch.cfa_at_entry_offset
        for offset, depth in report.unbalanced:
            if depth is None:
                found.append((offset, UNPROVEN))
            else:
                side = "below" if depth < entry else "above"
                found.append(
                    (
                        offset,
                        f"leaves with the stack pointer {abs(depth - entry)} bytes {side} its place at entry",
                    )
                )
        for offset, about in sorted(found):
            yield listing.place(about, offset, 1, names)
