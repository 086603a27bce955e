"""AArch64 machine code as people read it: one line of text for each instruction, as binutils write it.

`explain` calls this. Recovery does not: it asks `effects` what instructions do, and knows no text.
"""

from collections.abc import Iterator

from capstone import CS_ARCH_ARM64, CS_MODE_ARM, Cs

from jitunwind.arch.aarch64.effects import meaning
from jitunwind.arch.aarch64.words import (
    SIZE,
    immediate_added,
    loaded_at,
    loaded_near,
    near,
    page_of,
)
from jitunwind.arch.listing import Listed


def listing(code: bytes, base: int, start: int, end: int) -> Iterator[Listed]:
    """The instructions of `code[start:end]`, where `code` lies at address `base`; one that does not end before
    `end`, or is none, is `(bad)` up to there."""
    disassembler = Cs(CS_ARCH_ARM64, CS_MODE_ARM)
    pages: dict[int, int] = {}
    at = start
    while at + SIZE <= end:
        address = base + at
        lines = list(disassembler.disasm_lite(code[at : at + SIZE], address, 1))
        if not lines:
            break
        word = int.from_bytes(code[at : at + SIZE], "little")
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
    target = word & 31
    page = page_of(word, address)
    if page is not None:
        pages[target] = page
        return None
    mentioned = near(word, address)
    if mentioned is None:
        mentioned = loaded_near(word, address)
    added, read = immediate_added(word), loaded_at(word)
    if added is not None and added[0] in pages:
        mentioned = pages[added[0]] + added[1]
    elif read is not None and read.base in pages:
        mentioned = pages[read.base] + read.offset
    meant = meaning(word, (target,))
    if meant is not None:
        pages.pop(target, None)
    return mentioned
