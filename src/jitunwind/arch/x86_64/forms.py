"""Forms of x86_64 instructions: what all share whose bytes before their constants are the same.

A sweep over code looks each instruction up by its first bytes. Machine code consists of few forms, and a look-up
costs a fraction of decoding. Those of CPython's stencils stand in known_forms.py, which `make forms` has
written; others are learnt from iced-x86 (`semantics`) when code has them.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

from jitunwind.arch.effects import (
    NO_EFFECTS,
    Assign,
    Clobber,
    Control,
    Effect,
    Effects,
    Exchange,
    Load,
    Step,
    Store,
    clobber,
    effects,
)
from jitunwind.arch.x86_64.form import ANY_REGISTER, LONGEST, Form
from jitunwind.arch.x86_64.known_forms import EFFECTS, FORMS
from jitunwind.arch.x86_64.registers import RSP
from jitunwind.rows import WORD

try:
    from jitunwind.arch.x86_64.sweep import clear, put, table
except (ImportError, SystemError):  # as in effects.py: the dictionaries are all there is

    def table() -> object:
        return None

    def put(table: object, key: bytes, value: int) -> None:
        pass

    def clear(table: object) -> None:
        pass


PUSH_NEXT = effects(Store(RSP, -WORD, None, WORD), Assign(RSP, RSP, -WORD))
"""Of a call of the next instruction, which takes its own address from the stack."""
_MOST_KNOWN = 1 << 16


class Observed(NamedTuple):
    """A form, as seen by who follows certain registers: it has `effects`, unless a `handler` has to say."""

    length: int
    handler: str | None
    effects: Effects
    control: Control
    displacement: int


_ALONE = (
    *(*range(0x50, 0x60), 0x68, 0x6A, *range(0x70, 0x80), *range(0x90, 0xC0)),
    *(0xC2, 0xC3, 0xC8, 0xC9, 0xCC, 0xCD, *range(0xE0, 0xF0), 0xF4),
)
"""Opcodes without a ModRM byte (AMD64 manual, volume 3, appendix A)."""


def _widths() -> bytes:
    """How many bytes tell the form of an instruction, if there is no SIB byte: by its first byte; or, where that gives
    no answer (0), 256 bytes behind, by the second: behind REX; and another 256 bytes behind: behind 0F."""
    widths, after_rex, after_escape = bytearray([2] * 256), bytearray([3] * 256), bytearray([3] * 256)
    for opcode in _ALONE:
        widths[opcode], after_rex[opcode] = 1, 2
    after_escape[0x80:0x90] = [2] * 16  # jumps on conditions
    widths[0x40:0x50] = bytes(16)  # REX
    widths[0x0F] = 0
    for prefix in (0x64, 0x65, 0x66, 0xF2, 0xF3, 0xC5):
        widths[prefix] = 4
    widths[0xC4], widths[0x62] = 5, 6  # VEX, EVEX
    return bytes(widths + after_rex + after_escape)


WIDTHS = _widths()
AFTER_REX, AFTER_ESCAPE, ESCAPE = 256, 512, 0x0F


def width_at(code: bytes, position: int) -> int:
    """By `WIDTHS`, how many bytes tell the form of the instruction at `position`."""
    first = code[position]
    if WIDTHS[first] or position + 1 == len(code):
        return WIDTHS[first] or 2
    return WIDTHS[(AFTER_ESCAPE if first == ESCAPE else AFTER_REX) + code[position + 1]]


class Forms:
    """The forms known so far, as seen by one who follows certain registers."""

    def __init__(self, tracked: frozenset[int]) -> None:
        self.tracked = tracked
        self.lengths: dict[bytes, int] = {}
        """By the bytes that tell a form: the length of its instructions, where they do not matter; for others minus
        their index in `observed`; 0: more bytes tell."""
        self.observed = [Observed(0, None, NO_EFFECTS, Control.NEXT, 0)]
        self.places: dict[bytes, int] = {}
        """By whole instructions whose form has a handler: the index in `effects` of what they do."""
        self.effects: list[Effects] = []
        self._in_c = (table(), table())
        """`lengths` and `places` once more, for the sweep in C."""
        self.context: tuple[Any, ...] = (
            *(WIDTHS, self.lengths, self.observed, self.places, self.effects, self._in_c),
            *(Control.NEXT, Control.BRANCH, Control.CALL, PUSH_NEXT, Step),
        )
        """What a sweep needs: `WIDTHS`, what is known here, and what C has no other way to."""
        self._known_effects = EFFECTS.get(tuple(sorted(tracked)), {})

    def learn(self, code: bytes, position: int) -> Observed:
        """The form of the instruction at `position`. It is remembered, but where the code's end may have cut
        it off."""
        key, form = _known(code, position) or _asked(code, position)
        if position + LONGEST <= len(code):
            if len(self.lengths) > _MOST_KNOWN:
                self._forget(0, self.lengths)
                del self.observed[1:]
            for shorter in range(width_at(key, 0), len(key)):
                self._note(key[:shorter], 0)
            self._remember(key, form)
        return self._seen(form)

    def effects_of(self, handler: str, instruction: bytes) -> Effects:
        """What that instruction does, whose form has that handler."""
        known = self._known_effects.get(instruction)
        if known is not None:
            found = effects(*(_EFFECTS[name](*fields) for name, *fields in known))
        else:
            from jitunwind.arch.x86_64 import semantics

            found = semantics.effects_of(handler, instruction, self.tracked)
        if len(self.places) > _MOST_KNOWN:
            self._forget(1, self.places)
            self.effects.clear()
        self.effects.append(found)  # before it is known: a time limit may strike in between
        self.places[instruction] = len(self.effects) - 1
        put(self._in_c[1], instruction, len(self.effects) - 1)
        return found

    def _remember(self, key: bytes, form: Form) -> None:
        seen = self._seen(form)
        if seen.handler is None and not seen.effects and seen.control is Control.NEXT:
            self._note(key, form.length)
        else:
            self.observed.append(seen)  # before it is known: a time limit may strike in between
            self._note(key, 1 - len(self.observed))

    def _seen(self, form: Form) -> Observed:
        found = clobber(form.clobbers) if form.clobbers in self.tracked else NO_EFFECTS
        matters = form.handler and (form.operand == ANY_REGISTER or form.operand in self.tracked)
        handler = form.handler if matters else None
        return _new_observed((form.length, handler, found, _CONTROLS[form.control], form.displacement))

    def _note(self, key: bytes, length: int) -> None:
        self.lengths[key] = length
        put(self._in_c[0], key, length)

    def _forget(self, which: int, known: dict[bytes, int]) -> None:
        known.clear()
        clear(self._in_c[which])


def _known(code: bytes, position: int) -> tuple[bytes, Form] | None:
    """The form of the instruction at `position`, behind the bytes that tell it, if known_forms.py has it."""
    for width in range(width_at(code, position), LONGEST):
        key = code[position : position + width]
        fields = FORMS.get(key)
        if fields is None:
            return None
        if fields:
            form = _new_form((*fields, *_DEFAULTS[len(fields) :]))
            return (key, form) if position + form.length <= len(code) else None
    return None


def _asked(code: bytes, position: int) -> tuple[bytes, Form]:
    """The same of any instruction."""
    from jitunwind.arch.x86_64.semantics import form_at

    told, form = form_at(code, position)
    return code[position : position + max(width_at(code, position), told)], form


# A class made by NamedTuple and an Enum run Python of the standard library, which the JIT compiles where it is hot: one
# more executor to publish.
_new_form, _new_observed = partial(tuple.__new__, Form), partial(tuple.__new__, Observed)
_DEFAULTS = Form(0)
_CONTROLS = {control.name: control for control in Control}
_EFFECTS: dict[str, Callable[..., Effect]] = {
    kind.__name__: kind for kind in (Assign, Clobber, Store, Load, Exchange)
}


@cache
def forms_of(tracked: frozenset[int]) -> Forms:
    """Those that all share who follow these registers (DWARF numbers)."""
    return Forms(tracked)
