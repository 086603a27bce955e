"""A table under test as one reader executes it: verdicts on what the reader makes of it, against the ground truth.

`audit.verdicts` follows a table by our own decoder. Here its bytes are given to the program that reads them in the
field, with the state of the thread, and the frame that it finds outside JIT code is compared with the truth.
"""

from collections.abc import Iterable, Sequence

from jitunwind.arch import Architecture
from jitunwind.audit.findings import Findings, Tally, names_of_judged, place_of
from jitunwind.audit.readers import Outcome, Reader, Table
from jitunwind.audit.records import Record
from jitunwind.dwarf.constants import OMITTED, PointerBase
from jitunwind.dwarf.decode import eh_frame
from jitunwind.dwarf.frames import EhFrame
from jitunwind.errors import MalformedFrames, UnreadableMemory
from jitunwind.jits import Code, Jit, codes_of
from jitunwind.memory import Memory
from jitunwind.region import Region
from jitunwind.rows import WORD, Unknown
from jitunwind.tables.sources import Tables, gate_frames

_FARTHEST = (1 << 31) - 1
"""From the first to the last byte that one table describes: libunwind's search tables count in 32 bits."""
_MOST_BEHIND = 1 << 16
"""Bytes of the stack behind a record."""


class Reading:
    """`tables` as `reader` executes them."""

    def __init__(self, arch: Architecture, memory: Memory, tables: Tables, reader: Reader) -> None:
        self.name = f"{tables.name}/{reader.name}"
        self.findings = Findings(tuple(names_of_judged(arch).values()))
        self.warnings: dict[str, None] = {}
        self._arch, self._memory, self._tables, self._reader = arch, memory, tables, reader
        self._jit: Jit | None = None
        self._gates: dict[Region, list[EhFrame]] = {}
        self._known: dict[EhFrame, Table | None] = {}

    def judge(self, region: Code, records: Sequence[Record], truth: Sequence[int], jit: Jit) -> None:
        """Instructions of one activation in one region; `truth` as `names_of_judged` lists it."""
        if jit is not self._jit:
            self._jit = jit
            self._reader.tell(self._all_tables(jit), self._inside(jit))
        found = self.findings
        tally = found.tally_of(region.start, jit.pieces(region)[-1].name)
        whole = [record for record in records if len(record) > self._arch.program_counter + 1]
        if len(whole) < len(records):
            found.cannot_say(tally, "the stack could not be read", len(records) - len(whole))
        if not whole:
            return
        cfa, back, *registers = truth
        right = Outcome(cfa, back, tuple(registers))
        outcomes = self._reader.ask(whole, back, self._behind(whole, cfa))
        for record, outcome in zip(whole, outcomes, strict=True):
            if outcome == right:
                found.total.exact += 1
                tally.exact += 1
            else:
                self._count(tally, region, record, outcome, truth)

    def _count(
        self,
        tally: Tally,
        region: Code,
        record: Record,
        outcome: Outcome | Unknown,
        truth: Sequence[int],
    ) -> None:
        """Of an instruction at which not all is exact."""
        if isinstance(outcome, Unknown):
            self.findings.cannot_say(tally, outcome.reason)
            return
        jit, pc = self._jit, record[self._arch.program_counter]
        assert jit is not None
        caller = [outcome.cfa, outcome.return_address, *outcome.registers]
        self.findings.count(tally, caller, truth, lambda: place_of(self._arch, jit, region, pc))

    def _inside(self, jit: Jit) -> list[tuple[int, int]]:
        """Where a walk has not left JIT code yet."""
        ranges = [(code.start, code.end) for code in codes_of(jit)]
        return sorted([*ranges, *((gate.start, gate.end) for gate in jit.gates())])

    def _all_tables(self, jit: Jit) -> list[Table]:
        frames = self._tables.encoded(codes_of(jit))
        frames = [*frames, *(each for gate in jit.gates() for each in self._of_gate(gate))]
        for each in frames:
            if each not in self._known:
                self._known[each] = self._understood(each)
        found: list[Table] = []
        described: set[int] = set()
        for table in map(self._known.get, frames):
            # Where two tables speak of the same code, readers differ in which they take; GDB takes the first.
            if table is not None and not described.issuperset(start for start, _, _ in table.fdes):
                described.update(start for start, _, _ in table.fdes)
                found.append(table)
        return found

    def _of_gate(self, gate: Region) -> list[EhFrame]:
        if gate not in self._gates:
            frames = gate_frames(gate, self._memory)
            self._gates[gate] = [frames] if isinstance(frames, EhFrame) else []
            if isinstance(frames, Unknown):
                self.warnings[frames.reason] = None
        return self._gates[gate]

    def _understood(self, frames: EhFrame) -> Table | None:
        try:
            fdes = list(eh_frame(frames.data, frames.address))
        except MalformedFrames as error:
            self.warnings[f"the frames published at {frames.address:#x} are not understood: {error}"] = None
            return None
        if not fdes:
            return None
        end = max(fde.start + fde.size for fde in fdes)
        if end - min(fde.start for fde in fdes) > _FARTHEST or end > 1 << 64:
            self.warnings[
                f"the frames published at {frames.address:#x} are of code too far apart for {self._reader.name}"
            ] = None
            return None
        is_placed = any(not _is_absolute(fde.cie.pointer_encoding) for fde in fdes)
        places = tuple((fde.start, fde.size, fde.offset) for fde in fdes)
        return Table(frames.address if is_placed else 0, frames.data, places)

    def _behind(self, records: Iterable[Record], cfa: int) -> list[tuple[int, bytes]]:
        """The stack from the end of the record that has least of it to the activation's CFA, as it is now."""
        sp, first = self._arch.stack_pointer, self._arch.program_counter + 1
        end = min(record[sp] - self._arch.red_zone + WORD * (len(record) - first) for record in records)
        if end >= cfa:
            return []
        try:
            return [(end, self._memory.checked_read(end, min(cfa - end, _MOST_BEHIND)))]
        except UnreadableMemory:
            return []


def _is_absolute(encoding: int) -> bool:
    return encoding != OMITTED and encoding & 0x70 == PointerBase.ABSOLUTE
