"""A process that publishes its JIT code from inside lives, forks and ends as it does without."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.tables import Published, decoded
from jitunwind.memory.process import LiveProcess
from tests.support.live import PATIENCE, PROGRAMS, Interpreter

COURSES = PROGRAMS / "publishing.py"
RUN = (sys.executable, "-m", "jitunwind", "run", "--python")


def course(python: Interpreter, name: str, *options: str) -> dict[str, Any]:
    """What the program tells of that course of its life; it must end well, and say nothing else."""
    command = [*RUN, python.python, *options, str(COURSES), name]
    done = subprocess.run(command, env=python.environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told.pop("problems") == {}
    return told


def test_executors_that_are_freed_are_withdrawn(python: Interpreter) -> None:
    counts = course(python, "replaced")["counts"]
    assert counts[1] >= 20
    if not python.shim_in_region:  # 3.14 never unmaps code, so what is published stays true
        assert counts[-1] < counts[-2], counts


def test_forked_processes_publish_on(python: Interpreter) -> None:
    told = course(python, "forks")
    assert told["ends"] == [0] * 20
    assert told["threads"] <= 2


def test_a_thread_that_forks_leaves_a_child_that_ends(python: Interpreter) -> None:
    assert course(python, "fork_in_thread")["ends"] == [0]


def test_threads_that_make_code(python: Interpreter) -> None:
    told = course(python, "other_threads")
    assert told["made"] == 40
    assert told["published"] >= 40
    assert told["python_threads"] == 0, "a thread of ours is among the program's own"


def test_a_child_that_executes_another_program(python: Interpreter) -> None:
    told = course(python, "subprocesses")
    assert (told["said"], told["errors"]) == ("42", "")
    assert told["published"] > 0


def test_disabled_nothing_is_published_and_enabled_again_all_is(python: Interpreter) -> None:
    told = course(python, "disabled")
    assert told["first"] >= 5
    assert (told["off"], told["still_off"]) == (0, 0)
    assert told["again"] >= told["first"] if python.shim_in_region else told["again"] > 0


def test_signals_are_the_main_threads(python: Interpreter) -> None:
    told = course(python, "signalled")
    assert told["signals"] > 0
    assert told["in_main"]
    assert told["published"] >= told["made"]


def test_the_development_mode_has_nothing_to_say(python: Interpreter) -> None:
    assert course(python, "replaced", "-X", "dev")["counts"][1] >= 20


def frames_of(pid: int) -> list[tuple[int, int]]:
    """What a running process has published: start and size of each FDE's code."""
    with LiveProcess(pid) as memory:
        frames = decoded(Published(X86_64, memory).frames(), X86_64)
        return [(start, size) for start, size, _ in frames]


@pytest.fixture
def hot(python: Interpreter, tmp_path: Path) -> Any:
    """A program that stays in one hot loop from its first line on."""
    program = tmp_path / "hot.py"
    program.write_text(
        "import ctypes\n"
        "ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)\n"
        "total = 0\n"
        "for i in range(10**12):\n"
        "    total += i & 7\n"
    )
    process = subprocess.Popen([*RUN, python.python, str(program)], env=python.environment())
    yield process
    process.kill()
    process.wait()


def test_code_is_published_while_the_program_stays_in_one_hot_loop(hot: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (found := _frames_or_none(hot)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found
    with LiveProcess(hot.pid) as memory:
        mappings = [each for each in memory.mappings() if each.executable and not each.path]
    for start, size in found:
        assert any(each.start <= start < start + size <= each.end for each in mappings)


def _frames_or_none(process: subprocess.Popen[bytes]) -> list[tuple[int, int]]:
    assert process.poll() is None
    return frames_of(process.pid)
