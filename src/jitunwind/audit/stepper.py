"""Single-steps the activations of a process's JIT code, and hands each instruction to a judge.

The ground truth of an activation is the machine's state where C code has called JIT code, at its first instruction:
whoever called it wants exactly that back. Code outside JIT regions is not stepped: it runs to its return, where a
breakpoint waits. An activation in which nothing new has come up for a while is left alone, and so are some that follow,
so that other paths get their turn.

Where it can be, JIT code records itself (`audit.recorder`), which costs one stop for many instructions; where it
cannot, and in a part of the activations as a check on that, the kernel steps it one by one.
"""

import math
import random
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jitunwind.arch import Architecture
from jitunwind.audit.records import Record, back_from_call, judged_registers, record_of
from jitunwind.audit.steppable import Steppable, Stop
from jitunwind.audit.waiting import Waiting, threads_in_jit_code
from jitunwind.errors import JitunwindError, UnreadableMemory
from jitunwind.jits import Code, activation_starts, codes_of
from jitunwind.jits.known import Jits
from jitunwind.jits.optional import Announces
from jitunwind.region import Region

POLL_SECONDS = 0.02
"""Between two looks for new JIT code while the program runs."""
FIRST_POLL_SECONDS = 0.001
"""When it has just started, and not all is in place that announces new JIT code."""
PATIENCE = 3000
"""Instructions seen before, one after another, until an activation is left alone."""
MOST_SKIPPED = 50
"""Activations left alone in a row, at most..."""
SKIP_SECONDS = 0.1
"""... and for how long: some run for seconds."""
ACTIVATIONS_PER_CHECK = 50
"""One in so many is stepped by the kernel throughout."""


@dataclass
class Activation:
    """One run of JIT code. `truth`: the caller's registers (DWARF numbers; the stack pointer is the CFA):
    first the CFA, then the return address, then those that a callee saves; `values` is what they hold.

    While it has called other code, `resume` is where that returns to, and with which stack pointer.
    """

    truth: dict[int, int]
    is_check: bool = False
    """Whether the kernel is to step it, one instruction after another."""
    resume: tuple[int, int] | None = None
    abandoned: bool = False

    def __post_init__(self) -> None:
        self.values = list(self.truth.values())


@dataclass
class Counts:
    instructions: int = 0
    """Judged."""
    recorded: int = 0
    """Of these: recorded by the code itself. The others were stepped by the kernel."""
    activations: int = 0
    returns: int = 0
    """Activations that were seen to return as the ground truth says."""
    bad_returns: int = 0
    left: int = 0
    """Activations that were being stepped and never came back: a longjmp or a C++ exception ended them."""
    signals: int = 0
    """Signals that came to a thread while it was being stepped."""
    threads: int = 0
    executed: int = 0
    """Times that the process has run another program."""
    begun_before: int = 0
    """Activations that had begun when the audit did. Nobody has seen what their callers had in the registers, so no
    instruction of them is judged."""


Judge = Callable[[Code, Sequence[Record], Activation, Jits], None]
"""Gets a region, instructions of it that were run one after another, the activation and what is known of the
process's JIT code."""


class Copied(Protocol):
    """A copy of code that records itself."""

    @property
    def entries(self) -> Container[int]:
        """Where it may be entered, by the code's own addresses."""


class SelfRecording(Protocol):
    """What has JIT code record itself: `audit.recorder`."""

    most_at_once: int
    """Records of one run."""

    @property
    def is_set_up(self) -> bool: ...

    def copy_of(self, tid: int, start: int, code: bytes) -> Copied | None: ...

    def run(self, tid: int, start: int, made: Any, pc: int, most: int) -> Sequence[Record]: ...

    def forget(self) -> None: ...

    def release(self) -> None: ...


class Stepper:
    """Steps `tracee` until `most` instructions are judged or the process ends.

    `recorder`: None to have the kernel step each instruction.
    """

    def __init__(
        self,
        tracee: Steppable,
        arch: Architecture,
        judge: Judge,
        most: int | None,
        recorder: SelfRecording | None,
        seed: int = 1,
        deadline: float = math.inf,
    ) -> None:
        self.tracee, self.arch, self.judge, self.most = tracee, arch, judge, most
        self.deadline = deadline
        """By time.monotonic(): no more is stepped then."""
        self.recorder = recorder
        self._judged = judged_registers(arch)
        self._count_of_registers = arch.program_counter + 1
        self.counts = Counts()
        self.jits: Jits | None = None
        self.waiting = Waiting()
        """Why no instruction has been judged, if none was."""
        self.is_interrupted = False
        self.progress: Callable[[], None] = lambda: None
        self._stacks: dict[int, list[Activation]] = {}
        """By thread."""
        self._starts: set[int] = set()
        """Where C code enters JIT code: an activation begins."""
        self._announcer = 0
        """The function that a JIT calls last before new code of it runs (`Announces`)."""
        self._announced: set[int] = set()
        """Where calls of it return to."""
        self._seen: set[int] = set()
        self._stale = self._skip = 0
        self._skip_until = 0.0
        self._dice = random.Random(seed)
        self._looked = 0.0
        self._pause = FIRST_POLL_SECONDS
        self._told = 0.0

    @property
    def _left_to_judge(self) -> int | None:
        return None if self.most is None else self.most - self.counts.instructions

    @property
    def is_done(self) -> bool:
        enough = self.most is not None and self.counts.instructions >= self.most
        return enough or self.is_interrupted or time.monotonic() >= self.deadline

    def run(self) -> None:
        """Until there is enough, time is up, `is_interrupted` is set (a signal's handler may), or the program turns out
        to be one in which no JIT code will run."""
        self.tracee.share_processor()
        is_still = True
        if not self.tracee.started_here:
            self._look()
            self._note_running()
        while self.tracee.is_alive and not self.is_done:
            if is_still:
                self._look()
                if self._is_in_vain():
                    break
                self.tracee.go_on()
            stop = self.tracee.wait(self._pause)
            self._tell()
            if not self.tracee.is_alive:
                break
            is_still = self.tracee.stop()
            if stop is not None and stop.exec:
                self._forget()
            elif stop is not None and stop.breakpoint:
                self._advance(stop)
        if self.recorder is not None and not self.tracee.started_here:
            self.tracee.stop()
            self.recorder.release()
        if not self.counts.instructions and self.tracee.is_alive and self.tracee.stop():
            self.waiting.look(self.tracee, self.jits, self._stacks)

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told > 0.2:
            self._told = now
            self.progress()

    def _note_running(self) -> None:
        """The threads that are in JIT code before any entry of it is watched."""
        if self.jits is not None:
            self.waiting.running = threads_in_jit_code(self.tracee, self.jits)
            self.counts.begun_before = len(self.waiting.running)

    def _is_in_vain(self) -> bool:
        """Whether no JIT code will ever run, by what is known after some seconds. Until then a program may become
        another one: `jitunwind run` does."""
        if self.counts.instructions or time.monotonic() < self.waiting.next_look:
            return False
        self.waiting.look(self.tracee, self.jits, self._stacks)
        return self.waiting.is_in_vain

    # What is JIT code

    def _look(self) -> None:
        """Find regions that have come since, and put breakpoints at the entries of JIT code."""
        now = time.monotonic()
        if now - self._looked < self._pause / 2:
            return
        self._looked = now
        self._pause = min(self._pause * 1.2, POLL_SECONDS)
        self._refresh()
        self._watch_announcer()

    def _refresh(self) -> None:
        try:
            if self.jits is None:
                self.jits = Jits(self.tracee.memory)
            elif not self.jits.is_current():
                self.jits = self.jits.renewed()
            else:
                return
            self._watch_starts(self.jits)
            self.waiting.problem = None
        except JitunwindError as error:
            self.waiting.problem = error

    def _watch_announcer(self) -> None:
        """Have the announcing function stop, once its library is there, where that is needed."""
        announcing = self.jits.telling(Announces) if self.jits is not None else None
        if self._announcer or announcing is None or announcing.announcer is None:
            return
        address = self.tracee.memory.library_symbol(*announcing.announcer)
        if address:
            self.tracee.insert(address)
            self._announcer = address

    def _watch_starts(self, jits: Jits) -> None:
        starts = {gate.start for gate in jits.gates()}
        starts.update(activation_starts(self.arch, codes_of(jits)))
        for gone in self._starts - starts:
            self.tracee.remove(gone)
        self._starts = starts
        for start in starts:
            self.tracee.insert(start)

    def _forget(self) -> None:
        """Another program runs in the process."""
        self.counts.executed += 1
        if self.recorder is not None:
            self.recorder.forget()
        self.jits = None
        self._stacks.clear()
        self._starts.clear()
        self._announced.clear()
        self._announcer = 0
        self._looked = 0.0
        self._pause = FIRST_POLL_SECONDS
        self.waiting = Waiting()

    def _code_at(self, pc: int) -> Code | None:
        jits = self.jits
        if jits is None:
            return None
        found = jits.find(pc)
        if found is None and not jits.is_elsewhere(pc):
            self._refresh()
            found = self.jits.find(pc) if self.jits is not None else None
        return found

    def _gate_at(self, pc: int) -> Region | None:
        """The gate outside of all JIT code that `pc` is in: ordinary code, and part of every activation."""
        return self.jits.gate_at(pc) if self.jits is not None else None

    # Stepping

    def _advance(self, stop: Stop) -> None:
        """Step the thread from its breakpoint for as long as it stays in JIT code."""
        tid = stop.tid
        if tid not in self._stacks:
            self.counts.threads += 1
        stack = self._stacks.setdefault(tid, [])
        registers = self.tracee.registers(tid)
        pc, sp = registers[-1], registers[self.arch.stack_pointer]
        if pc == self._announcer:
            back, _ = back_from_call(self.arch, registers, self.tracee.memory)
            self._announced.add(back)
            self.tracee.insert(back)
        elif pc in self._announced:
            self._announced.discard(pc)
            self._refresh()
        elif self.jits is not None and not self.jits.lists_are_current():
            self._refresh()
        if pc in self._starts:
            self._enter(stack, registers)
        top = stack[-1] if stack else None
        if top is not None and top.resume == (pc, sp):
            self._resumed(top)
        if top is None or top.resume is not None or top.abandoned:
            self._step_over(tid, pc)
            return
        region: Code | None = None
        while True:
            if region is None or not region.start <= pc < region.start + region.size:
                region = self._code_at(pc)
            if region is not None:
                records = self._run(tid, region, registers, top)
                if not records:
                    return
                registers = list(records[-1][: self._count_of_registers])
                pc, sp = registers[-1], registers[self.arch.stack_pointer]
                self.judge(region, records, top, self.jits)  # type: ignore[arg-type]
                self._count(records, top)
                if self.is_done or top.abandoned:
                    self._step_over(tid, pc)
                    return
            elif self._gate_at(pc) is not None:
                come_to = self._through_gate(tid, registers, top)
                if come_to is None:
                    return
                registers, pc = come_to, come_to[-1]
            else:
                self._left(stack, top, registers)
                return
            after = self._step_over(tid, pc)
            if after is None:
                return
            if after.signal:
                self.counts.signals += 1
                self._wait_for(top, pc, sp)
                return
            if after.exec:
                self._forget()
                return
            registers = self.tracee.registers(tid)
            pc, sp = registers[-1], registers[self.arch.stack_pointer]

    def _run(self, tid: int, region: Code, registers: list[int], top: Activation) -> Sequence[Record]:
        """The states from here on, as far as the code records itself; the thread stands at the last of them."""
        records = self._recorded(tid, region.start, region.data, registers[-1], top, self._left_to_judge)
        if records is not None:
            self.counts.recorded += len(records)
            return records
        return (record_of(self.arch, registers, self.tracee.memory),)

    def _through_gate(self, tid: int, registers: list[int], top: Activation) -> list[int] | None:
        """Run as far as the gate goes by itself; the registers then, None if the thread has ended."""
        gate = self._gate_at(registers[-1])
        assert gate is not None
        if self.recorder is None or not self.recorder.is_set_up:  # near to code that needs that: regions
            return registers
        code = self.tracee.memory.read(gate.start, gate.size)
        records = self._recorded(tid, gate.start, code, registers[-1], top, None)
        if records is None:
            return registers
        return list(records[-1][: self._count_of_registers]) if records else None

    def _recorded(
        self, tid: int, start: int, code: bytes, pc: int, top: Activation, most: int | None
    ) -> Sequence[Record] | None:
        """None where code is not to record itself."""
        if self.recorder is None or top.is_check:
            return None
        made = self.recorder.copy_of(tid, start, code)
        if made is None or pc not in made.entries:
            return None
        at_once = self.recorder.most_at_once
        return self.recorder.run(tid, start, made, pc, at_once if most is None else min(most, at_once))

    def _count(self, records: Sequence[Record], top: Activation) -> None:
        """Note what was judged; an activation in which nothing is new any more is abandoned."""
        before = self.counts.instructions
        self.counts.instructions += len(records)
        pc = self.arch.program_counter
        new = {record[pc] for record in records} - self._seen
        self._seen |= new
        self._stale = 0 if new else self._stale + len(records)
        if self._stale > PATIENCE:
            self._stale, self._skip = 0, self._dice.randrange(MOST_SKIPPED)
            self._skip_until = time.monotonic() + SKIP_SECONDS
            top.abandoned = True
        if before // 1024 != self.counts.instructions // 1024:
            self._tell()

    def _step_over(self, tid: int, pc: int) -> Stop | None:
        """Run the one instruction at `pc`, whatever breakpoint stands there."""
        if pc not in self.tracee.breakpoints:
            return self.tracee.step(tid)
        self.tracee.remove(pc)
        stop = self.tracee.step(tid)
        if self.tracee.is_alive and (pc in self._starts or pc == self._announcer or self._awaited(pc)):
            self.tracee.insert(pc)
        return stop

    def _enter(self, stack: list[Activation], registers: list[int]) -> None:
        """The first instruction of an activation: the ground truth."""
        back, cfa = back_from_call(self.arch, registers, self.tracee.memory)
        while stack and stack[-1].truth[self.arch.stack_pointer] <= cfa:
            gone = stack.pop()
            self._resumed(gone)
            self.counts.left += not gone.abandoned
        if self._code_at(back - 1) is not None:
            return  # JIT code calls JIT code: nobody has seen that activation begin
        truth = {self.arch.stack_pointer: cfa, self.arch.return_address: back}
        truth.update((register, registers[register]) for register in self._judged)
        self.counts.activations += 1
        self._skip -= 1
        is_check = self.counts.activations % ACTIVATIONS_PER_CHECK == 0
        is_skipped = self._skip > 0 and time.monotonic() < self._skip_until
        stack.append(Activation(truth, is_check, abandoned=is_skipped))

    def _left(self, stack: list[Activation], top: Activation, registers: list[int]) -> None:
        """The thread has left JIT code: the activation has returned, or called something."""
        sp = registers[self.arch.stack_pointer]
        if sp == top.truth[self.arch.stack_pointer]:
            is_there = registers[-1] == top.truth[self.arch.return_address]
            good = is_there and all(registers[register] == top.truth[register] for register in self._judged)
            self.counts.returns += good
            self.counts.bad_returns += not good
            stack.pop()
            return
        try:
            back, after = back_from_call(self.arch, registers, self.tracee.memory)
        except UnreadableMemory:
            back = after = 0
        if self._gate_at(back) is not None or self._code_at(back - 1) is not None:
            self._wait_for(top, back, after)
        else:
            self.counts.left += 1
            stack.pop()

    def _wait_for(self, activation: Activation, pc: int, sp: int) -> None:
        """Go on with the activation when it comes to `pc` with that stack pointer."""
        activation.resume = (pc, sp)
        self.tracee.insert(pc)

    def _resumed(self, activation: Activation) -> None:
        waited, activation.resume = activation.resume, None
        if waited is not None and waited[0] not in self._starts and not self._awaited(waited[0]):
            self.tracee.remove(waited[0])

    def _awaited(self, pc: int) -> bool:
        return pc in self._announced or any(
            activation.resume is not None and activation.resume[0] == pc
            for stack in self._stacks.values()
            for activation in stack
        )
