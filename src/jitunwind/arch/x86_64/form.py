"""A form of x86_64 instructions, as `semantics` tells it and `forms` keeps it."""

from typing import NamedTuple

from jitunwind.arch.effects import Control

LONGEST = 15
"""Bytes of an instruction (AMD64 manual, volume 3, section 1.1)."""
NO_REGISTER, ANY_REGISTER = -1, -2


class Form(NamedTuple):
    """A form of instructions, whoever looks at them.

    `handler` names what tells what one does (`semantics.effects_of`); empty: nothing of interest. It matters to who
    follows the register `operand` (its DWARF number): NO_REGISTER, to nobody; ANY_REGISTER, to everybody.
    `control` is the name of a `Control`. Those with a `displacement` lead to what their last so many bytes say, from
    behind them. `clobbers` is a register that they set to something not tracked, whatever their constants are.
    """

    length: int
    handler: str = ""
    operand: int = ANY_REGISTER
    control: str = Control.NEXT.name
    displacement: int = 0
    clobbers: int = NO_REGISTER
