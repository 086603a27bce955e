"""The micro-ops of an executor: what its trace holds, what they are called, where each one's code begins.

In comes a process's memory and an executor's machine code; out come its micro-ops, with names and offsets as
far as the interpreter itself has them, and else with a reason. Machine code is the stencils of the trace's
micro-ops, one behind the other (CPython Python/jit.c, _PyJIT_Compile). Their sizes, and the names, are in two
arrays of the interpreter that programs without symbols have, too. Both are searched for, and believed only if
all that they say of real traces is true. `explain` calls this.
"""

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from typing import NamedTuple

from jitunwind.errors import CorruptState, UnreadableMemory
from jitunwind.jits import Code
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.objects import CODE_UNIT, CodeObject
from jitunwind.jits.cpython.regions import Regions
from jitunwind.memory import Mapping, Memory
from jitunwind.rows import WORD, Unknown

MOST_MICRO_OPS = 1 << 14
"""Of a trace; CPython's own bound is UOP_MAX_TRACE_LENGTH (Include/internal/pycore_optimizer.h)."""
_LARGEST_STENCIL = 1 << 16
_FIRST_WITH_PLACE = 5
"""Entries of which the first with a bytecode instruction is one: before it are checks of the executor itself."""
_MOST_SEARCHED = 1 << 27
_MOST_SAMPLES = 64
_ENOUGH_ENTRIES = 4
"""Of a trace, by which the size of an entry can be told."""
_MOST_TRIED = 8
_ENOUGH_STORES = 2
"""Stores of the instruction pointer that must lie where an array of stencils says, for it to be believed."""
_NAME = re.compile(r"_[A-Z][A-Z0-9_]*(?:_r\d+)?")
_CALLS = re.compile(r"_PUSH_FRAME(_r\d+)?")
_RETURNS = re.compile(r"_(RETURN_VALUE|RETURN_GENERATOR|YIELD_VALUE)(_r\d+)?")
"""Micro-ops behind which another Python frame runs: that of a callee, or that of the caller."""
_SETS = re.compile(r"_SET_IP(_r\d+)?")


@cache
def _is(kind: re.Pattern[str], name: str) -> bool:
    """Whether a micro-op of that name is of that kind. There are some hundred names, and many more micro-ops."""
    return kind.fullmatch(name) is not None


class MicroOp(NamedTuple):
    """One entry of a trace. `target` is an offset in its function's bytecode, in code units; None where the
    entry holds the trace's own exits instead."""

    opcode: int
    name: str
    oparg: int
    target: int | None
    operand: int

    @property
    def sets_instruction(self) -> bool:
        """Whether it stores its operand, the address of a bytecode instruction, into the frame."""
        return _is(_SETS, self.name)


class Place(NamedTuple):
    """The bytecode instruction that a micro-op was made from: its function and its offset there, in bytes."""

    code: CodeObject
    offset: int

    @property
    def line(self) -> int | None:
        return self.code.line_at(self.code.bytecode + self.offset)


class MicroOps:
    """The micro-ops of one process's regions."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions
        self._memory: Memory = regions.memory
        self._layout: Layout = regions.layout
        self._mask = self._layout.record.micro_op.opcode_mask
        self._jumps = self._layout.record.micro_op.jumps
        self._names: dict[int, str] = {}
        self._known_size = 0
        """Bytes of a trace's entry, once they are known."""

    def trace(self, region: Code) -> list[MicroOp]:
        """The trace that `region` was compiled from. UnreadableMemory; CorruptState where it makes no sense, or
        no executor is known."""
        mask, jumps, name = self._mask, self._jumps, self.name
        return [
            MicroOp(head & mask, name(head & mask), oparg, None if head & jumps else target, operand)
            for head, oparg, target, operand, _ in self._entries(region, MOST_MICRO_OPS)
        ]

    def count(self, region: Code) -> int:
        """How many entries the trace has. As `trace`, and much cheaper."""
        if not region.owner:
            raise CorruptState("no executor is known for this code")
        return self._checked(
            region, self._memory.checked_read(region.owner + self._layout.executor.code_size, 4)
        )

    def _checked(self, region: Code, size: bytes) -> int:
        """The number of micro-ops in these bytes. CorruptState."""
        count = int.from_bytes(size, "little")
        if not 0 < count <= MOST_MICRO_OPS:
            raise CorruptState(f"the executor at {region.owner:#x} claims {count} micro-ops")
        return count

    def begin(self, region: Code) -> Place | None:
        """The bytecode instruction at which the trace begins: the first of `places`; None where it is not known. As
        `trace`, and cheap, as the first entries tell nearly always: there may be tens of thousands of regions."""
        code, mask, jumps = self._regions.code_object(region), self._mask, self._jumps
        first = 0
        for head, _, target, operand, _ in self._entries(region, _FIRST_WITH_PLACE):
            if _is(_SETS, self._names.get(head & mask) or self.name(head & mask)):
                if code is None or not code.holds(operand):
                    code = self._regions.objects.code_of_instruction(operand)
                offset = first * CODE_UNIT or operand - (code.bytecode if code is not None else 0)
                place = _place_in(code, offset)
                if place is not None:
                    return place
                break
            if _is(_CALLS, self.name(head & mask)) or _is(_RETURNS, self.name(head & mask)):
                break
            first = first or (0 if head & jumps else target)
        return next(filter(None, self.places(region, self.trace(region))), None)

    def _entries(self, region: Code, most: int) -> list[tuple[int, ...]]:
        """The first entries of the trace, `most` at most, as they lie in memory: what micro-op each is, its oparg,
        target and operands."""
        if not region.owner:
            raise CorruptState("no executor is known for this code")
        layout = self._layout.executor
        head = self._memory.checked_read(region.owner, layout.exits)
        trace = int.from_bytes(head[layout.trace : layout.trace + WORD], "little")
        count = min(self._checked(region, head[layout.code_size : layout.code_size + 4]), most)
        size = self._entry_size(trace, count)
        data = self._memory.checked_read(trace, count * size)
        unpack = self._layout.record.micro_op.instruction.unpack_from
        return [unpack(data, at) for at in range(0, len(data), size)]

    def _entry_size(self, trace: int, count: int) -> int:
        """Bytes of a trace's entry. Builds with --enable-pystats have a counter behind each (CPython pycore_uop.h): of
        both sizes the one is right at which the entries are micro-ops that have names."""
        usual, mask = self._layout.record.micro_op.instruction.size, self._layout.record.micro_op.opcode_mask
        if self._known_size or count < _ENOUGH_ENTRIES:
            return self._known_size or usual
        for size in (usual, usual + WORD):
            try:
                data = self._memory.checked_read(trace, count * size)
            except UnreadableMemory:
                continue
            opcodes = {int.from_bytes(data[at : at + 2], "little") & mask for at in range(0, len(data), size)}
            if all(_NAME.fullmatch(self.name(opcode)) for opcode in opcodes):
                self._known_size = size
                return size
        return usual

    def name(self, opcode: int) -> str:
        """`_LOAD_FAST`; `uop 345` where the interpreter's names are not to be found."""
        name = self._names.get(opcode)
        if name is None:
            name = self._names[opcode] = self._read_name(opcode)
        return name

    def _read_name(self, opcode: int) -> str:
        try:
            if self.name_array:
                name = self._memory.cstring(self._memory.word(self.name_array + WORD * opcode), 64)
                if _NAME.fullmatch(name):
                    return name
        except UnreadableMemory:
            pass
        return f"uop {opcode}"

    def offsets(self, region: Code, trace: Sequence[MicroOp]) -> list[int] | Unknown:
        """Where each micro-op's machine code begins in the region, and where the last one's ends."""
        if self.stencil_array is None:
            return Unknown("the sizes of stencils are not to be found in this interpreter")
        found = _offsets(region, trace, self._size, self._names_instruction)
        if found is None:
            return Unknown("the machine code is not that of the executor's trace")
        return found[0]

    def _names_instruction(self, region: Code, begin: int, end: int, value: int) -> bool:
        return self._regions.stencils.names(region.data, region.start, begin, end, value, self._layout)

    def _size(self, opcode: int) -> int | None:
        assert self.stencil_array is not None
        try:
            element = self._memory.words(self.stencil_array + self._layout.executor.stencil_group * opcode, 3)
        except UnreadableMemory:
            return None
        return element[1] if self._is_element(*element) else None

    def _is_element(self, emit: int, code_size: int, data_size: int) -> bool:
        """Whether a StencilGroup can begin with these."""
        code = self._code
        return (
            code is not None
            and code.start <= emit < code.end
            and code_size < _LARGEST_STENCIL
            and data_size < _LARGEST_STENCIL
        )

    @cached_property
    def _code(self) -> Mapping | None:
        """Where the interpreter's own machine code lies."""
        return self._regions.interpreter_code()

    @cached_property
    def _data(self) -> list[tuple[int, bytes]]:
        """The interpreter's own data, (address, bytes) each: what its file has besides machine code; with it, where
        they are not kept apart (ld's -z noseparate-code, the default on AArch64)."""
        found = self._of_file(executable=False)
        first = self._layout.record.micro_op.first_names[0].encode() + b"\0"
        return found if any(first in data for _, data in found) else found + self._of_file(executable=True)

    def _of_file(self, executable: bool) -> list[tuple[int, bytes]]:
        """What of the interpreter's file is mapped, as code or not."""
        code = self._code
        found, left = list[tuple[int, bytes]](), _MOST_SEARCHED
        if code is None or not code.path:
            return found
        for mapping in self._memory.mappings():
            size = mapping.end - mapping.start
            if mapping.path != code.path or mapping.executable != executable or size > left:
                continue
            left -= size
            try:
                found.append((mapping.start, self._memory.checked_read(mapping.start, size)))
            except UnreadableMemory:
                continue
        return found

    @cached_property
    def name_array(self) -> int | None:
        """The address of `_PyOpcode_uop_name`: where pointers to its first two names stand side by side."""
        of = self._layout.record.micro_op
        first, second = (list(self._strings(name.encode())) for name in of.first_names)
        for pair in (_immediate(a) + _immediate(b) for a in first for b in second):
            for start, data in self._data:
                at = data.find(pair)
                if at >= of.first * WORD and (start + at) % WORD == 0:
                    return start + at - of.first * WORD
        return None

    def _strings(self, text: bytes) -> Iterator[int]:
        """The addresses of the NUL-terminated `text`, be it the end of another (linkers merge such)."""
        for start, data in self._data:
            at = -1
            while (at := data.find(text + b"\0", at + 1)) != -1:
                yield start + at

    @cached_property
    def stencil_array(self) -> int | None:
        """The address of `stencil_groups` (jit_stencils.h: the function that emits a stencil, the sizes of its
        code and data, and more). Each place where such an element could stand is tried for the first micro-op
        of a trace; the one is right at which most traces have elements, fit their code, and have each store of
        the instruction pointer in the code of its micro-op. None, unless there is one such place."""
        samples = sorted(self._samples(), key=lambda sample: -len(sample[1]))
        stride = self._layout.executor.stencil_group
        sizes = dict(self._candidates()) if samples else {}
        for _, trace in samples[:_MOST_TRIED]:
            opcodes = {each.opcode for each in trace}
            bases = [at - stride * trace[0].opcode for at in sizes]
            bases = [base for base in bases if all(base + stride * opcode in sizes for opcode in opcodes)]
            right = [
                base
                for base in bases
                if _fits(samples, partial(_size_at, sizes, base, stride), self._names_instruction)
            ]
            if right:
                return right[0] if len(right) == 1 else None
        return None

    def _samples(self) -> Iterator[tuple[Code, list[MicroOp]]]:
        count = 0
        for start in self._regions.starts:
            region = self._regions.find(start)
            if region is None:
                continue
            try:
                trace = self.trace(region)
            except (UnreadableMemory, CorruptState):
                continue
            yield region, trace
            count += 1
            if count == _MOST_SAMPLES:
                return

    def _candidates(self) -> Iterator[tuple[int, int]]:
        """(address, size of code) of what can be elements."""
        code = self._code
        if code is None:
            return
        for start, data in self._data:
            words = struct.unpack_from(f"<{len(data) // WORD}Q", data)
            for index in [i for i, word in enumerate(words[:-2]) if code.start <= word < code.end]:
                if self._is_element(*words[index : index + 3]):
                    yield start + WORD * index, words[index + 1]

    def places(self, region: Code, trace: Sequence[MicroOp]) -> list[Place | None]:
        """The bytecode instruction of each micro-op; None where it is not known.

        Between two changes of the frame all micro-ops are of one function: that whose bytecode a `_SET_IP`
        there names, else the one that was called from, or the executor's own.
        """
        return list(self._places(region, trace))

    def _places(self, region: Code, trace: Sequence[MicroOp]) -> Iterator[Place | None]:
        code, callers = self._regions.code_object(region), list[CodeObject | None]()
        for stretch in _stretches(trace):
            named = next((each.operand for each in stretch if each.sets_instruction), None)
            if named is not None and (code is None or not code.holds(named)):
                code = self._regions.objects.code_of_instruction(named)
            last = next((place for each in stretch if (place := _place(each, code)) is not None), None)
            for each in stretch:
                last = _place(each, code) or last
                yield last
            if _is(_CALLS, stretch[-1].name):
                callers.append(code)
                code = None
            else:
                code = callers.pop() if callers else None


def _size_at(sizes: dict[int, int], base: int, stride: int, opcode: int) -> int | None:
    return sizes.get(base + stride * opcode)


_Names = Callable[[Code, int, int, int], bool]
"""Whether the code of a `_SET_IP`, [begin, end) of the region, stores that instruction pointer."""


def _fits(
    samples: Sequence[tuple[Code, list[MicroOp]]], size_of: Callable[[int], int | None], names: _Names
) -> bool:
    """Whether most of the samples are as the sizes say: one may be damaged, or have changed meanwhile."""
    found = [_offsets(region, trace, size_of, names) for region, trace in samples]
    fitting = [stores for _, stores in filter(None, found)]
    return 2 * len(fitting) > len(samples) and sum(fitting) >= _ENOUGH_STORES


def _offsets(
    region: Code, trace: Sequence[MicroOp], size_of: Callable[[int], int | None], names: _Names
) -> tuple[list[int], int] | None:
    """The offsets, and how many stores of the instruction pointer are where they should be: in the code of
    their micro-op. None, if one is not, or the code would not fit."""
    offsets, stores = [region.gate_size], 0
    for each in trace:
        size = size_of(each.opcode)
        if size is None:
            return None
        start = offsets[-1]
        offsets.append(start + size)
        if start + size > region.size:
            return None
        if each.sets_instruction:
            if not names(region, start, start + size, each.operand):
                return None
            stores += 1
    return offsets, stores


def _place(each: MicroOp, code: CodeObject | None) -> Place | None:
    if code is None:
        return None
    if each.sets_instruction:
        return _place_in(code, each.operand - code.bytecode)
    if not each.target:  # micro-ops of no instruction in particular have 0 there
        return None
    return _place_in(code, each.target * CODE_UNIT)


def _place_in(code: CodeObject | None, offset: int) -> Place | None:
    """None where the offset is not in the code."""
    return Place(code, offset) if code is not None and 0 <= offset < code.bytecode_size else None


def _stretches(trace: Sequence[MicroOp]) -> Iterator[Sequence[MicroOp]]:
    """The trace, cut behind each micro-op that changes the frame."""
    begin = 0
    for index, each in enumerate(trace, 1):
        if _is(_CALLS, each.name) or _is(_RETURNS, each.name):
            yield trace[begin:index]
            begin = index
    if begin < len(trace):
        yield trace[begin:]


def _immediate(value: int) -> bytes:
    return value.to_bytes(WORD, "little")
