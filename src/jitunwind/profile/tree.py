"""The tree of calls of a recording, or of two that are compared: each node a function, called by its parent.

In come recordings, out comes a `Tree` in preorder: as small as a page can use it, whatever the number of samples.
"""

import heapq
from array import array
from collections.abc import Iterator, Sequence

from jitunwind.profile.labels import by_function
from jitunwind.profile.recording import Frame, Recording

MOST_NODES = 300_000
"""Of a page: beyond that the lightest branches are folded into their callers."""


class _Node:
    """What is called from one place, as it grows. `own`: weights of the stacks that end here, one a recording;
    `threads`: those of each thread of the only recording."""

    __slots__ = ("below", "own", "threads", "total")

    def __init__(self, of: int) -> None:
        self.own = [0] * of
        self.threads: dict[int, int] = {}
        self.total = 0
        self.below: dict[int, _Node] = {}


class Tree:
    """`frames`: what nodes are. In preorder: `depths` (the root, which is no frame, has 0), `frame_of` (-1: the root),
    and for each recording in `own` the weights of the stacks that end at each node. `threads`: (node, thread, weight)
    of these, if there is one recording with several threads. `folded`: how many nodes are left out."""

    def __init__(self, recordings: Sequence[Recording], with_lines: bool, most: int = MOST_NODES) -> None:
        self.frames: list[Frame] = []
        self.depths, self.frame_of = array("I"), array("i")
        self.own = [array("Q") for _ in recordings]
        self.threads: list[tuple[int, int, int]] = []
        root = self._grown(recordings, with_lines)
        self.folded = _fold(root, most)
        for number, (depth, index, node) in enumerate(_preorder(root)):
            self.threads += [(number, thread, weight) for thread, weight in node.threads.items()]
            self.depths.append(depth)
            self.frame_of.append(index)
            for own, weight in zip(self.own, node.own, strict=True):
                own.append(weight)

    def _grown(self, recordings: Sequence[Recording], with_lines: bool) -> _Node:
        root, indices = _Node(len(recordings)), dict[Frame, int]()
        for number, recording in enumerate(recordings):
            known = [
                indices.setdefault(frame if with_lines else by_function(frame), len(indices))
                for frame in recording.frames
            ]
            has_threads = len(recordings) == 1 and len(recording.threads) > 1
            for (stack, thread), weight in recording.weights_of_threads().items():
                node = root
                node.total += weight
                for frame in recording.stacks[stack]:
                    index = known[frame]
                    below = node.below.get(index)
                    if below is None:
                        below = node.below[index] = _Node(len(recordings))
                    node = below
                    node.total += weight
                node.own[number] += weight
                if has_threads:
                    node.threads[thread] = node.threads.get(thread, 0) + weight
        self.frames = list(indices)
        return root


def _preorder(root: _Node) -> Iterator[tuple[int, int, _Node]]:
    """(depth, frame, node), the heaviest first among those of one caller."""
    pending = [(0, -1, root)]
    while pending:
        depth, frame, node = pending.pop()
        yield depth, frame, node
        below = sorted(node.below.items(), key=lambda item: (item[1].total, -item[0]))
        pending += [(depth + 1, index, child) for index, child in below]


def _fold(root: _Node, most: int) -> int:
    """Keep the `most` heaviest nodes, and fold what is below them into them; how many went."""
    count = sum(1 for _ in _preorder(root))
    if count <= most:
        return 0
    waiting = [
        (-child.total, number, root, index) for number, (index, child) in enumerate(root.below.items())
    ]
    heapq.heapify(waiting)
    number = len(waiting)
    for _ in range(most - 1):
        _, _, caller, index = heapq.heappop(waiting)
        node = caller.below[index]
        for below, child in node.below.items():
            heapq.heappush(waiting, (-child.total, number, node, below))
            number += 1
    for _, _, caller, index in waiting:
        for _, _, node in _preorder(caller.below.pop(index)):
            caller.own = [one + other for one, other in zip(caller.own, node.own, strict=True)]
            for thread, weight in node.threads.items():
                caller.threads[thread] = caller.threads.get(thread, 0) + weight
    return count - most
