"""Verdicts on stepped instructions: what each table under test says of the caller, against the ground truth.

A table is followed from the program counter outwards, frame by frame, until it has left JIT code: that
frame's registers must be those that were recorded when it called.
"""

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from elftools.common.exceptions import ELFError
from iced_x86 import Decoder, Formatter, FormatterSyntax

from jitunwind.arch import Architecture
from jitunwind.audit.stepper import Activation
from jitunwind.audit.tables import Tables, shim_table
from jitunwind.cpython.regions import CodeMap, JitCode
from jitunwind.errors import JitunwindError, UnreadableMemory
from jitunwind.memory import Memory
from jitunwind.region import Region
from jitunwind.rows import UNDEFINED, InRegister, Row, SavedAt, Undefined, Unknown, UnwindTable

MOST_FRAMES = 3
"""From a program counter in a body over the shim to whoever called that; one more is too many."""
MOST_EXAMPLES = 10
_BELOW = 128
_WINDOW = struct.Struct("<56Q")
"""The words of the stack that are read at once for each instruction, from `_BELOW` its pointer on: nearly all
saved registers lie there."""
_MASK = (1 << 64) - 1


@dataclass
class Tally:
    """Instructions by verdict. An instruction is wrong when its CFA, its RA or any register is."""

    exact: int = 0
    wrong: int = 0
    unknown: int = 0

    @property
    def instructions(self) -> int:
        return self.exact + self.wrong + self.unknown

    def add(self, other: "Tally") -> None:
        self.exact += other.exact
        self.wrong += other.wrong
        self.unknown += other.unknown

    def as_json(self) -> dict[str, int]:
        return {"exact": self.exact, "wrong": self.wrong, "unknown": self.unknown}


@dataclass
class Findings:
    """What one table was found to be worth. `wrong` and `unknown` count registers, by the names `judged`."""

    judged: tuple[str, ...]
    total: Tally = field(default_factory=Tally)
    wrong: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    regions: dict[tuple[int, str], Tally] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def cannot_say(self, region: tuple[int, str], reason: str) -> None:
        """Of an instruction at which nobody came to an answer."""
        self.total.unknown += 1
        self.regions.setdefault(region, Tally()).unknown += 1
        self.reasons[reason] += 1
        self.unknown.update(self.judged)

    @property
    def registers(self) -> dict[str, Tally]:
        """By name: at how many instructions the register is exact, wrong or unknown."""
        whole = self.total.instructions
        return {
            name: Tally(whole - self.wrong[name] - self.unknown[name], self.wrong[name], self.unknown[name])
            for name in self.judged
        }


class _Move(NamedTuple):
    """A row, ready to be applied: from a frame's registers to its caller's. `rows.evaluate` does the same; here
    each row is sorted once, as it is applied at thousands of instructions."""

    cfa_register: int
    cfa_offset: int
    saved: tuple[tuple[int, int], ...]
    moved: tuple[tuple[int, int], ...]
    lost: tuple[int, ...]


class Verdicts:
    """Judges instructions by all tables at once."""

    def __init__(self, arch: Architecture, memory: Memory, tables: list[Tables]) -> None:
        self.arch, self.memory, self.tables = arch, memory, tables
        names = {arch.stack_pointer: "CFA", arch.return_address: "RA"}
        self._names = {**names, **{r: arch.register_names[r] for r in arch.callee_saved}}
        self.findings = {each.name: Findings(tuple(self._names.values())) for each in tables}
        self._regions: CodeMap | None = None
        self.shims: dict[Region, UnwindTable | Unknown] = {}
        """The tables of 3.15's one shim, made when they are needed."""
        self._shim: UnwindTable | Unknown = Unknown("no shim is known")
        self._moves: dict[Row, _Move] = {}
        self._at: dict[tuple[str, int], tuple[JitCode, dict[int, _Move | Unknown], Tally]] = {}
        """What each table says at each program counter of a region, as far as that was asked."""

    def judge(self, region: JitCode, registers: list[int], activation: Activation, regions: CodeMap) -> None:
        if regions is not self._regions:
            self._renew(regions)
        stack = _Stack(self.memory, registers[self.arch.stack_pointer])
        truth = activation.values
        for tables in self.tables:
            found = self.findings[tables.name]
            tally = self._known(tables, region)[2]
            caller = self._caller(tables, region, registers, stack)
            if isinstance(caller, Unknown):
                found.total.unknown += 1
                tally.unknown += 1
                found.reasons[caller.reason] += 1
                found.unknown.update(found.judged)
            elif [caller[register] for register in self._names] == truth:
                found.total.exact += 1
                tally.exact += 1
            else:
                self._count(found, tally, region, registers[-1], caller, truth)

    def _renew(self, regions: CodeMap) -> None:
        """JIT code has come or gone."""
        self._regions = regions
        for tables in self.tables:
            tables.forget()
        self._at.clear()
        shim = regions.entry_shim
        if shim is not None:
            if shim not in self.shims:
                self.shims[shim] = self._shim_table(shim)
            self._shim = self.shims[shim]

    def _shim_table(self, shim: Region) -> UnwindTable | Unknown:
        try:
            return shim_table(self.arch, shim, self.memory)
        except (JitunwindError, ELFError, OSError, StopIteration) as error:
            return Unknown(f"the shim's own unwind information: {error}")

    def _known(self, tables: Tables, region: JitCode) -> tuple[JitCode, dict[int, _Move | Unknown], Tally]:
        key = (tables.name, region.start)
        known = self._at.get(key)
        if known is None or known[0] is not region:
            assert self._regions is not None
            name = self._regions.parts(region)[-1].name
            tally = self.findings[tables.name].regions.setdefault((region.start, name), Tally())
            known = self._at[key] = (region, {}, tally)
        return known

    def _move(self, tables: Tables, region: JitCode, pc: int, is_return_address: bool) -> _Move | Unknown:
        """What the table says at `pc`."""
        known = self._known(tables, region)[1]
        key = ~pc if is_return_address else pc
        move = known.get(key)
        if move is None:
            move = known[key] = self._ready(tables.of(region), pc - region.start, is_return_address)
        return move

    def _ready(self, table: UnwindTable | Unknown, offset: int, is_return_address: bool) -> _Move | Unknown:
        if isinstance(table, Unknown):
            return table
        row = table.at_return_address(offset) if is_return_address else table.at(offset)
        if isinstance(row, Unknown):
            return row
        move = self._moves.get(row)
        if move is None:
            rules = dict(row.rules)
            tracked = (*self.arch.callee_saved, self.arch.return_address)
            said = {register: rules.get(register, UNDEFINED) for register in tracked}
            move = self._moves[row] = _Move(
                row.cfa.register,
                row.cfa.offset,
                tuple((r, rule.offset) for r, rule in said.items() if isinstance(rule, SavedAt)),
                tuple((r, rule.register) for r, rule in said.items() if isinstance(rule, InRegister)),
                tuple(r for r, rule in said.items() if isinstance(rule, Undefined)),
            )
        return move

    def _caller(
        self, tables: Tables, region: JitCode, registers: list[int], stack: "_Stack"
    ) -> list[int | None] | Unknown:
        """The registers of the frame that called into JIT code, as far as the table has them."""
        regions = self._regions
        assert regions is not None
        arch, shim = self.arch, regions.entry_shim
        move = self._move(tables, region, registers[-1], False)
        now: list[int | None] = list(registers)
        for _ in range(MOST_FRAMES):
            if isinstance(move, Unknown):
                return move
            cfa_register, cfa_offset, saved, moved, lost = move
            base = now[cfa_register]
            if base is None:
                return Unknown(f"the CFA needs {arch.register_names[cfa_register]}, which was lost")
            cfa = base + cfa_offset & _MASK
            inner = now
            now = inner.copy()
            try:
                for register, offset in saved:
                    now[register] = stack.word(cfa + offset)
            except UnreadableMemory:
                return Unknown("the table leads to memory that is not there")
            for register, source in moved:
                now[register] = inner[source]
            for register in lost:
                now[register] = None
            now[arch.stack_pointer] = cfa
            back = now[arch.return_address]
            if back is None:
                return Unknown("the table has no return address")
            if shim is not None and back - 1 in shim:
                move = self._ready(self._shim, back - shim.start, True)
            elif regions.may_hold(back - 1) is not None and (jit := regions.find(back - 1)) is not None:
                move = self._move(tables, jit, back, True)
            else:
                return now
        return Unknown(f"the table does not lead out of JIT code in {MOST_FRAMES} frames")

    def _count(
        self,
        found: Findings,
        tally: Tally,
        region: JitCode,
        pc: int,
        caller: list[int | None],
        truth: list[int],
    ) -> None:
        """Of an instruction at which not all is exact."""
        wrong, lost = [], []
        for (register, label), true in zip(self._names.items(), truth, strict=True):
            value = caller[register]
            if value is None:
                found.unknown[label] += 1
                lost.append(label)
            elif value != true:
                found.wrong[label] += 1
                wrong.append((label, value, true))
        if wrong:
            found.total.wrong += 1
            tally.wrong += 1
            if len(found.examples) < MOST_EXAMPLES and tally.wrong <= 2:
                found.examples.append(self._example(region, pc, wrong))
        else:
            found.total.unknown += 1
            tally.unknown += 1
            found.reasons[f"the table does not say where {', '.join(lost)} is"] += 1

    def _example(self, region: JitCode, pc: int, wrong: list[tuple[str, int, int]]) -> dict[str, Any]:
        assert self._regions is not None
        offset = pc - region.start
        instruction = Decoder(64, region.code[offset : offset + 15], ip=pc).decode()
        return {
            "region": self._regions.parts(region)[-1].name,
            "pc": f"{pc:#x}",
            "offset": offset,
            "instruction": Formatter(FormatterSyntax.GAS).format(instruction),
            "wrong": {label: {"table": f"{value:#x}", "truth": f"{true:#x}"} for label, value, true in wrong},
        }


class _Stack:
    """The words of a stack near its pointer, read at once; others one by one."""

    def __init__(self, memory: Memory, sp: int) -> None:
        self._memory = memory
        self._start = sp - _BELOW
        try:
            self._words: tuple[int, ...] = _WINDOW.unpack(memory.read(self._start, _WINDOW.size))
        except UnreadableMemory:
            self._words = ()

    def word(self, address: int) -> int:
        at = address - self._start
        if 0 <= at < _WINDOW.size and not at & 7 and self._words:
            return self._words[at >> 3]
        return self._memory.word(address)
