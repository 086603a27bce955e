"""A region explained, as data: blocks of one micro-op each, with its Python source, its instructions and what
every table says there.

In come a process's regions (`subjects`), the tables to hold against the recovered one, and source files; out come
`Explained` regions, and a `Summary` of them. The page (`html`), the terminal (`text`) and JSON (`data`) are made
of these and of nothing else.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from jitunwind.arch import Architecture, known
from jitunwind.arch.listing import Listed as Line
from jitunwind.explain.differences import Difference, difference
from jitunwind.explain.jumps import Jump, in_lanes
from jitunwind.explain.sources import Sources
from jitunwind.explain.subjects import Subject
from jitunwind.jits import Code, activation_starts
from jitunwind.jits.optional import Step
from jitunwind.notation import Parts, parts
from jitunwind.recover.instructions import Instructions
from jitunwind.recover.table import NOT_REACHED
from jitunwind.rows import WORD, Row, Unknown, UnwindTable
from jitunwind.tables.sources import Recovered, Tables

LARGEST_EXPLAINED = 1 << 20
"""Bytes of a region that are explained; CPython 3.15 compiles no more (Include/internal/pycore_jit.h)."""
_SHIM, _BEHIND = "shim", "behind the micro-ops"
_MICRO_OPS_UNKNOWN = "micro-ops unknown"


@dataclass(frozen=True)
class Answer:
    """What the tables say at an instruction: the recovered row (or the reason why there is none), and by table
    the difference, and the reason of a table that has no row here."""

    row: Parts
    reason: str
    differences: dict[str, Difference]
    unknown: dict[str, str]

    @property
    def reached(self) -> bool:
        """Whether a path leads here: what none leads to is never executed, and needs no row."""
        return self.reason != NOT_REACHED.reason


@dataclass(frozen=True, slots=True)
class Instruction:
    """`jump`: the offset in the region that it jumps to or calls directly; `text` then has it as `+0x1f`."""

    offset: int
    size: int
    text: str
    jump: int | None
    answer: Answer


@dataclass(frozen=True, slots=True)
class Source:
    """A line of Python; `text` is None where the file is not here. `bytecode`: the offset that `dis` prints."""

    function: str
    file: str
    line: int
    text: str | None
    bytecode: int | None


@dataclass(frozen=True, slots=True)
class Block:
    """The code of one micro-op, [start, end) in the region, or of what is none. `skipped` bytes behind the
    instructions are no code."""

    start: int
    end: int
    title: str
    detail: str
    source: Source | None
    instructions: list[Instruction]
    skipped: int = 0

    @property
    def is_micro_op(self) -> bool:
        return self.title not in (_SHIM, _BEHIND, _MICRO_OPS_UNKNOWN)


@dataclass(frozen=True, slots=True)
class Listed:
    """A region to choose: its number, where it is, how many micro-ops it was compiled from, the file and the line that
    it begins with, and the threads that say that they run it now. None: that is not known."""

    number: int
    code: Code
    name: str
    micro_ops: int | None
    begin: tuple[str, int] | None = None
    threads: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """`why`: what keeps the region's micro-ops apart from its code; empty where nothing does. `rows` counts the
    recovered rows."""

    listed: Listed
    blocks: list[Block]
    jumps: list[Jump]
    rows: int
    why: str

    @property
    def instructions(self) -> Iterator[Instruction]:
        return (each for block in self.blocks for each in block.instructions)


@dataclass
class Comparison:
    """Another table against the recovered one: instructions that were compared, those of them at which it says
    something else, by register, and those at which it says nothing. `everywhere`: by register, what the table says and
    what is recovered, where both are the same at every instruction that was compared."""

    compared: int = 0
    differing: int = 0
    unknown: int = 0
    registers: Counter[str] = field(default_factory=Counter)
    everywhere: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class Summary:
    """Of some regions. `instructions` counts those that a path leads to, `unreached` the others; `unknown` counts those
    of `instructions` without a recovered row."""

    arch: Architecture
    regions: int = 0
    micro_ops: int = 0
    instructions: int = 0
    unreached: int = 0
    rows: int = 0
    unknown: int = 0
    tables: dict[str, Comparison] = field(default_factory=dict)

    def beyond(self, answer: Answer) -> dict[str, Difference]:
        """What differs at an instruction besides what differs everywhere: a reader is told that once."""
        found = {}
        for name, each in answer.differences.items():
            everywhere = self.tables[name].everywhere
            registers = {
                register: rule for register, rule in each.registers.items() if register not in everywhere
            }
            if registers:
                found[name] = Difference(each.said, registers)
        return found


class Explainer:
    """Explains the regions of one process, held against the tables `others`."""

    def __init__(self, subject: Subject, others: Sequence[Tables], sources: Sources) -> None:
        self._subject, self._others, self._sources = subject, others, sources
        self.arch = subject.architecture
        self._decode = known.decoder(self.arch)
        self._recovered = Recovered(self.arch, self._decode)
        self._answers: dict[tuple[object, ...], Answer] = {}
        self.names = subject.names
        self.warnings: list[str] = []

    def listed(self, progress: Callable[[int, int], None] = lambda done, of: None) -> list[Listed]:
        """All regions, by rising address. `progress` is told how many are done, of how many."""
        subject = self._subject
        codes = subject.codes()
        found = []
        for number, code in enumerate(codes):
            progress(number, len(codes))
            name, count = subject.pieces(code)[-1].name, subject.count(code)
            found.append(Listed(number, code, name, count, subject.begin(code), subject.threads(code)))
        return found

    def explain(self, listed: Listed) -> Explained:
        """One region. Never raises for a damaged process: what cannot be told has a reason in its place."""
        code, why = listed.code, ""
        size = min(code.size, LARGEST_EXPLAINED)
        table = self._recovered.of(code)
        reader = _Reader(self, code, table)
        blocks = [reader.block(0, code.gate_size, _SHIM, "", None)] if code.gate_size else []
        begin = code.gate_size
        pieces = self._subject.steps(code)
        if isinstance(pieces, Unknown):
            why = pieces.reason
        elif pieces[-1].end > size:
            why = f"it has more than {LARGEST_EXPLAINED:,} bytes"
        else:
            for step in pieces:
                blocks.append(reader.block(step.start, step.end, step.title, step.detail, self._source(step)))
            begin = pieces[-1].end
        if why:
            blocks += self._by_lines(reader, code, begin, size)
        else:
            blocks += reader.reached(begin, size, _BEHIND, None)
        if size < code.size:
            why = why or f"it has more than {LARGEST_EXPLAINED:,} bytes, and the rest is left out"
        jumps = _jumps(blocks)
        rows = bisect_left(table.offsets, size)
        return Explained(listed, blocks, jumps, rows, why)

    def _by_lines(self, reader: "_Reader", code: Code, begin: int, size: int) -> list[Block]:
        """Without micro-ops: blocks of one Python line each, as far as the machine code itself tells lines."""
        rows = [row for row in self._subject.lines(code) if row.offset < size]
        if not rows:
            return reader.reached(begin, size, _MICRO_OPS_UNKNOWN, None)
        blocks = []
        for row, end in zip(rows, [*(row.offset for row in rows[1:]), size], strict=True):
            text = self._sources.line(row.filename, row.line)
            source = Source("", row.filename, row.line, text, None)
            blocks += reader.reached(max(row.offset, begin), end, _MICRO_OPS_UNKNOWN, source)
        return blocks

    def _source(self, step: Step) -> Source | None:
        if step.line is None:
            return None
        text = self._sources.line(step.file, step.line)
        return Source(step.function, step.file, step.line, text, step.offset)

    def answer(
        self, row: Row | Unknown, others: tuple[Row | Unknown, ...], gate: Row | Unknown | None
    ) -> Answer:
        """Equal ones are one object: code has few."""
        key = (row, others, gate)
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = self._make_answer(row, others, gate)
        return found

    def _make_answer(
        self, row: Row | Unknown, others: tuple[Row | Unknown, ...], gate: Row | Unknown | None
    ) -> Answer:
        if isinstance(row, Unknown):
            return Answer({}, row.reason, {}, {})
        differences, unknown = {}, {}
        for tables, other in zip(self._others, others, strict=True):
            if isinstance(other, Unknown):
                unknown[tables.name] = other.reason
            elif (found := difference(self.arch, row, other, gate)) is not None:
                differences[tables.name] = found
        return Answer(parts(row, self.arch), "", differences, unknown)

    def others_of(self, code: Code) -> list[UnwindTable]:
        return [tables.of(code) for tables in self._others]

    def gate_row(self, code: Code, table: UnwindTable) -> Row | Unknown | None:
        """What holds in the gate when the code that it has called returns; None where C code itself enters it."""
        if not code.gate_size:
            starts = activation_starts(self.arch, (code,))
            return None if code.start in starts else self._common_gate_row
        entries = dict(code.entries)
        call = Instructions(self.arch, self._decode, code.data, entries).call_of(code.gate_size)
        return table.at_return_address(call.next) if call is not None else Unknown("its gate calls nothing")

    @cached_property
    def _common_gate_row(self) -> Row | Unknown:
        found = self._subject.gate_row()
        if isinstance(found, Unknown):
            self.warnings.append(f"{found.reason}: registers that it saves are not compared")
        return found


def summary_of(arch: Architecture, explained: Sequence[Explained], tables: Iterable[str]) -> Summary:
    """The figures of some regions, explained with the tables of those names."""
    summary = Summary(arch, tables={name: Comparison() for name in tables})
    for region in explained:
        summary.regions += 1
        summary.micro_ops += region.listed.micro_ops or 0
        summary.rows += region.rows
        answers = {id(each.answer): each.answer for each in region.instructions}
        for key, count in Counter(id(each.answer) for each in region.instructions).items():
            _count(summary, answers[key], count)
    return summary


def _count(summary: Summary, answer: Answer, count: int) -> None:
    if not answer.reached:
        summary.unreached += count
        return
    summary.instructions += count
    if not answer.row:
        summary.unknown += count
        return
    for name, comparison in summary.tables.items():
        if name in answer.unknown:
            comparison.unknown += count
            continue
        found = answer.differences.get(name)
        pairs = found.pairs() if found is not None else {}
        before = comparison.everywhere if comparison.compared else pairs
        comparison.everywhere = {each: pair for each, pair in before.items() if pairs.get(each) == pair}
        comparison.compared += count
        comparison.differing += count if pairs else 0
        for register in pairs:
            comparison.registers[register] += count


class _Reader:
    """Makes blocks of one region's machine code."""

    def __init__(self, explainer: Explainer, code: Code, table: UnwindTable) -> None:
        self._explainer, self._code, self._table = explainer, code, table
        self._others = explainer.others_of(code)
        self._gate = explainer.gate_row(code, table)
        self._names = explainer.names
        self._listing = known.module(explainer.arch, "listing").listing

    def block(self, start: int, end: int, title: str, detail: str, source: Source | None) -> Block:
        """All of [start, end) is code."""
        return Block(start, end, title, detail, source, list(self._instructions(start, end)))

    def reached(self, start: int, end: int, title: str, source: Source | None) -> list[Block]:
        """Of [start, end) that is code which the recovered table has rows for: the rest is constants."""
        found: list[Block] = []
        for begin, stop, row in self._table.spans():
            first, last = max(begin, start), min(stop, end)
            if first >= last:
                continue
            if isinstance(row, Row):
                instructions = list(self._instructions(first, last))
                if found and not found[-1].skipped:
                    before = found.pop()
                    first, instructions = before.start, before.instructions + instructions
                found.append(Block(first, last, title, "", source, instructions))
            elif found:
                before = found.pop()
                skipped = before.skipped + last - first
                found.append(Block(before.start, last, title, "", source, before.instructions, skipped))
            else:
                found.append(Block(first, last, title, "", source, [], last - first))
        return found

    @cached_property
    def _answers(self) -> tuple[list[int], list[Answer]]:
        """What the tables say, by the offset from which it holds."""
        code, tables = self._code, [self._table, *self._others]
        changes = sorted({0, code.gate_size, *(offset for table in tables for offset in table.offsets)})
        answers = []
        for offset in changes:
            row, *others = (table.at(offset) for table in tables)
            gate = None if offset < code.gate_size else self._gate
            answers.append(self._explainer.answer(row, tuple(others), gate))
        return changes, answers

    def _instructions(self, start: int, end: int) -> Iterator[Instruction]:
        changes, answers = self._answers
        index, code = bisect_right(changes, start) - 1, self._code
        changes = [*changes[1:], code.size]
        lines: Iterator[Line] = self._listing(code.data, code.start, start, end)
        for offset, size, text, jump, mentions in lines:
            while changes[index] <= offset:
                index += 1
            target = None
            if jump is not None:
                target, text = self._relative(text, jump)
            elif mentions is not None:
                text = self._named(text, mentions)
            yield Instruction(offset, size, text, target, answers[index])

    def _relative(self, text: str, address: int) -> tuple[int | None, str]:
        """The offset of `address`, if it is in the region, and the text with that in its place."""
        offset = address - self._code.start
        if not 0 <= offset < self._code.size:
            return None, text
        return offset, text.replace(f"{address:#x}", f"+{offset:#x}")

    def _named(self, text: str, address: int) -> str:
        """The text, with the name of what is at `address`, or at the address that a constant there holds."""
        offset, text = self._relative(text, address)
        if offset is not None:
            address = int.from_bytes(self._code.data[offset : offset + WORD], "little")
        name = self._names.get(address)
        return f"{text} <{name}>" if name else text


def _jumps(blocks: list[Block]) -> list[Jump]:
    """Those from one shown instruction to another."""
    shown = {each.offset for block in blocks for each in block.instructions}
    return in_lanes(
        (each.offset, each.jump)
        for block in blocks
        for each in block.instructions
        if each.jump is not None and each.jump in shown
    )
