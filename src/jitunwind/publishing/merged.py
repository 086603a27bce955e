"""Tables for readers that have a copy of the stack from the stack pointer up and nothing below, as perf has: they lead
past the gate by which code was entered.

In come a code's table and the gate's row at its call; out comes a table in which both are one frame. When a C function
has popped a register and is about to return, its compiler's table still says that the register lies in the stack, below
the stack pointer: such a reader loses it. A gate saves all registers where they stay, so past it they are known again.
"""

from jitunwind.arch import Architecture, Convention
from jitunwind.recover.beyond import beyond
from jitunwind.rows import UNDEFINED, CfaPlus, Row, Unknown, UnwindTable

_identity = object.__hash__
"""As `id`: see dwarf/encode.py."""
_MOST_KNOWN = 1 << 12


class PastGate:
    """Leads past a gate that calls code by `convention`, and whose row, where that call comes back to, is `gate`.

    `frame_pointer`: what has called the gate has its frame pointer so many bytes above its stack pointer, and finds its
    own frame by it; None: that is not known. ValueError for a gate whose CFA is not by the stack pointer.
    """

    def __init__(
        self, arch: Architecture, gate: Row, convention: Convention, frame_pointer: int | None = None
    ) -> None:
        if gate.cfa.register != arch.stack_pointer:
            raise ValueError("the gate's CFA is not by the stack pointer")
        self._arch, self._gate, self._frame_pointer = arch, gate, frame_pointer
        self._lost = [register for register in arch.callee_saved if register not in convention.preserved]
        self._known: dict[int, tuple[Row, Row]] = {}
        """By identity, and kept alive: whoever encodes the rows knows them by identity as well."""

    def table(self, table: UnwindTable, first: int) -> UnwindTable:
        """`table`, of which the rows from offset `first` on lead to the gate's caller.

        Functions that the code calls itself keep their rows: those know registers that `convention` does not preserve.
        """
        rows: list[Row | Unknown] = []
        for offset, row in zip(table.offsets, table.rows, strict=True):
            rows.append(self._row(row) if offset >= first and isinstance(row, Row) else row)
        return UnwindTable(table.size, table.offsets, rows)

    def _row(self, row: Row) -> Row:
        known = self._known.get(_identity(row))
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            is_called_by_gate = all(row.rule(register) == UNDEFINED for register in self._lost)
            known = self._known[_identity(row)] = (row, self._past(row) if is_called_by_gate else row)
        return known[1]

    def _past(self, row: Row) -> Row:
        past = beyond(self._arch, row, self._gate)
        assert past is not None, "the gate's CFA is by the stack pointer"
        rules = dict(past.rules)
        if self._frame_pointer is not None:
            rules[self._arch.frame_pointer] = CfaPlus(self._frame_pointer)
        return Row(past.cfa, tuple(sorted(rules.items())), self._gate.signed)
