"""Other JITs than CPython's, alone and beside it: numba and LLVM, which register their code through GDB's JIT
interface, and what `-X perf_jit` leaves in a jitdump file. All verbs work: names are their own, rows are exact.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitunwind.jits.cpython.jit import CPythonJit
from jitunwind.memory.process import LiveProcess
from tests.support import THOROUGH
from tests.support.live import (
    PROGRAMS,
    REPOSITORY,
    Frame,
    Interpreter,
    Program,
    frames_in,
    gdb_command,
    numba_for,
    problems,
    run_gdb,
    running,
)
from tests.support.machines import HERE

INSIDE = REPOSITORY / "tests/support/inside.py"
INTERRUPTS = 100 if THOROUGH else 25
STEPS = 1500
LIMIT = 240
_TAGS = re.compile(r"(\[abi:[^\]]*\])+\([^)]*\)")
"""What GDB says behind the names of numba's functions: versions and parameters."""
OWN = Interpreter(f"{sys.version_info.major}.{sys.version_info.minor}", sys.executable, "", "", HERE)
"""The Python of the tests, which has no JIT: there numba or LLVM is the only one."""


def jitunwind(*arguments: object) -> str:
    command = [sys.executable, "-m", "jitunwind", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["llvm", "numba_calls"])
def alone(request: pytest.FixtureRequest) -> Iterator[Program]:
    """A process whose only JIT is LLVM."""
    with running(OWN, request.param) as started:
        started.module = "__main__::" if request.param == "numba_calls" else ""
        yield started


def test_stacks_are_whole_and_named(alone: Program) -> None:
    stacks = json.loads(jitunwind("bt", "--json", alone.pid))
    assert stacks["complete"]
    assert not stacks["warnings"]
    (frames,) = (thread["frames"] for thread in stacks["threads"] if thread["tid"] == alone.pid)
    names = [frame["name"] for frame in frames if frame["kind"] == "jit"]
    assert names[:2] == [f"{alone.module}inner", f"{alone.module}outer"], names


def test_rows_are_exact_at_every_step(alone: Program) -> None:
    report = json.loads(jitunwind("audit", "--json", "--table", "recovered", "--steps", STEPS, alone.pid))
    recovered = report["tables"]["recovered"]
    assert (recovered["instructions"], recovered["exact"]) == (STEPS, STEPS)
    assert {f"{alone.module}inner", f"{alone.module}outer"} <= {each["name"] for each in report["regions"]}


def test_a_dump_of_it_is_audited_and_explained(alone: Program, tmp_path: Path) -> None:
    path = tmp_path / "code.dump"
    jitunwind("dump", alone.pid, "-o", path)
    report = json.loads(jitunwind("audit", "--json", "--emulate", "--table", "recovered", path))
    recovered = report["tables"]["recovered"]
    assert recovered["exact"] == recovered["instructions"] > 0
    explained = json.loads(jitunwind("explain", "--json", path))
    assert f"{alone.module}outer" in {region["name"] for region in explained["regions"]}


def test_its_code_is_explained(alone: Program) -> None:
    explained = json.loads(jitunwind("explain", "--json", "--region", "outer", alone.pid))
    region = explained["regions"][0]
    assert region["name"] == f"{alone.module}outer"
    lines = {block["source"]["line"] for block in region["blocks"] if block["source"]}
    assert bool(lines) == bool(alone.module), "numba has lines, this LLVM's code has none"


def test_the_plugin_knows_it(alone: Program) -> None:
    commands = ["info jit-regions", "tbreak PyLong_FromLong", "continue", "bt"]
    steps = [part for each in commands for part in ("-ex", each)]
    said = run_gdb(gdb_command(OWN, "-p", str(alone.pid), *steps))
    frames = whole(said)
    names = [frame.name for frame in frames]
    at = names.index(f"{alone.module}inner")
    assert names[at + 1] == f"{alone.module}outer", said
    assert f"{alone.module}outer\n" in said.partition("Temporary breakpoint")[0], said


@pytest.mark.parametrize("program", ["llvm", "numba_calls"])
def test_beside_cpythons_jit_no_frame_has_another_ones_name(
    python: Interpreter, program: str, tmp_path: Path
) -> None:
    """CPython's executors say themselves where their code ends: only there, names are theirs."""
    settings = {"PYTHONPATH": str(PROGRAMS)}
    if program == "numba_calls":
        settings["PYTHONPATH"] += f":{numba_for(python.minor)}"
    with running(python, program, settings=settings) as started:
        stacks = interrupted(python, started, tmp_path)
        executors = executors_of(started.pid)
    seen = set()
    for stack in stacks:
        for frame in whole(stack):
            if frame.pc is None:
                continue
            is_executors = any(start <= frame.pc < end for start, end in executors)
            assert is_executors == frame.name.startswith("py::"), f"{frame}\n{stack}"
            seen.add(frame.name)
    module = "__main__::" if program == "numba_calls" else ""
    assert {f"{module}inner", f"{module}outer"} <= seen
    assert any(name.startswith("py::back:") for name in seen), seen


def whole(stack: str) -> list[Frame]:
    """The frames of a stack, which must be complete. The system's libffi has no names for its functions. Nobody has one
    for the instructions that it makes for a callback: a thread can be at one of those, and comes back to none."""
    frames = frames_in(_TAGS.sub("", stack))
    found = [
        problem
        for problem in problems(frames, stack)
        if "libffi" not in problem and not problem.startswith("#0 has no name")
    ]
    assert not found, "\n".join([*found, stack])
    return frames


def interrupted(python: Interpreter, started: Program, folder: Path) -> list[str]:
    """The stacks at random interrupts."""
    output = folder / "stacks.json"
    given = {
        "scenario": "interrupted",
        "output": str(output),
        "times": INTERRUPTS,
        "longest": 0.02,
        "seed": 7,
    }
    run = f"python import runpy; runpy.run_path({str(INSIDE)!r}, {{'ARGUMENTS': {given!r}}})"
    run_gdb(gdb_command(python, "-p", str(started.pid), "-ex", run))
    found: list[str] = json.loads(output.read_text())
    return found


def executors_of(pid: int) -> list[tuple[int, int]]:
    """[start, end) of each executor's code, by the executors' own sizes."""
    with LiveProcess(pid) as memory:
        listed = CPythonJit(memory).regions.executors.by_start
        return [(start, start + executor.jit_size) for start, executor in listed.items()]


@pytest.fixture
def perf_jit(python: Interpreter) -> Iterator[Program]:
    path = PROGRAMS / "perf_jit.py"
    command = [python.python, "-X", "perf_jit", str(path)]
    process = subprocess.Popen(
        command, env=python.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        started = Program(process)
        started.wait_for("ready")
        yield started
    finally:
        process.kill()
        process.wait()
        Path(f"/tmp/jit-{process.pid}.dump").unlink(missing_ok=True)


def test_a_jitdump_names_and_unwinds_what_it_tells_of(perf_jit: Program) -> None:
    stacks: dict[str, Any] = json.loads(jitunwind("bt", "--json", perf_jit.pid))
    assert stacks["complete"], stacks
    names = [frame["name"] for frame in stacks["threads"][0]["frames"] if frame["kind"] == "jit"]
    path = PROGRAMS / "perf_jit.py"
    assert f"py::outer:{path}" in names, names
    assert names[-1] == f"py::<module>:{path}", names
