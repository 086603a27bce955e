"""Which decoder recovery uses inside GDB: iced-x86 where GDB's Python can import it, else GDB itself."""

from collections.abc import Iterator

import gdb

from jitunwind.arch.effects import Decoder

try:
    from jitunwind.arch.x86_64.effects import decode as _iced
except ImportError:
    _iced = None  # type: ignore[assignment]

NAME = "iced-x86" if _iced is not None else "GDB's disassembler"


def decoder_of(start: int) -> Decoder:
    """A decoder of the machine code that lies at address `start`."""
    if _iced is not None:
        return _iced
    from jitunwind.arch.x86_64.text import text_decoder  # needed here only: GDB starts faster without it

    return text_decoder(disassembler(start), start)


def disassembler(start: int):  # type: ignore[no-untyped-def]
    """GDB's disassembler over the code at `start`: (from, to) offsets -> (offset, length, text)."""

    def disassemble(begin: int, end: int) -> Iterator[tuple[int, int, str]]:
        architecture = gdb.selected_inferior().architecture()
        for line in architecture.disassemble(start + begin, start + end - 1):
            yield line["addr"] - start, line["length"], line["asm"]

    return disassemble
