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
from dataclasses import replace
from typing import Any

from jitunwind.arch import Architecture
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import RBP, RETURN_ADDRESS, X86_64
from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.records import Record
from jitunwind.audit.stepper import Activation, Stepper
from jitunwind.audit.tables import Recovered, shim_table
from jitunwind.audit.verdicts import Verdicts
from jitunwind.cpython.regions import JitCode, Regions
from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.rows import SAME_VALUE, UNDEFINED, Row, SavedAt, Unknown, UnwindTable, evaluate

SP, PC = X86_64.stack_pointer, 16
STACK = 1024
MOST_PLACES = 100
"""Instructions of each region at which damaged tables are judged."""
NO_ANSWER = {"no": 0}
BY = [words for words in range(-100, 101) if words]
"""By how many words an offset is changed."""


class Stack(Memory):
    """The stack at one instruction."""

    def __init__(self) -> None:
        self.start, self.data = 0, b""

    @property
    def architecture(self) -> Architecture:
        return X86_64

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

    def of(self, region: JitCode) -> UnwindTable | Unknown:
        return self.table if region.start == self.start else self.whole.of(region)

    def forget(self) -> None:
        pass


def damages(
    table: UnwindTable, starts: list[int], ran: list[int], dice: random.Random
) -> Iterator[tuple[str, UnwindTable]]:
    """Without end: each table differs from `table` in one row, one that holds at an offset of `ran`."""
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
            rows[index] = replace(row, cfa=replace(row.cfa, offset=other))
        elif kind == "register":
            other = dice.choice([r for r in (*X86_64.callee_saved, SP) if r != row.cfa.register])
            rows[index] = replace(row, cfa=replace(row.cfa, register=other))
        elif kind == "swapped":
            one, two = dice.sample(sorted(rules), 2)
            rules[one], rules[two] = rules[two], rules[one]
            rows[index] = replace(row, rules=tuple(rules.items()))
        elif kind == "dropped" and index:
            del offsets[index], rows[index]
        elif kind == "place":
            saved = [r for r, rule in rules.items() if isinstance(rule, SavedAt)]
            register = dice.choice(saved)
            rules[register] = SavedAt(rules[register].offset + 8 * dice.choice(BY))  # type: ignore[union-attr]
            rows[index] = replace(row, rules=tuple(rules.items()))
        elif kind == "lost":
            register = dice.choice((RBP, RETURN_ADDRESS))
            rules[register] = UNDEFINED if rules[register] != UNDEFINED else SAME_VALUE
            rows[index] = replace(row, rules=tuple(rules.items()))
        else:
            continue
        yield f"{kind} at row {index}", UnwindTable(table.size, offsets, rows)


def main(python: str, program: str, steps: int, mutations: int) -> None:
    tracee = Tracee.start([python, program], {**os.environ, "PYTHON_JIT": "1"}, output=2)
    ran: list[tuple[JitCode, Record, Activation, Regions, int, bytes]] = []

    def keep(region: JitCode, records: Sequence[Record], activation: Activation, regions: Regions) -> None:
        (record,) = records
        start = record[SP] - 128
        ran.append((region, record, activation, regions, start, tracee.memory.read(start, STACK)))

    stepper = Stepper(tracee, X86_64, keep, steps, recorder=None)
    try:
        stepper.run()
        regions = stepper.regions
        assert regions is not None
        shim = regions.entry_shim
        of_shim = shim_table(X86_64, shim, tracee.memory) if shim is not None else None
    finally:
        tracee.let_go()
    print(json.dumps(judged(ran, of_shim, mutations)))


def judged(ran: list[Any], of_shim: UnwindTable | None, mutations: int) -> dict[str, Any]:
    whole = Recovered(X86_64, decode)
    found: dict[str, Any] = {"regions": 0, "mutations": 0, "changing": 0, "missed": [], "false_alarms": []}
    for start in sorted({each[0].start for each in ran}):
        here = list({each[1][PC]: each for each in ran if each[0].start == start}.values())
        here = random.Random(1).sample(here, min(len(here), MOST_PLACES))
        region = here[0][0]
        table = whole.of(region)
        assert isinstance(table, UnwindTable)
        starts = [
            offset for entry in region.entries(X86_64) for offset in decode(region.code, entry, (SP,)).starts
        ]
        ran_at = [each[1][PC] - start for each in here]
        found["regions"] += 1
        seen = set()
        for name, damaged in damages(table, starts, ran_at, random.Random(1)):
            key = (tuple(damaged.offsets), tuple(damaged.rows))
            if key in seen:
                continue
            seen.add(key)
            tables = Damaged(name, start, damaged, whole)
            changes = [each for each in here if answer(tables, each, of_shim) != truth_of(each)]
            stack = Stack()
            verdicts = Verdicts(X86_64, stack, [tables])
            if of_shim is not None:
                verdicts.shims[here[0][3].entry_shim] = of_shim
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


def answer(tables: Damaged, each: Any, of_shim: UnwindTable | None) -> dict[Any, int]:
    """The caller by `rows.evaluate`, frame by frame."""
    region, registers, activation, regions, start, data = each
    stack = Stack()
    stack.start, stack.data = start, data
    now, table, at = dict(enumerate(registers[: PC + 1])), tables.of(region), registers[PC] - region.start
    for _ in range(3):
        assert isinstance(table, UnwindTable)
        row = table.at(at)
        if isinstance(row, Unknown):
            return NO_ANSWER
        try:
            now = evaluate(row, now, stack.word, SP)
            back = now[RETURN_ADDRESS]
        except (UnreadableMemory, KeyError):
            return NO_ANSWER
        shim, jit = regions.entry_shim, regions.find(back - 1)
        if shim is not None and back - 1 in shim and of_shim is not None:
            table, at = of_shim, back - shim.start
        elif jit is not None:
            table, at = tables.of(jit), back - jit.start
        else:
            return {register: now[register] for register in activation.truth if register in now}
    return NO_ANSWER


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
