"""JIT code in an emulator: every path of every region, from the shim's first instruction to where it leaves.

In comes a `Dump`; each instruction goes to the same judge as a stepped one, with the emulator's registers and stack.
No process is needed. Registers, return address and memory hold values of their own, so that none is taken for
another. Both ways of each branch are taken. A call is not: behind it, what a callee may overwrite is overwritten;
code of the region that is only called (a veneer, which jumps far away) has its turn in the end.
An instruction is run again for each new way in which the frame lies there.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from jitunwind.arch import Architecture
from jitunwind.arch.effects import Clobber, Control, Decoder
from jitunwind.arch.emulation import Emulated
from jitunwind.audit.records import back_from_call, judged_registers
from jitunwind.audit.stepper import Activation
from jitunwind.errors import UnreadableMemory
from jitunwind.jits import Code, activation_starts
from jitunwind.jits.dump import Dump
from jitunwind.memory.emulated import NOT_THERE, STACK_SIZE, EmulatedMemory, Saved
from jitunwind.recover.instructions import Instructions
from jitunwind.rows import InRegister, SameValue, SavedAt

MOST_WAYS = 8
"""Ways in which the frame may lie at one instruction: each is followed, up to so many."""
_STACK_TOP = 0x7F5A_0000_0000
_HEADROOM = 4096
"""Bytes above the stack pointer of whoever calls JIT code."""
_TRUTH, _BACK, _OTHER = 0x5EA1_0000_0000, 0x5E70_0000_1000, 0x5C7A_0000_0000
"""Where the values lie of the caller's registers, of its program counter, and of what nobody keeps."""
_APART = 1 << 20
_MOST_OTHERS = 1 << 8
_FURTHEST = 1 << 12
"""Bytes of stack that the frames of one activation may take: those of CPython's take 240."""

Judge = Callable[[Code, list[int], Activation, Dump], None]
_Way = tuple[object, ...]


@dataclass
class Counts:
    """`exits`: paths that left their region with stack and registers as at its entry, by return or jump."""

    instructions: int = 0
    """Run: some of them several times."""
    exits: int = 0
    bad_exits: int = 0


@dataclass
class Reached:
    """Of one region: the ways in which each offset was reached, and what could not be run there."""

    ways: dict[int, set[_Way]] = field(default_factory=dict)
    unable: dict[int, str] = field(default_factory=dict)


class Emulator:
    """Runs the code of `dump`, and hands each instruction to `judge`."""

    def __init__(self, arch: Architecture, emulated: Emulated, decode: Decoder, dump: Dump) -> None:
        self.arch, self.decode, self.dump = arch, decode, dump
        self.counts = Counts()
        self.is_interrupted = False
        self._others = 0
        top = _STACK_TOP
        while any(top - STACK_SIZE <= code.start + code.size and code.start <= top for code in dump.codes):
            top += 1 << 32
        self.memory = EmulatedMemory(arch, emulated, top)
        self._top = top - _HEADROOM
        self._truth = {arch.stack_pointer: self._top, arch.return_address: _BACK}
        self._kept = judged_registers(arch)
        self._truth |= {r: _TRUTH + (r + 1) * _APART for r in self._kept}
        self.activation = Activation(self._truth)
        self._gate: Instructions | None = None
        if dump.gate is not None:
            self._gate = Instructions(arch, decode, dump.gate_code, {0: arch.at_entry(arch.platform)})

    def run(self, region: Code, instructions: Instructions, judge: Judge) -> Reached:
        """Follow all paths through one region."""
        return _Paths(self, region, instructions, judge).run()

    # The state of the machine

    def call(self, target: int, back: int) -> int:
        """Be at a function's first instruction, called from what goes on at `back`; gives the place of that."""
        sp = self.memory.registers[self.arch.stack_pointer] - self.arch.cfa_at_entry_offset
        self.memory.set_register(self.arch.stack_pointer, sp)
        kept = self.arch.entry_return
        if isinstance(kept, SavedAt):
            self.memory.write_word(sp + self.arch.cfa_at_entry_offset + kept.offset, back)
        elif isinstance(kept, InRegister):
            self.memory.set_register(kept.register, back)
        return target

    def returns_to(self, registers: list[int]) -> int:
        """Where a return goes in the state of a function's entry; 0 where that is not to be read."""
        try:
            return back_from_call(self.arch, registers, self.memory)[0]
        except UnreadableMemory:
            return 0

    def begin(self) -> None:
        """Be the caller of JIT code, with the ground truth in the registers."""
        self.memory.spoil_below(self._top)
        self.lose(self.arch.caller_saved)
        for register in (self.arch.stack_pointer, *self._kept):
            self.memory.set_register(register, self._truth[register])

    def lose(self, registers: tuple[int, ...]) -> None:
        """Overwrite them with values that nobody knows."""
        for register in registers:
            self._others = (self._others + 1) % _MOST_OTHERS
            self.memory.set_register(register, _OTHER + (self._others + 1) * _APART)

    def is_start(self, region: Code) -> bool:
        """Whether C code enters the region at its first instruction."""
        return region.start in activation_starts(self.arch, (region,))

    def enter(self, region: Code) -> int:
        """Be at the first instruction of JIT code, in the region or, where one gate serves all, in the region as that
        calls it; gives the program counter."""
        gate, instructions = self.dump.gate, self._gate
        self.memory.clear()
        self.memory.load(region.start, region.data)
        if gate is not None:
            self.memory.load(gate.start, self.dump.gate_code)
        self.begin()
        call = instructions.call_of(None) if instructions is not None else None
        if gate is None or call is None or self.is_start(region):
            return self.call(region.start, _BACK)
        pc = self.call(gate.start, _BACK)
        problem = self.memory.run(pc, gate.start + call.offset)
        if problem or not 0 <= self._top - self.memory.registers[self.arch.stack_pointer] <= _FURTHEST:
            self.begin()  # it is not the gate that it seems to be
            return self.call(region.start, _BACK)
        return self.call(region.start, gate.start + call.next)

    def is_back(self, pc: int) -> bool:
        """Whether control, gone to `pc` by a return out of the region, comes back to the caller of JIT code with
        the ground truth in the registers."""
        gate, instructions = self.dump.gate, self._gate
        if gate is not None and instructions is not None and pc in gate:
            offset = pc - gate.start
            while instructions.step(offset).control is Control.NEXT and offset < gate.size:
                offset = instructions.step(offset).next
            if self.memory.run(pc, gate.start + offset):
                return False
            pc = self.returns_to(self.memory.registers)
            if self.memory.run(gate.start + offset, pc):
                return False
        registers = self.memory.registers
        now = {register: registers[register] for register in self._truth}
        return pc == _BACK and now == self._truth


class _Paths:
    """The paths through one region."""

    def __init__(self, emulator: Emulator, region: Code, instructions: Instructions, judge: Judge) -> None:
        self.emulator, self.region, self.instructions, self.judge = emulator, region, instructions, judge
        self.memory, self.arch = emulator.memory, emulator.arch
        self.judged = judged_registers(emulator.arch)
        self.pending: list[tuple[int, Saved]] = []
        self._called: dict[int, Saved] = {}
        """By offset: direct calls inside the region, each with the state at its target's first instruction."""
        self.reached = Reached()
        self.top = emulator.activation.truth[self.arch.stack_pointer]
        self.known: dict[int, object] = {value: r for r, value in emulator.activation.truth.items()}
        self.body: dict[int, int] = {}
        """What has to be in the registers when control leaves the body by a jump."""
        self.back = 0

    def run(self) -> Reached:
        pc = self.emulator.enter(self.region)
        if not self.region.gate_size:
            self._at_body()
        self._follow(pc)
        while self.pending and not self.emulator.is_interrupted:
            pc, saved = self.pending.pop()
            self.memory.restore(saved)
            self._follow(pc)
        for target, saved in self._called.items():
            if target not in self.reached.ways and not self.emulator.is_interrupted:
                self.memory.restore(saved)
                self._follow(self.region.start + target, is_called=True)
        return self.reached

    def _at_body(self) -> None:
        """Remember the state of the body's entry."""
        registers = self.memory.registers
        kept = [register for register, rule in self.region.row_of_rest().rules if isinstance(rule, SameValue)]
        kept = [register for register in kept if register <= self.arch.program_counter]
        self.body = {register: registers[register] for register in (self.arch.stack_pointer, *kept)}
        self.back = self.emulator.returns_to(registers)
        self.known |= {registers[register]: ("body", register) for register in kept}
        self.known[self.back] = "back"

    def _follow(self, pc: int, is_called: bool = False) -> None:
        """One path, until it leaves, or comes to where all is known. `is_called`: of code that the region itself
        calls, and that need not leave as the region was entered."""
        region, memory, counts = self.region, self.memory, self.emulator.counts
        start, end = region.start, region.start + region.size
        ways, unable, step_at = self.reached.ways, self.reached.unable, self.instructions.step
        judge, activation, dump = self.judge, self.emulator.activation, self.emulator.dump
        while True:
            registers = memory.registers
            registers[-1] = pc
            offset = pc - start
            sp = registers[self.arch.stack_pointer]
            if not 0 <= self.top - sp <= _FURTHEST:
                unable[offset] = "the stack pointer has left the stack"
                return
            way = self._way(registers, sp)
            seen = ways.setdefault(offset, set())
            if way in seen or len(seen) >= MOST_WAYS:
                return
            seen.add(way)
            counts.instructions += 1
            judge(region, registers, activation, dump)
            step = step_at(offset)
            following, control, target = start + step.next, step.control, step.target
            if control is Control.NEXT:
                problem = memory.run(pc, following)
                if problem and not (problem == NOT_THERE and self._is_of_no_account(offset)):
                    unable[offset] = problem
                    return
            elif control is Control.CALL:
                if target == region.gate_size and offset < region.gate_size:
                    following = self.emulator.call(start + target, following)
                    self._at_body()
                else:
                    self._note_call(target, following)
                    self.emulator.lose(self.arch.caller_saved)
                    memory.spoil_below(sp)
            elif control is Control.JUMP:
                if target is None or not 0 <= target < region.size:
                    if not is_called:
                        self._left(registers)
                    return
                following = start + target
            elif control is Control.RETURN and is_called:
                return
            elif control is Control.RETURN:
                back = self._return(pc, registers)
                if back is None or not start <= back < end:
                    return
                following = back
            elif control is Control.HALT:
                return
            if control is Control.BRANCH:
                assert target is not None
                self.emulator.lose(tuple(each.target for each in step.effects if isinstance(each, Clobber)))
                if not 0 <= target < region.size:
                    if not is_called:
                        self._left(registers)
                elif way not in ways.get(target, ()):
                    self.pending.append((start + target, memory.save()))
            pc = following
            if not start <= pc < end or self.emulator.is_interrupted:
                return

    def _note_call(self, target: int | None, back: int) -> None:
        if target is None or not 0 <= target < self.region.size or target in self._called:
            return
        before = self.memory.save()
        self.emulator.call(target, back)
        self._called[target] = self.memory.save()
        self.memory.restore(before)

    def _is_of_no_account(self, offset: int) -> bool:
        """Whether an instruction changes nothing that a table tells of. If it has failed only because its address is
        made up, it is passed over, and what it would have changed stays as it was."""
        few = (*self.judged, self.arch.stack_pointer)
        steps, _ = self.emulator.decode(self.region.data, offset, few)
        return not (steps and steps[0].offset == offset)

    def _way(self, registers: list[int], sp: int) -> _Way:
        """How the frame lies: the stack's depth, and what is known of each word on it and of each register that
        matters."""
        known, top = self.known, self.top
        now: list[object] = [sp]
        for register in self.judged:
            value = registers[register]
            now.append(value if sp <= value <= top else known.get(value))
        size = (top - sp) // 8
        words = struct.unpack(f"<{size}Q", self.memory.read(sp, 8 * size))
        now.extend(map(known.get, words))
        return tuple(now)

    def _return(self, pc: int, registers: list[int]) -> int | None:
        """Return; gives where to, None if that is out of JIT code."""
        back = self.emulator.returns_to(registers)
        problem = self.memory.run(pc, back)
        if not problem and self.region.start <= back < self.region.start + self.region.size:
            return back
        self._count(not problem and self.emulator.is_back(back))
        return None

    def _left(self, registers: list[int]) -> None:
        """A jump to other JIT code: it goes on as if it had been called in this region's place."""
        same = all(registers[register] == value for register, value in self.body.items())
        self._count(same and self.emulator.returns_to(registers) == self.back)

    def _count(self, good: bool) -> None:
        self.emulator.counts.exits += good
        self.emulator.counts.bad_exits += not good
