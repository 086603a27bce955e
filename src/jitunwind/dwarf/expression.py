"""DWARF expressions as call frame information uses them: bytes and registers in, a 64-bit value out.

Signal frames give registers by them, PLT entries the CFA. What locations of variables need besides (pieces, addresses
in other units, calls) has no place in call frame information (DWARF 5 section 6.4.2), and is refused.
"""

from collections.abc import Callable, Mapping

from jitunwind.dwarf.decode import Cursor
from jitunwind.errors import MalformedFrames

_MASK = (1 << 64) - 1
_MOST_STEPS = 10_000
"""Branches go back, too: what does not end is no expression."""
_MOST_VALUES = 1_000
_ADDR, _DEREF, _DUP, _DROP, _OVER, _PICK, _SWAP, _ROT = 0x03, 0x06, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17
_ABS, _NEG, _NOT, _PLUS_UCONST, _BRA, _SKIP = 0x19, 0x1F, 0x20, 0x23, 0x28, 0x2F
_LIT0, _BREG0, _BREG31, _BREGX, _DEREF_SIZE, _NOP = 0x30, 0x70, 0x8F, 0x92, 0x94, 0x96
_CONSTANTS: dict[int, tuple[int, bool]] = {
    0x08: (1, False),
    0x09: (1, True),
    0x0A: (2, False),
    0x0B: (2, True),
    0x0C: (4, False),
    0x0D: (4, True),
    0x0E: (8, False),
    0x0F: (8, True),
}
"""DW_OP_const1u to const8s: bytes, and whether they are signed."""
_CONSTU, _CONSTS = 0x10, 0x11


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_BINARY: dict[int, Callable[[int, int], int]] = {
    0x1A: lambda a, b: a & b,
    0x1B: lambda a, b: _quotient(_signed(a), _signed(b)),
    0x1C: lambda a, b: a - b,
    0x1D: lambda a, b: a % b,
    0x1E: lambda a, b: a * b,
    0x21: lambda a, b: a | b,
    0x22: lambda a, b: a + b,
    0x24: lambda a, b: a << b if b < 64 else 0,
    0x25: lambda a, b: a >> b if b < 64 else 0,
    0x26: lambda a, b: _signed(a) >> min(b, 63),
    0x27: lambda a, b: a ^ b,
    0x29: lambda a, b: int(a == b),
    0x2A: lambda a, b: int(_signed(a) >= _signed(b)),
    0x2B: lambda a, b: int(_signed(a) > _signed(b)),
    0x2C: lambda a, b: int(_signed(a) <= _signed(b)),
    0x2D: lambda a, b: int(_signed(a) < _signed(b)),
    0x2E: lambda a, b: int(a != b),
}
"""Operations on the two topmost values, the upper one second (DWARF 5 sections 2.5.1.4 and 2.5.1.5)."""


def _quotient(dividend: int, divisor: int) -> int:
    size = abs(dividend) // abs(divisor)
    return size if (dividend < 0) == (divisor < 0) else -size


def evaluate_expression(
    code: bytes, registers: Mapping[int, int], read_word: Callable[[int], int], initial: int | None = None
) -> int:
    """The value that `code` leaves on top of its stack, 64-bit; `initial` stands there first (the CFA, for a register's
    rule).

    MalformedFrames for what is no such expression; KeyError for a register that is not known; what `read_word` raises
    passes through.
    """
    try:
        return _run(Cursor(code, 0), registers, read_word, [] if initial is None else [initial])
    except (IndexError, ZeroDivisionError):
        raise MalformedFrames(f"the expression {code.hex()} makes no sense") from None


def _run(
    cursor: Cursor, registers: Mapping[int, int], read_word: Callable[[int], int], stack: list[int]
) -> int:
    for _ in range(_MOST_STEPS):
        if cursor.at >= cursor.end:
            return stack[-1]
        _step(cursor.unsigned(1), cursor, registers, read_word, stack)
        if len(stack) > _MOST_VALUES:
            break
    raise MalformedFrames(f"the expression {cursor.data.hex()} does not end")


def _step(
    opcode: int,
    cursor: Cursor,
    registers: Mapping[int, int],
    read_word: Callable[[int], int],
    stack: list[int],
) -> None:
    binary = _BINARY.get(opcode)
    if binary is not None:
        upper, lower = stack.pop(), stack.pop()
        stack.append(binary(lower, upper) & _MASK)
    elif _LIT0 <= opcode < _LIT0 + 32:
        stack.append(opcode - _LIT0)
    elif _BREG0 <= opcode <= _BREG31 or opcode == _BREGX:
        register = cursor.uleb() if opcode == _BREGX else opcode - _BREG0
        stack.append(registers[register] + cursor.sleb() & _MASK)
    elif opcode in _CONSTANTS:
        size, is_signed = _CONSTANTS[opcode]
        stack.append(int.from_bytes(cursor.take(size), "little", signed=is_signed) & _MASK)
    elif opcode in (_ADDR, _CONSTU, _CONSTS, _PLUS_UCONST):
        _constant(opcode, cursor, stack)
    elif opcode in (_DEREF, _DEREF_SIZE):
        word = read_word(stack.pop())
        stack.append(word if opcode == _DEREF else word & (1 << 8 * min(cursor.unsigned(1), 8)) - 1)
    elif opcode in (_SKIP, _BRA):
        distance = int.from_bytes(cursor.take(2), "little", signed=True)
        if opcode == _SKIP or stack.pop():
            cursor.at += distance
            if not 0 <= cursor.at <= cursor.end:
                raise MalformedFrames(f"the expression {cursor.data.hex()} leaves itself")
    elif opcode in (_ABS, _NEG, _NOT):
        value = stack.pop()
        stack.append({_ABS: abs(_signed(value)), _NEG: -value, _NOT: ~value}[opcode] & _MASK)
    else:
        _shuffle(opcode, cursor, stack)


def _constant(opcode: int, cursor: Cursor, stack: list[int]) -> None:
    if opcode == _ADDR:
        stack.append(cursor.unsigned(8))
    elif opcode == _PLUS_UCONST:
        stack.append(stack.pop() + cursor.uleb() & _MASK)
    else:
        stack.append((cursor.uleb() if opcode == _CONSTU else cursor.sleb()) & _MASK)


def _shuffle(opcode: int, cursor: Cursor, stack: list[int]) -> None:
    """The operations that only move values (DWARF 5 section 2.5.1.3)."""
    if opcode == _DUP:
        stack.append(stack[-1])
    elif opcode == _DROP:
        stack.pop()
    elif opcode == _OVER:
        stack.append(stack[-2])
    elif opcode == _PICK:
        stack.append(stack[-1 - cursor.unsigned(1)])
    elif opcode == _SWAP:
        stack[-2:] = stack[-1], stack[-2]
    elif opcode == _ROT:
        stack[-3:] = stack[-1], stack[-3], stack[-2]
    elif opcode != _NOP:
        raise MalformedFrames(f"the expression {cursor.data.hex()} has the operation {opcode:#x}")
