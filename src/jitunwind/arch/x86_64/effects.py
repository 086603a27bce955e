"""x86_64 machine code to the effects that unwinding cares about, decoded by iced-x86.

One linear sweep. Most instructions touch neither control flow, nor the stack pointer, nor a register that
is followed; a table by instruction code, filled as codes are met, dismisses those in two look-ups, which is
what makes recovery cheaper than other people's plain decoding.
"""

from bisect import bisect_right
from collections.abc import Callable, Collection
from functools import cache, partial
from itertools import islice

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
    NO_EFFECTS,
    Assign,
    Clobber,
    Control,
    Decoded,
    Effect,
    Effects,
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
    return effects(
        *(Clobber(n) for n in (_NUMBER[ins.op0_register], _NUMBER[ins.op1_register]) if n in followed)
    )


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
    """Bytes of the memory operand; those whose size depends on the state (xsave) count as a large one."""
    return MemorySizeExt.size(ins.memory_size) or 4096


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


def _directs_control(ins: Instruction, followed: Collection[int]) -> Effects:
    """Stands in the table of handlers for instructions that direct control: the sweep knows them by it."""
    return NO_EFFECTS


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
_ENDS = frozenset((Control.JUMP, Control.RETURN, Control.HALT))
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


_controls: dict[int, tuple[Control, bool, Effects]] = {}
_handlers: dict[int, tuple[_Handler | None, bool]] = {}
_known: dict[frozenset[int], dict[bytes, Effects]] = {}
"""By the registers followed: what instructions do that direct no control, by their bytes."""
_MOST_KNOWN = 1 << 16
_BATCH = 64
"""Instructions decoded at once: some of the last batch lie behind the code, and are for nothing."""
_new_step = partial(tuple.__new__, Step)


def decode(code: bytes, offset: int, followed: Collection[int]) -> Decoded:
    """Decode `code` from `offset` on in one sweep, up to an instruction that does not fall through and behind
    which no jump seen so far goes (what follows a region's code is data), or to the code's end.

    `followed`: the registers (DWARF numbers) whose every write matters; writes to others give no step.
    """
    decoder = Decoder(64, code, ip=offset)
    decoder.position = offset
    steps: list[Step] = []
    starts: list[int] = []
    add, handler_of = steps.append, _handlers.get
    lively = frozenset(iced for iced, number in _NUMBER.items() if number in followed)
    known = _known.setdefault(frozenset(followed), {})
    if len(known) > _MOST_KNOWN:
        known.clear()
    furthest, size = offset, len(code)
    while batch := list(islice(decoder, _BATCH)):
        ips = [ins.ip for ins in batch]
        ends = [*ips[1:], batch[-1].next_ip]
        for ins, kind, ip, after in zip(batch, [ins.code for ins in batch], ips, ends, strict=True):
            handler, by_op0 = handler_of(kind) or _learn(ins)
            if handler is None:
                continue
            if by_op0 and (ins.op0_register or ins.memory_base) not in lively:
                continue
            if handler is not _directs_control:
                found = known.get(code[ip:after])
                if found is None:
                    found = known[code[ip:after]] = handler(ins, followed)
                if found:
                    add(_new_step((ip, after, found, _NEXT, None)))
                continue
            control, direct, found = _controls[kind]
            target = None
            if direct:
                target = ins.near_branch_target
                if target >> 63:
                    target -= 1 << 64  # code is decoded at address 0, so a target before it wraps round
                if control is not _CALL:
                    if furthest < target < size:
                        furthest = target
                elif target == after:  # "call next; pop": nobody returns to it
                    add(_new_step((ip, after, _PUSH_NEXT, _NEXT, None)))
                    continue
            add(_new_step((ip, after, found, control, target)))
            if after > furthest and control is not _CALL and control is not _BRANCH:
                starts += ips[: bisect_right(ips, ip)]
                return Decoded(steps, starts)
        starts += ips
    return Decoded(steps, starts)


def _learn(ins: Instruction) -> tuple[_Handler | None, bool]:
    """Note the handler of this instruction's code, met for the first time."""
    control = _control(ins)
    if control is not None:
        _controls[ins.code] = control
    known = _handlers[ins.code] = (_directs_control, False) if control is not None else _handler(ins)
    return known
