"""Where indirect jumps of compiled x86_64 code go: the jump tables of GCC's and Clang's switch statements.

A function's bytes and the file's memory in, targets out. Known shapes: `jmp *table(,%i,8)`,
`mov (%t,%i,8),%r; jmp *%r` (addresses), and `movslq (%t,%i,4),%r; add %t,%r; jmp *%r` (offsets from the
table). The table's address is the nearest `lea` or `mov` in the straight line before; where there is none,
every table that the function mentions counts. A table ends where the next thing that the function mentions
begins, or at the first entry that leads out of the function and its parts.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from struct import Struct

from iced_x86 import (
    Code,
    ConditionCode,
    Decoder,
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
)

from jitunwind.arch.compiled import Surroundings

_ABSOLUTE, _RELATIVE = Struct("<Q"), Struct("<i")
_WINDOW = 40
"""Instructions looked at before a jump."""
_ENTRIES = 1 << 14
"""Entries read of one table at most."""
_BIAS = 64
"""Entries skipped at most before the first, where a table's address counts from an index that is never 0."""
_STOPS = (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.INDIRECT_BRANCH, FlowControl.RETURN)
_WRITES = (OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
_IMMEDIATE_MOVES = (Code.MOV_R32_IMM32, Code.MOV_R64_IMM64, Code.MOV_RM64_IMM32, Code.MOV_RM32_IMM32)
_ABOVE = {ConditionCode.A: 1, ConditionCode.AE: 0}
_IMMEDIATES = (
    OpKind.IMMEDIATE8,
    OpKind.IMMEDIATE16,
    OpKind.IMMEDIATE32,
    OpKind.IMMEDIATE8TO16,
    OpKind.IMMEDIATE8TO32,
    OpKind.IMMEDIATE8TO64,
    OpKind.IMMEDIATE32TO64,
)
_info = InstructionInfoFactory()


class Switches:
    """The jump tables of the function `code` at address `start`."""

    def __init__(self, code: bytes, start: int, around: Surroundings) -> None:
        self._code, self._start, self._end = code, start, start + len(code)
        self._read, self._is_data, self._is_part = around
        self._found: dict[int, list[int]] = {}

    def targets(self, offset: int, starts: Sequence[int]) -> list[int]:
        """The addresses to which the jump at `offset` may go; none for one that leaves or is not understood.

        `starts` are the offsets of instructions in the sweep that has the jump.
        """
        found = self._found.get(offset)
        if found is None:
            found = self._found[offset] = sorted(set(self._targets(offset, starts)))
        return found

    def _targets(self, offset: int, starts: Sequence[int]) -> Iterable[int]:
        jump = self._at(offset)
        index = bisect_left(starts, offset)
        window = [self._at(start) for start in starts[max(0, index - _WINDOW) : index]]
        access, before = jump, window
        if jump.op0_kind == OpKind.REGISTER:
            place = _written(jump.op0_register, window)
            if place is None:
                return []
            access, before = window[place], window[:place]
            parts = _added(access)
            if parts is not None:
                return self._relative(parts, before, window, starts)
            if access.mnemonic != Mnemonic.MOV or access.op1_kind != OpKind.MEMORY:
                return []
        if access.memory_index == Register.NONE or access.memory_index_scale != _ABSOLUTE.size:
            return []
        tables = self._tables(access, before)
        count = _count(window)
        return [t for table in tables for t in self._entries(table, _ABSOLUTE, 0, count, starts)]

    def _relative(
        self,
        parts: tuple[int, int],
        before: list[Instruction],
        window: list[Instruction],
        starts: Sequence[int],
    ) -> list[int]:
        """Targets of `movslq (%table,%i,4),%a; add %b,%a`; %b is the table, or a label in the code."""
        for loaded, other in (parts, parts[::-1]):
            at = _written(loaded, before)
            if at is None or before[at].mnemonic != Mnemonic.MOVSXD or before[at].op1_kind != OpKind.MEMORY:
                continue
            base = _constant(other, before)
            label = base if base is not None and not self._is_data(base) else None
            return [
                target
                for table in self._tables(before[at], before[:at])
                for target in self._entries(
                    table, _RELATIVE, table if label is None else label, _count(window), starts
                )
            ]
        # Unoptimised code loads the entry in more steps, but what it adds to that is the table as well.
        tables = (base for base in (_constant(part, before) for part in parts) if base is not None)
        count = _count(window)
        return [t for table in tables for t in self._entries(table, _RELATIVE, table, count, starts)]

    def _tables(self, access: Instruction, before: list[Instruction]) -> list[int]:
        """The table that `access` reads, if the straight line of code says so; else every one."""
        if access.memory_base == Register.NONE:
            return [access.memory_displacement]
        base = _constant(access.memory_base, before)
        return self._mentioned if base is None else [base + access.memory_displacement & (1 << 64) - 1]

    def _entries(
        self, table: int, entry: Struct, base: int, count: int | None, starts: Sequence[int]
    ) -> Iterator[int]:
        if not self._is_data(table):
            return
        index = bisect_right(self._mentioned, table)
        limit = self._mentioned[index] - table if index < len(self._mentioned) else _ENTRIES * entry.size
        data = self._read(table, min(limit, (count or _ENTRIES) * entry.size))
        begun = False
        for number in range(len(data) // entry.size):
            target = entry.unpack_from(data, number * entry.size)[0] + base
            if target == self._end:  # Clang's label of a case that cannot be: an empty block behind the last
                continue
            if self._starts_instruction(target, starts) or (begun and self._is_part(target)):
                begun = True
                yield target
            elif begun or number >= _BIAS or entry is _RELATIVE:
                break

    def _starts_instruction(self, target: int, starts: Sequence[int]) -> bool:
        """Whether `target` is in the function, and an instruction of the sweep if that came so far."""
        if not self._start <= target < self._end:
            return False
        offset = target - self._start
        if not starts[0] <= offset <= starts[-1]:
            return True
        return starts[bisect_left(starts, offset)] == offset

    @cached_property
    def _mentioned(self) -> list[int]:
        """Every address of data that an instruction of the function mentions, rising."""
        found: set[int] = set()
        for ins in Decoder(64, self._code, ip=self._start):
            if ins.is_ip_rel_memory_operand:
                found.add(ins.ip_rel_memory_address)
            elif ins.code in _IMMEDIATE_MOVES:
                found.add(ins.immediate(1))
            elif ins.memory_displ_size >= 4:
                found.add(ins.memory_displacement)
        return sorted(address for address in found if self._is_data(address))

    def _at(self, offset: int) -> Instruction:
        decoder = Decoder(64, self._code[offset : offset + 15], ip=self._start + offset)
        return decoder.decode()


def _written(register: int, window: list[Instruction]) -> int | None:
    """The index of the last instruction in `window` that writes `register`, in a straight line."""
    full = RegisterExt.full_register(register)  # type: ignore[arg-type]
    for index in range(len(window) - 1, -1, -1):
        ins = window[index]
        if ins.flow_control in _STOPS:
            return None
        if ins.op_count and ins.op0_kind == OpKind.REGISTER and _is(ins.op0_register, full):
            if _info.info(ins).op0_access in _WRITES:
                return index
        elif ins.flow_control in (FlowControl.CALL, FlowControl.INDIRECT_CALL) and full not in _KEPT:
            return None
    return None


def _added(ins: Instruction) -> tuple[int, int] | None:
    """The two registers of which `ins` makes the sum."""
    if ins.mnemonic == Mnemonic.ADD and ins.op1_kind == OpKind.REGISTER:
        return ins.op0_register, ins.op1_register
    if ins.mnemonic == Mnemonic.LEA and ins.memory_index_scale == 1 and not ins.memory_displacement:
        return (ins.memory_base, ins.memory_index) if ins.memory_index != Register.NONE else None
    return None


def _count(window: list[Instruction]) -> int | None:
    """How many entries the last `cmp $n,%i; ja` before a jump leaves, if the straight line has one."""
    for at in range(len(window) - 1, 0, -1):
        ins = window[at]
        if ins.flow_control in _STOPS:
            return None
        if ins.flow_control != FlowControl.CONDITIONAL_BRANCH:
            continue
        above = _ABOVE.get(ins.condition_code)
        compare = next((i for i in reversed(window[max(0, at - 4) : at]) if i.mnemonic == Mnemonic.CMP), None)
        if above is None or compare is None or compare.op1_kind not in _IMMEDIATES:
            return None
        return (compare.immediate(1) & 0xFFFF) + above
    return None


def _is(register: int, full: int) -> bool:
    return register != Register.NONE and RegisterExt.full_register(register) == full  # type: ignore[arg-type]


def _constant(register: int, window: list[Instruction]) -> int | None:
    """The address that the straight line of code in `window` leaves in `register`."""
    at = _written(register, window)
    if at is None:
        return None
    ins = window[at]
    if ins.mnemonic == Mnemonic.LEA and ins.is_ip_rel_memory_operand:
        return ins.ip_rel_memory_address
    if ins.code in _IMMEDIATE_MOVES:
        return ins.immediate(1)
    if ins.mnemonic == Mnemonic.MOV and ins.op1_kind == OpKind.REGISTER:
        return _constant(ins.op1_register, window[:at])
    return None


_KEPT = (Register.RBX, Register.RBP, Register.R12, Register.R13, Register.R14, Register.R15)
