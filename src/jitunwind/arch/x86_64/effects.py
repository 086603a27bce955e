"""x86_64 machine code to the effects that unwinding cares about.

One linear sweep, which looks each instruction up by its first bytes (`forms`). That costs a fraction of decoding, which
is what makes recovery cheaper than other people's plain decoding. The loop that looks them up is also there in C
(sweep.c).
"""

from collections.abc import Collection
from functools import partial
from importlib.util import find_spec
from struct import Struct
from typing import Any

from jitunwind.arch.effects import NO_EFFECTS, Control, Decoded, Step
from jitunwind.arch.x86_64.forms import PUSH_NEXT, Observed, forms_of, width_at

if find_spec("iced_x86") is None:  # it would be imported for the first form that is not known
    raise ImportError("iced-x86 is missing")

_distance = Struct("<i").unpack_from
_new_step = partial(tuple.__new__, Step)
# Members of an Enum are slow to look up where it counts.
_NEXT, _BRANCH, _CALL = Control.NEXT, Control.BRANCH, Control.CALL
_DONE = 1


def _sweep(
    code: bytes,
    position: int,
    furthest: int,
    given: Observed | None,
    context: tuple[Any, ...],
    steps: list[Step],
    starts: list[int],
) -> tuple[int, int, int]:
    """Decode on from `position`, where an instruction is of the form `given`, without a handler, if there is one.

    Where nothing is known of an instruction, the answer is its position and 0; where what it does is not, minus the
    index of its form; `starts` has it already. Else it is where the sweep has ended, behind the code if that cuts the
    last instruction off, and _DONE. `furthest` is the farthest target of the jumps that have been seen.
    """
    widths, lengths, observed, places, effects, *_ = context
    size = len(code)
    while position < size:
        if given is None:
            starts.append(position)
            width = widths[code[position]] or width_at(code, position)
            try:
                length = lengths[code[position : position + width]]
                while length == 0 and position + width < size:
                    width += 1
                    length = lengths[code[position : position + width]]
            except KeyError:
                return position, furthest, 0
            if length > 0:
                position += length
                continue
            if length == 0:
                return position, furthest, 0
            given, index = observed[-length], length
        length, handler, found, control, displacement = given
        given = None
        ip, position = position, position + length
        if position > size:
            break
        if control is _NEXT:
            if handler is not None:
                try:
                    found = effects[places[code[ip:position]]]
                except KeyError:
                    return ip, furthest, index
            if found:
                steps.append(_new_step((ip, position, found, _NEXT, None)))
            continue
        target = None
        if displacement:
            if displacement == 4:
                target = position + _distance(code, position - 4)[0]
            else:
                target = position + (code[position - 1] ^ 0x80) - 0x80
            if control is not _CALL:
                if furthest < target < size:
                    furthest = target
            elif target == position:  # "call next; pop": nobody returns to it
                steps.append(_new_step((ip, position, PUSH_NEXT, _NEXT, None)))
                continue
        steps.append(_new_step((ip, position, found, control, target)))
        if position > furthest and control is not _CALL and control is not _BRANCH:
            break
    return position, furthest, _DONE


try:
    from jitunwind.arch.x86_64.sweep import sweep  # the same in C
except (ImportError, SystemError):  # not built, or for another machine, or see python.h
    sweep = _sweep


def decode(code: bytes, offset: int, tracked: Collection[int]) -> Decoded:
    """Decode `code` from `offset` on in one sweep, up to an instruction that does not fall through and behind
    which no jump seen so far goes (what follows a region's code is data), or to the code's end.

    `tracked`: the registers (DWARF numbers) whose every write matters; writes to others give no step.
    """
    forms = forms_of(frozenset(tracked))
    steps: list[Step] = []
    starts: list[int] = []
    given = None
    position, furthest, outcome = sweep(code, offset, offset, given, forms.context, steps, starts)
    while outcome != _DONE:
        given = forms.observed[-outcome] if outcome else forms.learn(code, position)
        instruction = code[position : position + given.length]
        if given.handler is not None and len(instruction) == given.length:
            found = forms.effects_of(given.handler, instruction)
            given = given._replace(handler=None, effects=found)
        position, furthest, outcome = sweep(code, position, furthest, given, forms.context, steps, starts)
    if position > len(code):  # the last instruction is cut off
        steps.append(_new_step((starts[-1], len(code), NO_EFFECTS, Control.HALT, None)))
    return Decoded(steps, starts)
