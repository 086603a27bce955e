"""The JIT code of a process whose mappings are not to be had, as those behind a gdbstub: found from the executors
alone.

Their lists lead to all code that can be entered, and it is read like any other memory. What only runs to its end
(3.14 empties the lists when code is invalidated) is found when a program counter lies in it: there each executor's
code begins with a shim, at the start of a page.
"""

from bisect import insort
from collections.abc import Iterator
from functools import cached_property

from jitunwind.errors import UnreadableMemory
from jitunwind.jits.cpython.executors import Executors, find_executors
from jitunwind.jits.cpython.regions import PAGE, Regions
from jitunwind.memory import Mapping

_LARGEST = 1 << 20
"""Bytes of one executor's code that are looked through for its shim."""
_HEAD = 4 * 4


class UnmappedRegions(Regions):
    """`Regions`, with nothing known of anonymous memory but what is seen in it."""

    def _look(self) -> None:
        super()._look()
        found = find_executors(self.memory, self.objects, self.layout)
        self.warnings += found.warnings
        self._all = found
        self._met: dict[int, Mapping | None] = {}
        """By page, those that a program counter has led to."""
        ends = ((start, start + executor.jit_size) for start, executor in sorted(found.by_start.items()))
        self.ranges = [Mapping(start, (end + PAGE - 1) & -PAGE, True, "") for start, end in _apart(ends)]

    @cached_property
    def executors(self) -> Executors:
        return self._all

    def is_current(self) -> bool:
        return self.lists_are_current()

    def lists_are_current(self) -> bool:
        self._met = {page: mapping for page, mapping in self._met.items() if mapping is not None}
        return super().lists_are_current()

    @cached_property
    def starts(self) -> list[int]:
        return sorted(self.executors.by_start)

    def meets(self, pc: int) -> Mapping | None:
        known = self.may_hold(pc)
        if known is not None or self.is_known_non_jit(pc):
            return known
        page = pc & -PAGE
        if page not in self._met:
            self._met[page] = self._search(page)
        return self._met[page]

    def _search(self, page: int) -> Mapping | None:
        """The code around `page`. On 3.14 it is added to what is known."""
        if not self._reads(page):
            return None
        if not self.layout.executor.shim_in_region:
            return Mapping(page, page + PAGE, True, "")
        for start in range(page, max(page - _LARGEST, 0), -PAGE):
            head = self._reads(start)
            if head is None or (start != page and self.may_hold(start)):
                return None
            if self.stencils.begins_shim(head, 0):
                end = page + PAGE
                while end < start + _LARGEST and not self.may_hold(end):
                    head = self._reads(end)
                    if head is None or self.stencils.begins_shim(head, 0):
                        break
                    end += PAGE
                found = Mapping(start, end, True, "")
                insort(self.ranges, found)
                insort(self.starts, start)
                return found
        return None

    def _reads(self, page: int) -> bytes | None:
        """The first bytes of a page; None, where there is none."""
        try:
            return self.memory.checked_read(page, _HEAD)
        except UnreadableMemory:
            return None


def _apart(ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Rising ranges, each cut off where the next one begins."""
    last: tuple[int, int] | None = None
    for start, end in ranges:
        if last is not None:
            yield last[0], min(last[1], start)
        last = start, end
    if last is not None:
        yield last
