"""What x86_64 instructions do, as iced-x86 says: the forms that the sweep of `effects` asks for, and their effects.

Importing iced takes longer than finding the rows of many executors. So this is imported only where code has a form
that known_forms.py does not have.
"""

from collections.abc import Callable, Collection
from functools import cache

from iced_x86 import (
    Code,
    ConstantOffsets,
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
    Effect,
    Effects,
    Exchange,
    Load,
    Store,
    assign,
    clobber,
    effects,
    load,
    store,
)
from jitunwind.arch.x86_64.form import ANY_REGISTER, LONGEST, NO_REGISTER, Form
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


def _push(ins: Instruction, tracked: Collection[int]) -> Effects:
    size = -ins.stack_pointer_increment
    source = None
    if size == 8 and ins.op0_kind == OpKind.REGISTER and ins.op0_register in _BASE:
        source = _NUMBER[ins.op0_register]
    return _pushed(source, size)


def _pop(ins: Instruction, tracked: Collection[int]) -> Effects:
    size = ins.stack_pointer_increment
    if ins.op0_kind == OpKind.REGISTER and ins.op0_register in _NUMBER:
        return _popped(_NUMBER[ins.op0_register], size)
    if ins.op0_kind == OpKind.MEMORY:  # addressed by the stack pointer behind the word
        return effects(Assign(RSP, RSP, size), *_write_op0(ins, tracked))
    return assign(RSP, RSP, size)


def _leave(ins: Instruction, tracked: Collection[int]) -> Effects:
    return _LEAVE


def _enter(ins: Instruction, tracked: Collection[int]) -> Effects:
    """`enter size, 0`, which is push rbp; mov rbp, rsp; sub rsp, size. Nobody uses the nested kind."""
    if ins.code != Code.ENTERQ_IMM16_IMM8 or ins.immediate(1):
        return effects(Clobber(RSP), Clobber(RBP))
    return effects(*_pushed(RBP, WORD), Assign(RBP, RSP, 0), Assign(RSP, RSP, -ins.immediate(0)))


def _system_call(ins: Instruction, tracked: Collection[int]) -> Effects:
    """The kernel returns its result in rax, which iced does not count."""
    return effects(*(Clobber(number) for number in (RAX, RCX, R11) if number in tracked))


def _add_immediate(ins: Instruction, tracked: Collection[int]) -> Effects:
    if ins.op0_kind != OpKind.REGISTER:
        return _write_op0(ins, tracked)
    target = _NUMBER[ins.op0_register]
    if target not in tracked:
        return NO_EFFECTS
    addend = ins.immediate(1)
    addend = addend - (1 << 64) if addend >> 63 else addend
    return assign(target, target, addend if ins.code in _ADD_IMMEDIATE else -addend)


def _move(ins: Instruction, tracked: Collection[int]) -> Effects:
    if ins.op0_kind != OpKind.REGISTER:
        return _store_register(ins, tracked)
    if ins.op1_kind != OpKind.REGISTER:
        return _load(ins, tracked)
    target, source = _NUMBER[ins.op0_register], _NUMBER[ins.op1_register]
    return assign(target, source, 0) if target in tracked else NO_EFFECTS


def _exchange(ins: Instruction, tracked: Collection[int]) -> Effects:
    if ins.op0_kind == OpKind.MEMORY:
        return _other(ins, tracked)
    pair = sorted((_NUMBER[ins.op0_register], _NUMBER[ins.op1_register]))
    if pair[0] == pair[1]:
        return NO_EFFECTS
    if RSP not in pair and all(number in tracked for number in pair):
        return effects(Exchange(*pair))
    return effects(*(Clobber(number) for number in pair if number in tracked))


def _load(ins: Instruction, tracked: Collection[int]) -> Effects:
    target = _NUMBER[ins.op0_register]
    if target not in tracked:
        return NO_EFFECTS
    base = _BASE.get(ins.memory_base)
    if base is None or ins.memory_index != Register.NONE or ins.segment_prefix != Register.NONE:
        return clobber(target)
    return load(target, base, _displacement(ins))


def _store_register(ins: Instruction, tracked: Collection[int]) -> Effects:
    base = _BASE.get(ins.memory_base)
    if base not in tracked or ins.segment_prefix in _SEGMENTS or ins.memory_index != Register.NONE:
        return NO_EFFECTS
    return store(base, _displacement(ins), _NUMBER[ins.op1_register], WORD)


def _lea(ins: Instruction, tracked: Collection[int]) -> Effects:
    target = _NUMBER[ins.op0_register]
    if target not in tracked:
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


def _write_op0(ins: Instruction, tracked: Collection[int]) -> Effects:
    """Writes its first operand and nothing else: a register, or memory with something not tracked."""
    if ins.op0_kind == OpKind.REGISTER:
        number = _NUMBER.get(ins.op0_register)
        return clobber(number) if number in tracked else NO_EFFECTS
    base = _BASE.get(ins.memory_base)
    if base not in tracked or ins.memory_index != Register.NONE or ins.segment_prefix in _SEGMENTS:
        return NO_EFFECTS
    if (
        ins.op_count == 2
        and ins.op1_kind in _IMMEDIATES
        and ins.immediate(1) == _UNCHANGING.get(ins.mnemonic)
    ):
        return NO_EFFECTS
    return store(base, _displacement(ins), None, _size(ins))


def _other(ins: Instruction, tracked: Collection[int]) -> Effects:
    """Whatever it writes, by iced's own account of the instruction's registers and memory."""
    info = _info_factory.info(ins)
    found: list[Effect] = []
    for used in info.used_memory():
        base = _BASE.get(used.base)
        if used.access in _WRITES and base in tracked and used.index == Register.NONE and base is not None:
            if used.segment in _SEGMENTS:
                continue
            offset = used.displacement - (1 << 64) if used.displacement >> 63 else used.displacement
            found.append(Store(base, offset, None, _size(ins)))
    for register in info.used_registers():
        number = _NUMBER.get(register.register)
        if register.access in _WRITES and number in tracked and number is not None:
            found.append(Clobber(number))
    return effects(*found)


_HANDLERS: dict[str, _Handler] = {
    "push": _push,
    "pop": _pop,
    "leave": _leave,
    "enter": _enter,
    "system_call": _system_call,
    "add_immediate": _add_immediate,
    "move": _move,
    "exchange": _exchange,
    "lea": _lea,
    "write_op0": _write_op0,
    "other": _other,
}
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
_HALTING = frozenset((Code.INT3, Code.HLT, Code.INVALID))


def form_at(code: bytes, position: int) -> tuple[int, Form]:
    """The form of the instruction at `position`, and how many bytes tell it: those before its constants."""
    decoder = Decoder(64, code[position : position + LONGEST], ip=position)
    ins = decoder.decode()
    constants = decoder.get_constant_offsets(ins)
    told = ins.len
    if constants.has_displacement:
        told = constants.displacement_offset
    elif constants.has_immediate:
        told = constants.immediate_offset
    return told, _form(ins, constants)


def _form(ins: Instruction, constants: ConstantOffsets) -> Form:
    if ins.code in _HALTING:
        return Form(ins.len, control=Control.HALT.name)
    flow = ins.flow_control
    is_system_call = flow == FlowControl.CALL and not ins.is_call_near
    control = None if is_system_call else _CONTROL.get(flow)
    if control is not None:
        # The immediate of a direct jump or call is the distance to its target.
        distance = constants.immediate_size if flow in _DIRECT else 0
        counted = RCX if ins.mnemonic in _LOOPS else NO_REGISTER
        return Form(ins.len, control=control.name, displacement=distance, clobbers=counted)
    handler, by_op0 = _handler(ins)
    if by_op0 and ins.is_ip_rel_memory_operand:  # no tracked register is in the address
        written = (
            _NUMBER.get(ins.op0_register, NO_REGISTER) if ins.op0_kind == OpKind.REGISTER else NO_REGISTER
        )
        return Form(ins.len, clobbers=written)
    operand = _NUMBER.get(ins.op0_register or ins.memory_base, NO_REGISTER) if by_op0 else ANY_REGISTER
    return Form(ins.len, handler, operand)


def effects_of(handler: str, instruction: bytes, tracked: Collection[int]) -> Effects:
    """What an instruction does whose form has that handler, to registers that are `tracked` (DWARF numbers)."""
    return _HANDLERS[handler](Decoder(64, instruction).decode(), tracked)


def _handler(ins: Instruction) -> tuple[str, bool]:
    """The name of the handler of all instructions of this one's code, empty: of no interest.

    The flag says that it does nothing but write operand 0: the sweep may dismiss it by that alone.
    """
    code = ins.code
    if code == Code.LEAVEQ:
        return "leave", False
    if code in _ENTER:
        return "enter", False
    if code == Code.SYSCALL:
        return "system_call", False
    if ins.is_stack_instruction and ins.stack_pointer_increment:
        return ("push", False) if ins.stack_pointer_increment < 0 else ("pop", False)
    if code in _ADD_IMMEDIATE or code in _SUB_IMMEDIATE:
        return "add_immediate", True
    if code in _MOVE:
        return "move", True
    if code in _EXCHANGE:
        return "exchange", False
    if code == Code.LEA_R64_M:
        return "lea", True
    info = _info_factory.info(ins)
    written = [r for r in info.used_registers() if r.access in _WRITES and r.register in _NUMBER]
    stored = [m for m in info.used_memory() if m.access in _WRITES]
    writes_op0 = info.op0_access in _WRITES
    if not written and not stored and not writes_op0:
        return "", False
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
    return ("write_op0", True) if only_op0 else ("other", False)
