"""The regions of a CPython: machine code from the mappings, owners from the executors.

The mappings say what is code: the executors' list may be empty while their code still runs. The executors
say who owns it and how long it is. Addresses in between are looked up one by one, and cheaply: a debugger
asks about every program counter it meets.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice

from jitunwind.arch import known
from jitunwind.arch.effects import Control, Decoder
from jitunwind.errors import UnreadableMemory
from jitunwind.jits import Code
from jitunwind.jits.cpython import stencils
from jitunwind.jits.cpython.executors import (
    Executor,
    Executors,
    code_by_executor,
    executor_heads,
    find_executors,
    interpreters,
    read_executor,
)
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.lines import line_rows, place_at
from jitunwind.jits.cpython.objects import CodeObject, Objects
from jitunwind.jits.cpython.stencils import Store
from jitunwind.jits.ranges import range_around
from jitunwind.memory import Mapping, Memory
from jitunwind.recover.table import NOT_REACHED, recover
from jitunwind.region import Line, Region, RegionKind
from jitunwind.rows import WORD, Row, Unknown, UnwindTable

PAGE = 4096
_KERNEL = 1 << 63
_LONGEST_ENTRY = 256
_PIECE = 1 << 20
_LARGEST_UNLISTED = 1 << 20
"""Bytes of code that no executor of the lists owns, at most."""
_BEGINNING = 24
"""Bytes of an executor's code in which no address stands: 3.15's begins with _START_EXECUTOR (CPython
Python/bytecodes.c)."""
_MOST_BEGINNINGS = 64
_OFF, _ON = b"\0", b"\1"
NAME_PREFIX = "py::"
"""What the names of CPython's code begin with; those that CPython 3.15 and jitunwind publish of it, too."""
UNKNOWN_NAME = f"{NAME_PREFIX}jit_executor:<jit>"
SHIM_NAME = f"{NAME_PREFIX}jit_shim:<jit>"
"""Of 3.14's shims, which are made with each executor and have no name of their own."""
ENTRY_NAME = "_PyJIT_Entry"
"""Of 3.15's one shim, a function of the interpreter (Tools/jit/shim.c): so it is called also where the interpreter's
symbols are missing, and it is found by its code."""


class Regions:
    """The JIT code of one process, as it was when this was made; `is_current` says whether it is so still.

    `decoder_at` gives a decoder of the code at an address; none: the architecture's own."""

    def __init__(
        self, memory: Memory, layout: Layout, decoder_at: Callable[[int], Decoder] | None = None
    ) -> None:
        self._decoder_at = decoder_at
        self.memory = memory
        self.layout = layout
        self.objects = Objects(memory, layout)
        self.arch = memory.architecture
        self.stencils = stencils.of(self.arch)
        self.warnings = [layout.warning] if layout.warning else []
        self._found: dict[int, Code | None] = {}
        self._named: dict[int, Executor] = {}
        """Executors that are in no list, and that their own code names: by its start."""
        self._verified: set[int] = set()
        self._reaches: dict[int, int] = {}
        self._code_of: dict[int, CodeObject | None] = {}
        self._stores_of: dict[int, list[Store]] = {}
        self._lines: dict[int, list[Line]] = {}
        self._parts: dict[int, list[Region]] = {}
        self._look()

    def _look(self) -> None:
        mappings = self.memory.mappings()
        self.ranges = _executable_anonymous(mappings)
        """All JIT code lies in these, and hardly anything else."""
        self._files = [mapping for mapping in mappings if mapping.executable and mapping.path]
        self._heads = self._lists()

    def _lists(self) -> list[bytes]:
        """What changes in the interpreters' lists when executors come or go."""
        heads: list[bytes] = []
        with suppress(UnreadableMemory):
            for interpreter in interpreters(self.memory, self.layout):
                heads.append(executor_heads(self.memory, self.layout, interpreter))
        return heads

    def is_current(self) -> bool:
        """Whether no executor has come or gone. Call it when the process has run: what is found from then on
        is compared with the process's memory once more."""
        return self.lists_are_current() and _executable_anonymous(self.memory.mappings()) == self.ranges

    def lists_are_current(self) -> bool:
        """The same by the interpreters' lists alone, which is much cheaper: enough where the process has run
        for a moment, and code that is not in the lists yet may be missed."""
        self._verified.clear()
        self._reaches.clear()
        return self._lists() == self._heads

    def jit_is_on(self) -> bool | None:
        """Whether an interpreter's JIT is on. None where that cannot be told: the flag is no flag, or an interpreter is
        starting, which sets its flag late (CPython Python/pylifecycle.c, init_interp_main)."""
        has_started = False
        try:
            for interpreter in interpreters(self.memory, self.layout):
                flag = self.memory.checked_read(interpreter + self.layout.executor.jit_switch, 1)
                if flag not in (_OFF, _ON):
                    return None
                if flag == _ON:
                    return True
                main = interpreter + self.layout.offsets["interpreter_state.threads_main"]
                has_started = has_started or self.memory.word(main) != 0
        except UnreadableMemory:
            return None
        return False if has_started else None

    def may_hold(self, address: int) -> Mapping | None:
        """The range that `address` lies in; None: it is not JIT code."""
        return range_around(self.ranges, address)

    def meets(self, pc: int) -> Mapping | None:
        """`may_hold` for an address that a thread is at, or comes back to."""
        return self.may_hold(pc)

    def is_known_non_jit(self, address: int) -> bool:
        """Whether a file's code lies at `address`, or memory that is looked at already."""
        return range_around(self._files, address) is not None or self.may_hold(address) is not None

    @cached_property
    def executors(self) -> Executors:
        """Of a process that runs on, lists were copied and executors were not: what is wrong with them may only be that
        they have gone meanwhile. So it is said if it is wrong now, too."""
        found = self._executors_in(self.memory, self.objects)
        now = self.memory.as_now() if found.warnings else None
        if now is not None:
            again = self._executors_in(now, Objects(now, self.layout)).warnings
            found.warnings = [warning for warning in found.warnings if warning in again]
        self.warnings += found.warnings
        return found

    def _executors_in(self, memory: Memory, objects: Objects) -> Executors:
        found = find_executors(memory, objects, self.layout)
        for start, executor in list(found.by_start.items()):
            if self.may_hold(start) is None or self.may_hold(start + executor.jit_size - 1) is None:
                del found.by_start[start]
                found.warnings.append(
                    f"the executor at {executor.address:#x} has code outside executable memory"
                )
        return found

    @cached_property
    def starts(self) -> list[int]:
        """Where executors' machine code begins, rising."""
        starts = set(self.executors.by_start)
        if self.layout.executor.shim_in_region:
            for mapping in self.ranges:
                starts.update(self._shims(mapping))
        return sorted(starts)

    @cached_property
    def codes(self) -> list[Code]:
        """All machine code that can be read, by rising start."""
        return [code for code in map(self.find, self.starts) if code is not None]

    def _shims(self, mapping: Mapping) -> list[int]:
        """The page starts in `mapping` at which a shim stands. It is read piece by piece: it may have half a
        gigabyte."""
        begins, shim = self.stencils.begins_shim, self.stencils.shim
        found: list[int] = []
        for start in range(mapping.start, mapping.end, _PIECE):
            try:
                data = self.memory.checked_read(start, min(_PIECE, mapping.end - start))
            except UnreadableMemory:
                continue
            pages = (offset for offset in range(0, len(data), PAGE) if begins(data, offset))
            found += [start + page for page in pages if shim(data[page : page + PAGE]) is not None]
        return found

    def find(self, address: int) -> Code | None:
        """The executor's code that `address` lies in; None where it is not JIT code of CPython's."""
        mapping = self.may_hold(address)
        return (
            None if mapping is None else self._of_a_list(address, mapping) or self._unlisted(address, mapping)
        )

    def _of_a_list(self, address: int, mapping: Mapping) -> Code | None:
        index = bisect_right(self.starts, address) - 1
        start = self.starts[index] if index >= 0 else 0
        if start < mapping.start:
            return None
        executor = self.executors.by_start.get(start)
        following = self.starts[index + 1] if index + 1 < len(self.starts) else mapping.end
        limit = min(following, mapping.end)
        if executor is not None and address >= start + executor.jit_size:
            if not self.layout.executor.shim_in_region or start in self._reaches:
                return None if address >= start + self._reaches.get(start, 0) else self._found[start]
            reach = self._reaches[start] = self._reach_of(start, limit)
            if address >= start + reach:
                return None
            executor = executor._replace(jit_size=reach)  # a damaged one's is not believed
            self._verified.discard(start)
        if start not in self._verified:
            self._verified.add(start)
            known, now = self._found.get(start), self._read(start, limit, executor)
            if known is None or known != now:
                if start in self._found:
                    self._forget(start)
                self._found[start] = now
        found = self._found[start]
        return found if found is not None and address < found.end else None

    def _forget(self, start: int) -> None:
        """What was known of the code that began there."""
        for cache in (self._code_of, self._stores_of, self._lines, self._parts):
            cache.pop(start, None)

    def _unlisted(self, address: int, mapping: Mapping) -> Code | None:
        """The code of an executor that no list has, as 3.15's invalidated ones while they run: it begins at a page as
        that of other executors does, and ends where no path leads farther."""
        if (
            self.layout.executor.shim_in_region
        ):  # there the shim is such a beginning, and `starts` has them all
            return None
        index = bisect_right(self.starts, address)
        before = self._found.get(self.starts[index - 1]) if index else None
        lowest = max(mapping.start, before.end if before is not None else 0, address - _LARGEST_UNLISTED)
        limit = min(self.starts[index] if index < len(self.starts) else mapping.end, mapping.end)
        for page in range(address & -PAGE, lowest - 1, -PAGE):
            if not self._begins_executor(page):
                continue
            if page not in self._verified:
                self._verified.add(page)
                code = self._read(page, limit, None)
                self._found[page] = code._replace(data=code.data[: self._reached(code)]) if code else None
                self._forget(page)
            found = self._found[page]
            return found if found is not None and address < found.end else None
        return None

    def _begins_executor(self, page: int) -> bool:
        try:
            return self.memory.checked_read(page, _BEGINNING) in self._beginnings
        except UnreadableMemory:
            return False

    @cached_property
    def _beginnings(self) -> set[bytes]:
        """What code of executors begins with: the stencils of the first micro-ops, which all traces have. Those of cold
        exits are no traces."""
        cold, found = set[int](), set[bytes]()
        with suppress(UnreadableMemory):
            for interpreter in interpreters(self.memory, self.layout):
                cold.update(self.memory.word(interpreter + each) for each in self.layout.executor.singles)
        for executor in islice(self.executors.by_start.values(), _MOST_BEGINNINGS):
            if executor.address not in cold and executor.jit_size > _BEGINNING:
                with suppress(UnreadableMemory):
                    found.add(self.memory.checked_read(executor.jit_code, _BEGINNING))
        return found

    def _reach_of(self, start: int, limit: int) -> int:
        """How far control gets in the code at `start`, whatever an executor says."""
        code = self._read(start, limit, None)
        return self._reached(code) if code is not None else 0

    def _read(self, start: int, limit: int, executor: Executor | None) -> Code | None:
        """The code at `start`, which ends before `limit`."""
        end = start + executor.jit_size if executor else min(limit, start + _LARGEST_UNLISTED)
        try:
            data = self.memory.checked_read(start, end - start)
        except UnreadableMemory as error:
            self.warnings.append(f"the machine code at {start:#x} cannot be read: {error}")
            return None
        if not self.layout.executor.shim_in_region:
            owner = executor.address if executor else 0
            return Code(start, data, ((0, self._body_row),), 0, owner)
        found = self.stencils.shim(data)
        shim = found.size if found else 0
        named = executor or self._executor_in(data, shim, start)
        self._named.pop(start, None)
        if executor is None and named is not None:
            self._named[start] = named
        entries = ((0, self._shim_row), (shim, self._body_row))
        code = Code(start, data, entries if shim else entries[1:], shim, named.address if named else 0)
        if executor is not None:
            return code
        is_sane = named is not None and shim < named.jit_size <= len(data)
        size = named.jit_size if named is not None and is_sane else self._reached(code)
        return code._replace(data=data[:size])

    @cached_property
    def _shim_row(self) -> Row:
        return self.arch.at_entry(self.arch.platform)

    @cached_property
    def _body_row(self) -> Row:
        return self.arch.at_entry(self.stencils.CONVENTION)

    def _reached(self, code: Code) -> int:
        """How far control gets in code of a size that nobody tells, and the slots by which it calls: what lies behind
        may be another's."""
        decode = self._decoder_at(code.start) if self._decoder_at else known.decoder(self.arch)
        table = recover(self.arch, code.data, decode, dict(code.entries))
        reach = max((end for _, end, row in table.spans() if row != NOT_REACHED), default=0)
        slot_of = known.module(self.arch, "calls").slot_of
        ends = [reach]
        for entry, _ in code.entries:
            for step in decode(code.data[:reach], entry, ()).steps:
                slot = (
                    slot_of(code.data, step.offset, step.next) if step.control is not Control.NEXT else None
                )
                ends.append(0 if slot is None else slot + WORD)
        return max(ends)

    def _executor_in(self, code: bytes, shim: int, start: int) -> Executor | None:
        """The executor that 3.14's machine code itself names: its first instructions set a flag in it."""
        warm = self.layout.executor.warm
        address = None if warm is None else self.stencils.warmed(code, start, shim, warm)
        if not address:
            return None
        executor = read_executor(self.memory, self.objects, self.layout.executor, address)
        return executor if executor is not None and executor.jit_code == start else None

    def code_object(self, jit_code: Code) -> CodeObject | None:
        """The code object of the function that the executor runs; None where it is not to be found."""
        if jit_code.start not in self._code_of:
            self._code_of[jit_code.start] = self._code_object(jit_code)
        return self._code_of[jit_code.start]

    def _code_object(self, jit_code: Code) -> CodeObject | None:
        executor = self.executors.by_start.get(jit_code.start) or self._named.get(jit_code.start)
        if executor is None and jit_code.owner:
            executor = read_executor(self.memory, self.objects, self.layout.executor, jit_code.owner)
        if executor is not None:
            address = executor.code or self._owners.get(executor.address, 0)
            code = self.objects.code(address) if address else None
            if code is not None:
                return code
        first = self.stencils.first_address(jit_code.data, jit_code.start, self.layout)
        return None if first is None else self.objects.code_of_instruction(first)

    def _stores(self, jit_code: Code) -> list[Store]:
        """Those of the instruction pointer, by rising offset."""
        if jit_code.start not in self._stores_of:
            found = self.stencils.stores(jit_code.data, jit_code.start, self.layout)
            self._stores_of[jit_code.start] = sorted(found, key=lambda store: store.offset)
        return self._stores_of[jit_code.start]

    @cached_property
    def _owners(self) -> dict[int, int]:
        return code_by_executor(self.memory, self.objects, self.layout.executor, self.executors)

    @property
    def entry_shim(self) -> Region | None:
        """3.15's one shim, `_PyJIT_Entry`, in the interpreter's own code; known by its call of
        executor->jit_code. None on 3.14, where each executor has its own, and where it is not found."""
        return self._entry[0] if self._entry else None

    @cached_property
    def _entry(self) -> tuple[Region, int] | None:
        """That shim, and the address that its call comes back to."""
        if self.layout.executor.shim_in_region:
            return None
        named, mapping = self.memory.symbol(ENTRY_NAME), None
        found = self._entry_in(named, named + _LONGEST_ENTRY) if named else None
        if found is None and (mapping := self.interpreter_code()) is not None:
            found = self._entry_in(mapping.start, mapping.end)
        return found

    def _entry_in(self, start: int, end: int) -> tuple[Region, int] | None:
        try:
            code = self.memory.checked_read(start, end - start)
        except UnreadableMemory:
            return None
        found = self.stencils.entry_shim(code, self.layout.executor.jit_code)
        if found is None:
            return None
        shim = Region(start + found.start, found.end - found.start, ENTRY_NAME, RegionKind.SHIM)
        return shim, start + found.returns

    def gate_row(self, jit_code: Code, table: UnwindTable) -> Row | None:
        """The row of the shim by which C code enters this code, where its call comes back to: 3.14's stands before each
        executor's code, whose `table` it is part of. None, where there is none, or none is found."""
        if jit_code.gate_size:
            shim = self.stencils.shim(jit_code.data)
            row = table.at(shim.returns) if shim is not None else None
        else:
            row = self._entry_row
        return row if isinstance(row, Row) else None

    @cached_property
    def _entry_row(self) -> Row | Unknown | None:
        if self._entry is None:
            return None
        shim, returns = self._entry
        decode = self._decoder_at(shim.start) if self._decoder_at else known.decoder(self.arch)
        entries = {0: self.arch.at_entry(self.arch.platform)}
        code = self.memory.checked_read(shim.start, shim.size)
        return recover(self.arch, code, decode, entries).at(returns - shim.start)

    def returns_to_shim(self, address: int) -> bool:
        """Whether a shim's call of JIT code comes back to `address`: such a return address is on the stack of a thread
        that has entered JIT code."""
        if not self.layout.executor.shim_in_region:
            return self._entry is not None and address == self._entry[1]
        code = self.find(address - 1) if self.may_hold(address - 1) is not None else None
        shim = self.stencils.shim(code.data) if code is not None and code.gate_size else None
        return shim is not None and code is not None and address == code.start + shim.returns

    def body_frame(self, frame_pointer: int) -> tuple[int, int] | None:
        """CFA and return address of a body on 3.15 with that frame pointer, wherever in it the process is: bodies
        leave it as `_PyJIT_Entry` has set it. None, where it did not."""
        if self._entry is None:
            return None
        shim, returns = self._entry
        try:
            cfa = self.stencils.body_cfa(self.memory, frame_pointer, shim.start, returns)
        except UnreadableMemory:
            return None
        return None if cfa is None else (cfa, returns)

    def interpreter_code(self) -> Mapping | None:
        """The mapping of the interpreter's own machine code: of `PyObject_Call`, or in a program without
        symbols that of the file that `_PyRuntime` lies in."""
        mappings = self.memory.mappings()
        text = self.memory.symbol("PyObject_Call")
        if text:
            return next((m for m in mappings if m.start <= text < m.end), None)
        runtime = self.layout.runtime
        path = next((m.path for m in mappings if m.start <= runtime < m.end), "")
        return next((m for m in mappings if m.executable and m.path == path), None) if path else None

    def lines(self, jit_code: Code) -> list[Line]:
        """The Python lines of an executor's machine code."""
        if jit_code.start not in self._lines:
            owner = self.code_object(jit_code)
            self._lines[jit_code.start] = line_rows(self._stores(jit_code), self.objects, owner)
        return self._lines[jit_code.start]

    def place(self, jit_code: Code, address: int) -> tuple[CodeObject, int] | None:
        """The code object that runs at that address of an executor's machine code, and its line there."""
        owner, at = self.code_object(jit_code), address - jit_code.start
        return place_at(self._stores(jit_code), self.objects, owner, at)

    def parts(self, jit_code: Code) -> list[Region]:
        """The executor's code as regions: its shim, where it has one of its own, and its body."""
        if jit_code.start not in self._parts:
            self._parts[jit_code.start] = self._make_parts(jit_code)
        return self._parts[jit_code.start]

    def _make_parts(self, jit_code: Code) -> list[Region]:
        code = self.code_object(jit_code)
        name = code.name if code else UNKNOWN_NAME
        shim, start, size = jit_code.gate_size, jit_code.start, jit_code.size
        body = Region(start + shim, size - shim, name, RegionKind.JIT)
        return [Region(start, shim, SHIM_NAME, RegionKind.SHIM), body] if shim else [body]


def _executable_anonymous(mappings: Sequence[Mapping]) -> list[Mapping]:
    return [each for each in mappings if each.executable and not each.path and each.start < _KERNEL]
