"""The functions of one ELF file, each recovered from its code and compared with its FDE.

In comes a file; out come reports by FDE that can travel between processes. What one function's flow says of
another (a jump into its cold part, a landing pad there, that it never returns) is in the report: `check/rounds.py`
hands it to the next round.
"""

import re
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from jitunwind.arch import known
from jitunwind.arch.compiled import Compiled, Surroundings
from jitunwind.arch.effects import HUGE, NO_EFFECTS, Control, Decoded, Step, Store
from jitunwind.check.compare import (
    HANDED_BACK,
    HIDDEN,
    MALFORMED,
    NOT_REACHED,
    PADDING,
    UNSIZED,
    Comparison,
    Finding,
    Judge,
    Wrong,
    compare,
)
from jitunwind.dwarf.decode import Fde, eh_frame, table_of
from jitunwind.dwarf.lsda import call_sites
from jitunwind.elf.inspect import ElfFile
from jitunwind.errors import MalformedFrames, NothingToCheck, OtherArchitecture
from jitunwind.recover.flow import Flow, NoReturn, analyze
from jitunwind.recover.state import Entry, State, States, Value
from jitunwind.rows import SAME_VALUE, Row, Unknown, UnwindTable

NEVER_RETURN = re.compile(
    r"abort|exit|_exit|_Exit|quick_exit|pthread_exit|thrd_exit|(__|_|sig|__libc_sig)?longjmp|__longjmp_chk"
    r"|__stack_chk_fail(_local)?|__assert(_perror)?_fail|__(chk|fortify)_fail|__libc_fatal|v?errx?"
    r"|__cxa_(throw|rethrow|bad_cast|bad_typeid|throw_bad_array_new_length|pure_virtual|call_unexpected"
    r"|call_terminate|deleted_virtual)|__clang_call_terminate|_Unwind_Resume|_ZSt9terminatev"
    r"|_ZSt\d+__throw_\w+|_ZSt17rethrow_exception\w+|_ZN4llvm(18report_fatal_error|25llvm_unreachable_internal"
    r"|22report_bad_alloc_error)\w*|Py_FatalError|_Py_FatalErrorFunc|Py_Exit|__siglongjmp"
)
"""Functions that never return: ISO C, POSIX, the Itanium C++ ABI, libstdc++, LLVM, CPython."""

SEEDED = "nothing known of the entry but the FDE's own first row"
UNRESOLVED = "behind an indirect jump that is not understood"
_TRIES = 8
"""Calls taken, one after another, never to return, where two paths disagree."""
_SECONDS = 10.0
"""Time for those tries in one function."""
_STATES_FOR = 300
"""Functions that share one `States`, to keep memory bounded."""
_STUB = 24
"""Bytes of the longest PLT entry: System V psABI x86_64, figure 5.2; AArch64's with `bti` and `autia1716`."""

Carried = tuple[tuple[tuple[int, Value], ...], tuple[tuple[int, Value], ...]]
"""A state's registers and slots, in a form that travels between processes."""


@dataclass(slots=True)
class Report:
    """One FDE's comparison, and what its flow says of other functions."""

    index: int
    comparison: Comparison
    seeded: bool = False
    returns: bool = True
    """Whether a return, or a jump to who knows where, is reached."""
    continues: list[int] = field(default_factory=list)
    """Addresses outside the function to which it jumps."""
    callees: list[int] = field(default_factory=list)
    """Addresses of the functions it calls, where that may matter: something is not exact."""
    carried: list[tuple[int, Carried]] = field(default_factory=list)
    """Addresses outside the function that control reaches in a state that is not that of an entry."""
    assumed: int = 0
    """Calls taken never to return because two paths would disagree otherwise."""
    unresolved: int = 0
    """Indirect jumps that are neither understood nor, by the stack, tail calls."""
    off_balance: int = 0
    """Returns at which the stack pointer or a kept register is not as at entry."""
    unbalanced: list[tuple[int, int | None]] = field(default_factory=list)
    """Where it leaves with the stack pointer elsewhere than at entry: (offset, CFA + how many; None: unknown)."""
    unreached: list[tuple[int, int]] = field(default_factory=list)
    seconds: float = 0.0
    """Of processor time."""


class Program:
    """One file, with its FDEs by rising address."""

    contents = "unwind table (.eh_frame)"

    def __init__(self, path: Path) -> None:
        """NotElf, OtherArchitecture, NothingToCheck or MalformedFrames for what cannot be judged; OSError."""
        self.elf = ElfFile(path)
        arch = known.of_machine(self.elf.machine)
        if arch is None:
            raise OtherArchitecture(f"{path} is for {self.elf.machine_name}")
        self.arch = arch
        self.compiled: Compiled = known.module(arch, "compiled").COMPILED
        self.decode = known.decoder(arch)
        self.fdes = self._functions()
        if not self.fdes:
            raise NothingToCheck(f"{path} has no {self.contents}")
        self.starts = [fde.start for fde in self.fdes]
        self.defined = {s.name: s.address for s in self.elf.functions() if s.address}
        self.never = frozenset(a for name, a in self.defined.items() if NEVER_RETURN.fullmatch(name))
        self._judge = Judge(arch)
        self._states = States(arch)
        self._made = 0
        self._entry: dict[int, bool] = {}
        self._imports: dict[int, tuple[str, int]] = {}
        self._instructions: dict[int, frozenset[int]] = {}

    def _functions(self) -> list[Fde]:
        """The FDEs, without overlaps: of two, who unwinds takes the one that starts later."""
        found = [
            fde
            for section in self.elf.all_sections
            if section.name == ".eh_frame" and section.size
            for fde in eh_frame(self.elf.read(section.address, section.size), section.address)
        ]
        found.sort(key=lambda fde: fde.start)
        ends = [*(fde.start for fde in found[1:]), 1 << 64]
        parts = zip(found, ends, strict=False)
        return [
            fde if fde.size <= end - fde.start else fde._replace(size=end - fde.start)
            for fde, end in parts
            if fde.size and end > fde.start
        ]

    @property
    def tables(self) -> int:
        """How many functions have an unwind table."""
        return len(self.fdes)

    def described(self) -> list[Fde]:
        """The FDEs of the file's own tables, by rising address."""
        return self.fdes

    def index_of(self, address: int) -> int | None:
        """The index of the FDE that covers `address`."""
        index = bisect_right(self.starts, address) - 1
        fde = self.fdes[index] if index >= 0 else None
        return index if fde is not None and address < fde.start + fde.size else None

    def table(self, index: int) -> UnwindTable:
        fde = self.fdes[index]
        try:
            return table_of(fde, self.arch.same_value_by_default)
        except MalformedFrames:
            return UnwindTable(fde.size, [0], [MALFORMED])

    def enters_here(self, row: Row | Unknown) -> bool:
        """Whether `row` is the one at a function's first instruction."""
        at_entry = self.arch.entry_return if self.arch.return_register is None else SAME_VALUE
        return (
            isinstance(row, Row)
            and (row.cfa.register, row.cfa.offset) == (self.arch.stack_pointer, self.arch.cfa_at_entry_offset)
            and row.signed is None
            and row.rule(self.arch.return_address) == at_entry
            and all(row.rule(register) == SAME_VALUE for register in self.arch.callee_saved)
        )

    def is_entry(self, index: int) -> bool:
        """Whether a call enters FDE `index` at its start, by its first row.

        Not where that row ends behind a nop, which changes nothing: GCC puts one before a landing pad that
        would be first in a cold part, since landing pad 0 means none.
        """
        known = self._entry.get(index)
        if known is None:
            fde, table = self.fdes[index], self.table(index)
            nop = self.compiled.nop
            padded = list(table.offsets[1:2]) == [len(nop)] and self.elf.read(fde.start, len(nop)) == nop
            known = self._entry[index] = not padded and self.enters_here(table.at(0))
        return known

    def is_part(self, address: int) -> bool:
        """Whether the code at `address` may be part of a function that starts elsewhere."""
        index = self.index_of(address)
        if index is None:
            return False
        return self.fdes[index].start != address or self.is_cold(address)

    def is_cold(self, address: int) -> bool:
        """Whether the FDE there is for a part that no call enters."""
        index = self.index_of(address)
        return index is not None and not self.is_entry(index)

    def starts_part(self, address: int) -> bool:
        """Whether an instruction of a part that no call enters starts there."""
        index = self.index_of(address)
        if index is None or self.is_entry(index):
            return False
        starts = self._instructions.get(index)
        if starts is None:
            fde = self.fdes[index]
            code = self.elf.read(fde.start, fde.size)
            starts = frozenset(fde.start + offset for offset in self.compiled.starts(code))
            self._instructions[index] = starts
        return address in starts

    def import_of(self, address: int) -> tuple[str, int]:
        """The name behind a PLT entry at `address`, or of what an object leaves to others, and where this file
        itself defines it; ("", address) for anything else."""
        known = self._imports.get(address)
        if known is None:
            known = (self.elf.externals.get(address, ""), address)
            section = self.elf.section_of(address)
            if section is not None and section.name.startswith(".plt"):
                slot = self.compiled.slot_of_stub(self.elf.read(address, _STUB), address)
                if slot is not None:
                    name = self.elf.imports.get(slot, "")
                    known = (name, self.defined.get(name, address))
            self._imports[address] = known
        return known

    def judge(self, index: int, carried: Mapping[int, Iterable[Carried]], never: Collection[int]) -> Report:
        """Recover the code of FDE `index`, and compare.

        `carried` are the states in which other functions' code reaches this (by offset), `never` the
        addresses of functions that never return. A code part that nothing is known to reach is entered by
        its own first row, and its report is `seeded`.
        """
        began = time.process_time()
        self._made += 1
        if self._made % _STATES_FOR == 0:
            self._states, self._judge = States(self.arch), Judge(self.arch)
        report = _Function(self, index, self._states, self._judge, never).run(carried)
        report.seconds = time.process_time() - began
        return report

    def give_up(self, index: int, reason: str) -> Report:
        """The report on a function that could not be judged."""
        self._states, self._judge = States(self.arch), Judge(self.arch)
        fde, comparison = self.fdes[index], Comparison()
        count = len(self.compiled.starts(self.elf.read(fde.start, fde.size)))
        comparison.note(Finding(0, fde.size, count, Unknown(reason), Unknown(reason), None))
        return Report(index, comparison)


class _Function:
    def __init__(
        self, program: Program, index: int, states: States, judge: Judge, never: Collection[int]
    ) -> None:
        self.program, self.index, self.states, self.judge, self.never = program, index, states, judge, never
        self.arch, self.compiled = program.arch, program.compiled
        self.few = frozenset((*self.arch.callee_saved, self.arch.stack_pointer, self.arch.return_address))
        self.every = self.few.union(self.arch.caller_saved)
        self.fde: Fde = program.fdes[index]
        self.base = self.fde.start
        self.code = program.elf.read(self.base, self.fde.size)
        self.size = len(self.code)
        self.table = program.table(index)
        self.pads = self._landing_pads()
        around = Surroundings(program.elf.read, self._is_data, program.starts_part)
        self.switches = self.compiled.switches(self.code, self.base, around)
        self.sweeps: list[list[int]] = []
        self.decoded: dict[frozenset[int], Decoded] = {}
        self.calls: dict[int, int] = {}
        self.outside: dict[int, list[int]] = {}
        self.resolved: set[int] = set()
        self.dead: frozenset[int] = frozenset()
        self.conflict = False
        self._keys_of: Flow | None = None
        self._keys: list[int] = []

    def run(self, carried: Mapping[int, Iterable[Carried]]) -> Report:
        entries, seeded = self._entries(carried)
        if not entries:
            comparison = Comparison()
            row = self.table.at(0)
            count = len(self.compiled.starts(self.code))
            verdict = self.judge.claim(row) if isinstance(row, Unknown) else Unknown(SEEDED)
            comparison.note(Finding(0, self.size, count, verdict, row, None))
            return Report(self.index, comparison, seeded=True)
        flow = self._analyze(entries, self.few, ())
        comparison = self._compare(flow)
        never: tuple[int, ...] = ()
        if comparison.wrong or flow.disagreements or set(comparison.unknown) - {NOT_REACHED, PADDING}:
            flow = self._analyze(entries, self.every, ())
            flow, never = self._without_dead_paths(flow, entries, self.every)
            comparison = self._compare(flow)
            if comparison.wrong:
                comparison.reconsider(self._handed_back(flow) | self._out_of_sight(flow))
        return self._report(flow, comparison, seeded, len(never))

    def _entries(self, carried: Mapping[int, Iterable[Carried]]) -> tuple[dict[int, State], bool]:
        """The states at the entries, and whether they are only what the FDE itself says."""
        entries: dict[int, State] = {}
        for offset, states in carried.items():
            for registers, slots in states:
                state = self.states.make(dict(registers), dict(slots))
                if offset in entries:
                    both = self.states.meet(entries[offset], state)
                    self.conflict |= both is not state
                    state = both
                entries[offset] = state
        if self.program.is_entry(self.index):
            entries[0] = self.states.entry(self.arch.platform)
            return entries, False
        section = self.program.elf.section_of(self.base)
        if section is not None and section.name.startswith(".plt"):
            stubs = self.compiled.stubs(self.code)
            return dict.fromkeys(stubs, self.states.entry(self.arch.platform)), False
        row = self.table.at(0)
        if entries or isinstance(row, Unknown) or self.program.enters_here(row):
            return entries, False
        return {0: self.states.of_row(row)}, True

    def _analyze(self, entries: Mapping[int, State], tracked: Collection[int], dead: Collection[int]) -> Flow:
        self.sweeps.clear()
        self.outside.clear()
        self.resolved.clear()
        no_return = NoReturn(dead)
        return analyze(self.arch, self.states, self.code, self._decode, entries, tracked, no_return=no_return)

    def _without_dead_paths(
        self, flow: Flow, entries: Mapping[int, State], tracked: Collection[int]
    ) -> tuple[Flow, tuple[int, ...]]:
        """Take calls never to return, one by one, as long as each makes fewer paths disagree."""
        dead: tuple[int, ...] = ()
        tried: set[int] = set()
        began = time.process_time()
        while flow.disagreements and len(tried) < _TRIES and time.process_time() - began < _SECONDS:
            candidates = [
                call
                for one in flow.disagreements.values()
                for call in sorted((c for c in one.calls if c is not None), key=lambda c: abs(one.target - c))
                if call not in tried
            ]
            if not candidates:
                break
            tried.add(candidates[0])
            other = self._analyze(entries, tracked, (*dead, candidates[0]))
            if len(other.disagreements) < len(flow.disagreements):
                flow, dead = other, (*dead, candidates[0])
        if tried:
            flow = self._analyze(entries, tracked, dead)
        return flow, dead

    def _decode(self, code: bytes, offset: int, tracked: Collection[int]) -> Decoded:
        """Decode compiled code in one sweep over all of it, with the edges that only a file's tables tell."""
        whole = self._whole(frozenset(tracked))
        decoded = whole if _has(whole.starts, offset) else self.program.decode(code, offset, tracked)
        if not any(starts is decoded.starts for starts in self.sweeps):
            self.sweeps.append(decoded.starts)
        return Decoded(self._with_edges(decoded), decoded.starts)

    def _whole(self, tracked: frozenset[int]) -> Decoded:
        """All of the code, straight on behind jumps and returns."""
        known = self.decoded.get(tracked)
        if known is None:
            known = self.decoded[tracked] = Decoded([], [])
            at = 0
            while at < self.size:
                steps, starts = self.program.decode(self.code, at, tracked)
                known.steps.extend(steps)
                known.starts.extend(starts)
                at = starts[-1] + self.compiled.size(self.code, starts[-1]) if starts else self.size
        return known

    def _with_edges(self, decoded: Decoded) -> list[Step]:
        """The steps; calls that never return end their path, those that may throw also land, and switches
        branch to each of their targets.

        What is added lies inside the instruction's bytes: at its own offset the flow expects one step.
        """
        steps: list[Step] = []
        for step in decoded.steps:
            inside = step.offset + 1
            if step.control is Control.CALL:
                pad = next((pad for start, end, pad in self.pads if start <= step.offset < end), None)
                never = step.offset in self.dead or self._never_returns(step)
                steps.append(step._replace(next=inside) if never else step)
                if pad is not None:
                    steps.append(
                        Step(inside, inside if never else step.next, NO_EFFECTS, Control.BRANCH, pad)
                    )
                if never:
                    steps.append(Step(inside, step.next, NO_EFFECTS, Control.HALT))
            elif step.control is Control.JUMP and step.target is None:
                targets = self._switch(step.offset, decoded.starts)
                steps.extend(Step(inside, inside, NO_EFFECTS, Control.BRANCH, target) for target in targets)
                steps.append(step._replace(offset=inside) if inside in self.resolved else step)
            else:
                steps.append(step)
        return steps

    def _never_returns(self, step: Step) -> bool:
        if step.target is not None:
            name, address = self.program.import_of(self.base + step.target)
            self.calls[step.offset] = address
            return address in self.never or bool(name and NEVER_RETURN.fullmatch(name))
        slot = self.compiled.slot_of_call(self.code, step.offset, self.base)
        if slot is None:
            return False
        name = self.program.elf.imports.get(slot, "")
        return bool(name and NEVER_RETURN.fullmatch(name)) or self.program.defined.get(name) in self.never

    def _switch(self, offset: int, starts: list[int]) -> list[int]:
        """The offsets to which the indirect jump at `offset` may go; notes those in other code, at the step
        inside the jump that `_with_edges` makes."""
        targets = self.switches.targets(offset, starts)
        if targets:
            self.resolved.add(offset + 1)
        outside = [target for target in targets if not 0 <= target - self.base < self.size]
        if outside:
            self.outside[offset + 1] = outside
        return [target - self.base for target in targets if 0 <= target - self.base < self.size]

    def _is_data(self, address: int) -> bool:
        section = self.program.elf.section_of(address)
        return section is not None and not section.executable

    def _landing_pads(self) -> list[tuple[int, int, int]]:
        """The call sites as offsets: (start, end, landing pad)."""
        if self.fde.lsda is None:
            return []
        data = self.program.elf.read(self.fde.lsda, 1 << 20)
        try:
            found = list(call_sites(data, self.fde.lsda, self.base))
        except MalformedFrames:
            return []
        return [(s.start - self.base, s.end - self.base, s.landing_pad - self.base) for s in found]

    def _compare(self, flow: Flow) -> Comparison:
        starts = self.sweeps[0] if len(self.sweeps) == 1 else sorted(set().union(*self.sweeps))
        unresolved = bool(self._unresolved(flow))

        def unreached(offset: int, end: int) -> Counter[str]:
            padding, others = self.compiled.padding(self.code[offset:end])
            counts = Counter({PADDING: padding, UNRESOLVED if unresolved else NOT_REACHED: others})
            return +counts

        return compare(self.judge, flow, self.table, starts, unreached, self.conflict)

    def _handed_back(self, flow: Flow) -> dict[int, Wrong | Unknown]:
        """The registers that every return leaves changed: the function has a convention of its own."""
        returned = [self._state_at(flow, source) for source, leave in flow.exits.items() if leave.returns]
        return {
            register: Wrong(HANDED_BACK, register)
            for register in self.arch.callee_saved
            if returned and not any(state.keeps(register) for state in returned)
        }

    def _out_of_sight(self, flow: Flow) -> dict[int, Wrong | Unknown]:
        """The registers that may lie where the flow does not look, and why: saved through a stack pointer whose
        value is not known (it was aligned), or, as all that are in memory, behind a store of unknown size."""
        found: dict[int, Wrong | Unknown] = {}
        every = (*self.arch.callee_saved, self.arch.return_address)
        keys = sorted(flow.states)
        for step in self._whole(self.every).steps:
            for effect in step.effects:
                if not isinstance(effect, Store):
                    continue
                at = bisect_right(keys, step.offset) - 1
                registers = flow.states[keys[at]].registers if at >= 0 else {}
                if isinstance(registers.get(effect.base), int):
                    if effect.size >= HUGE:
                        found.update(dict.fromkeys(every, Unknown(UNSIZED)))
                elif effect.source is not None and effect.base == self.arch.stack_pointer:
                    value = registers.get(effect.source)
                    if isinstance(value, Entry):
                        found.setdefault(value.register, Unknown(HIDDEN))
        return found

    def _unresolved(self, flow: Flow) -> list[int]:
        """Indirect jumps that are neither switches nor, by the stack, tail calls; a PLT has none."""
        section = self.program.elf.section_of(self.base)
        if section is not None and section.name.startswith(".plt"):
            return []
        return [
            source
            for source, leave in flow.exits.items()
            if leave.target is None
            and not leave.returns
            and not leave.at_entry_state
            and source not in self.resolved
        ]

    def _report(self, flow: Flow, comparison: Comparison, seeded: bool, assumed: int) -> Report:
        report = Report(self.index, comparison, seeded, returns=False, assumed=assumed)
        carried: set[tuple[int, Carried]] = set()
        pads = {(start, end): pad for start, end, pad in self.pads}
        for source, leave in flow.exits.items():
            state = self._state_at(flow, source)
            if leave.returns or (leave.target is None and source not in self.resolved):
                report.returns = True
                report.off_balance += leave.returns and not leave.at_entry_state
                self._note_exit(report, source, state)
                continue
            targets = self.outside.get(source, [])
            if leave.target == self.size and self._ends_with_call(source):
                continue
            if leave.target is not None:
                targets = [*targets, self.base + leave.target]
            for target in targets:
                thrown = any(s <= source < e and p + self.base == target for (s, e), p in pads.items())
                report.continues.append(target)
                if thrown:
                    state = self.states.after_call(state)
                elif not self.program.is_part(target):
                    self._note_exit(report, source, state)
                    if leave.at_entry_state:
                        continue
                carried.add((target, _carry(state)))
        for source, outside in self.outside.items():
            if source not in flow.exits:
                state = self._state_at(flow, source)
                carried.update((target, _carry(state)) for target in outside)
                report.continues.extend(outside)
        report.carried = sorted(carried, key=lambda one: one[0])
        report.unresolved = len(self._unresolved(flow))
        if comparison.wrong or flow.disagreements or assumed:
            report.callees = sorted(set(self.calls.values()))
        report.unreached = [
            (finding.offset, finding.end) for finding in comparison.findings if finding.state is None
        ]
        # A state knows the states that follow it, and they theirs: only its values travel.
        comparison.findings = [
            replace(finding, state=State(finding.state.registers, finding.state.slots, finding.state.row))
            if finding.state is not None
            else finding
            for finding in comparison.findings
        ]
        return report

    def _state_at(self, flow: Flow, offset: int) -> State:
        """The state in which the instruction at `offset`, which is reached, runs."""
        if self._keys_of is not flow:
            self._keys_of, self._keys = flow, sorted(flow.states)
        return flow.states[self._keys[bisect_right(self._keys, offset) - 1]]

    def _note_exit(self, report: Report, source: int, state: State) -> None:
        depth = state.registers.get(self.arch.stack_pointer)
        if depth != -self.arch.cfa_at_entry_offset:
            report.unbalanced.append((source, depth if isinstance(depth, int) else None))

    def _ends_with_call(self, offset: int) -> bool:
        """Whether the code ends with the call at `offset`: compilers do that where it never returns."""
        ends = offset + self.compiled.size(self.code, offset) == self.size
        return ends and self.compiled.is_call(self.code, offset)


def _has(starts: list[int], offset: int) -> bool:
    index = bisect_left(starts, offset)
    return index < len(starts) and starts[index] == offset


def _carry(state: State) -> Carried:
    return (
        tuple(sorted(state.registers.items(), key=lambda item: item[0])),
        tuple(sorted(state.slots.items(), key=lambda item: item[0])),
    )
