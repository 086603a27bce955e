"""Rows that lead past a gate: code and the gate that has called it as one frame.

In come a code's table and the gate's row at its call; out comes a table for readers that have a copy of the stack from
the stack pointer up, as perf has. When a C function has popped a register and is about to return, its compiler's table
still says that the register lies in the stack, below the stack pointer: such a reader loses it. A gate saves all
registers where they stay, so a table that leads past it does not need them.
"""

from jitunwind.arch import Architecture, Convention
from jitunwind.rows import (
    UNDEFINED,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SameValue,
    SavedAt,
    Undefined,
    Unknown,
    UnwindTable,
)

_identity = object.__hash__
"""As `id`: see dwarf/encode.py."""
_MOST_KNOWN = 1 << 12


class PastGate:
    """Leads past the gate whose row, where its call comes back to, is `gate`; it calls code by `convention`. ValueError
    for a gate whose CFA is not by the stack pointer."""

    def __init__(self, arch: Architecture, gate: Row, convention: Convention) -> None:
        if gate.cfa.register != arch.stack_pointer:
            raise ValueError("the gate's CFA is not by the stack pointer")
        self._gate = gate
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
            known = self._known[_identity(row)] = (row, self._composed(row) if is_called_by_gate else row)
        return known[1]

    def _composed(self, row: Row) -> Row:
        """`row`, and then the gate's at its caller."""
        registers = sorted({register for register, _ in (*row.rules, *self._gate.rules)})
        rules = tuple((register, self._rule(register, row)) for register in registers)
        cfa = CfaRule(row.cfa.register, row.cfa.offset + self._gate.cfa.offset)
        return Row(cfa, rules, self._gate.signed)

    def _rule(self, register: int, row: Row) -> RegisterRule:
        outer = self._gate.rule(register)
        if isinstance(outer, (SavedAt, Undefined)):
            return outer
        source = outer.register if isinstance(outer, InRegister) else register
        inner = row.rule(source)
        if isinstance(inner, SavedAt):
            return SavedAt(inner.offset - self._gate.cfa.offset)
        return InRegister(source) if isinstance(inner, SameValue) and source != register else inner
