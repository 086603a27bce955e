"""One audit: which witnesses are asked, in what order, and about what.

In come the names of tables and what there is to judge them by; out comes the report's data. The command line makes
one, and shows it.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from importlib import import_module
from typing import Any

from jitunwind.arch import Architecture
from jitunwind.arch.known import decoder, module
from jitunwind.audit.offline import Offline
from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.readers import Reader, open_reader
from jitunwind.audit.reading import Reading
from jitunwind.audit.records import not_judged
from jitunwind.audit.report import as_data
from jitunwind.audit.steppable import Steppable
from jitunwind.audit.stepper import SelfRecording, Stepper
from jitunwind.audit.subject import dump_in, dump_of_jits
from jitunwind.audit.verdicts import Verdicts
from jitunwind.audit.witness import Place, Stepped, Witness
from jitunwind.errors import JitunwindError, NoEmulator, NothingToAudit
from jitunwind.jits import Code
from jitunwind.jits.dump import Dump
from jitunwind.jits.known import Jits
from jitunwind.memory import Memory
from jitunwind.recover.instructions import Instructions
from jitunwind.tables.chosen import tables_named
from jitunwind.tables.sources import Published, Recovered, Tables, from_dump
from jitunwind.wording import counted

WAITING = "waiting: "
"""How what is told begins while nothing has been judged for some seconds."""


class Session:
    """The witnesses that have been asked, in order, and what they were asked about. `tell` is called again and again
    with what has been done so far, or what is waited for. After `seconds` no more is asked.
    NoEmulator where there is to be one, and there is none."""

    def __init__(
        self,
        names: Sequence[str],
        emulate: bool,
        static: bool,
        tell: Callable[[str], None],
        readers: Sequence[str] = (),
        seconds: float = math.inf,
    ) -> None:
        if emulate:
            _check_emulator()
        self.names, self.emulate, self.static = list(dict.fromkeys(names)), emulate, static
        self.readers: dict[str, str] = dict.fromkeys(readers, "")
        """Their names, and what they are: a library's file, or a version."""
        self.witnesses: list[Witness] = []
        self.counts: dict[str, int] = {}
        self.warnings: dict[str, None] = {}
        self.dump: Dump | None = None
        self._instructions: dict[Place, Instructions] = {}
        self._arch: Architecture
        """That of the process or the dump, once there is one."""
        self.problem = "there is no JIT code"
        self.hint = NothingToAudit.hint
        """Why nothing was judged, if nothing was, and what a person can do about it."""
        self.is_interrupted = False
        self.ended = 0
        """How the program ended, as subprocess's `returncode` says it."""
        self._on_interrupt: Callable[[], None] = lambda: None
        self._tell = tell
        self._begin = time.monotonic()
        self._deadline = self._begin + seconds

    def warn(self, warning: str) -> None:
        self.warnings[warning] = None

    def interrupt(self) -> None:
        """End the asking, not the report; a signal's handler may call it."""
        self.is_interrupted = True
        self._on_interrupt()

    def step(self, tracee: Steppable, steps: int | None, single_step: bool) -> None:
        """Until the steps are done, the program has ended, or somebody interrupts. `single_step`: each instruction
        by itself, and not by code that records itself, where there is that."""
        memory = tracee.memory
        arch = self._arch = memory.architecture
        with ExitStack() as opened:
            opened.callback(tracee.let_go)
            tables = tables_named(self.names, arch, lambda: Published(arch, memory))
            readings = [
                Reading(arch, memory, each, self._opened(name, arch, opened))
                for each in tables
                for name in self.readers
            ]
            stepped = Stepped(Verdicts(arch, memory, tables, readings), self._keep)
            recorder = None if single_step else _recorder(tracee)
            stepper = Stepper(tracee, arch, stepped, steps, recorder, deadline=self._deadline)
            stepper.progress = lambda: self._tell(self._so_far(stepper, stepped.witness))
            self._on_interrupt = lambda: setattr(stepper, "is_interrupted", True)
            stepper.is_interrupted = self.is_interrupted
            stepper.run()
            if tracee.is_alive and (self.emulate or self.static) and not self._is_over():
                self._take_dump(memory)
            if tracee.ending:
                self.ended = os.waitstatus_to_exitcode(tracee.ending)
        self.witnesses.append(stepped.witness)
        self.counts |= asdict(stepper.counts)
        self.problem, self.hint = stepper.waiting.why, stepper.waiting.hint
        self._warn_of([*tables, *readings])

    def _opened(self, name: str, arch: Architecture, opened: ExitStack) -> Reader:
        reader = opened.enter_context(closing(open_reader(name, arch)))
        self.readers[name] = reader.version
        return reader

    def _warn_of(self, tables: Sequence[Tables | Reading]) -> None:
        for table in tables:
            for warning in getattr(table, "warnings", ()):
                self.warn(warning)

    def _so_far(self, stepper: Stepper, witness: Witness) -> str:
        count, seconds = stepper.counts.instructions, time.monotonic() - self._begin
        if not count:
            return f"{WAITING}{stepper.waiting.why}" if stepper.waiting.is_known else ""
        wrong = ", ".join(f"{name} {found.total.wrong:,} wrong" for name, found in witness.findings.items())
        regions = len(next(iter(witness.findings.values())).regions)
        return f"{counted(count, 'instruction')}, {counted(regions, 'region')}, {wrong}; {count / seconds:,.0f}/s"

    def _is_over(self) -> bool:
        """Whether somebody has interrupted, or time is up."""
        return self.is_interrupted or time.monotonic() >= self._deadline

    def _keep(self, jits: Jits) -> None:
        """JIT code has come or gone: the program may end before there is another time to take it."""
        for warning in jits.warnings:
            self.warn(warning)
        if self.emulate or self.static:
            self.dump = dump_of_jits(jits, self.warn)

    def _take_dump(self, memory: Memory) -> None:
        try:
            self.dump = dump_in(memory, self.warn, "the program")
        except JitunwindError as error:
            self.problem = str(error)

    def look_offline(self) -> None:
        """Ask the witnesses that step nothing."""
        dump = self.dump
        if dump is None or self._is_over():
            return
        arch = self._arch = dump.architecture
        decode = decoder(arch)
        tables = tables_named(self.names, arch, lambda: from_dump(arch, dump))
        self._warn_of(tables)
        offline = Offline(arch, decode, dump, self._instructions_of, self._tell, self._is_over)
        if self.emulate:
            from jitunwind.audit.emulator import Emulator

            # What is left goes to the recovered states, but for the tables that are made of them.
            blamed = [each for each in tables if not self.static or each.name == Recovered.name]
            emulator = Emulator(arch, module(arch, "emulation").EMULATED, decode, dump)
            self.witnesses.append(offline.emulate(emulator, tables, self.witnesses, blamed))
            self.counts |= {"exits": emulator.counts.exits, "bad_exits": emulator.counts.bad_exits}
        if self.static:
            self.witnesses.append(offline.compare(tables, self.witnesses))

    def _instructions_of(self, code: Code) -> Instructions:
        place = (code.start, code.data)
        if place not in self._instructions:
            self._instructions[place] = Instructions(
                self._arch, decoder(self._arch), code.data, dict(code.entries)
            )
        return self._instructions[place]

    def report(self, subject: str) -> dict[str, Any]:
        seconds = time.monotonic() - self._begin
        codes = {(code.start, code.data): code for code in (self.dump.codes if self.dump else ())}
        for witness in self.witnesses:
            codes |= {place: judged.region for place, judged in witness.judged.items()}
        reachable = {place: self._instructions_of(code).reachable for place, code in codes.items()}
        apart = not_judged(self._arch) if codes else ()
        return as_data(subject, seconds, self.witnesses, self.counts, reachable, apart, self.readers)


def _recorder(tracee: Steppable) -> SelfRecording | None:
    """What has JIT code record itself: on x86_64 processes of this machine."""
    if not isinstance(tracee, Tracee):
        return None
    from jitunwind.audit.recorder import Recorder  # x86_64's assembler need not be there

    return Recorder(tracee)


def _check_emulator() -> None:
    try:
        import_module("jitunwind.audit.emulator")
    except ImportError as error:
        raise NoEmulator(f"--emulate needs unicorn, which cannot be imported: {error}") from None
