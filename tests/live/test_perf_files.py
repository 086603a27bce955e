"""perf's files of a Python that publishes: they have all code, whenever they are asked for, and in each process."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitunwind.jits.jitdump import code_in
from tests.support.agent import packages
from tests.support.live import PACKAGES, PATIENCE, PROGRAMS, Interpreter, interpreter

kinds = pytest.mark.parametrize("kind", ["jitdump", "map"])
_made: list[str] = []


@pytest.fixture(autouse=True)
def _removed() -> Iterator[None]:
    yield
    while _made:
        Path(_made.pop()).unlink(missing_ok=True)


def course(python: Interpreter, kind: str, name: str, said: str = "") -> dict[str, Any]:
    """What a course tells; it says `said` on stderr, where FILE stands for the file and SOME for a number."""
    command = [python.python, str(PROGRAMS / "perf_follow.py"), kind, name]
    folders = os.pathsep.join([str(PROGRAMS), str(packages(python.machine)), PACKAGES])
    environment = {**python.environment(), "PYTHONPATH": folders}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert re.sub(r"\d+ (bytes|regions)", r"SOME \1", done.stderr.replace(told["path"], "FILE")) == said
    _made.extend(each["path"] for each in (told, told.get("child", told)))
    return told


def starts(path: str) -> set[int]:
    """Where the code begins that a file tells of; of a map, where executors' bodies do."""
    data = Path(path).read_bytes()
    if path.endswith(".dump"):
        return {each.start for each in code_in(data)}
    lines = [line.split(" ", 2) for line in data.decode().splitlines()]
    return {int(start, 16) for start, _, name in lines if "jit_shim" not in name}


@kinds
def test_asked_for_later_a_file_has_all_code(python: Interpreter, kind: str) -> None:
    told = course(python, kind, "late")
    assert (told["left"], told["problems"]) == (0, {})
    assert len(starts(told["path"])) == told["regions"] >= 4


@kinds
def test_a_child_has_the_code_of_its_parent_and_its_own(python: Interpreter, kind: str) -> None:
    told = course(python, kind, "forks")
    parents, childs = starts(told["path"]), starts(told["child"]["path"])
    assert told["path"] != told["child"]["path"]
    assert len(parents) == told["regions"]
    assert parents < childs
    assert told["child"]["problems"] == {}


@pytest.mark.live
@pytest.mark.one_version("3.14 never frees code")
def test_code_that_goes_before_its_turn_is_told() -> None:
    """It may have run: samples of it would have no name."""
    told = course(interpreter("3.15"), "jitdump", "gone")
    loads = code_in(Path(told["path"]).read_bytes())
    assert told["problems"] == {}
    assert len(loads) > told["regions"], "code was freed, and is told of"
    assert all(each.name.startswith("py::") for each in loads)


def test_publishing_goes_on_without_a_file_that_is_refused(python: Interpreter) -> None:
    told = course(python, "map", "refused")
    assert "it is a link" in told["error"]
    assert told["regions"] >= 1


def test_a_full_file_is_said_once_and_is_a_problem(python: Interpreter) -> None:
    line = "jitunwind: FILE is full, with SOME bytes: code that comes from now on is not in it\n"
    told = course(python, "map", "full", line)
    assert any("is full" in problem for problem in told["problems"])
    assert told["regions"] >= 4


@pytest.mark.one_version("when a process ends does not depend on the version")
@pytest.mark.live
def test_what_is_left_at_the_end_is_said() -> None:
    line = "jitunwind: JIT code of SOME regions is not written for perf: the process ends before that\n"
    course(interpreter("3.15"), "map", "late_at_the_end", line)
