"""The JITs of a process, in the order in which they are believed: CPython's own lists, what is registered with GDB's
JIT interface, jitdump files. What none of them knows is code of its mapping, and no more.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar, cast

from jitunwind.arch.effects import Decoder
from jitunwind.errors import JitunwindError, NotPython, UnsupportedVersion
from jitunwind.jits import Code, Jit, gate_at
from jitunwind.jits.cpython.jit import CPythonJit
from jitunwind.jits.cpython.regions import NAME_PREFIX
from jitunwind.jits.gdbjit import GdbJit
from jitunwind.jits.optional import Announces, Switched, Traced
from jitunwind.jits.ranges import code_ranges, range_around
from jitunwind.memory import Mapping, Memory
from jitunwind.recover.table import recover
from jitunwind.region import Line, Region
from jitunwind.rows import Unknown, UnwindTable

UNKNOWN_NAME = "jit code"
"""Of executable memory whose JIT nobody knows."""
NOTHING_HOT = "the JIT is on, and nothing has become hot"
_JITDUMP = re.compile(r"/jit-\d+\.dump$")
_Told = TypeVar("_Told")


def function_of(name: str) -> tuple[str, str] | None:
    """The function and the file in the name of code of CPython's JIT, as it is published; None for another name."""
    if not name.startswith(NAME_PREFIX):
        return None
    function, _, file = name.removeprefix(NAME_PREFIX).partition(":")
    return function, file


class Jits:
    """All JITs of the process in `memory`, themselves a `Jit`. `decoder_at` gives a decoder of the code at an address;
    none: the architecture's own.

    `problem` is why CPython's is not among them; None where it is. Never raises for what is no CPython.
    """

    def __init__(
        self,
        memory: Memory,
        decoder_at: Callable[[int], Decoder] | None = None,
        before: "Jits | None" = None,
    ) -> None:
        self.memory, self.architecture, self._decoder_at = memory, memory.architecture, decoder_at
        self.problem: JitunwindError | None = None
        mappings = memory.mappings()
        self._anonymous = code_ranges(memory)
        self._files = _code_of_files(mappings)
        self.jits: list[Jit] = []
        self._keeps_to: dict[tuple[int, type], bool] = {}
        self._add_cpython(before)
        self.jits.append(GdbJit(memory, others=(NAME_PREFIX,)))
        if any(_JITDUMP.search(mapping.path) for mapping in mappings):
            from jitunwind.jits.jitdump import JitDump  # a GDB starts faster without it

            self.jits.append(JitDump(memory, decoder_at))
        self._jit_of: dict[int, Jit] = {}

    def _add_cpython(self, before: "Jits | None") -> None:
        """`before`: what was known of the same process; where nothing else is loaded, its CPython is the same."""
        if before is not None and before.problem is not None and before._files == self._files:
            self.problem = before.problem
            return
        known = before.telling(CPythonJit) if before is not None else None
        try:
            layout = known.layout if known is not None else None
            self.jits.append(CPythonJit(self.memory, self._decoder_at, layout))
        except (NotPython, UnsupportedVersion) as error:
            self.problem = error

    def renewed(self) -> "Jits":
        """Those of the same process now."""
        return Jits(self.memory, self._decoder_at, self)

    @property
    def name(self) -> str:
        """Of those that have code; of all, where none has."""
        return ", ".join([jit.name for jit in self.jits if jit.starts] or [jit.name for jit in self.jits])

    @property
    def warnings(self) -> list[str]:
        return [warning for jit in self.jits for warning in jit.warnings]

    def telling(self, kind: type[_Told]) -> _Told | None:
        """The first that keeps to this one of `jits.optional`'s protocols."""
        return next((found for jit in self.jits if (found := self._as(jit, kind)) is not None), None)

    def teller(self, code: Code, kind: type[_Told]) -> _Told | None:
        """The JIT of `code`, if it keeps to this one of `jits.optional`'s protocols."""
        return self._as(self.of(code), kind)

    def _as(self, jit: Jit, kind: type[_Told]) -> _Told | None:
        """`isinstance` looks at each member of a protocol: that is asked once."""
        key = (id(jit), kind)
        if key not in self._keeps_to:
            self._keeps_to[key] = isinstance(jit, kind)
        return cast(_Told, jit) if self._keeps_to[key] else None

    def of(self, code: Code) -> Jit:
        """The one that has found `code`."""
        if code.start not in self._jit_of:
            self.find(code.start)
        return self._jit_of[code.start]

    @property
    def ranges(self) -> Sequence[Mapping]:
        """All JIT code lies in these, rising."""
        cpython = self.telling(CPythonJit)
        return self._anonymous if cpython is None or self._anonymous else cpython.regions.ranges

    def may_hold(self, pc: int) -> Mapping | None:
        return next((found for jit in self.jits if (found := jit.may_hold(pc)) is not None), None)

    def is_elsewhere(self, pc: int) -> bool:
        """Whether a file's code lies at `pc`, or memory that is looked at already."""
        return range_around(self._files, pc) is not None or self.may_hold(pc) is not None

    def find(self, pc: int) -> Code | None:
        for jit in self.jits:
            code = jit.find(pc) if jit.may_hold(pc) is not None else None
            if code is not None:
                self._jit_of[code.start] = jit
                return code
        return None

    @cached_property
    def starts(self) -> Sequence[int]:
        """Of code that the first to know of it has."""
        first, *others = self.jits
        found = list(first.starts)
        ends: dict[int, int] = {}
        for jit in others:
            for start in jit.starts:
                index = bisect_right(found, start) - 1
                if index >= 0 and (code := self.find(found[index])) is not None:
                    ends[found[index]] = code.end
                if index < 0 or start >= ends.get(found[index], found[index] + 1):
                    found.insert(index + 1, start)
        return found

    def has_code(self) -> bool:
        return any(jit.starts for jit in self.jits)

    def why_no_code(self) -> str:
        """Why no code is known, as far as that was looked at; "" where some is."""
        if self.has_code():
            return ""
        switched = self.telling(Switched)
        is_on = switched.is_on() if switched is not None else None
        if switched is not None and is_on is False:
            return switched.off
        if self._anonymous:
            return "executable memory belongs to no file, and no JIT that is known tells what is in it"
        return NOTHING_HOT if is_on else "whether its JIT is on is not known"

    def recovered(self, code: Code, decode: Decoder) -> UnwindTable:
        """The unwind table of `code`. Where its paths disagree, its JIT tells of which operations it was made."""
        traced = self.teller(code, Traced)

        def boundaries() -> Sequence[int]:
            steps = traced.steps(code) if traced is not None else []
            return [] if isinstance(steps, Unknown) else [step.start for step in steps]

        return recover(self.architecture, code.data, decode, dict(code.entries), boundaries)

    def pieces(self, code: Code) -> Sequence[Region]:
        return self.of(code).pieces(code)

    def lines(self, code: Code) -> Sequence[Line]:
        return self.of(code).lines(code)

    def gates(self) -> Sequence[Region]:
        return [gate for jit in self.jits for gate in jit.gates()]

    def gate_at(self, pc: int) -> Region | None:
        return gate_at(self, pc)

    def unknown_piece(self, pc: int) -> Region | None:
        """What is to be said of a program counter in executable memory that no JIT knows; None for any other."""
        found = self.may_hold(pc)
        return None if found is None else Region(found.start, found.end - found.start, UNKNOWN_NAME)

    def is_current(self) -> bool:
        each = [jit.is_current() for jit in self.jits]  # all are to compare anew
        if self.problem is None:
            return all(each)
        return all(each) and _code_of_files(self.memory.mappings()) == self._files

    def lists_are_current(self) -> bool:
        """`is_current`, as far as it is cheap."""
        announcing = self.telling(Announces)
        return announcing is None or announcing.lists_are_current()


def _code_of_files(mappings: Sequence[Mapping]) -> list[Mapping]:
    return [each for each in mappings if each.executable and each.path]
