"""`jitunwind record --perf`: perf's samples in our forms, and plain words where perf cannot."""

import os
from collections import Counter
from pathlib import Path

import pytest

from jitunwind.profile.collapsed import read
from jitunwind.profile.recording import Kind
from tests.support.live import PROGRAMS, Interpreter
from tests.support.processes import jitunwind

PARTS = {"functions_5": 50, "functions_3": 30, "functions_2": 20}
LOOPS = 25
RATE = 1999
POINTS = 5
"""With some 500 samples."""


def fake_perf(folder: Path, script: str) -> dict[str, str]:
    """An environment with that as its perf."""
    path = folder / "perf"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin"}


def test_shares_names_and_the_kernel(python: Interpreter, tmp_path: Path) -> None:
    file = tmp_path / "out.collapsed"
    program = (python.python, PROGRAMS / "shares.py", LOOPS, "functions")
    done = jitunwind("record", "--perf", "-r", RATE, "-o", file, "--", *program)
    assert done.returncode == 0, done.stderr
    recording = read(file.read_text(), str(file))
    own = Counter[str]()
    for stack, weight in recording.weights().items():
        frames = [recording.frames[index] for index in recording.stacks[stack]]
        names = [frame.name for frame in frames if frame.kind is Kind.JIT and frame.name in PARTS]
        if names:
            own[names[-1]] += weight
            assert frames[0].name == "_start"
    assert {name: 100 * count / own.total() for name, count in own.items()} == {
        name: pytest.approx(share, abs=POINTS) for name, share in PARTS.items()
    }
    assert any(frame.kind is Kind.KERNEL for frame in recording.frames)


def test_the_files_are_gone(python: Interpreter) -> None:
    before = set(Path("/tmp").glob("jit*-*"))
    done = jitunwind(
        "record", "--perf", "--", python.python, "-c", "import os; print(os.getpid(), sum(range(10**6)))"
    )
    assert done.returncode == 0, done.stderr
    pid = done.stdout.split()[0]
    assert not [path for path in set(Path("/tmp").glob("jit*-*")) - before if f"-{pid}" in path.name]


def test_without_perf(tmp_path: Path) -> None:
    done = jitunwind("record", "--perf", "--", "/bin/true", environment={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: perf is not installed\n  try: install it (apt-get install linux-perf,"
    )


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'Access to performance monitoring is limited: perf_event_paranoid' >&2; exit 255",
            "may not record",
        ),
        ("echo 'No such thing' >&2; exit 1", "perf recorded nothing: No such thing"),
    ],
)
def test_a_perf_that_cannot(tmp_path: Path, script: str, said: str) -> None:
    done = jitunwind("record", "--perf", "--", "/bin/true", environment=fake_perf(tmp_path, script))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "leave --perf away" in done.stderr


@pytest.mark.parametrize("arguments", [["1"], ["-d", "1", "--", "x"], ["--idle", "--", "x"]], ids=str)
def test_wrong_usage(arguments: list[str]) -> None:
    done = jitunwind("record", "--perf", *arguments)
    assert done.returncode == 2
    assert "--perf records" in done.stderr


def test_no_such_command() -> None:
    done = jitunwind("record", "--perf", "--", "/nowhere/x")
    assert done.returncode == 2
    assert "/nowhere/x cannot be run" in done.stderr
