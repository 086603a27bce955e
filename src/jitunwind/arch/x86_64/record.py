"""Machine code that writes down the machine's state before each instruction of some other code, then runs it.

In comes code, and where its copy and the control block will lie; out go the copy's bytes. `audit.recorder` puts
them into a process and runs them. The copied instructions are the same bytes: what changes is the distance in
those that address memory relative to themselves, and the width of branches. Calls, returns and whatever else
leaves the code are not copied: a breakpoint stands there, for the one who runs the copy.
"""

import struct
from collections.abc import Mapping
from typing import NamedTuple

from iced_x86 import Code, Decoder, Encoder, FlowControl, Instruction, MemoryOperand, Register, Register_

from jitunwind.arch.x86_64.registers import RSP

REGISTERS = 17
"""Words of a record that are registers, by DWARF number; the last is the program counter."""
BELOW = 128
"""From how far below the stack pointer on the stack is recorded: the red zone's size, System V psABI 3.2.2."""
WORDS = 56
"""Words of the stack in a record."""
RECORD = struct.Struct(f"<{REGISTERS + WORDS}Q")
CONTROL = struct.Struct("<3Q")
"""The control block: where the next record goes; where the routine stops; the copied code's start."""
_CURSOR, _LIMIT, _BASE = 0, 8, 16
BREAKPOINT = b"\xcc"
_REACH = 1 << 31

LARGEST_COPY = 1 << 24
"""Bytes of the area in which copies lie, at most."""

_PUSHED = 5
"""Words that the routine pushes."""
FLAGS, _OFFSET = 8 * (_PUSHED - 1), 8 * (_PUSHED + 1)
"""Where the flags and the instruction's offset lie on the stack then."""
_SAVED = _OFFSET + 8 + BELOW
"""From its own stack pointer to that of the code."""
_NAMES = (
    *(Register.RAX, Register.RDX, Register.RCX, Register.RBX, Register.RSI, Register.RDI, Register.RBP),
    *(Register.RSP, Register.R8, Register.R9, Register.R10, Register.R11, Register.R12, Register.R13),
    *(Register.R14, Register.R15),
)
_SKIP_RED_ZONE = bytes.fromhex("488d6424 80")  # lea -0x80(%rsp),%rsp: unlike sub it leaves the flags alone
_BACK = bytes.fromhex("488da424") + struct.pack("<i", BELOW + 8)  # lea 0x88(%rsp),%rsp


class Copy(NamedTuple):
    """Code that records: `entries` by the original's addresses, `exits` and `places` back to those.

    At an exit all registers but the program counter are those of the original instruction, which has not
    run. `places` has each copied instruction's own address.
    """

    code: bytes
    entries: Mapping[int, int]
    exits: Mapping[int, int]
    places: Mapping[int, int]


def routine(at: int, control: int) -> bytes:
    """What each copied instruction calls, with its offset pushed: writes a record, and meets its breakpoint when
    the cursor has reached the limit. `at` and `control` are within 2 GiB of each other."""
    encoder = Encoder(64)
    code = bytearray()

    def emit(instruction: Instruction) -> None:
        encoder.encode(instruction, at + len(code))
        code.extend(encoder.take_buffer())

    def block(offset: int) -> MemoryOperand:
        return MemoryOperand(Register.RIP, displ=control + offset, displ_size=8)

    def store(index: int, register: Register_) -> None:
        emit(Instruction.create_mem_reg(Code.MOV_RM64_R64, _at(Register.RDI, 8 * index), register))

    emit(Instruction.create(Code.PUSHFQ))
    for register in (Register.RAX, Register.RCX, Register.RSI, Register.RDI):
        emit(Instruction.create_reg(Code.PUSH_R64, register))
    emit(Instruction.create_reg_mem(Code.MOV_R64_RM64, Register.RDI, block(_CURSOR)))
    for index, register in enumerate(_NAMES):
        if register == Register.RDI:
            emit(Instruction.create_reg_mem(Code.MOV_R64_RM64, Register.RAX, _at(Register.RSP, 0)))
            store(index, Register.RAX)
        elif index == RSP:
            emit(Instruction.create_reg_mem(Code.LEA_R64_M, Register.RAX, _at(Register.RSP, _SAVED)))
            store(index, Register.RAX)
        else:
            store(index, register)
    emit(Instruction.create_reg_mem(Code.MOV_R64_RM64, Register.RAX, _at(Register.RSP, _OFFSET)))
    emit(Instruction.create_reg_mem(Code.ADD_R64_RM64, Register.RAX, block(_BASE)))
    store(REGISTERS - 1, Register.RAX)
    emit(Instruction.create_reg_mem(Code.LEA_R64_M, Register.RSI, _at(Register.RSP, _SAVED - BELOW)))
    emit(Instruction.create_reg_i32(Code.ADD_RM64_IMM32, Register.RDI, 8 * REGISTERS))
    emit(Instruction.create_reg_i32(Code.MOV_R32_IMM32, Register.ECX, WORDS))
    code += b"\xf3\x48\xa5"  # rep movsq
    emit(Instruction.create_mem_reg(Code.MOV_RM64_R64, block(_CURSOR), Register.RDI))
    emit(Instruction.create_reg_mem(Code.CMP_R64_RM64, Register.RDI, block(_LIMIT)))
    code += b"\x72\x01" + BREAKPOINT  # jb over it
    for register in (Register.RDI, Register.RSI, Register.RCX, Register.RAX):
        emit(Instruction.create_reg(Code.POP_R64, register))
    emit(Instruction.create(Code.POPFQ))
    emit(Instruction.create(Code.RETNQ))
    return bytes(code)


def _at(base: Register_, displacement: int) -> MemoryOperand:
    return MemoryOperand(base, displ=displacement, displ_size=8 if displacement else 0)


def copy(code: bytes, start: int, at: int, record: int) -> Copy:
    """The copy, to lie at `at`, of `code`, which lies at `start`.

    `record` is the routine's address, within 2 GiB of `at`.
    """
    instructions = list(Decoder(64, code, ip=start))
    known = {instruction.ip for instruction in instructions}
    length = len(_SKIP_RED_ZONE) + 5 + 5 + len(_BACK)
    leaves = {each.ip for each in instructions if not _stays(each, known) or not _reaches(each, at)}
    entries: dict[int, int] = {}
    place = at
    for each in instructions:
        entries[each.ip] = place
        place += length + (1 if each.ip in leaves else _copied_size(each))
    out = bytearray()
    exits: dict[int, int] = {}
    places: dict[int, int] = {}
    for each in instructions:
        out += _SKIP_RED_ZONE
        out += b"\x68" + struct.pack("<i", each.ip - start)  # push $offset
        out += b"\xe8" + struct.pack("<i", record - (at + len(out) + 5))  # call record
        out += _BACK
        here = at + len(out)
        if each.ip in leaves:
            exits[here] = each.ip
            out += BREAKPOINT
        else:
            places[here] = each.ip
            out += _copied(each, code[each.ip - start :][: each.len], here, entries)
    return Copy(bytes(out), entries, exits, places)


def _stays(instruction: Instruction, known: set[int]) -> bool:
    """Whether control surely goes on inside the copy."""
    flow = instruction.flow_control
    if flow == FlowControl.NEXT:
        return instruction.next_ip in known
    if flow == FlowControl.CONDITIONAL_BRANCH:
        is_jcc = instruction.is_jcc_short_or_near  # not loop or jrcxz, which have only a short form
        return is_jcc and instruction.near_branch_target in known and instruction.next_ip in known
    return flow == FlowControl.UNCONDITIONAL_BRANCH and instruction.near_branch_target in known


def _reaches(instruction: Instruction, at: int) -> bool:
    """Whether what the instruction addresses relative to itself can be addressed from the copy, too."""
    far = instruction.ip_rel_memory_address - at if instruction.is_ip_rel_memory_operand else 0
    return -_REACH + LARGEST_COPY < far < _REACH - LARGEST_COPY


def _copied_size(instruction: Instruction) -> int:
    if instruction.flow_control == FlowControl.NEXT:
        return instruction.len
    return 6 if instruction.flow_control == FlowControl.CONDITIONAL_BRANCH else 5


def _copied(instruction: Instruction, data: bytes, here: int, entries: Mapping[int, int]) -> bytes:
    """The instruction `data`, as it must be at `here`."""
    flow = instruction.flow_control
    if flow == FlowControl.CONDITIONAL_BRANCH:
        condition = data[-2] if instruction.is_jcc_short else data[-5]
        to = entries[instruction.near_branch_target] - here - 6
        return bytes((0x0F, 0x80 | condition & 0x0F)) + struct.pack("<i", to)
    if flow == FlowControl.UNCONDITIONAL_BRANCH:
        return b"\xe9" + struct.pack("<i", entries[instruction.near_branch_target] - here - 5)
    if not instruction.is_ip_rel_memory_operand:
        return data
    decoder = Decoder(64, data, ip=instruction.ip)
    at = decoder.get_constant_offsets(decoder.decode()).displacement_offset
    to = instruction.ip_rel_memory_address - here - instruction.len
    return data[:at] + struct.pack("<i", to) + data[at + 4 :]
