"""x86_64 code as compilers write it: PLT entries, padding, switches, uses of rbp. `check` asks."""

from collections.abc import Iterable, Iterator

from iced_x86 import (
    Decoder,
    Instruction,
    InstructionInfoFactory,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
)

from jitunwind.arch.compiled import READS, SAVES, WRITES, Compiled, Surroundings
from jitunwind.arch.x86_64.switches import Switches

_STUB = 16
"""Bytes of a PLT entry: System V psABI x86_64, figure 5.2."""
_JUMP = 6
"""Bytes of `jmp *slot(%rip)`."""
_LONGEST = 15
_PADDING = (Mnemonic.NOP, Mnemonic.INT3)
_READ_ONLY = frozenset((OpAccess.READ, OpAccess.COND_READ))
_info = InstructionInfoFactory()


class _Code:
    nop = b"\x90"

    def starts(self, code: bytes) -> list[int]:
        return [ins.ip for ins in Decoder(64, code)]

    def padding(self, code: bytes) -> tuple[int, int]:
        mnemonics = [ins.mnemonic for ins in Decoder(64, code)]
        padding = sum(mnemonic in _PADDING for mnemonic in mnemonics)
        return padding, len(mnemonics) - padding

    def size(self, code: bytes, offset: int) -> int:
        return _at(code, offset, 0).len

    def is_call(self, code: bytes, offset: int) -> bool:
        ins = _at(code, offset, 0)
        return ins.is_call_near or ins.is_call_near_indirect

    def stubs(self, code: bytes) -> Iterable[int]:
        """All but the first, which the others reach with one word pushed. Until it is bound, a stub of
        `jmp *slot; push; jmp first` jumps to its own push."""
        stubs = range(_STUB, len(code), _STUB)
        return (*stubs, *(stub + _JUMP for stub in stubs if code[stub : stub + 2] == b"\xff\x25"))

    def slot_of_stub(self, code: bytes, address: int) -> int | None:
        for ins in Decoder(64, code, ip=address):
            if ins.is_jmp_near_indirect and ins.is_ip_rel_memory_operand:
                return ins.ip_rel_memory_address
        return None

    def slot_of_call(self, code: bytes, offset: int, address: int) -> int | None:
        ins = _at(code, offset, address)
        return ins.ip_rel_memory_address if ins.is_ip_rel_memory_operand else None

    def frame_pointer_uses(self, code: bytes) -> Iterator[tuple[int, str]]:
        for ins in Decoder(64, code):
            use = _use(ins)
            if use:
                yield ins.ip, use

    def switches(self, code: bytes, address: int, around: Surroundings) -> Switches:
        return Switches(code, address, around)


COMPILED: Compiled = _Code()


def _at(code: bytes, offset: int, address: int) -> Instruction:
    return Decoder(64, code[offset : offset + _LONGEST], ip=address + offset).decode()


def _use(ins: Instruction) -> str:
    """What `ins` does with the frame pointer; "" for nothing."""
    accesses = [
        used.access
        for used in _info.info(ins).used_registers()
        if RegisterExt.full_register(used.register) == Register.RBP
    ]
    if not accesses:
        return ""
    if any(access not in _READ_ONLY for access in accesses):
        return WRITES
    stored = (
        ins.mnemonic == Mnemonic.MOV and ins.op0_kind == OpKind.MEMORY and ins.op1_register == Register.RBP
    )
    return SAVES if stored or ins.mnemonic == Mnemonic.PUSH else READS
