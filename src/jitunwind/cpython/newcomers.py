"""JIT code that has just come, looked at by itself: in a program with thousands of executors, who reads them all
for each new one reads too much."""

from collections.abc import Sequence
from functools import cached_property

from jitunwind.cpython.executors import (
    Executor,
    Executors,
    executors_from_newest,
    exits_of,
    read_executor,
)
from jitunwind.cpython.layout import Layout
from jitunwind.cpython.regions import JitCode, Regions
from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory

MOST_PARENTS = 1 << 12
"""Executors, the last that have come, among which that is looked for which a side trace continues."""


class Newcomers(Regions):
    """`Regions` of nothing but the machine code in `came`; `parents` are executors that came before (address to
    the code object's, the newest last), and get these."""

    def __init__(
        self, memory: Memory, layout: Layout, came: Sequence[tuple[int, int]], parents: dict[int, int]
    ) -> None:
        self._came = came
        self._parents = parents
        super().__init__(memory, layout)

    def _look(self) -> None:
        self.ranges = [Mapping(start, start + size, True, "") for start, size in sorted(self._came)]

    @cached_property
    def starts(self) -> list[int]:
        return sorted(start for start, _ in self._came)

    @cached_property
    def executors(self) -> Executors:
        """Those of this code that are in use. 3.14's machine code names its own."""
        found = Executors()
        if self.layout.executor.shim_in_region:
            return found
        wanted = set(self.starts)
        try:
            for executor in executors_from_newest(self.memory, self.objects, self.layout):
                if executor.jit_code in wanted:
                    found.by_start[executor.jit_code] = executor
                    if len(found.by_start) == len(wanted):
                        break
        except UnreadableMemory as error:
            found.warnings.append(f"the executors cannot be read: {error}")
        return found

    def executor(self, jit_code: JitCode) -> Executor | None:
        """The executor that owns this code, as it is now."""
        return read_executor(self.memory, self.objects, self.layout.executor, jit_code.executor)

    @cached_property
    def _owners(self) -> dict[int, int]:
        """Executor to code object, both by address, of those that came before and of these."""
        new = [each for start in self.starts if (code := self.find(start)) and (each := self.executor(code))]
        owners = self._parents
        pending = []
        for executor in new:
            if executor.code:
                owners[executor.address] = executor.code
            else:
                pending.append(executor.address)
        for address in list(owners)[:-MOST_PARENTS]:
            del owners[address]
        children = set(pending)
        while children and (found := self._children_of_known(children, owners)):
            owners.update(found)
            children -= found.keys()
        return owners

    def _children_of_known(self, children: set[int], owners: dict[int, int]) -> dict[int, int]:
        """Those of `children` that an exit of a known executor leads to, with its code object; the newest known
        are asked first."""
        found: dict[int, int] = {}
        for address in reversed(list(owners)):
            if len(found) == len(children):
                break
            parent = read_executor(self.memory, self.objects, self.layout.executor, address)
            if parent is None:
                del owners[address]
                continue
            for target in exits_of(self.memory, self.layout.executor, parent):
                if target in children:
                    found[target] = owners[address]
        return found
