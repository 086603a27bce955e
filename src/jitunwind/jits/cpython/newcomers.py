"""JIT code that has just come, looked at by itself: in a program with thousands of executors, who reads them all
for each new one reads too much."""

from collections.abc import Sequence
from functools import cached_property

from jitunwind.errors import UnreadableMemory
from jitunwind.jits import Code
from jitunwind.jits.cpython.executors import (
    Executor,
    Executors,
    executors_from_newest,
    exits_of,
    read_executor,
)
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.regions import Regions
from jitunwind.memory import Mapping, Memory
from jitunwind.rows import WORD

MOST_PARENTS = 1 << 12
"""Executors, the last that have come, among which that is looked for which a side trace continues."""


class Newcomers(Regions):
    """`Regions` of nothing but the machine code in `came`; `parents` are executors that came before, by
    address, the newest last, all with the code object that they run, and get these."""

    def __init__(
        self, memory: Memory, layout: Layout, came: Sequence[tuple[int, int]], parents: dict[int, Executor]
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

    def executor(self, jit_code: Code) -> Executor | None:
        """The executor that owns this code, as it is now."""
        return read_executor(self.memory, self.objects, self.layout.executor, jit_code.owner)

    @cached_property
    def _owners(self) -> dict[int, int]:
        """Executor to code object, both by address, of these."""
        new = [each for start in self.starts if (code := self.find(start)) and (each := self.executor(code))]
        found = {each.address: each.code for each in new if each.code}
        self._remember(new, found)
        children = {each.address for each in new if not each.code}
        parents = list(self._parents.values())
        while children and parents and (known := self._children_of(parents, children)):
            found.update(known)
            self._remember(new, known)
            children -= known.keys()
            parents = [self._parents[address] for address in known]
        return found

    def _remember(self, executors: Sequence[Executor], codes: dict[int, int]) -> None:
        """Those of `executors` whose code object is known now, as parents of others that come."""
        for executor in executors:
            if executor.address in codes:
                self._parents.pop(executor.address, None)  # the newest is the last
                self._parents[executor.address] = executor._replace(code=codes[executor.address])
        for address in list(self._parents)[:-MOST_PARENTS]:
            del self._parents[address]

    def _children_of(self, parents: Sequence[Executor], children: set[int]) -> dict[int, int]:
        """Those of `children` that an exit of one of `parents` leads to, with its code object; the last are asked
        first."""
        found: dict[int, int] = {}
        words = [child.to_bytes(WORD, "little") for child in children]
        for parent in reversed(parents):
            if len(found) == len(children):
                break
            exits = exits_of(self.memory, self.layout.executor, parent)
            if exits is None:
                del self._parents[parent.address]
            elif exits.may_lead_to(words):
                found.update(dict.fromkeys(children.intersection(exits.targets), parent.code))
        return found
