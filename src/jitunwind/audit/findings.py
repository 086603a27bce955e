"""What an audit finds of one table: instructions by verdict, registers by verdict, and examples of what is wrong."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jitunwind.arch import Architecture
from jitunwind.arch.known import module
from jitunwind.audit.records import judged_registers
from jitunwind.jits import Code, Jit

MOST_EXAMPLES = 10
EXAMPLES_OF_REGION = 2


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

    def tally_of(self, start: int, name: str) -> Tally:
        """That of one region."""
        return self.regions.setdefault((start, name), Tally())

    def cannot_say(self, region: Tally, reason: str, count: int = 1) -> None:
        """Of so many instructions in a region, whose tally is one of `regions`, there is no answer."""
        self.total.unknown += count
        region.unknown += count
        self.reasons[reason] += count
        for name in self.judged:
            self.unknown[name] += count

    def count(
        self,
        region: Tally,
        caller: Sequence[int | None],
        truth: Sequence[int],
        place: Callable[[], dict[str, Any]],
    ) -> None:
        """Of one instruction, whose `place` is as `place_of` says it, not all is exact: the caller's registers, None
        for one that is lost, and what they really held, in the order of `judged`."""
        wrong: dict[str, dict[str, str]] = {}
        lost: list[str] = []
        for label, value, true in zip(self.judged, caller, truth, strict=True):
            if value is None:
                self.unknown[label] += 1
                lost.append(label)
            elif value != true:
                self.wrong[label] += 1
                wrong[label] = {"table": f"{value:#x}", "truth": f"{true:#x}"}
        if not wrong:
            self.total.unknown += 1
            region.unknown += 1
            self.reasons[f"the table does not say where {', '.join(lost)} is"] += 1
            return
        self.total.wrong += 1
        region.wrong += 1
        if len(self.examples) < MOST_EXAMPLES and region.wrong <= EXAMPLES_OF_REGION:
            self.examples.append({**place(), "wrong": wrong})

    @property
    def registers(self) -> dict[str, Tally]:
        """By name: at how many instructions the register is exact, wrong or unknown."""
        whole = self.total.instructions
        return {
            name: Tally(whole - self.wrong[name] - self.unknown[name], self.wrong[name], self.unknown[name])
            for name in self.judged
        }


def place_of(arch: Architecture, jit: Jit, region: Code, pc: int) -> dict[str, Any]:
    """Where an instruction is, for people: its region, addresses and text."""
    offset = pc - region.start
    listed = module(arch, "listing").listing(region.data, region.start, offset, region.size)
    return {
        "region": jit.pieces(region)[-1].name,
        "pc": f"{pc:#x}",
        "offset": offset,
        "instruction": " ".join(next(listed).text.split()),
    }


def names_of_judged(arch: Architecture) -> dict[int, str]:
    """What is judged of a caller: the CFA, by the number of the stack pointer, the return address, by that of its
    column, and the callee-saved registers."""
    names = {arch.stack_pointer: "CFA", arch.return_address: "RA"}
    return {**names, **{register: arch.register_names[register] for register in judged_registers(arch)}}
