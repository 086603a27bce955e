"""Names of the entries of procedure linkage tables: `free@plt`, as GDB has them from BFD.

In come the headers of a file and an address, out goes the symbol whose slot the entry there jumps through. x86_64:
psABI, section 5.2, with CET's `.plt.sec`; AArch64: AAELF64, "Procedure linkage table", with BTI's form.
"""

import struct
from collections.abc import Iterator

from jitunwind.arch.machine import Machine
from jitunwind.elf.headers import SHT_RELA, Headers, string_at
from jitunwind.elf.symbols import Symbol

_TABLES = (".plt", ".plt.sec", ".plt.got", ".plt.bnd", ".iplt")
_RELOCATION = struct.Struct("<QQq")  # r_offset, r_info, r_addend (gABI, "Relocation")
_SYMBOL_SIZE = 24
_RELATIVE_INDIRECT = {37, 1032}
"""R_X86_64_IRELATIVE, R_AARCH64_IRELATIVE: a resolver's address, no symbol."""
_ENDBR64, _BND, _JUMP = b"\xf3\x0f\x1e\xfa", b"\xf2", b"\xff\x25"
_X86_ALIGNMENTS = (8, 16)
_LONGEST = 16
_BTI = 0xD503245F
_WORDS_BACK = 5


def plt_symbol(headers: Headers, address: int) -> Symbol | None:
    """The entry that `address` (the file's) is in; None where it is in none, or its slot has no relocation."""
    if not any(section.name in _TABLES and section.holds(address) for section in headers.sections):
        return None
    find = _FINDERS.get(headers.machine)
    for start, slot in find(headers, address) if find is not None else ():
        name = _name_of(headers, slot)
        if name is not None:
            return Symbol(f"{name}@plt", start, _LONGEST)
    return None


def _x86_64(headers: Headers, address: int) -> Iterator[tuple[int, int]]:
    """Where the entry may begin, and the slot that it jumps through: `jmp *slot(%rip)`."""
    for alignment in _X86_ALIGNMENTS:
        start = address & -alignment
        code = bytes(headers.at_address(start, _LONGEST))
        at = len(_ENDBR64) if code.startswith(_ENDBR64) else 0
        at += code[at : at + 1] == _BND
        if code[at : at + 2] == _JUMP and len(code) >= at + 6:
            (distance,) = struct.unpack_from("<i", code, at + 2)
            yield start, start + at + 6 + distance


def _aarch64(headers: Headers, address: int) -> Iterator[tuple[int, int]]:
    """`adrp x16, page; ldr x17, [x16, #offset]`, at the address or up to four words before it; `bti c` may
    precede."""
    for start in range(address & -4, (address & -4) - 4 * _WORDS_BACK, -4):
        code = headers.at_address(start, 8)
        if len(code) < 8:
            return
        page, load = struct.unpack("<II", code)
        if page & 0x9F00001F == 0x90000010 and load & 0xFFC003FF == 0xF9400211:
            pages = (page >> 5 & 0x7FFFF) << 2 | page >> 29 & 3
            pages -= (pages & 1 << 20) << 1
            before = headers.at_address(start - 4, 4)
            begin = start - 4 if bytes(before) == _BTI.to_bytes(4, "little") else start
            yield begin, (start & -4096) + (pages << 12) + (load >> 10 & 0xFFF) * 8
            return


_FINDERS = {int(Machine.X86_64): _x86_64, int(Machine.AARCH64): _aarch64}


def _name_of(headers: Headers, slot: int) -> str | None:
    """The name of the symbol whose address the loader writes to `slot`."""
    sections = headers.sections
    for section in sections:
        if section.kind != SHT_RELA or section.link >= len(sections):
            continue
        table = headers.content(section)
        for place, info, addend in _RELOCATION.iter_unpack(table[: len(table) // 24 * 24]):
            if place != slot:
                continue
            if info & 0xFFFFFFFF in _RELATIVE_INDIRECT:
                return f"*ABS*+{addend:#x}"
            symbols = sections[section.link]
            if symbols.link >= len(sections):
                return None
            entry = headers.content(symbols)[(info >> 32) * _SYMBOL_SIZE :][:4]
            name = string_at(headers.content(sections[symbols.link]), int.from_bytes(entry, "little"))
            return f"{name}+{addend:#x}" if name and addend else name or None
    return None
