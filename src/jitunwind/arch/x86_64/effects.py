"""x86_64 machine code to the effects that unwinding cares about, decoded by iced-x86.

One linear sweep, in which iced sees each form of instruction once: what the bytes before its constants tell is
the same for all that begin with them. Machine code consists of few forms (some 270 in a hundred executors of
CPython), and a look-up costs a fraction of decoding, which is what makes recovery cheaper than other people's
plain decoding. The loop that looks them up is also there in C (sweep.c).
"""

from collections.abc import Callable, Collection
from functools import cache, partial
from struct import Struct
from typing import NamedTuple

from iced_x86 import (
    Code,
    Decoder,
    FlowControl,
    Instruction,
    InstructionInfoFactory,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
)

from jitunwind.arch.effects import (
    HUGE,
    NO_EFFECTS,
    Assign,
    Clobber,
    Control,
    Decoded,
    Effect,
    Effects,
    Exchange,
    Load,
    Step,
    Store,
    assign,
    clobber,
    effects,
    load,
    store,
)
from jitunwind.arch.x86_64.registers import NAMES, R11, RAX, RBP, RCX, RSP
from jitunwind.rows import WORD

_Handler = Callable[[Instruction, Collection[int]], Effects]

_WRITES = frozenset((OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE))
_info_factory = InstructionInfoFactory()


def _dwarf_numbers() -> dict[int, int]:
    """iced's register of any width -> the DWARF number of the 64-bit register it is part of."""
    ids = {getattr(Register, name): getattr(Register, name) for name in dir(Register) if name.isupper()}
    by_full = {getattr(Register, name.upper()): number for number, name in enumerate(NAMES[:16])}
    numbers = {}
    for register in ids:
        full = RegisterExt.full_register(register)
        if full in by_full:
            numbers[register] = by_full[full]
    return numbers


_NUMBER = _dwarf_numbers()
_BASE = {getattr(Register, name.upper()): number for number, name in enumerate(NAMES[:16])}
"""The 64-bit registers: a narrower one in an address gives only its lower half."""
_SEGMENTS = (Register.FS, Register.GS)
"""Segments that do not start at address 0 (AMD64 manual, volume 2, section 4.5.3)."""


@cache
def _pushed(source: int | None, size: int) -> Effects:
    return effects(Store(RSP, -size, source, size), Assign(RSP, RSP, -size))


@cache
def _popped(target: int, size: int) -> Effects:
    read = Load(target, RSP, 0) if size == WORD else Clobber(target)
    return effects(read) if target == RSP else effects(read, Assign(RSP, RSP, size))


def _push(ins: Instruction, followed: Collection[int]) -> Effects:
    size = -ins.stack_pointer_increment
    source = None
    if size == 8 and ins.op0_kind == OpKind.REGISTER and ins.op0_register in _BASE:
        source = _NUMBER[ins.op0_register]
    return _pushed(source, size)


def _pop(ins: Instruction, followed: Collection[int]) -> Effects:
    size = ins.stack_pointer_increment
    if ins.op0_kind == OpKind.REGISTER and ins.op0_register in _NUMBER:
        return _popped(_NUMBER[ins.op0_register], size)
    if ins.op0_kind == OpKind.MEMORY:  # addressed by the stack pointer behind the word
        return effects(Assign(RSP, RSP, size), *_write_op0(ins, followed))
    return assign(RSP, RSP, size)


def _leave(ins: Instruction, followed: Collection[int]) -> Effects:
    return _LEAVE


def _enter(ins: Instruction, followed: Collection[int]) -> Effects:
    """`enter size, 0`, which is push rbp; mov rbp, rsp; sub rsp, size. Nobody uses the nested kind."""
    if ins.code != Code.ENTERQ_IMM16_IMM8 or ins.immediate(1):
        return effects(Clobber(RSP), Clobber(RBP))
    return effects(*_pushed(RBP, WORD), Assign(RBP, RSP, 0), Assign(RSP, RSP, -ins.immediate(0)))


def _system_call(ins: Instruction, followed: Collection[int]) -> Effects:
    """The kernel returns its result in rax, which iced does not count."""
    return effects(*(Clobber(number) for number in (RAX, RCX, R11) if number in followed))


def _add_immediate(ins: Instruction, followed: Collection[int]) -> Effects:
    if ins.op0_kind != OpKind.REGISTER:
        return _write_op0(ins, followed)
    target = _NUMBER[ins.op0_register]
    if target not in followed:
        return NO_EFFECTS
    addend = ins.immediate(1)
    addend = addend - (1 << 64) if addend >> 63 else addend
    return assign(target, target, addend if ins.code in _ADD_IMMEDIATE else -addend)


def _move(ins: Instruction, followed: Collection[int]) -> Effects:
    if ins.op0_kind != OpKind.REGISTER:
        return _store_register(ins, followed)
    if ins.op1_kind != OpKind.REGISTER:
        return _load(ins, followed)
    target, source = _NUMBER[ins.op0_register], _NUMBER[ins.op1_register]
    return assign(target, source, 0) if target in followed else NO_EFFECTS


def _exchange(ins: Instruction, followed: Collection[int]) -> Effects:
    if ins.op0_kind == OpKind.MEMORY:
        return _other(ins, followed)
    pair = sorted((_NUMBER[ins.op0_register], _NUMBER[ins.op1_register]))
    if pair[0] == pair[1]:
        return NO_EFFECTS
    if RSP not in pair and all(number in followed for number in pair):
        return effects(Exchange(*pair))
    return effects(*(Clobber(number) for number in pair if number in followed))


def _load(ins: Instruction, followed: Collection[int]) -> Effects:
    target = _NUMBER[ins.op0_register]
    if target not in followed:
        return NO_EFFECTS
    base = _BASE.get(ins.memory_base)
    if base is None or ins.memory_index != Register.NONE or ins.segment_prefix != Register.NONE:
        return clobber(target)
    return load(target, base, _displacement(ins))


def _store_register(ins: Instruction, followed: Collection[int]) -> Effects:
    base = _BASE.get(ins.memory_base)
    if base not in followed or ins.segment_prefix in _SEGMENTS or ins.memory_index != Register.NONE:
        return NO_EFFECTS
    return store(base, _displacement(ins), _NUMBER[ins.op1_register], WORD)


def _lea(ins: Instruction, followed: Collection[int]) -> Effects:
    target = _NUMBER[ins.op0_register]
    if target not in followed:
        return NO_EFFECTS
    base = _BASE.get(ins.memory_base)
    if base is None or ins.memory_index != Register.NONE:
        return clobber(target)
    return assign(target, base, _displacement(ins))


def _size(ins: Instruction) -> int:
    """Bytes of the memory operand."""
    return MemorySizeExt.size(ins.memory_size) or HUGE


def _displacement(ins: Instruction) -> int:
    displacement = ins.memory_displacement
    return displacement - (1 << 64) if displacement >> 63 else displacement


def _write_op0(ins: Instruction, followed: Collection[int]) -> Effects:
    """Writes its first operand and nothing else: a register, or memory with something not followed."""
    if ins.op0_kind == OpKind.REGISTER:
        number = _NUMBER.get(ins.op0_register)
        return clobber(number) if number in followed else NO_EFFECTS
    base = _BASE.get(ins.memory_base)
    if base not in followed or ins.memory_index != Register.NONE or ins.segment_prefix in _SEGMENTS:
        return NO_EFFECTS
    if (
        ins.op_count == 2
        and ins.op1_kind in _IMMEDIATES
        and ins.immediate(1) == _UNCHANGING.get(ins.mnemonic)
    ):
        return NO_EFFECTS
    return store(base, _displacement(ins), None, _size(ins))


def _other(ins: Instruction, followed: Collection[int]) -> Effects:
    """Whatever it writes, by iced's own account of the instruction's registers and memory."""
    info = _info_factory.info(ins)
    found: list[Effect] = []
    for used in info.used_memory():
        base = _BASE.get(used.base)
        if used.access in _WRITES and base in followed and used.index == Register.NONE and base is not None:
            if used.segment in _SEGMENTS:
                continue
            offset = used.displacement - (1 << 64) if used.displacement >> 63 else used.displacement
            found.append(Store(base, offset, None, _size(ins)))
    for register in info.used_registers():
        number = _NUMBER.get(register.register)
        if register.access in _WRITES and number in followed and number is not None:
            found.append(Clobber(number))
    return effects(*found)


_UNCHANGING = {Mnemonic.OR: 0, Mnemonic.ADD: 0, Mnemonic.SUB: 0, Mnemonic.XOR: 0}
"""What leaves memory as it is: `lock or $0,(%rsp)` is a barrier."""
_IMMEDIATES = frozenset(
    (OpKind.IMMEDIATE8, OpKind.IMMEDIATE8TO16, OpKind.IMMEDIATE8TO32, OpKind.IMMEDIATE8TO64)
)
_ADD_IMMEDIATE = frozenset((Code.ADD_RM64_IMM8, Code.ADD_RM64_IMM32, Code.ADD_RAX_IMM32))
_SUB_IMMEDIATE = frozenset((Code.SUB_RM64_IMM8, Code.SUB_RM64_IMM32, Code.SUB_RAX_IMM32))
_MOVE = frozenset((Code.MOV_R64_RM64, Code.MOV_RM64_R64))
_EXCHANGE = frozenset((Code.XCHG_RM64_R64, Code.XCHG_R64_RAX))
_ENTER = frozenset((Code.ENTERQ_IMM16_IMM8, Code.ENTERW_IMM16_IMM8))
_LEAVE = effects(Assign(RSP, RBP, 0), Load(RBP, RSP, 0), Assign(RSP, RSP, WORD))
_PUSH_NEXT = _pushed(None, WORD)

_CONTROL = {
    FlowControl.UNCONDITIONAL_BRANCH: Control.JUMP,
    FlowControl.INDIRECT_BRANCH: Control.JUMP,
    FlowControl.CONDITIONAL_BRANCH: Control.BRANCH,
    FlowControl.RETURN: Control.RETURN,
    FlowControl.CALL: Control.CALL,
    FlowControl.INDIRECT_CALL: Control.CALL,
    FlowControl.INTERRUPT: Control.HALT,
    FlowControl.EXCEPTION: Control.HALT,
}
_DIRECT = frozenset((FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH, FlowControl.CALL))
_LOOPS = frozenset((Mnemonic.LOOP, Mnemonic.LOOPE, Mnemonic.LOOPNE))
# Members of an Enum are slow to look up where it counts.
_NEXT, _BRANCH, _CALL = Control.NEXT, Control.BRANCH, Control.CALL
_HALTING = frozenset((Code.INT3, Code.HLT, Code.INVALID))


def _control(ins: Instruction) -> tuple[Control, bool, Effects] | None:
    """Where instructions of this one's code lead, whether to a target of their own, and what they do besides;
    None: to the next."""
    if ins.code in _HALTING:
        return Control.HALT, False, NO_EFFECTS
    flow = ins.flow_control
    if flow == FlowControl.CALL and not ins.is_call_near:
        return None  # syscall and its like
    control = _CONTROL.get(flow)
    found = clobber(RCX) if ins.mnemonic in _LOOPS else NO_EFFECTS
    return None if control is None else (control, flow in _DIRECT, found)


def _handler(ins: Instruction) -> tuple[_Handler | None, bool]:
    """The handler of all instructions of this one's code, None: of no interest.

    The flag says that it does nothing but write operand 0: the sweep may dismiss it by that alone.
    """
    code = ins.code
    if code == Code.LEAVEQ:
        return _leave, False
    if code in _ENTER:
        return _enter, False
    if code == Code.SYSCALL:
        return _system_call, False
    if ins.is_stack_instruction and ins.stack_pointer_increment:
        return (_push, False) if ins.stack_pointer_increment < 0 else (_pop, False)
    if code in _ADD_IMMEDIATE or code in _SUB_IMMEDIATE:
        return _add_immediate, True
    if code in _MOVE:
        return _move, True
    if code in _EXCHANGE:
        return _exchange, False
    if code == Code.LEA_R64_M:
        return _lea, True
    info = _info_factory.info(ins)
    written = [r for r in info.used_registers() if r.access in _WRITES and r.register in _NUMBER]
    stored = [m for m in info.used_memory() if m.access in _WRITES]
    writes_op0 = info.op0_access in _WRITES
    if not written and not stored and not writes_op0:
        return None, False
    register_first = ins.op_count > 0 and ins.op0_kind == OpKind.REGISTER
    only_op0 = (
        writes_op0
        and info.op1_access not in _WRITES
        and len(written) == (1 if register_first and ins.op0_register in _NUMBER else 0)
        and len(stored) == (0 if register_first else 1)
        and not ins.has_rep_prefix
        and not ins.has_repne_prefix
        and not ins.is_string_instruction
    )
    return (_write_op0, True) if only_op0 else (_other, False)


_MOST_KNOWN = 1 << 16
_LONGEST = 15
"""Bytes of an instruction (AMD64 manual, volume 3, section 1.1)."""
_distance = Struct("<i").unpack_from
_new_step = partial(tuple.__new__, Step)


def _widths() -> bytes:
    """By an instruction's first byte: how many bytes tell its form, if there is no SIB byte."""
    opcode_alone = [*range(0x50, 0x60), 0x68, 0x6A, *range(0x70, 0x80), *range(0x90, 0xC0)]
    opcode_alone += [0xC2, 0xC3, 0xC8, 0xC9, 0xCC, 0xCD, *range(0xE0, 0xF0), 0xF4]
    widths = [2] * 256  # opcode and ModRM
    widths[0x40:0x50] = [3] * 16  # REX
    for byte in opcode_alone:
        widths[byte] = 1
    widths[0x0F] = 3
    for prefix in (0x64, 0x65, 0x66, 0xF2, 0xF3, 0xC5):
        widths[prefix] = 4
    widths[0xC4], widths[0x62] = 5, 6  # VEX, EVEX
    return bytes(widths)


_WIDTHS = _widths()


class _Form(NamedTuple):
    """What instructions share whose bytes before their constants are the same.

    `handler` says what they do where that is not the same for all of them; else `effects` does. Those with a
    `displacement` lead to what their last so many bytes say, from behind them.
    """

    length: int
    handler: _Handler | None
    effects: Effects
    control: Control = Control.NEXT
    displacement: int = 0


class _Forms:
    """The forms met so far, as seen by one who follows certain registers."""

    def __init__(self, followed: frozenset[int]) -> None:
        self.followed = followed
        self.lively = frozenset(iced for iced, number in _NUMBER.items() if number in followed)
        self.known: dict[bytes, int] = {}
        """By the bytes that tell a form: the length of its instructions, where they matter to nobody; for
        others minus their index in `others`; 0: more bytes tell."""
        self.others: list[_Form] = [_Form(0, None, NO_EFFECTS)]
        self.effects: dict[bytes, Effects] = {}
        """What whole instructions do whose form has a handler."""
        self.context: _Context = (
            *(_WIDTHS, self.known, self.others, self.effects),
            *(_NEXT, _BRANCH, _CALL, _PUSH_NEXT, Step),
        )

    def learn(self, decoder: Decoder, code: bytes, position: int) -> _Form:
        """The form of the instruction at `position`. It is remembered, but where the code's end may have cut
        it off."""
        decoder.position = position
        decoder.ip = position
        ins = decoder.decode()
        constants = decoder.get_constant_offsets(ins)
        form, is_dull = self._form(ins, constants.immediate_size)
        if position + _LONGEST <= len(code):
            if len(self.known) > _MOST_KNOWN:
                self.known.clear()
                del self.others[1:]
            told = ins.len
            if constants.has_displacement:
                told = constants.displacement_offset
            elif constants.has_immediate:
                told = constants.immediate_offset
            width = _WIDTHS[code[position]]
            for shorter in range(width, told):
                self.known[code[position : position + shorter]] = 0
            key = code[position : position + max(width, told)]
            if not is_dull:
                self.others.append(form)  # before it is known: a time limit may strike in between
            self.known[key] = ins.len if is_dull else 1 - len(self.others)
        return form

    def _form(self, ins: Instruction, displacement: int) -> tuple[_Form, bool]:
        """The form of an instruction, and whether it is dull. `displacement`: the size of its immediate, which
        in a direct jump or call is the distance to its target."""
        direction = _control(ins)
        if direction is not None:
            control, direct, found = direction
            return _Form(ins.len, None, found, control, displacement if direct else 0), False
        handler, by_op0 = _handler(ins)
        if handler is None or (by_op0 and (ins.op0_register or ins.memory_base) not in self.lively):
            return _Form(ins.len, None, NO_EFFECTS), True
        return _Form(ins.len, handler, NO_EFFECTS), False

    def effects_of(self, handler: _Handler, decoder: Decoder, whole: bytes, position: int) -> Effects:
        """What the instruction does that `whole` is and that stands at `position`."""
        if len(self.effects) > _MOST_KNOWN:
            self.effects.clear()
        decoder.position = position
        decoder.ip = position
        found = self.effects[whole] = handler(decoder.decode(), self.followed)
        return found


@cache
def _forms_of(followed: frozenset[int]) -> _Forms:
    return _Forms(followed)


_Context = tuple[bytes, dict[bytes, int], list[_Form], dict[bytes, Effects], *tuple[object, ...]]
"""`_WIDTHS`, what `_Forms` has known, and what C has no other way to."""
_ENDS = 1


def _sweep(
    code: bytes,
    position: int,
    furthest: int,
    given: _Form | None,
    context: _Context,
    steps: list[Step],
    starts: list[int],
) -> tuple[int, int, int]:
    """Decode on from `position`, where an instruction is of the form `given`, without a handler, if there is one.

    Where nothing is known of an instruction, the answer is its position and 0; where what it does is not, minus the
    index of its form; `starts` has it already. Else it is where the sweep has ended, behind the code if that cuts the
    last instruction off, and _ENDS. `furthest` is the farthest target of the jumps that have been seen.
    """
    widths, known, others, effects_by_bytes, *_ = context
    size = len(code)
    while position < size:
        if given is None:
            starts.append(position)
            width = widths[code[position]]
            try:
                length = known[code[position : position + width]]
                while length == 0 and position + width < size:
                    width += 1
                    length = known[code[position : position + width]]
            except KeyError:
                return position, furthest, 0
            if length > 0:
                position += length
                continue
            if length == 0:
                return position, furthest, 0
            given, index = others[-length], length
        length, handler, found, control, displacement = given
        given = None
        ip, position = position, position + length
        if position > size:
            break
        if control is _NEXT:
            if handler is not None:
                try:
                    found = effects_by_bytes[code[ip:position]]
                except KeyError:
                    return ip, furthest, index
            if found:
                steps.append(_new_step((ip, position, found, _NEXT, None)))
            continue
        target = None
        if displacement:
            if displacement == 4:
                target = position + _distance(code, position - 4)[0]
            else:
                target = position + (code[position - 1] ^ 0x80) - 0x80
            if control is not _CALL:
                if furthest < target < size:
                    furthest = target
            elif target == position:  # "call next; pop": nobody returns to it
                steps.append(_new_step((ip, position, _PUSH_NEXT, _NEXT, None)))
                continue
        steps.append(_new_step((ip, position, found, control, target)))
        if position > furthest and control is not _CALL and control is not _BRANCH:
            break
    return position, furthest, _ENDS


try:
    from jitunwind.arch.x86_64.sweep import sweep  # the same in C
except ImportError:  # it was not built, or for another machine
    sweep = _sweep


def decode(code: bytes, offset: int, followed: Collection[int]) -> Decoded:
    """Decode `code` from `offset` on in one sweep, up to an instruction that does not fall through and behind
    which no jump seen so far goes (what follows a region's code is data), or to the code's end.

    `followed`: the registers (DWARF numbers) whose every write matters; writes to others give no step.
    """
    decoder = Decoder(64, code)
    forms = _forms_of(frozenset(followed))
    steps: list[Step] = []
    starts: list[int] = []
    given = None
    position, furthest, told = sweep(code, offset, offset, given, forms.context, steps, starts)
    while told != _ENDS:
        given = forms.others[-told] if told else forms.learn(decoder, code, position)
        whole = code[position : position + given.length]
        if given.handler is not None and len(whole) == given.length:
            found = forms.effects_of(given.handler, decoder, whole, position)
            given = given._replace(handler=None, effects=found)
        position, furthest, told = sweep(code, position, furthest, given, forms.context, steps, starts)
    if position > len(code):  # the last instruction is cut off
        steps.append(_new_step((starts[-1], len(code), NO_EFFECTS, Control.HALT, None)))
    return Decoded(steps, starts)
