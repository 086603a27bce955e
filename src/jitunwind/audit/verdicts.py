"""Verdicts on stepped instructions: what each table under test says of the caller, against the ground truth.

A table is followed from the program counter outwards, frame by frame, until it has left JIT code: that
frame's registers must be those that were recorded when it called. How it went is remembered by program
counter, as places in the record of an instruction: the next time there, those places are compared at once.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter, ne
from typing import Any, NamedTuple

from jitunwind.arch import Architecture
from jitunwind.audit.findings import EXAMPLES_OF_REGION, Findings, Tally, names_of_judged, place_of
from jitunwind.audit.reading import Reading
from jitunwind.audit.records import Record, judged_registers
from jitunwind.audit.stepper import Activation
from jitunwind.errors import UnreadableMemory
from jitunwind.jits import Code, Jit, gate_at
from jitunwind.memory import Memory
from jitunwind.region import Region
from jitunwind.rows import (
    UNDEFINED,
    InRegister,
    Row,
    SavedAt,
    Undefined,
    Unknown,
    UnwindTable,
)
from jitunwind.tables.sources import Tables, gate_table

MOST_FRAMES = 64
"""From a program counter over JIT code that has called JIT code, and a gate, to whoever called that."""
_MASK = (1 << 64) - 1


class _Move(NamedTuple):
    """A row, ready to be applied: from a frame's registers to its caller's. `rows.evaluate` does the same; here
    each row is sorted once, as it is applied at thousands of instructions."""

    cfa_register: int
    cfa_offset: int
    saved: tuple[tuple[int, int], ...]
    moved: tuple[tuple[int, int], ...]
    lost: tuple[int, ...]
    signed: int | None
    """Holds a signed return address, if any."""


class _Chain(NamedTuple):
    """How a table led from an instruction to the caller: the places in the record from which that came, and
    what must hold for the way to be the same again."""

    bases: tuple[tuple[int, int], ...]
    """Registers that a CFA was computed from, and their distance from the stack pointer."""
    cfa: int
    addend: int
    """The caller's stack pointer is the record's `cfa` plus `addend`."""
    places: Callable[[Record], Record]
    """The return addresses inside JIT code, then the caller's registers as they are judged, but for the CFA."""
    inside: tuple[int, ...]
    """Those return addresses."""


class _Known(NamedTuple):
    """What is known of one table and one region."""

    region: Code
    tally: Tally
    moves: dict[int, _Move | Unknown]
    """By program counter, or by a return address's complement."""
    chains: dict[int, _Chain | Unknown]


class Verdicts:
    """Judges instructions by all tables at once, and by `readings` of them."""

    def __init__(
        self, arch: Architecture, memory: Memory, tables: list[Tables], readings: Sequence[Reading] = ()
    ) -> None:
        self.arch, self.memory, self.tables, self.readings = arch, memory, tables, readings
        self._names = names_of_judged(arch)
        self._tracked = (*judged_registers(arch), arch.return_address)
        self._pc = arch.program_counter
        self.findings = {each.name: Findings(tuple(self._names.values())) for each in tables}
        self.findings |= {each.name: each.findings for each in readings}
        self._jit: Jit | None = None
        self.gates: dict[Region, UnwindTable | Unknown] = {}
        """The tables of gates outside of JIT code, made when they are needed."""
        self._moves: dict[Row, _Move] = {}
        self._at: dict[tuple[str, int], _Known] = {}
        """What each table says of each region, as far as that was asked."""

    def judge(self, region: Code, records: Sequence[Record], activation: Activation, jit: Jit) -> None:
        """Instructions of one activation in one region. Memory outside the records is read as it is now."""
        if jit is not self._jit:
            self._renew(jit)
        for tables in self.tables:
            self._judge(tables, region, records, activation.values)
        for reading in self.readings:
            reading.judge(region, records, activation.values, jit)

    def _judge(self, tables: Tables, region: Code, records: Sequence[Record], truth: list[int]) -> None:
        found, known = self.findings[tables.name], self._known(tables, region)
        chains, tally = known.chains, known.tally
        cfa, others = truth[0], tuple(truth[1:])
        sp, pc = self.arch.stack_pointer, self._pc
        whole = pc + 1
        exact = 0
        wrong: Counter[tuple[bool, ...]] = Counter()
        unknown: Counter[str] = Counter()
        for record in records:
            chain = chains.get(record[pc])
            if chain.__class__ is Unknown:
                unknown[chain.reason] += 1
                continue
            if chain is not None and len(record) > whole:
                bases, base, addend, places, inside = chain  # type: ignore[misc]
                for register, distance in bases:
                    if record[register] - record[sp] != distance:
                        break
                else:
                    values = places(record)
                    is_cfa = record[base] + addend == cfa
                    if is_cfa and values == inside + others:
                        exact += 1
                        continue
                    followed = inside + others[:1]  # another return address might lead elsewhere
                    if values[: len(followed)] == followed and tally.wrong > EXAMPLES_OF_REGION:
                        wrong[(not is_cfa, *map(ne, values[len(inside) :], others))] += 1
                        continue
            self._follow_and_count(tables, known, record, truth)
        found.total.exact += exact
        tally.exact += exact
        for reason, count in unknown.items():
            found.cannot_say(tally, reason, count)
        for pattern, count in wrong.items():
            found.total.wrong += count
            tally.wrong += count
            for label, is_wrong in zip(found.judged, pattern, strict=True):
                found.wrong[label] += count * is_wrong

    def _follow_and_count(self, tables: Tables, known: _Known, record: Record, truth: list[int]) -> None:
        """Judge one instruction, and remember how."""
        found, pc = self.findings[tables.name], record[self._pc]
        caller, chain = self._follow(tables, known.region, record)
        if chain is not None:
            known.chains[pc] = chain
        if isinstance(caller, Unknown):
            found.cannot_say(known.tally, caller.reason)
        elif [caller[register] for register in self._names] == truth:
            found.total.exact += 1
            known.tally.exact += 1
        else:
            values = [caller[register] for register in self._names]
            found.count(known.tally, values, truth, lambda: self._place(known.region, pc))

    def _renew(self, jit: Jit) -> None:
        """JIT code has come or gone."""
        self._jit = jit
        for tables in self.tables:
            tables.forget()
        self._at.clear()

    def _table_of(self, gate: Region) -> UnwindTable | Unknown:
        if gate not in self.gates:
            self.gates[gate] = gate_table(self.arch, gate, self.memory)
        return self.gates[gate]

    def _known(self, tables: Tables, region: Code) -> _Known:
        key = (tables.name, region.start)
        known = self._at.get(key)
        if known is None or known.region is not region:
            assert self._jit is not None
            name = self._jit.pieces(region)[-1].name
            tally = self.findings[tables.name].tally_of(region.start, name)
            known = self._at[key] = _Known(region, tally, {}, {})
        return known

    def _move(self, tables: Tables, region: Code, pc: int, is_return_address: bool) -> _Move | Unknown:
        """What the table says at `pc`."""
        known = self._known(tables, region).moves
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
            others = [rule.register for rule in rules.values() if isinstance(rule, InRegister)]
            strange = [number for number in (row.cfa.register, *others) if number > self._pc]
            if strange:
                return Unknown(f"the table counts on register {strange[0]}, which is not one of the state")
            said = {register: rules.get(register, UNDEFINED) for register in self._tracked}
            move = self._moves[row] = _Move(
                row.cfa.register,
                row.cfa.offset,
                tuple((r, rule.offset) for r, rule in said.items() if isinstance(rule, SavedAt)),
                tuple((r, rule.register) for r, rule in said.items() if isinstance(rule, InRegister)),
                tuple(r for r, rule in said.items() if isinstance(rule, Undefined)),
                row.signed.register if row.signed is not None else None,
            )
        return move

    def _follow(
        self, tables: Tables, region: Code, record: Record
    ) -> tuple[list[int | None] | Unknown, _Chain | Unknown | None]:
        """The registers of the frame that called into JIT code, as far as the table has them, and the way to
        them, where the record has it all."""
        jit, arch = self._jit, self.arch
        assert jit is not None
        move = self._move(tables, region, record[self._pc], False)
        if isinstance(move, Unknown):
            return move, move
        way = _Way(record, arch, self.memory)
        for _ in range(MOST_FRAMES):
            if isinstance(move, Unknown):
                return move, None
            if way.values[move.cfa_register] is None:
                return Unknown(
                    f"the CFA needs {arch.register_names[move.cfa_register]}, which was lost"
                ), None
            try:
                way.go(move)
            except UnreadableMemory:
                return Unknown("the table leads to memory that is not there"), None
            back = way.values[arch.return_address]
            if back is None:
                return Unknown("the table has no return address"), None
            if (gate := gate_at(jit, back - 1)) is not None:
                move = self._ready(self._table_of(gate), back - gate.start, True)
            elif jit.may_hold(back - 1) is not None and (code := jit.find(back - 1)) is not None:
                move = self._move(tables, code, back, True)
            else:
                return way.values, way.chain([r for r in self._names if r != arch.stack_pointer])
            way.note_inside(arch.return_address)
        return Unknown(f"the table does not lead out of JIT code in {MOST_FRAMES} frames"), None

    def _place(self, region: Code, pc: int) -> dict[str, Any]:
        assert self._jit is not None
        return place_of(self.arch, self._jit, region, pc)


class _Way:
    """From an instruction outwards: the registers' values frame by frame, and from where in the record each
    came, as (place, addend)."""

    def __init__(self, record: Record, arch: Architecture, memory: Memory) -> None:
        self.record, self.memory, self.sp = record, memory, arch.stack_pointer
        self._arch = arch
        self._registers, self._below = arch.program_counter + 1, arch.red_zone
        self.values: list[int | None] = list(record[: self._registers])
        self._from: list[tuple[int, int] | None] = [(register, 0) for register in range(self._registers)]
        self._bases: dict[int, int] = {}
        self._inside: list[tuple[tuple[int, int] | None, int]] = []

    def go(self, move: _Move) -> None:
        """One frame outwards. UnreadableMemory."""
        cfa_register, cfa_offset, saved, moved, lost, signed = move
        values, sources = self.values, self._from
        base, source = values[cfa_register], sources[cfa_register]
        assert base is not None
        cfa = base + cfa_offset & _MASK
        if source is not None and source[0] != self.sp:
            self._bases[source[0]] = self.record[source[0]] - self.record[self.sp]
        self.values, self._from = values.copy(), sources.copy()
        for register, offset in saved:
            self.values[register], self._from[register] = self._word(cfa + offset & _MASK)
        for register, other in moved:
            self.values[register], self._from[register] = values[other], sources[other]
        for register in lost:
            self.values[register] = self._from[register] = None
        if signed is not None and (value := self.values[signed]) is not None:
            self.values[signed], self._from[signed] = self._arch.without_signature(value), None
        self.values[self.sp] = cfa
        self._from[self.sp] = (source[0], source[1] + cfa_offset) if source is not None else None

    def _word(self, address: int) -> tuple[int, tuple[int, int] | None]:
        at = address - (self.record[self.sp] - self._below)
        place = self._registers + (at >> 3)
        if at & 7 or not self._registers <= place < len(self.record):
            return self.memory.word(address), None
        return self.record[place], (place, 0)

    def note_inside(self, return_address: int) -> None:
        """The return address leads into JIT code again."""
        value = self.values[return_address]
        assert value is not None
        self._inside.append((self._from[return_address], value))

    def chain(self, judged: list[int]) -> _Chain | None:
        """The way, if all of it is in the record."""
        cfa = self._from[self.sp]
        sources = [source for source, _ in self._inside] + [self._from[register] for register in judged]
        places = [source[0] for source in sources if source is not None and not source[1]]
        if cfa is None or len(places) < len(sources):
            return None
        inside = tuple(value for _, value in self._inside)
        return _Chain(tuple(self._bases.items()), *cfa, itemgetter(*places), inside)
