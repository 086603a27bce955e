"""The witnesses that step nothing, put to work on a dump: the emulator and the recovered states.

Each judges what the witnesses before it have not, and says so; who drives an audit chooses them.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jitunwind.arch import Architecture
from jitunwind.arch.effects import Decoder
from jitunwind.audit.records import record_of
from jitunwind.audit.static import Static
from jitunwind.audit.stepper import Activation
from jitunwind.audit.verdicts import Verdicts
from jitunwind.audit.witness import EMULATED, STATIC, Judged, Witness, judged_before
from jitunwind.jits import Code
from jitunwind.jits.dump import Dump
from jitunwind.memory import Memory
from jitunwind.recover.instructions import Instructions
from jitunwind.tables.sources import Recovered, Tables, gate_table_in

if TYPE_CHECKING:  # unicorn need not be there
    from jitunwind.audit.emulator import Emulator, Judge

NO_PATH = "no emulated path comes here"


class Offline:
    """One dump and the tables under test. `tell` is called now and then with what has been done; `is_over` says
    whether somebody has interrupted."""

    def __init__(
        self,
        arch: Architecture,
        decode: Decoder,
        dump: Dump,
        instructions_of: Callable[[Code], Instructions],
        tell: Callable[[str], None],
        is_over: Callable[[], bool],
    ) -> None:
        self.arch, self.decode, self.dump = arch, decode, dump
        self._instructions_of, self._tell, self._is_over = instructions_of, tell, is_over

    def _verdicts(self, memory: Memory, tables: Sequence[Tables]) -> Verdicts:
        verdicts = Verdicts(self.arch, memory, list(tables))
        for gate in self.dump.gates():
            verdicts.gates[gate] = gate_table_in(self.arch, gate, self.dump.frames)
        return verdicts

    def emulate(
        self, emulator: "Emulator", tables: Sequence[Tables], before: list[Witness], blamed: Sequence[Tables]
    ) -> Witness:
        """Run all code in the emulator. What it does not come to is unknown for the tables `blamed`."""
        verdicts = self._verdicts(emulator.memory, tables)
        witness = Witness(EMULATED, verdicts.findings)
        for number, code in enumerate(self.dump.codes):
            instructions, judged = self._instructions_of(code), witness.of(code, self.dump)
            done = judged_before(code, before)
            judge = self._noting(verdicts, judged, done, emulator, number)
            reached = emulator.run(code, instructions, judge)
            if emulator.is_interrupted:
                break
            reason = "; ".join(sorted(set(reached.unable.values())))
            reason = f"the emulator cannot run: {reason}" if reason else NO_PATH
            missed = len(instructions.reachable.keys() - reached.ways.keys() - done)
            for table in blamed if missed else ():
                found = verdicts.findings[table.name]
                found.cannot_say(found.tally_of(code.start, judged.name), reason, missed)
        return witness

    def _noting(
        self, verdicts: Verdicts, judged: Judged, done: set[int], emulator: "Emulator", number: int
    ) -> "Judge":
        """The judge of one region's instructions, but for those that are `done`."""

        def judge(region: Code, registers: list[int], activation: Activation, dump: Dump) -> None:
            offset = registers[-1] - region.start
            if offset not in done:
                judged.offsets.add(offset)
                record = record_of(self.arch, registers, verdicts.memory)
                verdicts.judge(region, (record,), activation, dump)
            count = emulator.counts.instructions
            if count % 256 == 0:
                emulator.is_interrupted = self._is_over()
                self._tell(f"{count:,} instructions emulated, {number} of {len(self.dump.codes)} regions")

        return judge

    def compare(self, tables: Sequence[Tables], before: list[Witness]) -> Witness:
        """Lay out the recovered states, for tables other than those that recovery makes."""
        static = Static(self.arch, self.decode, self.dump)
        verdicts = self._verdicts(static.stack, [each for each in tables if each.name != Recovered.name])
        witness = Witness(STATIC, verdicts.findings)

        def judge(region: Code, registers: list[int], activation: Activation, dump: Dump) -> None:
            record = record_of(self.arch, registers, static.stack)
            verdicts.judge(region, (record,), activation, dump)

        for number, code in enumerate(self.dump.codes):
            if self._is_over():
                break
            self._tell(f"{number} of {len(self.dump.codes)} regions compared")
            instructions, judged = self._instructions_of(code), witness.of(code, self.dump)
            wanted = instructions.reachable.keys() - judged_before(code, before)
            unable = static.run(code, instructions, wanted, judge)
            judged.offsets.update(wanted)
            for reason in unable.values():
                for found in verdicts.findings.values():
                    found.cannot_say(found.tally_of(code.start, judged.name), reason)
        return witness
