"""What people do with GDB upon a CPython of AArch64's: through qemu's gdbstub, or as it is on such a machine.

The courses are those of tests/support/inside.py, as in test_scenarios.py. Starting takes longest: one session takes
several.
"""

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jitunwind.stacks.library import stacks as stacks_of
from tests.live.test_scenarios import KNOWN, has_jit, names
from tests.support import THOROUGH
from tests.support.live import (
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
from tests.support.processes import jitunwind
from tests.support.stopped import differences
from tests.support.stub import waiting_for_gdb

INSIDE = REPOSITORY / "tests/support/inside.py"
EXTENSION = REPOSITORY / "tests/support/known_registers.c"
READY = ("-ex", "set breakpoint pending on", "-ex", "tbreak alarm", "-ex", "continue")
INTERRUPTS = 25 if THOROUGH else 8
SESSIONS = 8
"""Until one has JIT code on a stack: where the emulator is slow, little of it is compiled in so short a time."""
DESCRIBED_STEPS = 600 if THOROUGH else 300
pytestmark = pytest.mark.aarch64
KEPT = tuple(f"x{number}" for number in range(19, 30))


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Interpreter:
    return interpreter(request.param, ARM.needed())


@pytest.fixture
def gdb(python: Interpreter) -> str:
    """Each of the two with another version: the machine's with 3.14."""
    return newest_gdb() if python.minor == "3.15" else python.machine.needed("gdb").gdb


def inside(
    python: Interpreter,
    gdb: str,
    folder: Path,
    name: str,
    *courses: dict[str, Any],
    told: str = "",
) -> Any:
    """What each of those courses upon `name` returns, one after the other in one session. GDB has the names of the
    interpreter's functions only."""
    symbols = function_names(python)
    output = folder / "found.json"
    given = {"scenario": "several", "output": str(output), "courses": list(courses)}
    run = ["-ex", f"python import runpy; runpy.run_path({str(INSIDE)!r}, {{'ARGUMENTS': {given!r}}})"]
    command = [python.python, PROGRAMS / f"{name}.py", *([told] if told else [])]
    # While a function is bound at its first call, GDB by itself does not get out of glibc's resolver.
    environment = python.environment() | {"LD_BIND_NOW": "1"}
    with waiting_for_gdb(python.machine, command, environment, folder) as start:
        said = run_gdb(gdb_command(python, *start, *READY, *run, gdb=gdb, symbols=symbols), cwd=folder)
    assert output.exists(), f"GDB ended without an answer:\n{said}"
    return json.loads(output.read_text())


def whole(stack: str) -> list[Frame]:
    """The frames of a stack, which must be complete. Code calls C through veneers of its own (ldr; br), which are
    frames when the process is in one."""
    frames = frames_in(stack)
    found = problems(frames, stack)
    if len(frames) > 1 and frames[0].is_jit and frames[1].name == frames[0].name:
        found = [each for each in found if not each.startswith(f"#0 {frames[0].name} is not followed")]
    assert not found, "\n".join([*found, stack])
    return frames


@pytest.mark.slow
def test_stacks_are_whole_and_the_evaluators_registers_right(
    python: Interpreter, gdb: str, tmp_path: Path
) -> None:
    entry = "" if python.shim_in_region else "_PyJIT_Entry"
    interrupts, finished, evaluator, described = inside(
        python,
        gdb,
        tmp_path,
        "calls_c",
        {"scenario": "interrupted", "times": INTERRUPTS, "longest": 0.02, "seed": 5, "steps": 6},
        {"scenario": "finish_into_jit", "function": "builtin_id", "steps": 2},
        {"scenario": "evaluators_frame", "function": "builtin_id", "entry": entry},
        {"scenario": "described", "function": "builtin_id", "steps": DESCRIBED_STEPS},
    )
    frames = [whole(stack) for stack in interrupts]
    assert len(frames) == INTERRUPTS

    for stage in ("at_break", "finished", "stepped"):
        whole(finished[stage])
    stepped = whole(finished["stepped"])
    assert stepped[0].is_jit, finished["stepped"]
    assert stepped[0].name == f"py::work:{PROGRAMS / 'calls_c.py'}", finished["stepped"]
    assert "calls_c.py:" in stepped[0].rest, finished["stepped"]
    assert stepped[1].is_shim, finished["stepped"]
    caller = stepped[2].name.removesuffix(".cold")  # as GCC calls what it has moved out of a function
    assert caller in ("_PyEval_EvalFrameDefault", "_PyEval_Vector"), finished["stepped"]

    assert set(KEPT) <= evaluator["truth"]["registers"].keys()
    # Of its arguments GDB has none: this evaluator keeps them in no register that survives.
    assert evaluator["seen"]["registers"] == evaluator["truth"]["registers"], evaluator["stack"]
    assert_described(described)


@pytest.mark.parametrize("name", ["recursion", "strings"])
def test_each_stack_is_whole_at_random_interrupts(
    python: Interpreter, gdb: str, tmp_path: Path, name: str
) -> None:
    for seed in range(SESSIONS):
        course = {"scenario": "interrupted", "times": INTERRUPTS, "longest": 0.02, "seed": seed, "steps": 6}
        (stacks,) = inside(python, gdb, tmp_path, name, course)
        frames = [whole(stack) for stack in stacks]
        assert len(frames) == INTERRUPTS
        if any(map(has_jit, frames)):
            return
    pytest.fail("no interrupt had JIT code on the stack")


@pytest.fixture(scope="module")
def extension(python: Interpreter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the extension, compiled for this version."""
    folder = tmp_path_factory.mktemp("extension")
    command = [
        python.machine.compiler(),
        "-shared",
        "-fPIC",
        "-O2",
        "-g",
        "-fomit-frame-pointer",
    ]
    command += [f"-I{python.include}", f"-I{Path(python.include).parent}"]
    command += ["-o", str(folder / "known_registers.so"), str(EXTENSION)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_c_caller_above_jit_code_has_its_locals_and_registers(
    python: Interpreter, gdb: str, extension: Path, tmp_path: Path
) -> None:
    course = {"scenario": "in_extension", "values": list(KNOWN)}
    (found,) = inside(python, gdb, tmp_path, "extension", course, told=str(extension))
    frames = whole(found["stack"])
    assert has_jit(frames[: names(frames).index("outer")]), f"no JIT code below outer:\n{found['stack']}"
    for seen in (found["seen"], found["at_end"]):
        for name, value in KNOWN.items():
            assert seen["values"][name].strip() == f"{value:#x}", f"{name} is {seen['values'][name]}"
        assert set(KNOWN.values()) <= {seen["registers"][name] for name in KEPT}, seen["registers"]
    assert found["same_frame"], "finish did not lead back to the same activation of outer"


def test_executors_that_were_invalidated_while_they_ran_are_unwound(
    python: Interpreter, gdb: str, tmp_path: Path
) -> None:
    course = {"scenario": "stopped_in", "function": "builtin_id", "go": str(tmp_path / "go")}
    (stack,) = inside(python, gdb, tmp_path, "invalidated", course)
    assert has_jit(whole(stack)), stack


def assert_described(found: dict[str, Any]) -> None:
    """What is read out of the machine code is what the interpreter has."""
    assert any(region["operands"] for region in found["regions"])
    for region in found["regions"]:
        assert region["stored"] == region["operands"], region
        assert region["located"], region
    print(f"lines: {found['same']} of {found['seen']}")
    assert found["seen"] > 100
    assert found["same"] > 0.9 * found["seen"], found


def real(stack: str) -> list[tuple[int, str]]:
    """Program counters and names, but of shims, which have two; at a breakpoint GDB shows no inlined functions."""
    return [(frame.pc, "shim" if frame.is_shim else frame.name) for frame in whole(stack) if frame.pc]


def test_a_core_has_the_stack_of_the_live_process(python: Interpreter, gdb: str, tmp_path: Path) -> None:
    """qemu writes it when the guest dies."""
    (live,) = inside(python, gdb, tmp_path, "calls_c", {"scenario": "aborted", "function": "builtin_id"})
    cores = list(tmp_path.glob("qemu_*.core" if ARM.is_emulated else "core*"))  # not that of qemu itself
    assert cores, f"nobody left a core:\n{live}"
    look = ("-iex", "set sysroot /", python.python, "-c", str(cores[0]), "-ex", "bt")
    dead = run_gdb(gdb_command(python, *look, gdb=gdb, symbols=function_names(python)))
    assert has_jit(whole(live)), live
    assert real(live) == real("#0" + dead.rpartition("\n#0")[2]), f"live:\n{live}\ncore:\n{dead}"

    done = jitunwind("bt", cores[0], "--gdb", gdb, "--json")
    assert done.returncode == 0, done.stderr
    stacks = json.loads(done.stdout)
    assert stacks["complete"], done.stdout
    ours = stacks_of(cores[0])
    assert not differences(stacks, ours), "\n".join(differences(stacks, ours))
    assert ours.complete
    frames = stacks["threads"][0]["frames"]
    kinds = [frame["kind"] for frame in frames]
    at = kinds.index("jit")
    assert kinds[at + 1] == "shim", kinds
    assert frames[at]["name"] == f"py::work:{PROGRAMS / 'calls_c.py'}"
    assert frames[at]["file"].endswith("calls_c.py"), frames[at]
    assert frames[at]["line"], frames[at]

    done = jitunwind("explain", cores[0], "--json")
    assert done.returncode == 0, done.stderr
    explained = json.loads(done.stdout)
    assert explained["architecture"] == "aarch64"
    assert any(region["micro_ops"] > 1 for region in explained["regions"]), explained["regions"]
    published = explained["summary"]["tables"]["published"]
    if not python.shim_in_region:
        wrong = published["registers"].keys()
        assert wrong >= {f"x{number}" for number in range(19, 29)}, published
        assert not wrong & {"CFA", "ra", "x29"}, published


@pytest.mark.skipif(not ARM.is_emulated, reason="a GDB of another architecture's machine is asked")
def test_a_gdb_that_does_not_know_the_architecture_is_refused(tmp_path: Path) -> None:
    core, deaf = tmp_path / "core", tmp_path / "gdb"
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 4, 183, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    core.write_bytes(header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x1000, 0, 64, 64, 1))
    deaf.write_text("#!/bin/sh\necho knows False\n")
    deaf.chmod(0o755)
    done = jitunwind("bt", core, "--gdb", deaf)
    assert done.returncode == 2
    assert f"error: {deaf} does not know aarch64" in done.stderr
    assert "gdb-multiarch" in done.stderr
