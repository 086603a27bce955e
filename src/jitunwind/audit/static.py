"""Tables under test against the recovered states, with nothing run: also where no path has been run.

At each instruction a machine is made up that lies as the recovered state says: registers and stack words where it
knows them, values of their own everywhere else. The judge of stepped instructions gets that. Recovered tables
themselves cannot be judged so.
"""

import struct
from collections.abc import Callable, Mapping

from jitunwind.arch import Architecture
from jitunwind.arch.effects import Decoder
from jitunwind.audit.records import judged_registers
from jitunwind.audit.stepper import Activation
from jitunwind.errors import UnreadableMemory
from jitunwind.jits import Code, activation_starts
from jitunwind.jits.dump import Dump
from jitunwind.memory import Mapping as Mapped
from jitunwind.memory import Memory
from jitunwind.recover.instructions import Instructions, Places
from jitunwind.recover.state import Entry, State, Value
from jitunwind.rows import SAME_VALUE, Row, Undefined

Judge = Callable[[Code, list[int], Activation, Dump], None]

_CFA = 0x7F5A_0000_0000
"""Of the caller of JIT code."""
_BELOW, _ABOVE = 1 << 14, 1 << 10
_TRUTH, _OTHER = 0x5EA1_0000_0000, 0x5C7A_0000_0000
_APART = 1 << 20
NOT_FOLLOWED = "recovery does not know where the stack pointer is here"


class LaidStack(Memory):
    """A stack on which some words are known; the others have a value that nothing else has."""

    def __init__(self, arch: Architecture) -> None:
        self._architecture = arch
        self.start, self.data = 0, b""

    @property
    def architecture(self) -> Architecture:
        return self._architecture

    def lay(self, words: Mapping[int, int]) -> None:
        self.start = _CFA - _BELOW
        data = bytearray(struct.pack("<Q", _OTHER) * ((_BELOW + _ABOVE) // 8))
        for address, value in words.items():
            at = address - self.start
            if 0 <= at <= len(data) - 8:
                struct.pack_into("<Q", data, at, value)
        self.data = bytes(data)

    def read(self, address: int, size: int) -> bytes:
        at = address - self.start
        if at < 0 or at + size > len(self.data):
            raise UnreadableMemory(address, size)
        return self.data[at : at + size]

    def mappings(self) -> list[Mapped]:
        return []

    def symbol(self, name: str) -> int | None:
        return None


class _Machine:
    """Registers by DWARF number, and words of the stack: what is known of them."""

    def __init__(self, held: Mapping[int, int], cfa: int, words: Mapping[int, int], state: State) -> None:
        """`state` of a function that was called at `cfa` with `held` in the registers and those words on the
        stack."""

        def value_of(value: Value) -> int | None:
            if isinstance(value, Entry):
                return held.get(value.register)
            return cfa + value if isinstance(value, int) else value.value

        registers = {register: value_of(value) for register, value in state.registers.items()}
        slots = {cfa + at: value_of(value) for at, value in state.slots.items()}
        self.registers = {register: value for register, value in registers.items() if value is not None}
        self.words = {**words, **{at: value for at, value in slots.items() if value is not None}}


class Static:
    """Lays out the recovered states of `dump`'s code on `stack`, which the judges read."""

    def __init__(self, arch: Architecture, decode: Decoder, dump: Dump) -> None:
        self._arch, self._decode, self._dump = arch, decode, dump
        self.stack = LaidStack(arch)
        self._truth = {arch.stack_pointer: _CFA, arch.return_address: _TRUTH}
        self._truth |= {r: _TRUTH + (r + 1) * _APART for r in judged_registers(arch)}
        self._activation = Activation(self._truth)
        self._gate = Instructions(arch, decode, dump.gate_code, {0: arch.at_entry(arch.platform)})

    def run(self, region: Code, instructions: Instructions, wanted: set[int], judge: Judge) -> dict[int, str]:
        """Judge the instructions of `region` at the offsets `wanted`; gives those that cannot be, and why."""
        # In the body, all registers are followed: a table may say of any that it is unchanged.
        body = Instructions(
            self._arch,
            self._decode,
            region.data,
            {region.gate_size: self._followed_from(region)},
        )
        called = self._called(region, instructions)
        in_gate, in_body = Places(instructions.flow), Places(body.flow)
        laid: State | None = None
        registers: list[int] = []
        unable = {}
        for offset in sorted(wanted):
            state = (in_gate if offset < region.gate_size else in_body).at(offset)
            reason = instructions.reachable.get(offset, "")
            if reason or state is None or self._arch.stack_pointer not in state.registers:
                unable[offset] = reason or NOT_FOLLOWED
                continue
            if state is not laid or offset == region.gate_size:
                laid = state
                before = (self._truth, _CFA, dict[int, int]()) if offset < region.gate_size else called
                registers = self._laid(_Machine(*before, state))
            judge(region, [*registers[:-1], region.start + offset], self._activation, self._dump)
        return unable

    def _followed_from(self, region: Code) -> Row:
        """The entry of a body, with all registers that a callee may preserve."""
        row, arch = region.row_of_rest(), self._arch
        every = dict.fromkeys(arch.callee_saved, SAME_VALUE)
        stated = {register: rule for register, rule in row.rules if not isinstance(rule, Undefined)}
        return row._replace(rules=tuple(sorted({**every, **stated}.items())))

    def _laid(self, machine: _Machine) -> list[int]:
        """Put the machine's words on the stack; gives all registers, with room for the program counter."""
        self.stack.lay(machine.words)
        count = self._arch.program_counter + 1
        return [machine.registers.get(r, _OTHER + (r + 1) * _APART) for r in range(count)]

    def _called(self, region: Code, instructions: Instructions) -> tuple[dict[int, int], int, dict[int, int]]:
        """The registers, the CFA and the stack of a body that its gate has called; where none is known, of one
        that the caller of JIT code has."""
        arch, own, gate = self._arch, bool(region.gate_size), self._dump.gate
        if region.start in activation_starts(arch, (region,)) and not own:
            return self._truth, _CFA, {}
        start = region.start if own or gate is None else gate.start
        of_gate = instructions if own else self._gate
        call = of_gate.call_of(region.gate_size if own else None)
        state = Places(of_gate.flow).at(call.offset) if call is not None else None
        if call is None or state is None or arch.stack_pointer not in state.registers:
            return self._truth, _CFA, {}
        machine = _Machine(self._truth, _CFA, {}, state)
        held = machine.registers | {arch.return_address: start + call.next}
        return held, machine.registers[arch.stack_pointer], machine.words
