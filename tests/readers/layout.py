"""The cases as bytes: code, `.eh_frame`, `.eh_frame_hdr` and an ELF file for each; all in one file for program.c."""

import struct
from dataclasses import dataclass

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.dwarf import decode
from jitunwind.dwarf.constants import CallFrame
from jitunwind.dwarf.encode import eh_frame
from jitunwind.dwarf.leb128 import signed, unsigned
from tests.readers.cases import CALL, CASES, RA, SET_LOC, SIZE, Case

BASE, STRIDE, DESCRIPTION, IMAGE = 0x10_0000_0000, 0x4000, 0x1000, 0x2000
"""Where the first function lies, how far it is to the next, and where its description and its ELF file are."""


def _code() -> bytes:
    out = bytes.fromhex("53 4829c4 4c89eb".replace(" ", ""))
    for index in range(6):  # lea 16*index+16(%r8),%r9; mov %r9,40-8*index(%rsp): the mark at CFA-24-8*index
        out += bytes([0x4D, 0x8D, 0x48, 16 * index + 16]) + bytes([0x4C, 0x89, 0x4C, 0x24, 40 - 8 * index])
    out += bytes.fromhex("4889e5")
    assert len(out) <= CALL
    out = out.ljust(CALL, b"\x90") + bytes.fromhex("ffd6")
    return out.ljust(SIZE - 6, b"\x90") + bytes.fromhex("4883c430 5b c3".replace(" ", ""))


CODE = _code()


@dataclass(frozen=True)
class Laid:
    """A case's bytes for one address: the code, and right behind it the table and its `.eh_frame_hdr`."""

    case: Case
    address: int
    table: bytes
    header: bytes

    @property
    def table_address(self) -> int:
        return self.address + SIZE

    @property
    def header_address(self) -> int:
        return self.table_address + len(self.table)

    def image(self) -> bytes:
        """An ELF file that says it all: code and tables in one loaded segment, a symbol for the function."""
        return _elf(self)


def _entry(body: bytes, wide: int) -> bytes:
    """A length before it, DW_CFA_nop (0) behind it to whole words."""
    before = b"\xff\xff\xff\xff" if wide else b""
    width = 8 if wide else 4
    body += bytes(-(len(before) + width + len(body)) % 8)
    return before + len(body).to_bytes(width, "little") + body


def _pointer(encoding: int, value: int, place: int) -> bytes:
    number = value - place if encoding & 0x10 else value
    return struct.pack("<i" if encoding & 0x0F == 0x0B else "<q", number)


def laid_out(case: Case, address: int) -> Laid:
    if case.table is not None:
        table = eh_frame(X86_64, [(address, case.table)], address + SIZE)
        found = [(fde.start, address + SIZE + fde.offset) for fde in decode.eh_frame(table, address + SIZE)]
    else:
        table, found = _written(case, address)
    table += bytes(8)  # a terminator, and four bytes more, so that what follows is aligned
    header = address + SIZE + len(table)
    # LSB core 5.0, section 10.6.2: version 1; pcrel | sdata4, udata4, datarel | sdata4
    out = bytes([1, 0x1B, 0x03, 0x3B]) + struct.pack("<iI", address + SIZE - header - 4, len(found))
    out += b"".join(struct.pack("<ii", start - header, fde - header) for start, fde in found)
    return Laid(case, address, table, out)


def _written(case: Case, address: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The `.eh_frame` of a case by hand, and each FDE's (start of its code, own address)."""
    cie = case.cie
    augmented = cie.augmentation.startswith(b"z")
    width = cie.wide or 4
    head = bytes(width) + bytes([cie.version]) + cie.augmentation + b"\0"
    head += unsigned(cie.code_alignment) + signed(cie.data_alignment) + bytes([RA])
    if augmented:
        data = bytes([cie.encoding]) * cie.augmentation.count(b"R")
        head += unsigned(len(data)) + data
    table = _entry(head + cie.instructions, cie.wide)
    found = []
    for start, size, instructions in case.ranges():
        begin = len(table)
        at = begin + (12 if cie.wide else 4)  # of the CIE pointer, which counts back from itself
        place = address + SIZE + at + width
        body = at.to_bytes(width, "little") + _pointer(cie.encoding, address + start, place)
        body += _pointer(cie.encoding & 0x0F, size, 0)
        body += b"\0" if augmented else b""
        before, marker, after = instructions.partition(SET_LOC)
        if marker:
            target = place - width + len(body) + len(before) + 1
            before += bytes([CallFrame.SET_LOC]) + _pointer(cie.encoding, address + 0x20, target)
        table += _entry(body + before + after, cie.wide)
        found.append((address + start, address + SIZE + begin))
    return table, found


def arena() -> bytes:
    """All cases for program.c, the first at BASE."""
    out = bytearray()
    for index, case in enumerate(CASES):
        at = BASE + STRIDE * index
        laid = laid_out(case, at)
        image = laid.image()
        places = (at, SIZE, laid.table_address, len(laid.table), laid.header_address, len(laid.header))
        slot = (CODE + laid.table + laid.header).ljust(DESCRIPTION, b"\0")
        assert len(slot) == DESCRIPTION
        slot += struct.pack("<9Q", *places, at + IMAGE, len(image), index)
        slot = slot.ljust(IMAGE, b"\0") + image
        assert len(slot) <= STRIDE
        out += slot.ljust(STRIDE, b"\0")
    return bytes(out)


def _elf(laid: Laid) -> bytes:
    """ET_DYN (gABI chapters 4 and 5) with a segment at the code's own address."""
    loaded = CODE + laid.table + laid.header
    begin = 0x1000  # of the segment in the file: congruent to its address modulo the page
    names = b"\0.text\0.eh_frame\0.eh_frame_hdr\0.symtab\0.strtab\0.shstrtab\0"
    # A symbol for the function, or for each FDE's part of it: global (1), a function (2), in section 1.
    named = [(0, SIZE)] if not laid.case.symbols else [(start, size) for start, size, _ in laid.case.ranges()]
    strings, symbols = b"\0", bytes(24)
    for start, size in named:
        symbols += struct.pack("<IBBHQQ", len(strings), 0x12, 0, 1, laid.address + start, size)
        strings += f"case_{laid.address + start:x}".encode() + b"\0"
    at = begin + len(loaded)
    tail = symbols + strings + names

    def section(
        text: bytes, kind: int, flags: int, address: int, offset: int, size: int, *rest: int
    ) -> bytes:
        link, info, align, entry = (*rest, 0, 0, 8, 0)[:4] if rest else (0, 0, 1, 0)
        return struct.pack(
            "<IIQQQQIIQQ",
            names.index(text + b"\0"),
            kind,
            flags,
            address,
            offset,
            size,
            link,
            info,
            align,
            entry,
        )

    table, header = begin + SIZE, begin + SIZE + len(laid.table)
    sections = bytes(64)
    sections += section(b".text", 1, 6, laid.address, begin, SIZE)
    sections += section(b".eh_frame", 1, 2, laid.table_address, table, len(laid.table))
    sections += section(b".eh_frame_hdr", 1, 2, laid.header_address, header, len(laid.header))
    sections += section(b".symtab", 2, 0, 0, at, len(symbols), 5, 1, 8, 24)
    sections += section(b".strtab", 3, 0, 0, at + len(symbols), len(strings))
    sections += section(b".shstrtab", 3, 0, 0, at + len(symbols) + len(strings), len(names))
    programs = struct.pack(
        "<IIQQQQQQ", 1, 5, begin, laid.address, laid.address, len(loaded), len(loaded), 0x1000
    )
    programs += struct.pack(
        "<IIQQQQQQ",
        0x6474E550,
        4,
        header,
        laid.header_address,
        laid.header_address,
        *[len(laid.header)] * 2,
        4,
    )
    where = at + len(tail)
    where += -where % 8
    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, where, 0, 64, 56, 2, 64, 7, 6)
    return ((elf + programs).ljust(begin, b"\0") + loaded + tail).ljust(where, b"\0") + sections
