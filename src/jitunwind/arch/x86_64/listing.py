"""x86_64 machine code as people read it: one line of text for each instruction, as binutils write it.

`explain` calls this. Recovery does not: it asks `effects` what instructions do, and knows no text.
"""

from collections.abc import Iterator

from iced_x86 import Decoder, Formatter, FormatterSyntax, Instruction, OpKind

from jitunwind.arch.listing import Listed

_NEAR = (OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64)


def listing(code: bytes, base: int, start: int, end: int) -> Iterator[Listed]:
    """The instructions of `code[start:end]`, where `code` lies at address `base`; one that does not end before
    `end`, or is none, is `(bad)` up to there."""
    formatter = _formatter()
    decoder = Decoder(64, code[start:end], ip=base + start)
    instruction = Instruction()
    at = start
    while at < end:
        decoder.decode_out(instruction)
        size = instruction.len
        if instruction.is_invalid or not size:
            yield Listed(at, end - at, "(bad)", None, None)
            return
        jump = instruction.near_branch_target if instruction.op0_kind in _NEAR else None
        yield Listed(at, size, formatter.format(instruction), jump, _mentioned(instruction))
        at += size


def _mentioned(instruction: Instruction) -> int | None:
    if instruction.is_ip_rel_memory_operand:
        return instruction.ip_rel_memory_address
    return instruction.immediate64 if instruction.op1_kind == OpKind.IMMEDIATE64 else None


def _formatter() -> Formatter:
    formatter = Formatter(FormatterSyntax.GAS)
    formatter.uppercase_hex = False
    formatter.small_hex_numbers_in_decimal = False
    formatter.space_after_operand_separator = False
    formatter.branch_leading_zeros = False
    formatter.first_operand_char_index = 7
    formatter.show_branch_size = False
    return formatter
