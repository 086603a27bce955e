"""Where another table says something else than the recovered one, at one instruction.

In come the recovered row, the other table's, and the row by which the shim's frame goes on; out come the
registers on which they differ. A body and its shim are two frames, and a table may describe them as such or, as
CPython 3.15 does, as one. So rows of a body are put together with the shim's before they are compared: what
counts is what they say of the caller of JIT code.
"""

from dataclasses import dataclass

from jitunwind.arch import Architecture
from jitunwind.notation import CFA, RETURN, Parts, parts
from jitunwind.recover.beyond import beyond
from jitunwind.rows import UNDEFINED, Row, Unknown


@dataclass(frozen=True, slots=True)
class Difference:
    """What `said` says of each register in `registers` (a name to what the recovered row says) is another thing.

    `said` has the parts of the other table's row, as it stands there.
    """

    said: Parts
    registers: Parts

    def pairs(self) -> dict[str, tuple[str, str]]:
        """By register: what the other table says, and what is recovered."""
        return {register: (self.said[register], rule) for register, rule in self.registers.items()}


def difference(
    arch: Architecture, recovered: Row, other: Row, shim: Row | Unknown | None
) -> Difference | None:
    """None where both say the same. `shim`: the row at the return address that a body's frame has, which is in
    the shim; None where the instruction is the shim's own; Unknown where there is none."""
    said = parts(other, arch)
    if not isinstance(shim, Row):
        return _compared(
            said, parts(recovered, arch), frozenset() if shim is None else _unknown(arch, recovered)
        )
    ours, theirs = beyond(arch, recovered, shim), beyond(arch, other, shim)
    if ours is None:
        return _compared(said, parts(recovered, arch), _unknown(arch, recovered))
    if other.cfa == ours.cfa != recovered.cfa:  # both frames as one
        return _compared(said, parts(ours, arch), frozenset())
    frame = {name: parts(recovered, arch)[name] for name in (CFA, RETURN)}
    if theirs is None or any(said[name] != rule for name, rule in frame.items()):
        return _compared(said, parts(recovered, arch), _unknown(arch, recovered))
    differing = _compared(parts(theirs, arch), parts(ours, arch), frozenset())
    return Difference(said, differing.registers) if differing is not None else None


def _compared(said: Parts, ours: Parts, left_out: frozenset[str]) -> Difference | None:
    differing = {name: rule for name, rule in ours.items() if said[name] != rule and name not in left_out}
    return Difference(said, differing) if differing else None


def _unknown(arch: Architecture, row: Row) -> frozenset[str]:
    """Registers of which the recovered row alone does not know where they are."""
    return frozenset(arch.register_names[r] for r in arch.callee_saved if row.rule(r) == UNDEFINED)
