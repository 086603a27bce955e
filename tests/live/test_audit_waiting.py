"""`jitunwind audit` of what has nothing to judge: it refuses, or says what it waits for, and ends when told to."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitunwind.audit.waiting import WAIT_SECONDS
from tests.support import live
from tests.support.live import PROGRAMS, Interpreter, Program, running
from tests.support.processes import (
    PATIENCE,
    Done,
    command,
    interpreter,
    jitunwind,
    plain_environment,
)

LONG = f"import time; time.sleep({PATIENCE})"


@pytest.fixture(scope="module")
def stays(python: Interpreter) -> Iterator[Program]:
    with running(python, "stays") as started:
        yield started


def refused(done: Done, said: str) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert f"error: {said}" in done.stderr
    assert "\n  try: " in done.stderr
    assert "Traceback" not in done.stderr


def test_it_says_what_it_waits_for_and_an_interruption_prints_a_report(stays: Program) -> None:
    """GIVEN a thread that stays in one activation, WHEN three seconds have passed, THEN a line says so, off a terminal,
    too; and Ctrl-C ends it with a report, though nothing was judged."""
    why = f"thread {stays.pid} has been in one activation since the start"
    began = time.monotonic()
    with subprocess.Popen(
        command("audit", stays.pid),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=plain_environment(),
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert time.monotonic() - began >= WAIT_SECONDS
        assert line.startswith(f"waiting: {why}; JIT code is judged from its next entry on"), line
        process.send_signal(signal.SIGINT)
        said, rest = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said.startswith(f"{stays.pid}: no instruction of JIT code was judged in "), said
    assert why in said
    assert "waiting" not in rest, "the same line came once more"


def test_it_ends_when_its_time_is_up(stays: Program) -> None:
    done = jitunwind("audit", "--json", "--timeout", 0.5, stays.pid)
    assert done.returncode == 2
    assert f"error: {stays.pid}: no instruction of JIT code was judged in " in done.stderr
    assert f"thread {stays.pid} has been in one activation since the start" in done.stderr
    assert "  try: audit --emulate judges its code" in done.stderr
    assert json.loads(done.stdout)["counts"]["begun_before"] == 1
    assert stays.process.poll() is None


@pytest.mark.live
@pytest.mark.one_version("the time does not depend on the version")
def test_what_was_judged_when_its_time_is_up_is_reported() -> None:
    with running(live.interpreter("3.15"), "loops") as started:
        done = jitunwind("audit", "--timeout", 3, "--table", "recovered", started.pid)
        assert started.process.poll() is None
    assert done.returncode == 0, done.stderr
    assert "recovered: CFA, return address and callee-saved registers are right at all " in done.stdout


def test_a_process_that_is_no_python() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as cat:
        refused(jitunwind("audit", cat.pid), f"process {cat.pid} is no CPython: ")
        cat.kill()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python is known")
def test_a_process_of_another_version() -> None:
    version = ".".join(map(str, sys.version_info[:3]))
    refused(jitunwind("audit", os.getpid()), f"process {os.getpid()}: CPython {version} is not known here")


@pytest.fixture(scope="module")
def off(python: Interpreter) -> Iterator[Program]:
    with running(python, "stays", settings={"PYTHON_JIT": "0"}) as started:
        yield started


def test_a_process_whose_jit_is_off(off: Program) -> None:
    for how in ("--steps=1", "--emulate"):
        done = jitunwind("audit", how, off.pid)
        refused(done, f"process {off.pid} has no JIT code, and will have none: its JIT is off")


@pytest.mark.live
@pytest.mark.one_version("test_a_process_whose_jit_is_off has both")
def test_a_command_whose_jit_is_off_is_refused_while_it_runs() -> None:
    done = jitunwind("audit", "--", interpreter("3.15"), "-c", LONG, environment={"PYTHON_JIT": "0"})
    refused(done, f"{interpreter('3.15')} -c {LONG}: no instruction of JIT code was judged in ")
    assert "its JIT is off" in done.stderr


@pytest.mark.live
@pytest.mark.one_version("how slowly one starts does not depend on the version")
def test_a_python_that_starts_slowly_is_not_taken_for_one_without_a_jit(tmp_path: Path) -> None:
    """A shell, and the Python that it becomes, which reads PYTHON_JIT once it has imported `sitecustomize`."""
    (tmp_path / "sitecustomize.py").write_text(f"import time; time.sleep({WAIT_SECONDS + 0.5})")
    script = f"exec {interpreter('3.15')} {PROGRAMS / 'loops.py'}"
    environment = {"PYTHONPATH": f"{tmp_path}:{PROGRAMS}"}
    done = jitunwind("audit", "--steps", 1000, "--", "sh", "-c", script, environment=environment)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[0] == "waiting: no JIT code yet: whether its JIT is on is not known"
    assert "1,000 instructions stepped" in done.stdout


def test_a_reader_that_is_missing_is_named_with_what_helps(tmp_path: Path) -> None:
    environment = {"JITUNWIND_GDB": "/nonexistent"}
    done = jitunwind("audit", "--reader", "gdb", "--steps", 1, "--", "true", environment=environment)
    refused(done, "JITUNWIND_GDB /nonexistent: that is no program that can be run")
    assert "--gdb" not in done.stderr
    assert "JITUNWIND_GDB" in done.stderr.partition("try: ")[2]
