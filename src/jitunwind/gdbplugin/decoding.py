"""Which decoder recovery uses inside GDB: the architecture's own where GDB's Python can import what it needs
(x86_64's is iced-x86), else GDB itself."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import cache

import gdb

from jitunwind.arch import Architecture
from jitunwind.arch.effects import Decoded, Decoder
from jitunwind.arch.known import ARCHITECTURES, decoder, module


def name_of_decoder(arch: Architecture) -> str:
    """What it is called."""
    if _own(arch.name) is None:
        return "GDB's disassembler"
    return arch.decoder_package or "jitunwind"


def decoder_of(arch: Architecture, start: int) -> Decoder:
    """A decoder of the machine code that lies at address `start`."""
    own = _own(arch.name)

    def decode(code: bytes, offset: int, followed: Collection[int]) -> Decoded:
        if own is not None:
            with suppress(ImportError):  # what it needs may be there, but not for this Python
                return own(code, offset, followed)
        # Needed here only: GDB starts faster without it.
        by_text: Decoder = module(arch, "text").text_decoder(disassembler(start), start)
        return by_text(code, offset, followed)

    return decode


@cache
def _own(name: str) -> Decoder | None:
    try:
        return decoder(ARCHITECTURES[name])
    except ImportError:
        return None


def disassembler(start: int):  # type: ignore[no-untyped-def]
    """GDB's disassembler over the code at `start`: (from, to) offsets -> (offset, length, text)."""

    def disassemble(begin: int, end: int) -> Iterator[tuple[int, int, str]]:
        architecture = gdb.selected_inferior().architecture()
        for line in architecture.disassemble(start + begin, start + end - 1):
            yield line["addr"] - start, line["length"], line["asm"]

    return disassemble
