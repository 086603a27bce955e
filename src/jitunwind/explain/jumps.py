"""The jumps inside a region, laid out as lines beside its instructions that do not cross more than they must.

In come (instruction, target) offsets, out come the same with a lane each: 0 is next to the code. Jumps to one
target share a lane, as in `objdump --visualize-jumps`. The page draws them, and so does the terminal.
"""

from collections.abc import Iterable
from typing import NamedTuple

MOST_LANES = 8


class Jump(NamedTuple):
    """From the instruction at offset `source` to the one at `target`; `lane` is None where there are too many
    lines side by side for one more."""

    source: int
    target: int
    lane: int | None


def in_lanes(jumps: Iterable[tuple[int, int]]) -> list[Jump]:
    """Short ones next to the code, long ones further away; by rising source."""
    lanes: list[list[tuple[int, int, int]]] = [[] for _ in range(MOST_LANES)]
    found = []
    for source, target in sorted(jumps, key=lambda jump: (abs(jump[1] - jump[0]), jump)):
        first, last = min(source, target), max(source, target)
        lane = next(
            (
                number
                for number, taken in enumerate(lanes)
                if all(last < begin or end < first or to == target for begin, end, to in taken)
            ),
            None,
        )
        if lane is not None:
            lanes[lane].append((first, last, target))
        found.append(Jump(source, target, lane))
    return sorted(found, key=lambda jump: jump[:2])
