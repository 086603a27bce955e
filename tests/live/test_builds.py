"""Builds of CPython that jitunwind was not developed on: with assertions; other patch releases (Debian testing's); in a
program that embeds it, shared or static, and one without any symbol of Python's."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support import THOROUGH
from tests.support.live import PROGRAMS, VERSIONS
from tests.support.processes import PATIENCE, ROOT, Program, jitunwind, wait_until

BUILDS = {
    "pydebug": ["--pydebug"],
    "shared": ["--embedded", "shared"],
    "static": ["--embedded", "static"],
    "stripped": ["--embedded", "stripped"],
    "testing": ["--suite", "testing"],
}
STEPS = 100_000 if THOROUGH else 3000
STOPS = 100 if THOROUGH else 3
ONE_REGION_SECONDS = 5.0
"""On a machine that is busy; a tenth of that is usual."""
HOT = ROOT / "tools/hot.py"
NAMES = ("work", "weigh")


@cache
def build(version: str, kind: str) -> str:
    """The path of that program. The test fails where it cannot be had."""
    command = [sys.executable, str(ROOT / "tools/interpreters.py"), version, *BUILDS[kind]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module", params=BUILDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def hot(version: str, kind: str) -> Iterator[Program]:
    """tools/hot.py, run by such a program, with compiled code."""
    with Program([build(version, kind), HOT], environment={"PYTHONPATH": str(PROGRAMS)}) as program:
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == b"ready\n"
        yield program


@pytest.fixture(scope="module")
def core(hot: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A core of it."""
    prefix = tmp_path_factory.mktemp("core") / "core"
    subprocess.run(["gcore", "-o", prefix, str(hot.pid)], capture_output=True, check=True)
    return prefix.with_name(f"core.{hot.pid}")


@pytest.mark.parametrize("how", ["deleted", "upgraded"])
def test_a_libpython_that_is_not_there_any_more(version: str, how: str, tmp_path: Path) -> None:
    """As after an upgrade, of a process that goes on with the old one."""
    program = build(version, "shared")
    (libpython,) = Path(program).parents[1].glob(f"lib/*/libpython{version}.so.1.0")
    copy = Path(shutil.copy(libpython, tmp_path))
    environment = {"PYTHONPATH": str(PROGRAMS), "LD_PRELOAD": str(copy)}
    with Program([program, HOT], environment=environment) as hot:
        assert hot.process.stdout is not None
        assert hot.process.stdout.readline() == b"ready\n"
        copy.unlink()
        if how == "upgraded":
            other = next(each for each in VERSIONS if each != version)
            (newer,) = Path(build(other, "shared")).parents[1].glob(f"lib/*/libpython{other}.so.1.0")
            shutil.copy(newer, copy)
        done = jitunwind("bt", "--json", "--python", hot.pid)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    said = json.loads(done.stdout)
    assert (said["complete"], said["python"].rpartition(".")[0], said["jit"]) == (True, version, True)
    functions = [frame["function"] for frame in said["threads"][0]["frames"]]
    assert "work" in functions, functions


def audit(*arguments: object) -> dict[str, dict[str, Any]]:
    """What is said of each table. A deviation is no error here: the test judges."""
    done = jitunwind("audit", "--json", *arguments, timeout=PATIENCE * 5)
    assert done.returncode in (0, 1), done.stderr
    tables: dict[str, dict[str, Any]] = json.loads(done.stdout)["tables"]
    return tables


def named_frames(target: object) -> int:
    """How many JIT frames `bt` shows. The stacks must be whole, and each of these frames named, with its line."""
    done = jitunwind("bt", "--json", target)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    (thread,) = said["threads"]
    assert said["complete"], done.stdout
    found = [frame for frame in thread["frames"] if frame["kind"] == "jit"]
    for frame in found:
        assert frame["function"] in NAMES, frame
        assert frame["line"], frame
        assert frame["file"] == str(HOT), frame
        assert frame["exact"], frame
    return len(found)


def test_stacks_are_whole_and_their_jit_frames_named(hot: Program) -> None:
    assert sum(named_frames(hot.pid) for _ in range(STOPS)) >= STOPS


@pytest.mark.parametrize("kind", ["pydebug", "stripped"], indirect=True)
def test_a_core_is_like_the_process(hot: Program, core: Path) -> None:
    assert named_frames(core) > 0
    assert explained(core) == explained(hot.pid)


def test_recovered_rows_are_exact(hot: Program) -> None:
    table = audit("--table", "recovered", "--steps", STEPS, hot.pid)["recovered"]
    assert (table["exact"], table["wrong"], table["unknown"]) == (STEPS, 0, 0), table


def explained(target: object) -> dict[str, int]:
    """How many micro-ops each region of a function has. `explain` must show them all."""
    done = jitunwind("explain", "--json", "--region", NAMES[0], target)
    assert done.returncode == 0, done.stderr
    regions = json.loads(done.stdout)["regions"]
    assert [region["problem"] for region in regions] == [None] * len(regions)
    return {region["start"]: region["micro_ops"] for region in regions}


def test_micro_ops_are_explained(hot: Program) -> None:
    assert max(explained(hot.pid).values()) > 10


def test_what_it_is_asked_to_publish_is_exact(hot: Program, kind: str) -> None:
    done = jitunwind("enable", "--timeout", PATIENCE, hot.pid)
    if kind == "stripped":  # it can load no extension module, and goes on
        assert (done.returncode, done.stdout) == (2, "")
        assert "this program exports no functions of Python's" in done.stderr
        assert named_frames(hot.pid) > 0
        return
    assert done.returncode == 0, done.stderr
    assert re.match(rf"process {hot.pid} publishes its JIT code: [1-9]", done.stdout), done.stdout

    def all_is_published() -> bool:
        """Code that is new is published a moment later; until then 3.15's own table holds, which is wrong."""
        return bool(audit("--table", "published", "--steps", STEPS, hot.pid)["published"]["exact"] == STEPS)

    wait_until(all_is_published, "all code to be published")


@pytest.mark.parametrize("program", ["loops", "calls", "attributes", "generators", "strings", "floats"])
def test_programs_of_debug_builds(version: str, program: str) -> None:
    python, path = build(version, "pydebug"), Path(PROGRAMS) / f"{program}.py"
    environment = {"PYTHON_JIT": "1", "PYTHONPATH": str(PROGRAMS)}
    done = jitunwind(
        *("audit", "--json", "--table", "recovered", "--steps", STEPS // 6, "--", python, path),
        environment=environment,
        timeout=PATIENCE * 5,
    )
    table = json.loads(done.stdout)["tables"]["recovered"]
    assert (table["exact"], table["wrong"], table["unknown"]) == (STEPS // 6, 0, 0), table


PUBLISHES_AND_ENDS = """
import runpy, sys, time
sys.argv = ["finite", "14", "40", "1"]
runpy.run_path(sys.orig_argv[-1])
import jitunwind
began = time.monotonic()
left = jitunwind.flush(0.05)
print(left, time.monotonic() - began, time.time())
"""


def test_a_debug_build_waits_for_one_region_and_no_more(version: str) -> None:
    """GIVEN more code than is published in that time, THEN flush() and the end of the process wait for one region."""
    python = build(version, "pydebug")
    done = jitunwind("run", "--python", python, "-c", PUBLISHES_AND_ENDS, ROOT / "bench/finite.py")
    ended = time.time()
    assert done.returncode == 0, done.stderr
    left, flushed, at = done.stdout.split()
    print(f"{version}: {left} regions left after {flushed} s, ended {ended - float(at):.2f} s later")
    assert float(flushed) < ONE_REGION_SECONDS
    assert ended - float(at) < ONE_REGION_SECONDS
