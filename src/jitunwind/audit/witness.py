"""What one witness of the truth has said: the verdicts it made possible, and at which instructions.

There are three: stepping a process, emulating its code, and the recovered states alone. Each instruction is judged
by the first of them that came to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jitunwind.audit.findings import Findings
from jitunwind.audit.records import Record
from jitunwind.audit.stepper import Activation
from jitunwind.audit.verdicts import Verdicts
from jitunwind.jits import Code, Jit
from jitunwind.jits.known import Jits

Place = tuple[int, bytes]
"""A region as it was: where it starts, and its code."""

STEPPED, EMULATED, STATIC = "stepped", "emulated", "static"
WITNESSES = (STEPPED, EMULATED, STATIC)


@dataclass
class Judged:
    """The offsets of one region's instructions that a witness came to; `name` is that of its function."""

    region: Code
    name: str
    offsets: set[int] = field(default_factory=set)


@dataclass
class Witness:
    """One of `WITNESSES`, and what it has said."""

    name: str
    findings: dict[str, Findings]
    judged: dict[Place, Judged] = field(default_factory=dict)

    @property
    def instructions(self) -> int:
        """How many it has judged, each as often as it came there in another way or, stepped, at all."""
        return max((found.total.instructions for found in self.findings.values()), default=0)

    def of(self, region: Code, jit: Jit) -> Judged:
        place = (region.start, region.data)
        if place not in self.judged:
            self.judged[place] = Judged(region, jit.pieces(region)[-1].name)
        return self.judged[place]


class Stepped:
    """A stepper's judge that also notes where it has judged, and calls `on_change` when JIT code has come or gone."""

    def __init__(self, verdicts: Verdicts, on_change: Callable[[Jits], None]) -> None:
        self.witness = Witness(STEPPED, verdicts.findings)
        self._judge, self._on_change = verdicts.judge, on_change
        self._pc = verdicts.arch.program_counter
        self._jits: Jits | None = None
        self._region: Code | None = None
        self._start = 0
        self._offsets: set[int] = set()

    def __call__(self, region: Code, records: Sequence[Record], activation: Activation, jits: Jits) -> None:
        self._judge(region, records, activation, jits)
        if region is not self._region:
            if jits is not self._jits:
                self._jits = jits
                self._on_change(jits)
            self._region, self._start = region, region.start
            self._offsets = self.witness.of(region, jits).offsets
        start, pc = self._start, self._pc
        self._offsets.update([record[pc] - start for record in records])


def judged_before(code: Code, before: Sequence[Witness]) -> set[int]:
    """The offsets in a region that witnesses have judged."""
    place = (code.start, code.data)
    return set().union(*(witness.judged[place].offsets for witness in before if place in witness.judged))
