"""Two frames as one: a row, and the row at its caller, as a row that leads to the caller's caller.

A body and the shim that has called it are two frames, which a table may describe as such or as one.
"""

from jitunwind.arch import Architecture
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SameValue,
    SavedAt,
)


def beyond(arch: Architecture, row: Row, outer: Row) -> Row | None:
    """The row that leads from a frame to its caller's caller: by `row`, and from there by `outer`. None where a
    row cannot say that, as it would have to read the stack twice."""
    moved = _cfa(arch, row, outer.cfa)
    if moved is None:
        return None
    cfa, between = moved
    rules: list[tuple[int, RegisterRule]] = []
    for register in sorted((*arch.callee_saved, arch.return_address)):
        rule = outer.rule(register)
        if isinstance(rule, SameValue):
            rule = _seen(row.rule(register), between)
        elif isinstance(rule, InRegister):
            inner = row.rule(rule.register)
            rule = rule if isinstance(inner, SameValue) else _seen(inner, between)
        rules.append((register, rule))
    return Row(cfa, tuple(rules))


def _cfa(arch: Architecture, row: Row, outer: CfaRule) -> tuple[CfaRule, int | None] | None:
    """The outer frame's CFA in terms of the inner frame's registers; and how far it is from the inner CFA, where
    that is known."""
    if outer.register == arch.stack_pointer:
        return CfaRule(row.cfa.register, row.cfa.offset + outer.offset), outer.offset
    if row.rule(outer.register) == SAME_VALUE:
        return outer, None
    return None


def _seen(rule: RegisterRule, between: int | None) -> RegisterRule:
    """A rule of the inner frame, as the outer frame's."""
    if isinstance(rule, SavedAt):
        return SavedAt(rule.offset - between) if between is not None else UNDEFINED
    return rule
