"""What people do with GDB upon a running or dead CPython: each scenario on real interpreters, both versions.

GDB has the plugin, or it is plain and the process publishes its JIT code itself: `Setup`.
The stacks are judged as text, as a person reads them: `problems` of tests/support/live.py says what a
complete stack is. What happens inside GDB is told in tests/support/inside.py.
"""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import THOROUGH
from tests.support.live import (
    NOTHING,
    PLUGIN,
    PROGRAMS,
    PUBLISHED_SETUPS,
    REPOSITORY,
    VERSIONS,
    Frame,
    Interpreter,
    LostDetach,
    Setup,
    frames_in,
    function_names,
    gdb_command,
    problems,
    run_gdb,
    running,
    starting,
)

INSIDE = REPOSITORY / "tests/support/inside.py"
EXTENSION = REPOSITORY / "tests/support/known_registers.c"
INTERRUPTED = ("loops", "recursion", "strings", "threads")
INTERRUPTS = 50 if THOROUGH else 15
INTERRUPTS_PUBLISHED = 25 if THOROUGH else 8
"""Of each program and each set-up in which the process publishes itself."""
STEADY = {"threads": "two_threads"}
"""Where the process publishes, which takes a moment: 3.14 goes on compiling for threads that compete for the GIL."""
RETRIES = 2
KNOWN = {
    "first": 0x1111222233334444,
    "second": 0x2222333344445555,
    "third": 0x3333444455556666,
    "fourth": 0x4444555566667777,
    "fifth": 0x5555666677778888,
}
KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15")


OF_THE_MACHINE = re.compile(r"^warning: Section `\.reg-xstate/\d+' in core file too small\.\n", re.MULTILINE)
"""A warning of GDB's about the processor, which nobody's JIT code is the reason for."""


def in_setups(*others: Setup, debug_information: bool = False) -> pytest.MarkDecorator:
    """Each version in each set-up in which the process publishes itself, and in `others`. `debug_information`: GDB has
    the interpreter's in all of them."""
    setups = [*others, *PUBLISHED_SETUPS]
    if debug_information:
        setups = [replace(setup, debug_information=True) for setup in setups]
    cases = [
        pytest.param(version, setup, id=f"{version}-{setup}") for version in VERSIONS for setup in setups
    ]
    return pytest.mark.parametrize(("python", "setup"), cases, indirect=["python"])


def inside(
    python: Interpreter,
    setup: Setup,
    folder: Path,
    program: str,
    scenario: str,
    *,
    told: Sequence[str] = (),
    **arguments: Any,
) -> tuple[Any, str]:
    """Run one of tests/support/inside.py's courses upon `program`, which is told `told`; what the course returns,
    and all that GDB said. Once more, where GDB has broken down as it let go of the program."""
    for _ in range(RETRIES):
        with suppress(LostDetach):
            return once_inside(python, setup, folder, program, scenario, told, arguments)
        for core in folder.glob("core*"):
            core.unlink()
    return once_inside(python, setup, folder, program, scenario, told, arguments)


def once_inside(
    python: Interpreter,
    setup: Setup,
    folder: Path,
    program: str,
    scenario: str,
    told: Sequence[str],
    arguments: Mapping[str, Any],
) -> tuple[Any, str]:
    output = folder / f"{scenario}.json"
    given = {"scenario": scenario, "output": str(output), **arguments}
    run = ["-ex", f"python import runpy; runpy.run_path({str(INSIDE)!r}, {{'ARGUMENTS': {given!r}}})"]
    calm = setup.plugin or setup.published
    if setup.from_start:
        command = [*starting(python), *run, "--args", *python.command(program, *told, published=True)]
        said = run_gdb(setup.command(python, *command), cwd=folder)
    else:
        with running(python, program, *told, cwd=folder, published=setup.published) as started:
            command = setup.command(python, "-p", str(started.pid), *run)
            said = run_gdb(command, check=calm)
    assert output.exists(), f"GDB ended without an answer:\n{said}"
    return json.loads(output.read_text()), said


def complete(stack: str) -> list[Frame]:
    """The frames of a stack, which must be complete."""
    frames = frames_in(stack)
    found = problems(frames, stack)
    assert not found, "\n".join([*found, stack])
    return frames


def per_thread(stacks: str) -> list[str]:
    """The stacks in what `thread apply all bt` says, with whatever GDB says between headings and frames. That of the
    thread that publishes is left out: it is there only while there is something to do."""
    _, *parts = _THREAD.split(stacks)
    threads = zip(parts[::2], parts[1::2], strict=True)
    return [stack for who, stack in threads if '"jitunwind"' not in who and "jitunwind/agent/" not in stack]


_THREAD = re.compile(r"^Thread \d+ \((.*)\):$", re.MULTILINE)


def names(frames: list[Frame]) -> list[str]:
    return [frame.name for frame in frames]


def has_jit(frames: list[Frame]) -> bool:
    return any(frame.is_jit for frame in frames)


@in_setups(PLUGIN)
@pytest.mark.parametrize("program", INTERRUPTED)
def test_each_stack_is_complete_at_random_interrupts(
    python: Interpreter, setup: Setup, tmp_path: Path, program: str
) -> None:
    times = INTERRUPTS
    if setup.published:
        times, program = INTERRUPTS_PUBLISHED, STEADY.get(program, program)
    seed = times + len(program)
    stacks, _ = inside(python, setup, tmp_path, program, "interrupted", times=times, longest=0.02, seed=seed)
    assert len(stacks) == times
    frames = [complete(stack) for stack in stacks]
    innermost = sum(of[0].is_jit or of[0].is_shim for of in frames)
    print(
        f"{python.minor} {program}: {innermost} of {times} in JIT code, {sum(map(has_jit, frames))} above it"
    )
    assert any(map(has_jit, frames)), "no interrupt had JIT code on the stack"


@in_setups(PLUGIN)
def test_finish_from_a_builtin_leads_into_the_executor_and_its_stack_is_whole(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    found, _ = inside(python, setup, tmp_path, "calls_c", "finish_into_jit", function="builtin_id", steps=2)
    for stage in ("at_break", "finished", "stepped"):
        complete(found[stage])
    stepped = complete(found["stepped"])
    assert stepped[0].is_jit, found["stepped"]
    assert stepped[0].name.startswith("py::work:"), found["stepped"]
    assert "calls_c.py:" in stepped[0].rest, found["stepped"]
    assert stepped[1].is_shim, found["stepped"]
    caller = stepped[2].name.removesuffix(".cold")  # as GCC calls what it has moved out of a function
    assert caller in ("_PyEval_EvalFrameDefault", "_PyEval_Vector"), found["stepped"]


@in_setups(debug_information=True)
def test_plain_commands_tell_of_a_jit_frame_what_they_tell_of_others(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    path = PROGRAMS / "calls_c.py"
    lines = dict(enumerate(path.read_text().splitlines(), 1))
    (loop,) = (number for number, text in lines.items() if "for i in" in text)
    (call,) = (number for number, text in lines.items() if "id(i)" in text)
    line = f"{path.name}:{loop}"
    said, _ = inside(python, setup, tmp_path, "calls_c", "looked_over", function="builtin_id", line=line)

    name = re.escape(f"py::work:{path}")
    shim = r"py::jit_shim:<jit>" if python.shim_in_region else "_PyJIT_Entry"
    assert re.search(
        rf"^#1 +0x[0-9a-f]+ in {name} \(\) at {re.escape(str(path))}:{call}\n{call}\t",
        said["frame"],
        re.MULTILINE,
    )
    assert f"{loop}\t{lines[loop]}\n{call}\t{lines[call]}\n" in said["list"]
    assert re.search(rf"^{name} +\+ \d+ in section ", said["info symbol $pc"], re.MULTILINE)
    assert re.search(rf'^Line {call} of "{re.escape(str(path))}" ', said["info line *$pc"], re.MULTILINE)
    assert re.search(rf"^=> 0x[0-9a-f]+ <{name}\+\d+>:\t", said["x/i $pc"], re.MULTILINE)
    assert re.search(rf"Stack level 1, .*\n rip = 0x[0-9a-f]+ in {name} \(.*:{call}\)", said["info frame"])
    assert "Current source file is " + str(path) in said["info source"]
    assert re.search(rf"^{shim} +\+ \d+ in section ", said["shim"], re.MULTILINE)
    assert "<not saved>" not in said["shim"] + said["evaluator"]
    assert re.search(r"^Breakpoint \d+ at 0x[0-9a-f]+: .*", said["break"], re.MULTILINE)
    stopped = complete(said["stopped"])
    assert stopped[0].is_jit
    assert f"{path}:{loop}" in stopped[0].rest
    assert re.search(rf'^Line {loop} of "{re.escape(str(path))}" ', said["at"], re.MULTILINE)


@in_setups()
def test_gdb_has_nothing_to_complain_of_while_code_comes_and_goes(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    watch = {"times": 4, "seconds": 0.7, "announcements": 8}
    found, all_of_it = inside(python, setup, tmp_path, "audit_replaced", "watched", **watch)
    for names in (found["names"], *found["between"]):
        assert re.search(r"py::(?!jit:executor)", names.partition(":\n")[2]), "for a while, nothing is known"
    said = OF_THE_MACHINE.sub("", found["said"])
    for sign in ("JITed", "not an object", "warning", "BFD", "rror", "corrupt", "DWARF", "annot"):
        assert sign not in said, found["said"]
    for sign in ("JITed", "not an object", "BFD", "DWARF"):
        assert sign not in all_of_it, all_of_it


@pytest.fixture(scope="session")
def extension(python: Interpreter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the extension, compiled for this version."""
    folder = tmp_path_factory.mktemp("extension")
    command = ["gcc", "-shared", "-fPIC", "-O2", "-g", "-fomit-frame-pointer", f"-I{python.include}"]
    command += [f"-I{Path(python.include).parent}", "-o", str(folder / "known_registers.so"), str(EXTENSION)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def assert_known(seen: dict[str, Any], where: str) -> None:
    for name, value in KNOWN.items():
        assert seen["values"][name].strip() == f"{value:#x}", f"{where}: {name} is {seen['values'][name]}"
    held = {seen["registers"][name] for name in KEPT}
    assert set(KNOWN.values()) <= held, f"{where}: the registers are {seen['registers']}"


@in_setups(PLUGIN)
def test_a_c_caller_above_jit_code_has_its_locals_and_registers(
    python: Interpreter, setup: Setup, extension: Path, tmp_path: Path
) -> None:
    known = list(KNOWN)
    found, _ = inside(
        python, setup, tmp_path, "extension", "in_extension", told=[str(extension)], values=known
    )
    frames = complete(found["stack"])
    called = names(frames)
    assert has_jit(frames[: called.index("outer")]), f"no JIT code below outer:\n{found['stack']}"
    assert_known(found["seen"], "up")
    assert found["same_frame"], "finish did not lead back to the same activation of outer"
    assert_known(found["at_end"], "finish")


@pytest.mark.one_version("3.15 publishes the chain itself")
@pytest.mark.parametrize("python", ["3.14"], indirect=True)
def test_without_the_plugin_3_14_does_not_find_the_c_caller(
    python: Interpreter, extension: Path, tmp_path: Path
) -> None:
    """3.15's own entry has the chain, and the evaluator saves what it was given: there it is found."""
    known = list(KNOWN)
    found, _ = inside(
        python, NOTHING, tmp_path, "extension", "in_extension", told=[str(extension)], values=known
    )
    assert found["seen"] is None or any(
        found["seen"]["values"][name].strip() != f"{value:#x}" for name, value in KNOWN.items()
    ), found["stack"]


@in_setups(PLUGIN, NOTHING, debug_information=True)
def test_the_evaluator_that_entered_jit_code_has_its_registers_and_arguments(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    entry = "" if python.shim_in_region else "_PyJIT_Entry"
    found, _ = inside(
        python, setup, tmp_path, "calls_c", "evaluators_frame", function="builtin_id", entry=entry
    )
    if not setup.plugin and not setup.published:
        assert found["seen"] != found["truth"], "the check cannot fail"
    else:
        assert found["seen"] == found["truth"], found["stack"]


@in_setups(PLUGIN)
def test_stacks_stay_whole_while_an_exception_leaves_jit_code(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    found, _ = inside(
        python, setup, tmp_path, "throws", "thrown", function="_PyErr_SetObject", most_steps=150
    )
    for stack in found["stacks"]:
        complete(stack)
    assert has_jit(frames_in(found["stacks"][found["returned"]])[:1]), found["stacks"][found["returned"]]
    assert found["ended"], "the activation never ended:\n" + found["stacks"][-1]


@in_setups(PLUGIN)
def test_a_core_by_gdb_has_the_stack_of_the_live_process(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    """Of one thread: GDB 13's gcore leaves out the stacks of others, whose guard pages it cannot read."""
    core = tmp_path / "saved.core"
    live, _ = inside(python, setup, tmp_path, "calls_c", "saved", function="builtin_id", core=str(core))
    dead = of_core(python, setup, core, "-ex", "bt")
    assert has_jit(complete(live)), live
    assert key(live) == key(newest(dead)), f"live:\n{live}\ncore:\n{dead}"


def of_core(python: Interpreter, setup: Setup, core: Path, *look: str) -> str:
    """What GDB says of a core."""
    return run_gdb(setup.command(python, python.python, "-c", str(core), *look))


def newest(said: str) -> str:
    """The last `bt` in what GDB said."""
    return "#0" + said.rpartition("\n#0")[2]


def key(stack: str) -> list[tuple[int | None, str]]:
    """Program counters and names: what two views of one stack must share."""
    return [(frame.pc, frame.name) for frame in complete(stack)]


@in_setups(PLUGIN)
def test_a_core_by_the_kernel_has_the_stack_of_the_live_process(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith(("|", "/")):
        pytest.fail(
            f"the kernel sends cores to {pattern!r}; for this test: echo core > /proc/sys/kernel/core_pattern"
        )
    live, said = inside(python, setup, tmp_path, "two_threads", "aborted", function="builtin_id")
    cores = list(tmp_path.glob("core*"))
    assert cores, f"the kernel left no core (RLIMIT_CORE?):\n{said}"
    look = ["-ex", "bt", "-ex", "echo <all>\\n", "-ex", "thread apply all bt"]
    dead, _, stacks_of_all = of_core(python, setup, cores[0], *look).partition("<all>\n")
    assert has_jit(complete(live)), live
    assert key(live) == key(newest(dead)), f"live:\n{live}\ncore:\n{dead}"
    stacks = per_thread(stacks_of_all)
    assert len(stacks) == 2, stacks_of_all
    for stack in stacks:
        complete(stack)


@in_setups(PLUGIN)
@pytest.mark.parametrize(("program", "threads", "in_jit"), [("interpreters", 3, 1), ("two_threads", 2, 2)])
def test_each_thread_of_each_interpreter_has_a_complete_stack(
    python: Interpreter, setup: Setup, tmp_path: Path, program: str, threads: int, in_jit: int
) -> None:
    found, _ = inside(python, setup, tmp_path, program, "all_threads", function="builtin_id")
    stacks = per_thread(found)
    assert len(stacks) == threads, found
    frames = [complete(stack) for stack in stacks]
    assert sum(map(has_jit, frames)) >= in_jit, found


@in_setups(PLUGIN)
def test_executors_that_were_invalidated_while_they_ran_are_unwound(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    """settrace empties 3.14's list of executors and hands 3.15's to the list of pending deletions."""
    go = str(tmp_path / "go")
    stack, _ = inside(python, setup, tmp_path, "invalidated", "stopped_in", function="builtin_id", go=go)
    assert has_jit(complete(stack)), stack


def test_damaged_executors_cost_neither_the_stack_nor_the_session(
    python: Interpreter, tmp_path: Path
) -> None:
    found, said = inside(python, PLUGIN, tmp_path, "loops", "damaged")
    whole = names(complete(found["as it is"]["stack"]))
    for damage, seen in found.items():
        assert "Traceback" not in seen["regions"], f"{damage}: {seen['regions']}"
        frames = frames_in(seen["stack"])
        if problems(frames, seen["stack"]):
            assert "warning:" in seen["regions"], f"{damage}: no warning and\n{seen['stack']}"
        else:
            assert len(frames) == len(whole), f"{damage}:\n{seen['stack']}"
    assert "Traceback" not in said


@in_setups(PLUGIN)
def test_a_process_that_ends_under_gdb_leaves_no_error(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    found, said = inside(python, setup, tmp_path, "exits", "ended", go=str(tmp_path / "go"))
    complete(found["before"])
    assert "exited normally" in said + found["end"], said
    assert found["after"].strip() == "No stack."


@in_setups(PLUGIN)
def test_one_session_sees_one_process_after_another(
    python: Interpreter, setup: Setup, tmp_path: Path
) -> None:
    with running(python, "floats", published=setup.published) as other:
        found, _ = inside(python, setup, tmp_path, "loops", "other_process", other=other.pid)
    complete(found["first"])
    complete(found["second"])
    assert "loops.py" not in found["regions"], found["regions"]
    assert "floats.py" in found["regions"], found["regions"]


def test_gdb_without_iced_x86_shows_the_same_stack_and_rows(python: Interpreter, tmp_path: Path) -> None:
    core = tmp_path / "saved.core"
    inside(python, PLUGIN, tmp_path, "calls_c", "saved", function="builtin_id", core=str(core))
    dead = [python.python, "-c", str(core), "-ex", "bt", "-ex", "frame 1", "-ex", "jit-rows"]
    views = {
        packages: run_gdb(gdb_command(python, *dead, packages=packages, symbols=function_names(python)))
        for packages in (True, False)
    }
    assert "decoded by iced-x86" in views[True], views[True]
    assert "decoded by GDB's disassembler" in views[False], views[False]
    stacks = {packages: frames_in(view) for packages, view in views.items()}
    assert stacks[True]
    assert stacks[True] == stacks[False]
    rows = {packages: _ROW.findall(view) for packages, view in views.items()}
    assert rows[True]
    assert rows[True] == rows[False]


_ROW = re.compile(r"^(?:=>|  ) 0x[0-9a-f]+ <\+\d+>:\t.*$", re.MULTILINE)
"""A line of `jit-rows`."""


STOPS = 200 if THOROUGH else 100


@pytest.mark.parametrize("newest", [False, True], ids=["system", "newest"])
@pytest.mark.parametrize("plugin", [False, True], ids=["plain", "plugin"])
def test_breakpoints_do_not_stop_in_the_thread_that_publishes(
    python: Interpreter, tmp_path: Path, plugin: bool, newest: bool
) -> None:
    """GIVEN a process that makes code all the time, THEN with the plugin a breakpoint in the interpreter stops in the
    program's own thread only; in plain GDB in that which publishes, too, which has a name."""
    setup = Setup(plugin=plugin, published=True, newest=newest)
    threads, _ = inside(
        python, setup, tmp_path, "makes", "stopped_threads", function="_PyEval_EvalFrameDefault", stops=STOPS
    )
    own = Path(python.python).name
    assert threads == ([own] if plugin else ["jitunwind", own])
