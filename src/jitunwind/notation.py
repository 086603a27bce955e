"""Unwind rows in one line, as `readelf` and `objdump` abbreviate them: `CFA=rsp+16 ra=c-8 rbx=u rbp=c-16`.

A row becomes parts, one for the CFA and one for each register, so that a reader can mark those that changed. GDB's
`jit-rows`, `explain` and `check` all print rows this way.
"""

from collections.abc import Iterable

from jitunwind.arch import Architecture
from jitunwind.rows import InRegister, RegisterRule, Row, SavedAt, Undefined, Unknown

CFA, RETURN = "CFA", "ra"
_UNDEFINED = "u"

Parts = dict[str, str]
"""What a row says, by register: {"CFA": "rsp+16", "ra": "c-8", …}."""


def legend(arch: Architecture) -> tuple[tuple[str, str], ...]:
    """Examples of parts, and what they mean."""
    pointer, saved = (arch.register_names[each] for each in (arch.stack_pointer, arch.callee_saved[0]))
    return (
        (f"CFA={pointer}+16", f"the caller's stack pointer, just before its call, is {pointer} + 16"),
        ("ra=c-8", "the return address is saved at CFA-8"),
        (f"{saved}=s", f"{saved} still has the caller's value"),
        (f"{saved}=u, or not listed", "undefined: this frame has not saved it and may have overwritten it"),
    )


def registers(arch: Architecture) -> tuple[str, ...]:
    """The parts that rows have."""
    return (CFA, RETURN, *(arch.register_names[register] for register in arch.callee_saved))


def parts(row: Row | Unknown, arch: Architecture, registers: Iterable[int] | None = None) -> Parts:
    """The parts of the CFA, the return address and `registers` (DWARF numbers; the callee-saved ones unless given),
    in this order; {} where nothing is known."""
    if isinstance(row, Unknown):
        return {}
    names = arch.register_names
    said = {CFA: f"{names[row.cfa.register]}{row.cfa.offset:+d}"}
    said[RETURN] = _rule(row.rule(arch.return_address), names)
    if row.signed is not None:
        said[RETURN] += " signed"
    for register in arch.callee_saved if registers is None else registers:
        said[names[register]] = _rule(row.rule(register), names)
    return said


def _rule(rule: RegisterRule, names: tuple[str, ...]) -> str:
    if isinstance(rule, SavedAt):
        return f"c{rule.offset:+d}"
    if isinstance(rule, InRegister):
        return names[rule.register]
    return _UNDEFINED if isinstance(rule, Undefined) else "s"


def line(said: Parts) -> str:
    """The parts, joined by spaces."""
    return " ".join(f"{name}={rule}" for name, rule in said.items())


def defined(said: Parts) -> Parts:
    """The parts without registers of which the frame knows nothing: in a body most of them."""
    return {name: rule for name, rule in said.items() if rule != _UNDEFINED}
