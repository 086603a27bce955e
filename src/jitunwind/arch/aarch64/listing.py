"""AArch64 machine code as people read it: one line of text for each instruction, as binutils write it.

`explain` calls this. Recovery does not: it asks `effects` what instructions do, and knows no text.
"""

from collections.abc import Iterator

from capstone import CS_ARCH_ARM64, CS_MODE_ARM, Cs

from jitunwind.arch.aarch64.effects import meaning
from jitunwind.arch.listing import Listed

_SIZE = 4
_PAGE = 1 << 12


def listing(code: bytes, base: int, start: int, end: int) -> Iterator[Listed]:
    """The instructions of `code[start:end]`, where `code` lies at address `base`; one that does not end before
    `end`, or is none, is `(bad)` up to there."""
    disassembler = Cs(CS_ARCH_ARM64, CS_MODE_ARM)
    pages: dict[int, int] = {}
    at = start
    while at + _SIZE <= end:
        address = base + at
        lines = list(disassembler.disasm_lite(code[at : at + _SIZE], address, 1))
        if not lines:
            break
        word = int.from_bytes(code[at : at + _SIZE], "little")
        _, size, mnemonic, operands = lines[0]
        meant = meaning(word, ())
        jump = None
        if meant is not None and meant[2] is not None:
            jump = address + meant[2]
            operands = operands.replace(f"#{jump:#x}", f"{jump:#x}")
        yield Listed(at, size, f"{mnemonic:<7}{operands}".rstrip(), jump, _mentioned(word, address, pages))
        at += size
    if at < end:
        yield Listed(at, end - at, "(bad)", None, None)


def _mentioned(word: int, address: int, pages: dict[int, int]) -> int | None:
    """The address that an instruction makes relative to itself, alone or on the page that an `adrp` before it has
    made. `pages`: what those left in their registers."""
    target, source = word & 31, word >> 5 & 31
    if word & 0x1F000000 == 0x10000000:  # adr, adrp
        distance = (word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3
        distance -= (distance >> 20) << 21
        if not word >> 31:
            return address + distance
        pages[target] = (address & -_PAGE) + distance * _PAGE
        return None
    if word & 0x3B000000 == 0x18000000:  # ldr, from a place relative to itself
        distance = word >> 5 & 0x7FFFF
        return address + (distance - ((distance >> 18) << 19)) * _SIZE
    page = pages.get(source)
    mentioned = None
    if page is not None and word & 0xFFC00000 == 0x91000000:  # add
        mentioned = page + (word >> 10 & 0xFFF)
    elif page is not None and word & 0x3B400000 == 0x39400000:  # ldr
        shift = 4 if word >> 26 & 1 and word >> 23 & 1 else word >> 30
        mentioned = page + ((word >> 10 & 0xFFF) << shift)
    meant = meaning(word, (target,))
    if meant is not None:
        pages.pop(target, None)
    return mentioned
