"""`jitunwind doctor`: what it finds, the evidence, and advice only where something is missing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import VERSIONS, Program, jitunwind, run

MACHINE = ["jitunwind", "agent", "recovery", "GDB", "ptrace"]
CPYTHON = ["CPython", "build", "JIT", "executors", "machine code"]


def findings(*arguments: object, status: int) -> dict[str, dict[str, Any]]:
    done = jitunwind("doctor", "--json", *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    found = json.loads(done.stdout)["findings"]
    assert all(each["value"] and each["evidence"] for each in found), found
    return {each["name"]: each for each in found}


def test_this_machine_lacks_nothing() -> None:
    assert list(findings(status=0)) == MACHINE


@pytest.mark.parametrize("version", VERSIONS)
def test_a_process_with_jit_code(version: str) -> None:
    with run(version, "loop.py") as loop:
        found = findings(loop.warm().pid, status=0)
        text = jitunwind("doctor", loop.pid).stdout
    assert list(found) == MACHINE + CPYTHON
    assert found["CPython"]["value"].startswith(f"{version}.")
    assert found["build"]["value"].startswith("release, ")
    assert found["JIT"]["value"] == "on"
    assert int(found["executors"]["value"].split()[0]) > 0
    assert found["executors"]["evidence"] == "this version's offsets lead to executors"
    assert [line.split("  ")[0] for line in text.splitlines()] == MACHINE + CPYTHON


@pytest.mark.parametrize("version", VERSIONS)
def test_a_process_with_its_jit_off_gets_advice(version: str) -> None:
    with run(version, "loop.py", jit="0") as loop:
        found = findings(loop.warm().pid, status=1)
    assert found["JIT"]["value"] == "off, or not on yet"
    assert "PYTHON_JIT=1" in found["JIT"]["advice"]
    assert found["executors"]["value"] == "0 executors with machine code"


def test_a_process_that_is_no_python() -> None:
    with Program(["cat"]) as cat:
        cat.settle()
        found = findings(cat.pid, status=1)
    assert list(found) == [*MACHINE, "CPython"]
    assert found["CPython"]["value"] == "none that is known"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for target in (4194305, empty, tmp_path / "nowhere", Path(sys.executable)):
        done = jitunwind("doctor", target)
        assert (done.returncode, done.stdout) == (2, ""), done.stdout
        assert done.stderr.startswith("error: "), done.stderr
