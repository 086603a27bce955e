"""What a recording says against what is known by construction: shares, whole stacks, names."""

import json
import math
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from jitunwind.profile.collapsed import read
from jitunwind.profile.recording import Kind, Recording
from tests.support import THOROUGH
from tests.support.live import Interpreter, running
from tests.support.processes import jitunwind

PROGRAM = Path(__file__).parent / "programs/known_shares.py"
MODES = ("loops", "alternating", "recursion", "threads", "coroutines", "generators")
COMPILED = ("loops", "recursion", "threads", "coroutines", "generators")
"""Where all three functions run JIT code."""
FUNCTIONS = ("half", "third", "fifth")
RATE = 1000
SECONDS = 20 if THOROUGH else 1.5
POINTS = 0.03
"""Between the share of samples and that of processor time."""
DEVIATIONS = 3.5
"""Standard errors of a share of so many samples, where they are few."""
CUT = 0.001


def share_of(recording: Recording, function: str) -> tuple[int, Counter[Kind]]:
    """The weight of stacks that have the function, and of what kind it is there."""
    kinds: Counter[Kind] = Counter()
    for stack, weight in recording.weights().items():
        found = [recording.frames[frame] for frame in recording.stacks[stack]]
        own = [frame for frame in found if frame.name in (function, f"{function}_in_c")]
        if own:
            kinds[own[-1].kind] += weight
    return kinds.total(), kinds


@pytest.mark.parametrize("mode", MODES)
def test_shares_are_those_that_are_known(python: Interpreter, mode: str, tmp_path: Path) -> None:
    file = tmp_path / "out.collapsed"
    with running(python, PROGRAM, mode) as started:
        options = ["--gil"] if mode == "threads" else []  # those that wait for it stand in one place for long
        done = jitunwind("record", "-r", RATE, "-d", SECONDS, *options, "-o", file, started.pid)
        assert done.returncode == 0, done.stderr
        started.process.send_signal(signal.SIGUSR1)
        truth = json.loads(started.process.stdout.readline())  # type: ignore[union-attr]
    recording = read(file.read_text(), "recorded")
    assert "JIT code without a name" not in done.stderr, done.stderr
    cut = re.search(r"([\d,]+) not whole", done.stderr)
    assert (int(cut[1].replace(",", "")) if cut else 0) <= CUT * recording.weight, done.stderr
    found = {name: share_of(recording, name) for name in FUNCTIONS}
    whole = sum(weight for weight, _ in found.values())
    assert whole > 50, done.stderr
    for name, (weight, kinds) in found.items():
        error = math.sqrt(truth[name] * (1 - truth[name]) / whole)
        assert weight / whole == pytest.approx(truth[name], abs=max(POINTS, DEVIATIONS * error)), found
        if mode in COMPILED:
            assert kinds[Kind.JIT] > 0.9 * weight, (name, kinds)
