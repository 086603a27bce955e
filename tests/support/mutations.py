"""Damages recovered tables in many ways, and has the audit judge them at instructions that really ran.

    python tests/support/mutations.py PYTHON PROGRAM STEPS MUTATIONS

Prints JSON: how many damages there were, how many change an answer at an instruction that ran (by `rows.evaluate`,
which the audit does not use), and those of them that the audit did not find.
"""

import json
import os
import random
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from jitunwind.arch import Architecture
from jitunwind.arch.known import decoder
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.ptrace import Tracee, steps_natively
from jitunwind.audit.records import Record, judged_registers
from jitunwind.audit.remote import RemoteTracee, architecture_of
from jitunwind.audit.steppable import Steppable
from jitunwind.audit.stepper import Activation, Stepper
from jitunwind.audit.verdicts import MOST_FRAMES, Verdicts
from jitunwind.errors import UnreadableMemory
from jitunwind.jits import Code, gate_at
from jitunwind.jits.known import Jits
from jitunwind.memory import Mapping, Memory
from jitunwind.region import Region
from jitunwind.rows import SAME_VALUE, UNDEFINED, Row, SavedAt, Unknown, UnwindTable, evaluate
from jitunwind.tables.sources import Recovered, gate_table

STACK = 1024
MOST_PLACES = 100
"""Instructions of each region at which damaged tables are judged."""
NO_ANSWER = {"no": 0}
BY = [words for words in range(-100, 101) if words]
"""By how many words an offset is changed."""


class Stack(Memory):
    """The stack at one instruction."""

    def __init__(self, arch: Architecture) -> None:
        self._architecture = arch
        self.start, self.data = 0, b""

    @property
    def architecture(self) -> Architecture:
        return self._architecture

    def read(self, address: int, size: int) -> bytes:
        at = address - self.start
        if at < 0 or at + size > len(self.data):
            raise UnreadableMemory(address, size)
        return self.data[at : at + size]

    def mappings(self) -> list[Mapping]:
        return []

    def symbol(self, name: str) -> int | None:
        return None


class Damaged:
    """Recovered tables, but for one region's."""

    def __init__(self, name: str, start: int, table: UnwindTable, whole: Recovered) -> None:
        self.name, self.start, self.table, self.whole = name, start, table, whole

    def of(self, region: Code) -> UnwindTable | Unknown:
        return self.table if region.start == self.start else self.whole.of(region)

    def forget(self) -> None:
        pass


def damages(
    arch: Architecture, table: UnwindTable, starts: list[int], ran: list[int], dice: random.Random
) -> Iterator[tuple[str, UnwindTable]]:
    """Without end: each table differs from `table` in one row, one that holds at an offset of `ran`, and there in what
    is judged."""
    judged = {*judged_registers(arch), arch.return_address}
    real = sorted({bisect_right(table.offsets, offset) - 1 for offset in ran})
    while True:
        index = dice.choice(real)
        row, offsets, rows = table.rows[index], list(table.offsets), list(table.rows)
        assert isinstance(row, Row)
        rules = dict(row.rules)
        kind = dice.choice(("moved", "offset", "swapped", "dropped", "register", "place", "lost"))
        if kind == "moved" and index:
            near = starts.index(offsets[index]) + dice.choice((-1, 1)) if offsets[index] in starts else 0
            following = offsets[index + 1] if index + 1 < len(offsets) else table.size
            if not 0 < near < len(starts) or not offsets[index - 1] < starts[near] < following:
                continue
            offsets[index] = starts[near]
        elif kind == "offset":
            other = row.cfa.offset + 8 * dice.choice(BY)
            rows[index] = row._replace(cfa=row.cfa._replace(offset=other))
        elif kind == "register":
            other = dice.choice(
                [r for r in (*judged_registers(arch), arch.stack_pointer) if r != row.cfa.register]
            )
            rows[index] = row._replace(cfa=row.cfa._replace(register=other))
        elif kind == "swapped":
            one, two = dice.sample(sorted(rules.keys() & judged), 2)
            rules[one], rules[two] = rules[two], rules[one]
            rows[index] = row._replace(rules=tuple(rules.items()))
        elif kind == "dropped" and index:
            del offsets[index], rows[index]
        elif kind == "place":
            saved = [r for r, rule in rules.items() if r in judged and isinstance(rule, SavedAt)]
            if not saved:
                continue
            register = dice.choice(saved)
            rules[register] = SavedAt(rules[register].offset + 8 * dice.choice(BY))  # type: ignore[union-attr]
            rows[index] = row._replace(rules=tuple(rules.items()))
        elif kind == "lost":
            register = dice.choice((arch.frame_pointer, arch.return_address))
            rules[register] = UNDEFINED if rules[register] != UNDEFINED else SAME_VALUE
            rows[index] = row._replace(rules=tuple(rules.items()))
        else:
            continue
        yield f"{kind} at row {index}", UnwindTable(table.size, offsets, rows)


def started(command: list[str], environment: dict[str, str]) -> Steppable:
    arch = architecture_of(command[0], environment)
    if arch is None or arch is steps_natively():
        return Tracee.start(command, environment, output=2)
    return RemoteTracee.start(command, environment, 2, arch)


def main(python: str, program: str, steps: int, mutations: int) -> None:
    tracee = started([python, program], {**os.environ, "PYTHON_JIT": "1"})
    arch = tracee.memory.architecture
    ran: list[tuple[Code, Record, Activation, Jits, int, bytes]] = []

    def keep(region: Code, records: Sequence[Record], activation: Activation, jits: Jits) -> None:
        (record,) = records
        start = record[arch.stack_pointer] - arch.red_zone
        ran.append((region, record, activation, jits, start, tracee.memory.read(start, STACK)))

    stepper = Stepper(tracee, arch, keep, steps, recorder=None)
    try:
        stepper.run()
        assert stepper.jits is not None
        of_gate = {gate: gate_table(arch, gate, tracee.memory) for gate in stepper.jits.gates()}
    finally:
        tracee.let_go()
    print(json.dumps(judged(ran, of_gate, mutations, arch)))


def judged(
    ran: list[Any], of_gate: dict[Region, UnwindTable | Unknown], mutations: int, arch: Architecture = X86_64
) -> dict[str, Any]:
    whole, decode, pc = Recovered(arch, decoder(arch)), decoder(arch), arch.program_counter
    found: dict[str, Any] = {"regions": 0, "mutations": 0, "changing": 0, "missed": [], "false_alarms": []}
    for start in sorted({each[0].start for each in ran}):
        here = list({each[1][pc]: each for each in ran if each[0].start == start}.values())
        here = random.Random(1).sample(here, min(len(here), MOST_PLACES))
        region = here[0][0]
        table = whole.of(region)
        assert isinstance(table, UnwindTable)
        starts = [
            offset
            for entry in dict(region.entries)
            for offset in decode(region.data, entry, (arch.stack_pointer,)).starts
        ]
        ran_at = [each[1][pc] - start for each in here]
        found["regions"] += 1
        seen = set()
        for name, damaged in damages(arch, table, starts, ran_at, random.Random(1)):
            key = (tuple(damaged.offsets), tuple(damaged.rows))
            if key in seen:
                continue
            seen.add(key)
            tables = Damaged(name, start, damaged, whole)
            changes = [each for each in here if answer(arch, tables, each, of_gate) != truth_of(each)]
            stack = Stack(arch)
            verdicts = Verdicts(arch, stack, [tables])
            verdicts.gates.update(of_gate)
            for each in here:
                stack.start, stack.data = each[4], each[5]
                verdicts.judge(each[0], (each[1],), each[2], each[3])
            total = verdicts.findings[name].total
            found["mutations"] += 1
            found["changing"] += bool(changes)
            if len(changes) != total.wrong + total.unknown:
                kind = "missed" if len(changes) > total.wrong + total.unknown else "false_alarms"
                found[kind].append(f"{name} of {start:#x}: {len(changes)}, found {total}")
            if len(seen) >= mutations:
                break
    return found


def truth_of(each: Any) -> dict[int, int]:
    return dict(each[2].truth)


def answer(
    arch: Architecture, tables: Damaged, each: Any, of_gate: dict[Region, UnwindTable | Unknown]
) -> dict[Any, int]:
    """The caller by `rows.evaluate`, frame by frame."""
    region, registers, activation, jit, start, data = each
    stack = Stack(arch)
    stack.start, stack.data = start, data
    now, table, at = (
        dict(enumerate(registers[: arch.program_counter + 1])),
        tables.of(region),
        registers[arch.program_counter] - region.start,
    )
    for _ in range(MOST_FRAMES):
        assert isinstance(table, UnwindTable)
        row = table.at(at)
        if isinstance(row, Unknown):
            return NO_ANSWER
        try:
            now = evaluate(row, now, stack.word, arch.stack_pointer, arch.without_signature)
            back = now[arch.return_address]
        except (UnreadableMemory, KeyError):
            return NO_ANSWER
        gate, code = gate_at(jit, back - 1), jit.find(back - 1)
        if gate is not None:
            table, at = of_gate[gate], back - gate.start
        elif code is not None:
            table, at = tables.of(code), back - code.start
        else:
            return {register: now[register] for register in activation.truth if register in now}
    return NO_ANSWER


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
