"""A process that publishes its JIT code from inside lives, forks and ends as it does without; and plain GDB knows
AArch64's code, too."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.memory.process import LiveProcess
from jitunwind.tables.sources import Published, decoded
from tests.support import THOROUGH
from tests.support.agent import packages
from tests.support.live import (
    EVERYWHERE,
    PATIENCE,
    PROGRAMS,
    REPOSITORY,
    VERSIONS,
    Frame,
    Interpreter,
    frames_in,
    function_names,
    gdb_command,
    interpreter,
    newest_gdb,
    problems,
    run_gdb,
)
from tests.support.machines import ARM
from tests.support.stub import waiting_for_gdb

COURSES = PROGRAMS / "publishing.py"
RUN = (sys.executable, "-m", "jitunwind", "run", "--python")
SHORT_RUNS = 5 if THOROUGH else 2
"""Of the program of a second."""


@contextmanager
def executable(python: Interpreter) -> Iterator[str]:
    """A program that is that interpreter: for another machine's, one that calls the emulator."""
    if not python.machine.is_emulated:
        yield python.python
        return
    with TemporaryDirectory() as folder:
        script = Path(folder, "python")
        script.write_text(f'#!/bin/sh\nexec {shlex.join([*python.machine.emulator, python.python])} "$@"\n')
        script.chmod(0o755)
        yield str(script)


def course(python: Interpreter, name: str, *options: str, calm: bool = True) -> dict[str, Any]:
    """What the program tells of that course of its life; it must end well, and say nothing else. With `calm`, nothing
    is a problem at its end."""
    with executable(python) as path:
        command = [*RUN, path, *options, str(COURSES), name]
        # What of jitunwind is for the interpreter comes from where `run` itself was found.
        environment = python.environment() | {"PYTHONPATH": str(packages(python.machine))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    told["end"] = time.monotonic() - told["told_at"]
    if python.machine.is_emulated:  # qemu-user has a page of its own in the process
        told["problems"].pop("pages of executable memory are not described", None)
    assert not calm or told["problems"] == {}
    return told


def test_executors_that_are_freed_are_withdrawn(python: Interpreter) -> None:
    counts = course(python, "replaced")["counts"]
    assert counts[1] >= 20
    if not python.shim_in_region:  # 3.14 never unmaps code, so what is published stays true
        assert counts[-1] < counts[-2], counts


def test_what_publishes_is_not_compiled_itself(python: Interpreter) -> None:
    """It would have itself to publish, and more of it each time."""
    told = course(python, "many")
    assert told["published"] >= 150
    assert [name for name in told["files"] if "/jitunwind/" in name] == []
    assert len(told["files"]) >= 1


def test_forked_processes_publish_on(python: Interpreter) -> None:
    told = course(python, "forks")
    assert told["ends"] == [0] * 20
    assert told["threads"] <= 2


@EVERYWHERE
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


@EVERYWHERE
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


def test_the_thread_that_publishes_has_a_name_and_blocks_all_signals(python: Interpreter) -> None:
    told = course(python, "named")
    assert told["name"] == Path(python.python).name
    assert len(told["blocked"]) == 1
    assert signals_in(told["blocked"][0]) == set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


def signals_in(mask: int) -> set[int]:
    """Those of a mask in /proc/PID/status (proc(5)) that a program can use: not the C library's own."""
    return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}


SLACK = 5.0
"""Seconds by which a thread may be late on a busy machine. Undone, the work of these tests takes longer."""


def test_flushes_end_in_time_and_say_what_they_left(python: Interpreter) -> None:
    """GIVEN code that takes seconds to be described, THEN neither flush nor the end of the process waits for it."""
    told = course(python, "slow", calm=False)
    (all_left, no_time), (some_left, some_time) = told["flushes"]
    before, after = told["described"]
    assert all_left + before >= told["made"]
    assert no_time < SLACK
    assert some_left > 0
    assert before < after < told["made"]
    assert some_time < told["some"] + SLACK
    assert told["would_take"] > 2 * SLACK
    assert told["waiting"].keys() == {"regions wait to be described"}
    assert told["waiting"]["regions wait to be described"] > 0
    assert told["asking"] < SLACK
    assert told["end"] < SLACK


@pytest.mark.slow
def test_flushes_end_where_other_threads_make_code_for_ever(python: Interpreter) -> None:
    told = course(python, "endless")
    for left, seconds in told["flushes"]:
        assert left >= 0
        assert seconds < told["limit"] + SLACK
    assert told["published"] > 0


def test_what_runs_in_the_middle_of_a_flush_may_do_what_it_likes(python: Interpreter) -> None:
    """A handler of a signal and a finalizer run in the thread that is at it."""
    told = course(python, "reentered")
    found = {name: told[name] for name in ("left", "undone", "codes", "counts", "paused", "errors")}
    assert found == {"left": 0, "undone": 0, "codes": [0], "counts": 1, "paused": False, "errors": {}}


def test_a_handler_that_raises_in_a_fork_leaves_publishing_on(python: Interpreter) -> None:
    told = course(python, "interrupted_fork")
    assert (told["interrupts"], told["paused"], told["left"]) == (1, False, 0)


def test_nothing_is_a_problem_only_where_all_code_is_described(python: Interpreter) -> None:
    told = course(python, "problems", calm=False)
    found = told["found"]
    pages = "pages of executable memory are not described"
    assert found["none"] == [{}]
    assert found["waits"] == [{"regions wait to be described": 1}, {}]
    assert found["other"] == [{pages: 1}, {}]
    assert list(found["lost"][0]) == [pages]
    assert found["lost"][1] == {}
    assert list(found["withdrawn"][0]) == [pages]
    assert found["off"] == [{"publishing is off": 1}, {}]
    assert found["fails"] == [{"ValueError: cannot be described": 1}]


@pytest.mark.slow
def test_a_program_of_a_second_is_described_before_its_last_third(
    python: Interpreter, tmp_path: Path
) -> None:
    """GIVEN a program that computes for a second from its first line on, THEN all stacks that its own C code walks
    in the last third lead through JIT code to the C library that has called main."""
    library, source = tmp_path / "look.so", REPOSITORY / "tests/support/look.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    command = [*RUN, python.python, str(PROGRAMS / "second.py"), str(library)]
    warm = subprocess.run(command, env=python.environment(), capture_output=True, text=True, timeout=PATIENCE)
    assert warm.returncode == 0, warm.stderr  # its imports are compiled now
    for _ in range(SHORT_RUNS):
        done = subprocess.run(
            command, env=python.environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        told = json.loads(done.stdout)
        assert told["regions"] > 0
        assert told["walks"] > 10
        assert told["whole"] == told["walks"], told


def test_the_development_mode_has_nothing_to_say(python: Interpreter) -> None:
    assert course(python, "replaced", "-X", "dev")["counts"][1] >= 20


def frames_of(pid: int) -> list[tuple[int, int]]:
    """What a running process has published: start and size of each FDE's code."""
    with LiveProcess(pid) as memory:
        frames = decoded(Published(X86_64, memory).encoded(), X86_64)
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


KNOWN = [0x1111222233334444, 0x2222333344445555, 0x3333444455556666, 0x4444555566667777, 0x5555666677778888]
"""What `outer` of known_registers.c keeps in callee-saved registers."""
STEPS = 20
IN_JIT = 30
"""Calls after which the caller is JIT code."""


def whole(stack: str) -> list[Frame]:
    frames = frames_in(stack)
    found = problems(frames, stack)
    assert not found, "\n".join([*found, stack])
    return frames


@pytest.mark.slow
@pytest.mark.aarch64
@pytest.mark.parametrize("version", VERSIONS)
def test_plain_gdb_goes_through_the_code_of_aarch64(version: str, tmp_path: Path) -> None:
    """GIVEN a GDB without the plugin, connected from the start, and a stop in C that JIT code has called, THEN the
    stack is whole there, back in JIT code, and at each of the next instructions; JIT frames have names and lines, and
    the C code above them its registers."""
    python = interpreter(version, ARM.needed())
    library = tmp_path / "known_registers.so"
    source = REPOSITORY / "tests/support/known_registers.c"
    compiler = [ARM.compiler(), "-shared", "-fPIC", "-O2", "-g", "-fomit-frame-pointer", *python.includes]
    subprocess.run([*compiler, "-o", library, source], check=True)
    there = ["tbreak alarm", "continue", "break innermost", f"ignore 2 {IN_JIT}", "continue", "delete", "bt"]
    jit = ["echo <line>\\n", "up", "info line *$pc", "list"]
    above = ["echo <outer>\\n", "frame function outer", "info registers x19 x20 x21 x22 x23", "frame 0"]
    step = ["echo <step>\\n", "stepi", "bt"]
    commands = [*there, *jit, *above, "finish", *(STEPS * step), "echo <end>\\n", "detach"]
    program = python.command("extension", str(tmp_path), published=True)[len(ARM.emulator) :]
    gdb = newest_gdb() if version == VERSIONS[1] else ARM.gdb
    with waiting_for_gdb(ARM, program, python.environment()) as connect:
        pending = ["-ex", "set breakpoint pending on"]
        run = [word for command in commands for word in ("-ex", command)]
        symbols = function_names(python)
        said = run_gdb(gdb_command(python, *connect, *pending, *run, plugin=False, gdb=gdb, symbols=symbols))
    before, _, rest = said.partition("<line>\n")
    line, _, rest = rest.partition("<outer>\n")
    registers, *steps = rest.partition("<end>\n")[0].split("<step>\n")
    frames = whole(before[before.index("#0") :])
    assert [frames[0].name, frames[1].name] == ["innermost", f"py::loop:{PROGRAMS / 'extension.py'}"]
    assert frames[2].is_shim
    assert re.search(r"^Line 17 of .*extension.py. starts at ", line, re.MULTILINE), line
    assert "total += known_registers.innermost(i)" in line
    values = re.findall(r"^x\d+ +0x([0-9a-f]+)", registers, re.MULTILINE)
    assert [int(value, 16) for value in values] == KNOWN, registers
    stacks = [whole(step[step.index("#0") :]) for step in steps]
    assert len(stacks) == STEPS
    assert any(stack[0].is_jit for stack in stacks)
    assert all("outer" in [frame.name for frame in stack] for stack in stacks)
