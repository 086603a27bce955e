"""Which line of Python each instruction of an executor's machine code runs.

The micro-op `_SET_IP` stores the address of the bytecode instruction into the interpreter's frame. Exits compute
it from the bytecode's offset instead. Both are found in the bytes (`stencils`); each holds from its store to the
next one.
"""

from collections.abc import Iterable, Iterator

from jitunwind.jits.cpython.objects import CodeObject, Objects
from jitunwind.jits.cpython.stencils import Store
from jitunwind.region import Line


def line_rows(stores: Iterable[Store], objects: Objects, owner: CodeObject | None) -> list[Line]:
    """The lines of one region's machine code, which has these stores, both by rising offset, the first line at 0;
    empty where none is known.

    `owner`: the code object that the executor was made for.
    """
    rows: list[Line] = []
    last = None
    for offset, code, line in _places(stores, objects, owner):
        if line != last or code.filename != rows[-1].filename:
            rows.append(Line(offset, code.filename, line))
            last = line
    if rows:
        rows[0] = rows[0]._replace(offset=0)
    return rows


def place_at(
    stores: Iterable[Store], objects: Objects, owner: CodeObject | None, offset: int
) -> tuple[CodeObject, int] | None:
    """The code object that runs at `offset`, and its line there, as `line_rows` has it; None where neither is known."""
    found = None
    for begin, code, line in _places(stores, objects, owner):
        if found is not None and begin > offset:
            break
        found = code, line
    return found


def _places(
    stores: Iterable[Store], objects: Objects, owner: CodeObject | None
) -> Iterator[tuple[int, CodeObject, int]]:
    """From which offset on which code object runs, and which of its lines."""
    current = owner
    for offset, address, within in stores:
        if address is not None:
            if current is None or not current.holds(address):  # nearly always it does
                current = objects.code_of_instruction(address) or current
        elif owner is not None and within < owner.bytecode_size:
            current = owner
        if current is None:
            continue
        line = current.line_at(address if address is not None else current.bytecode + within)
        if line is not None:
            yield offset, current, line
