"""What a recording says against what is known by construction: shares, whole stacks, names."""

import json
import math
import re
import signal
from collections import Counter
from collections.abc import Mapping
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
SECONDS = 20 if THOROUGH else 0.9
POINTS = 0.03 if THOROUGH else 0.1
"""Between the share of samples and that of processor time. On a machine that is busy with other tests samples of so
short a time are unevenly far apart."""
DEVIATIONS = 3.5
"""Standard errors of a share of so many samples, where they are few."""
CUT = 0.001
FEW_CUT = 0 if THOROUGH else 1
"""Of so few samples: a thread that begins is in libc's code without an unwind table for some instructions."""
FEWEST = 50
TRIES = 2 if THOROUGH else 3
"""On a busy machine a thread may not run between two samples, which then are one. A function may not be compiled."""


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
    for attempt in range(1, TRIES + 1):
        with running(python, PROGRAM, mode) as started:
            recording = recorded(started.pid, mode, SECONDS * attempt**2, tmp_path / "out.collapsed")
            started.process.send_signal(signal.SIGUSR1)
            truth = json.loads(started.process.stdout.readline())  # type: ignore[union-attr]
        found = {name: share_of(recording, name) for name in FUNCTIONS}
        wrong = differences(found, truth)
        if mode in COMPILED:
            wrong += interpreted(found)
        if not wrong:
            return
        assert attempt < TRIES, wrong


def interpreted(found: Mapping[str, tuple[int, Counter[Kind]]]) -> list[str]:
    """The functions that were not JIT code nearly always: 3.14 may take long until it tries again to compile one."""
    return [
        f"{name}: {kinds}"
        for name, (weight, kinds) in found.items()
        if kinds[Kind.JIT] <= 0.9 * weight - DEVIATIONS * math.sqrt(weight)
    ]


def recorded(pid: int, mode: str, seconds: float, file: Path) -> Recording:
    """Of a process, with all stacks whole and all JIT code named."""
    options = ["--gil"] if mode == "threads" else []  # those that wait for it stand in one place for long
    done = jitunwind("record", "-r", RATE, "-d", seconds, *options, "-o", file, pid)
    assert done.returncode == 0, done.stderr
    assert "JIT code without a name" not in done.stderr, done.stderr
    recording = read(file.read_text(), "recorded")
    cut = re.search(r"([\d,]+) not whole", done.stderr)
    most = max(FEW_CUT, CUT * recording.weight)
    assert (int(cut[1].replace(",", "")) if cut else 0) <= most, done.stderr
    return recording


def differences(found: Mapping[str, tuple[int, Counter[Kind]]], truth: Mapping[str, float]) -> list[str]:
    """The functions whose share is another one than what is known."""
    whole = sum(weight for weight, _ in found.values())
    if whole < FEWEST:
        return [f"there are no more than {whole} samples"]
    wrong = []
    for name, (weight, _) in found.items():
        error = math.sqrt(truth[name] * (1 - truth[name]) / whole)
        if abs(weight / whole - truth[name]) > max(POINTS, DEVIATIONS * error):
            wrong.append(f"{name}: {weight} of {whole} samples, {truth[name]:.1%} of the time")
    return wrong
