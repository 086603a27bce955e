"""A table under test as one reader executes it: verdicts on what the reader makes of it, against the ground truth.

`audit.verdicts` follows a table by our own decoder. Here its bytes are given to the program that reads them in the
field, with the state of the thread, and the frame that it finds outside JIT code is compared with the truth.
"""

from collections.abc import Iterable, Sequence

from elftools.common.exceptions import ELFError

from jitunwind.arch import Architecture
from jitunwind.audit.findings import Findings, Tally, names_of_judged, place_of
from jitunwind.audit.readers import Outcome, Reader, Table
from jitunwind.audit.records import Record
from jitunwind.dwarf.constants import OMITTED, PointerBase
from jitunwind.dwarf.decode import eh_frame
from jitunwind.errors import JitunwindError, MalformedFrames, UnreadableMemory
from jitunwind.jits.cpython.dump import Frames
from jitunwind.jits.cpython.regions import CodeMap, JitCode
from jitunwind.memory import Memory
from jitunwind.region import Region
from jitunwind.rows import WORD, Unknown
from jitunwind.tables.sources import Tables, shim_frames

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
        self._regions: CodeMap | None = None
        self._shims: dict[Region, list[Frames]] = {}
        self._known: dict[Frames, Table | None] = {}

    def judge(
        self, region: JitCode, records: Sequence[Record], truth: Sequence[int], regions: CodeMap
    ) -> None:
        """Instructions of one activation in one region; `truth` as `names_of_judged` lists it."""
        if regions is not self._regions:
            self._regions = regions
            self._reader.tell(self._all_tables(regions), self._inside(regions))
        found = self.findings
        tally = found.tally_of(region.start, regions.parts(region)[-1].name)
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
        region: JitCode,
        record: Record,
        outcome: Outcome | Unknown,
        truth: Sequence[int],
    ) -> None:
        """Of an instruction at which not all is exact."""
        if isinstance(outcome, Unknown):
            self.findings.cannot_say(tally, outcome.reason)
            return
        regions, pc = self._regions, record[self._arch.program_counter]
        assert regions is not None
        caller = [outcome.cfa, outcome.return_address, *outcome.registers]
        self.findings.count(tally, caller, truth, lambda: place_of(self._arch, regions, region, pc))

    def _inside(self, regions: CodeMap) -> list[tuple[int, int]]:
        """Where a walk has not left JIT code yet."""
        ranges = [(code.start, code.start + code.size) for code in regions.codes]
        if regions.entry_shim is not None:
            ranges.append((regions.entry_shim.start, regions.entry_shim.end))
        return sorted(ranges)

    def _all_tables(self, regions: CodeMap) -> list[Table]:
        frames = self._tables.encoded(regions.codes)
        if regions.entry_shim is not None:
            frames = [*frames, *self._of_shim(regions.entry_shim)]
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

    def _of_shim(self, shim: Region) -> list[Frames]:
        if shim not in self._shims:
            try:
                self._shims[shim] = [shim_frames(shim, self._memory)]
            except (JitunwindError, ELFError, OSError, StopIteration) as error:
                self._shims[shim] = []
                self.warnings[f"the shim's own unwind information: {error}"] = None
        return self._shims[shim]

    def _understood(self, frames: Frames) -> Table | None:
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
