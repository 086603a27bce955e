"""Which line of Python each instruction of an executor's machine code runs.

The micro-op `_SET_IP` stores the address of the bytecode instruction into the interpreter's frame. Exits compute
it from the bytecode's offset instead. Both are found in the bytes (`stencils`); each holds from its store to the
next one.
"""

from collections.abc import Iterable

from jitunwind.cpython.objects import CodeObject, Objects
from jitunwind.cpython.stencils import Store
from jitunwind.region import Line


def line_rows(stores: Iterable[Store], objects: Objects, owner: CodeObject | None) -> list[Line]:
    """The lines of one region's machine code, which has these stores, both by rising offset, the first line at 0;
    empty where none is known.

    `owner`: the code object that the executor was made for.
    """
    rows: list[Line] = []
    current, last = owner, None
    for offset, address, within in stores:
        if address is not None:
            if current is None or not current.holds(address):  # nearly always it does
                current = objects.code_of_instruction(address) or current
        elif owner is not None and within < owner.bytecode_size:
            current = owner
        if current is None:
            continue
        line = current.line_at(address if address is not None else current.bytecode + within)
        if line is not None and (line != last or current.filename != rows[-1].filename):
            rows.append(Line(offset, current.filename, line))
            last = line
    if rows:
        rows[0] = rows[0]._replace(offset=0)
    return rows


def first_code(stores: Iterable[Store], objects: Objects) -> CodeObject | None:
    """The code object whose bytecode the machine code, which has these stores by rising offset, mentions first."""
    for store in stores:
        if store.address is not None:
            return objects.code_of_instruction(store.address)
    return None
