"""One ELF file's unwind tables, checked against its code: figures, and where and how they disagree.

A `Program` goes in, and out come its functions' reports and a `Result` made of them: plain data that
`check/report.py` and `cli/check.py` show.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from jitunwind import notation
from jitunwind.arch import Architecture, known
from jitunwind.arch.listing import Listed
from jitunwind.check.compare import PADDING, Finding, Wrong
from jitunwind.check.functions import Program, Report
from jitunwind.check.rounds import Job, judge_all
from jitunwind.check.workers import Workers
from jitunwind.elf.inspect import ElfFile
from jitunwind.recover.state import Entry, Number, State, Value
from jitunwind.rows import Row, SameValue, Unknown

_AROUND = 5
"""Instructions shown on each side of an example."""

Reports = dict[int, Report]
"""By the index of their FDE in `Program.fdes`."""


@dataclass
class Place:
    """`instructions` in a row, the first of them at `address`, where a table is wrong in one way."""

    about: str
    function: str
    address: str
    instructions: int
    instruction: str


@dataclass
class Example(Place):
    """A place, for a person to look at."""

    table_says: str
    recovered: str
    disassembly: list[str]


@dataclass
class Result:
    """One file's figures. `judged` is `exact` plus `wrong`; padding is in neither `judged` nor `unknown`.

    `is_complete`: no interruption has kept functions from being judged. `code_bytes`: the size of the executable
    sections; `described_bytes`: those of them for which there is an FDE. `without_table`: the functions of the symbol
    tables for which there is none.
    """

    file: str
    architecture: str
    is_complete: bool
    fdes: int
    code_bytes: int
    described_bytes: int
    without_table: list[str]
    functions: int
    cold_parts: int
    seeded: int
    instructions: int
    padding: int
    judged: int
    exact: int
    wrong: dict[str, int]
    unknown: dict[str, int]
    wrong_functions: int
    assumed_calls: int
    unresolved_jumps: int
    off_balance_returns: int
    seconds: float
    slowest_function: float
    places: list[Place]
    examples: list[Example]

    @property
    def judged_functions(self) -> int:
        """The FDEs that have been judged, and functions without one where those are judged, too."""
        return self.functions + self.cold_parts

    @property
    def share(self) -> float:
        return self.exact / self.judged if self.judged else 0.0


def judge_file(program: Program, processes: int, reports: Reports, note: Callable[[Report], None]) -> None:
    """Judge every function, in `processes` processes. What is known so far is in `reports` at any time;
    `note` gets each report, of which a function may have several: the last one counts."""
    with Workers(program, processes) as workers:

        def run(jobs: Sequence[Job], never: frozenset[int]) -> Iterator[Report]:
            for report in workers.run(jobs, never):
                reports[report.index] = report
                note(report)
                yield report

        judge_all(program, run)


def result_of(program: Program, reports: Reports, seconds: float, examples: int) -> Result:
    """The figures, with so many `examples` of each class of disagreement."""
    wrong: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    exact = 0
    for report in reports.values():
        exact += report.comparison.exact
        wrong += report.comparison.wrong
        unknown += report.comparison.unknown
    padding = unknown.pop(PADDING, 0)
    judged = exact + wrong.total()
    places, found = _disagreements(program, reports.values(), examples)
    parts = sum(not program.is_entry(index) for index in reports)
    return Result(
        file=str(program.elf.path),
        architecture=program.arch.name,
        is_complete=len(reports) == len(program.fdes),
        fdes=program.tables,
        code_bytes=sum(section.size for section in program.elf.all_sections if section.executable),
        described_bytes=_described_bytes(program),
        without_table=_without_table(program),
        functions=len(reports) - parts,
        cold_parts=parts,
        seeded=sum(report.seeded for report in reports.values()),
        instructions=judged + unknown.total() + padding,
        padding=padding,
        judged=judged,
        exact=exact,
        wrong=dict(wrong.most_common()),
        unknown=dict(unknown.most_common()),
        wrong_functions=sum(bool(report.comparison.wrong) for report in reports.values()),
        assumed_calls=sum(report.assumed for report in reports.values()),
        unresolved_jumps=sum(report.unresolved for report in reports.values()),
        off_balance_returns=sum(report.off_balance for report in reports.values()),
        seconds=round(seconds, 3),
        slowest_function=round(max((r.seconds for r in reports.values()), default=0.0), 3),
        places=places,
        examples=found,
    )


def _described_bytes(program: Program) -> int:
    """The bytes of executable sections that an FDE covers. FDEs do not overlap (`Program`)."""
    sections = [(fde, program.elf.section_of(fde.start)) for fde in program.described()]
    return sum(
        min(fde.size, section.end - fde.start)
        for fde, section in sections
        if section is not None and section.executable
    )


def _without_table(program: Program) -> list[str]:
    """The names of functions with code of their own at whose start there is no FDE, by address."""
    described = program.described()
    starts = [fde.start for fde in described]
    names: dict[int, str] = {}
    for symbol in program.elf.functions():
        section = program.elf.section_of(symbol.address)
        at = bisect_right(starts, symbol.address) - 1
        is_described = at >= 0 and symbol.address < starts[at] + described[at].size
        if symbol.size and section is not None and section.executable and not is_described:
            names.setdefault(symbol.address, symbol.name)
    return [name for _, name in sorted(names.items())]


def _disagreements(
    program: Program, reports: Iterable[Report], limit: int
) -> tuple[list[Place], list[Example]]:
    """Every wrong place, and the first `limit` of each class as examples, one of a function."""
    names: Names | None = None
    places: list[Place] = []
    examples: list[Example] = []
    shown: Counter[str] = Counter()
    for report in sorted(reports, key=lambda report: report.index):
        if not report.comparison.wrong:
            continue
        names = names or Names(program.elf)
        listing = Listing(program, report.index)
        shown_here: set[str] = set()
        for finding in report.comparison.findings:
            if not isinstance(finding.verdict, Wrong):
                continue
            about = finding.verdict.about
            at = listing.start_from(finding.offset)
            place = listing.place(about, at, finding.count, names)
            places.append(place)
            if about not in shown_here and shown[about] < limit:
                shown_here.add(about)
                shown[about] += 1
                examples.append(_example(program.arch, place, finding, listing.around(at)))
    return places, sorted(examples, key=lambda example: example.about)


def _example(arch: Architecture, place: Place, finding: Finding, disassembly: list[str]) -> Example:
    return Example(
        **vars(place),
        table_says=_say_row(arch, finding.row),
        recovered=_say_state(arch, finding.state),
        disassembly=disassembly,
    )


class Names:
    """Functions' names, from the file and its debug file."""

    def __init__(self, elf: ElfFile) -> None:
        debug = elf.debug_file()
        sources = [elf, ElfFile(debug)] if debug is not None else [elf]
        self._by_address = {s.address: s.name for source in sources for s in source.functions() if s.address}

    def of(self, start: int, address: int) -> str:
        return f"{self._by_address.get(start, hex(start))}+{address - start:#x}"


class Listing:
    """The disassembly of one function, as binutils write it."""

    def __init__(self, program: Program, index: int) -> None:
        fde = program.fdes[index]
        self.start = fde.start
        code = program.elf.read(fde.start, fde.size)
        module = known.module(program.arch, "listing")
        lines: list[Listed] = list(module.listing(code, fde.start, 0, len(code)))
        self._addresses = [fde.start + line.offset for line in lines]
        self._texts = [line.text for line in lines]

    def place(self, about: str, offset: int, count: int, names: Names) -> Place:
        """The place of the instruction that has the byte at `offset`."""
        index = bisect_right(self._addresses, self.start + offset) - 1
        address = self._addresses[index]
        return Place(about, names.of(self.start, address), hex(address), count, self._texts[index])

    def start_from(self, offset: int) -> int:
        """The offset of the first instruction that starts there or behind."""
        index = bisect_left(self._addresses, self.start + offset)
        return self._addresses[min(index, len(self._addresses) - 1)] - self.start

    def around(self, offset: int) -> list[str]:
        """The instruction at `offset`, marked, and its neighbours."""
        address = self.start + offset
        at = bisect_left(self._addresses, address)
        window = range(max(0, at - _AROUND), min(at + _AROUND + 1, len(self._texts)))
        return [
            f"{'=>' if self._addresses[i] == address else '  '} {self._addresses[i]:x}: {self._texts[i]}"
            for i in window
        ]


def _say_row(arch: Architecture, row: Row | Unknown) -> str:
    """The row, without the registers that are unchanged."""
    if isinstance(row, Unknown):
        return row.reason
    changed = (
        register
        for register, rule in row.rules
        if register != arch.return_address
        and register < len(arch.register_names)
        and not isinstance(rule, SameValue)
    )
    return notation.line(notation.parts(row, arch, changed))


def _say_value(arch: Architecture, value: Value) -> str:
    if isinstance(value, Number):
        return hex(value.value)
    if isinstance(value, int):
        return f"CFA{value:+d}"
    return f"{arch.register_names[value.register]}{', signed' if value.key else ''}"


def _say_state(arch: Architecture, state: State | None) -> str:
    if state is None:
        return "not reached"
    registers = (
        f"{arch.register_names[r]}={_say_value(arch, v)}"
        for r, v in sorted(state.registers.items())
        if v != Entry(r)
    )
    slots = (
        f"[CFA{at:+d}]={_say_value(arch, value)}" for at, value in sorted(state.slots.items(), reverse=True)
    )
    return ", ".join((*registers, *slots))
