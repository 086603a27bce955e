"""`jitunwind bt`, run as a command, on real interpreters that stand in hot code where both sides know."""

import contextlib
import json
import os
import pty
import random
import re
import resource
import select
import shlex
import shutil
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from jitunwind.cli.page import Form, lines, shortened
from jitunwind.memory.process import LiveProcess
from jitunwind.stacks.debugfiles import what_to_install
from tests.support.processes import (
    PATIENCE,
    PROGRAMS,
    VERSIONS,
    WARM_CHAIN,
    Program,
    command,
    interpreter,
    jitunwind,
    plain_environment,
    run,
    status,
)

LOOP, CHAIN, WAITING = (str(PROGRAMS / name) for name in ("loop.py", "chain.py", "waiting.py"))
CALLEE_SAVED = {"rbx", "rbp", "r12", "r13", "r14", "r15"}
SHORT_SHIMS = {"3.14": "jit_shim", "3.15": "_PyJIT_Entry"}
HEX = re.compile(r"0x[0-9a-f]+")
ESCAPE = "\x1b["
Stacks = dict[str, Any]
Frames = list[dict[str, Any]]
Interleaved = tuple[Frames, Frames, list[tuple[str, str, int]]]


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def loop(version: str) -> Iterator[Program]:
    with run(version, "loop.py") as program:
        yield program.warm()


@pytest.fixture(scope="module")
def chain(version: str) -> Iterator[Program]:
    with run(version, "chain.py") as program:
        yield program.warm(WARM_CHAIN)


@pytest.fixture(scope="module")
def threads(version: str) -> Iterator[Program]:
    with run(version, "threads.py") as program:
        for _ in range(2):
            program.settle()
            program.send(b"w")
        program.settle()
        yield program.warm()


@pytest.fixture(scope="module")
def looks(loop: Program) -> tuple[str, Stacks]:
    """Two looks at a process that does nothing in between."""
    return whole(jitunwind("bt", loop.pid)).stdout, stacks_of(loop.pid)


@pytest.fixture(scope="module")
def text(looks: tuple[str, Stacks]) -> str:
    """`jitunwind bt PID`, piped."""
    return looks[0]


@pytest.fixture(scope="module")
def stacks(looks: tuple[str, Stacks]) -> Stacks:
    """`jitunwind bt PID --json`."""
    return looks[1]


def stacks_of(target: object, *options: object) -> Stacks:
    stacks: Stacks = json.loads(whole(jitunwind("bt", target, "--json", *options)).stdout)
    return stacks


def whole(done: "subprocess.CompletedProcess[str]") -> "subprocess.CompletedProcess[str]":
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done


def line_of(file: str, text: str) -> int:
    """The number of the one line of `file` that has `text` in it."""
    (number,) = (n for n, line in enumerate(Path(file).read_text().splitlines(), 1) if text in line)
    return number


def only_thread(stacks: Stacks) -> Frames:
    (thread,) = stacks["threads"]
    frames: Frames = thread["frames"]
    return frames


def reported(frames: Frames) -> list[tuple[Any, ...]]:
    """What two looks at the same stack must agree in."""
    return [(f["pc"], f["sp"], f["kind"], f["name"], f["file"], f["line"], f["region"]) for f in frames]


# --- the picture


def test_the_whole_stack_is_shown_down_to_start(text: str, version: str) -> None:
    frames = [line for line in text.splitlines() if line.startswith("#")]

    kinds = "".join(line.split()[2][0] for line in frames)
    assert re.fullmatch("n+jsn+", kinds), text
    assert frames[-1].split()[3] == "_start", text
    assert "??" not in text
    assert "all stacks are whole" in text


def test_a_jit_frame_has_its_functions_name_and_the_line_it_runs(text: str) -> None:
    assert re.search(rf" jit    {inlined('waiting.py')}$", text, re.MULTILINE), text


def inlined(file: str) -> str:
    """A pattern of `take`, which is inlined into the trace of `f`."""
    return rf"take  {re.escape(file)}:{line_of(WAITING, 'os.read')}  \(inlined in f\)"


def test_the_function_that_runs_is_told_apart_from_its_trace(stacks: Stacks) -> None:
    (frame,) = (frame for frame in only_thread(stacks) if frame["kind"] == "jit")
    assert frame["name"] == f"py::f:{LOOP}"
    assert [frame[key] for key in ("function", "trace", "inlined")] == ["take", "f", True]
    assert (frame["file"], frame["line"]) == (WAITING, line_of(WAITING, "os.read"))


def test_the_shim_is_a_frame_of_its_own(text: str, version: str) -> None:
    assert re.search(rf" shim   {SHORT_SHIMS[version]}$", text, re.MULTILINE), text


def test_the_header_says_what_is_looked_at(text: str, loop: Program, version: str) -> None:
    what, which, empty, thread, *_ = text.splitlines()
    assert what == f"Process {loop.pid}: {shlex.join(loop.arguments)}"
    where = re.escape(str(Path(interpreter(version)).resolve()))
    assert re.fullmatch(rf"CPython {version}\.\d+, JIT on \({where}\)", which), which
    assert (empty, thread) == ("", f'Thread {loop.pid} (idle): "python{version}"')


def test_native_code_has_its_function_of_the_interpreters_debug_files(text: str) -> None:
    named = {line.split()[3] for line in text.splitlines() if " native " in line}
    assert {"os_read", "_PyRun_SimpleFile"} <= named, text  # not exported
    assert "names of C functions" not in text


def test_the_time_that_the_process_stood_still_is_printed(text: str) -> None:
    found = re.search(r"; the process stood still for (\d+\.\d) ms$", text)
    assert found is not None, text
    assert 0 < float(found[1]) < 1000


def test_the_process_goes_on_afterwards(loop: Program, text: str) -> None:
    assert loop.goes_on()


@pytest.fixture(scope="module")
def narrow(loop: Program) -> str:
    """`jitunwind bt --full-paths PID` on a terminal of 60 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    options = {"stdout": theirs, "stderr": subprocess.PIPE, "env": plain_environment() | {"NO_COLOR": "1"}}
    with subprocess.Popen(command("bt", "--full-paths", loop.pid), text=True, **options) as running:
        os.close(theirs)
        said = bytearray()
        with contextlib.suppress(OSError):  # EIO: nobody has it open any more
            while more := os.read(ours, 1 << 16):
                said += more
    os.close(ours)
    assert running.returncode == 0, said
    return said.decode().replace("\r\n", "\n")


def test_no_line_is_longer_than_a_narrow_terminal(narrow: str) -> None:
    assert max(map(len, narrow.splitlines())) <= 60, narrow
    place = f"{WAITING}:{line_of(WAITING, 'os.read')}"
    assert f"    {shortened(place, 56)}\n" in narrow, narrow


@pytest.mark.parametrize("width", [40, 60, 80, None])
def test_frames_fit_the_terminal_and_are_whole_in_a_pipe(width: int | None) -> None:
    form = Form(lambda text, **style: text, width, full_paths=True)
    frames = [made(name=f"py::{function}:/t.py", function=function) for function in ("f", "g" * 200)]
    stacks = MADE | {"command": "python " + "/a" * 100, "threads": [{**THREAD, "frames": frames}]}
    shown = list(lines(stacks, form))
    if width is None:
        assert shown[0].endswith("/a" * 100)
        assert sum(f"  {FILE}:7  (inlined in outer)" in line for line in shown) == 2
    else:
        assert max(map(len, shown)) <= width, shown
        assert sum(line.endswith("e.py:7") for line in shown) == 2, shown


def test_a_path_is_a_files_name_and_a_packages_folder() -> None:
    form = Form(lambda text, **style: text, None, full_paths=False)
    frames = [made(file=file) for file in (FILE, "/l/json/__init__.py", "<string>")]
    shown = list(lines(MADE | {"threads": [{**THREAD, "frames": frames}]}, form))
    assert [line.split()[4] for line in shown[-3:]] == ["file.py:7", "json/__init__.py:7", "<string>:7"]


def test_a_trace_that_has_returned_from_its_function_is_not_called_inlined() -> None:
    form = Form(lambda text, **style: text, None, full_paths=False)
    stacks = MADE | {"threads": [{**THREAD, "frames": [made(inlined=False)]}]}
    assert list(lines(stacks, form))[-1].endswith(" jit    f  file.py:7  (in a trace of outer)")


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, ["#0 0x00007f0000001000 jit    f  t.py:7  (inlined in Loop.run_forever)"]),
        (60, ["#0 0x00007f0000001000 jit    f  t.py:7", " " * 29 + "(inlined in Loop.run_forever)"]),
        (40, ["#0 0x00007f0000001000 jit    f  t.py:7", " " * 11 + "(inlined in Loop.run_forever)"]),
        (30, ["#0 0x00007f0000001000 jit    f", " " * 24 + "t.py:7", "    (inlined…Loop.run_forever)"]),
    ],
    ids=str,
)
def test_what_does_not_fit_has_a_line_of_its_own(width: int, shown: list[str]) -> None:
    form = Form(lambda text, **style: text, width, full_paths=False)
    frames = [made(file="/tmp/t.py", trace="Loop.run_forever")]
    assert list(lines(MADE | {"threads": [{**THREAD, "frames": frames}]}, form))[-len(shown) :] == shown


@pytest.mark.parametrize(
    ("distribution", "program", "line"),
    [
        ("ubuntu", "/usr/bin/python3.14", "apt-get install python3.14-dbg"),
        ("fedora", "/usr/lib64/libpython3.15.so.1.0", "dnf debuginfo-install python3.15"),
        ("ubuntu", "/opt/python3.14", "install the debug symbols of python3.14 (Debian: python3.14-dbg; "),
        ("arch", "/usr/bin/python3.14", "install the debug symbols of python3.14 (Debian: python3.14-dbg; "),
        ("ubuntu", "/usr/bin/blender", "install the debug symbols of blender"),
    ],
)
def test_what_to_install_is_said_as_the_distribution_has_it(
    distribution: str, program: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = {"ID": distribution, "ID_LIKE": "debian" if distribution == "ubuntu" else ""}
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    monkeypatch.setattr("os.path.isfile", lambda path: True)
    said = what_to_install(program)
    assert said.startswith(line)
    assert said == line or line.endswith("; ")


@pytest.mark.parametrize(
    ("known", "line"),
    [
        ({}, "Thread 7"),
        ({"name": "worker"}, 'Thread 7: "worker"'),
        ({"state": "active", "gil": True}, "Thread 7 (active, holds the GIL)"),
        ({"gil": True, "name": "worker"}, 'Thread 7 (holds the GIL): "worker"'),
    ],
    ids=str,
)
def test_a_thread_has_no_empty_brackets(known: dict[str, Any], line: str) -> None:
    form = Form(lambda text, **style: text, None, full_paths=False)
    assert list(lines(MADE | {"threads": [THREAD | known]}, form))[-1] == line


FILE = "/a/very/long/path" + "/of/folders" * 12 + "/file.py"
THREAD: dict[str, Any] = {"tid": 7, "name": "", "state": None, "gil": None, "frames": []}
MADE: dict[str, Any] = {
    "pid": 7,
    "core": None,
    "command": "python",
    "executable": "/usr/bin/python3.14",
    "python": "3.14.0",
    "jit": True,
    "signal": None,
    "problem_kind": "",
    "others": "",
}


def made(**known: Any) -> dict[str, Any]:
    """A JIT frame."""
    of = {"index": 0, "pc": "0x7f0000001000", "kind": "jit", "name": "py::outer:/t.py", "function": "f"}
    return {**of, "trace": "outer", "inlined": True, "file": FILE, "line": 7, **known}


# --- for programs


def test_json_has_the_documented_form(stacks: Stacks, loop: Program, version: str) -> None:
    of_process = ["pid", "core", "command", "executable", "python", "jit", "signal"]
    assert list(stacks) == [*of_process, "threads", "complete", "warnings"]
    assert shlex.split(stacks["command"]) == loop.arguments
    assert (stacks["jit"], stacks["signal"]) == (True, None)
    assert stacks["executable"] == str(Path(interpreter(version)).resolve())
    assert stacks["pid"] == loop.pid
    assert stacks["core"] is None
    assert stacks["python"].startswith(f"{version}.")
    assert stacks["complete"] is True
    assert stacks["warnings"] == []
    (thread,) = stacks["threads"]
    assert list(thread) == ["tid", "name", "state", "gil", "frames", "reason"]
    assert thread["reason"] == ""
    assert (thread["state"], thread["gil"]) == ("idle", False)
    assert (thread["tid"], thread["name"]) == (loop.pid, f"python{version}")


def test_every_json_frame_has_the_documented_form(stacks: Stacks) -> None:
    about = ["kind", "name", "function", "trace", "inlined", "file", "line", "region"]
    keys = ["index", "pc", "sp", *about, "registers", "exact"]
    for index, frame in enumerate(only_thread(stacks)):
        assert list(frame) == keys
        assert frame["index"] == index
        assert HEX.fullmatch(frame["pc"])
        assert HEX.fullmatch(frame["sp"])
        assert frame["kind"] in ("jit", "shim", "native")
        assert isinstance(frame["name"], str)
        assert frame["name"] not in ("", "??")
        assert (frame["file"] is None) == (frame["line"] is None)
        assert frame["file"] is None or (isinstance(frame["file"], str) and isinstance(frame["line"], int))
        assert frame["exact"] is True
        assert set(frame["registers"]) <= CALLEE_SAVED
        assert all(HEX.fullmatch(value) for value in frame["registers"].values())
        if frame["kind"] == "native":
            assert frame["region"] is None
            assert set(frame["registers"]) == CALLEE_SAVED
        else:
            assert list(frame["region"]) == ["start", "size"]
            start, pc = int(frame["region"]["start"], 16), int(frame["pc"], 16)
            assert start <= pc < start + frame["region"]["size"]


def test_json_frames_go_outwards(stacks: Stacks) -> None:
    pointers = [int(frame["sp"], 16) for frame in only_thread(stacks)]
    assert pointers == sorted(set(pointers))


def test_the_rows_of_text_and_json_are_the_same(text: str, stacks: Stacks) -> None:
    shown = [line.split()[1:4] for line in text.splitlines() if line.startswith("#")]
    assert [(int(pc, 16), kind, name) for pc, kind, name in shown] == [
        (int(frame["pc"], 16), frame["kind"], label(frame)) for frame in only_thread(stacks)
    ]


def label(frame: dict[str, Any]) -> str:
    name: str = frame["function"] or frame["name"]
    return "jit_shim" if name == "py::jit_shim:<jit>" else name


# --- Python frames


@pytest.fixture(scope="module")
def interleaved(chain: Program) -> Interleaved:
    """The frames without `--python`, and with it; and what the program says itself."""
    without, having = (only_thread(stacks_of(chain.pid, *options)) for options in ((), ("--python",)))
    return without, having, chain.python_stack()


def test_python_frames_are_the_programs_own_chain(interleaved: Interleaved) -> None:
    _, frames, own = interleaved
    shown = [(f["name"], f["file"], f["line"]) for f in frames if f["kind"] == "python"]
    assert shown[0] == ("take", WAITING, line_of(WAITING, "os.read"))
    assert shown[1:] == own


def test_python_frames_stand_before_what_runs_them(interleaved: Interleaved) -> None:
    _, frames, _ = interleaved
    pattern = []  # stretches of frames: the functions of Python ones, the kind of others
    for frame in frames:
        word = frame["name"].rpartition(".")[2] if frame["kind"] == "python" else frame["kind"]
        if not pattern or pattern[-1] != word or word == "through_map":
            pattern.append(word)
    main = next(i for i, frame in enumerate(frames) if frame["name"] == "PyEval_EvalCode")
    assert frames[main - 1]["kind"] == "native"
    # innermost, and through_sum, run in JIT code; what max, map and sum call begins a run of its own
    assert pattern == [
        *["native", "take", "innermost", "numbers", "delegate", "jit", "shim"],
        *["native", "through_sum", "jit", "shim"],
        *["native", "through_map"],
        *["native", "through_map", "<lambda>"],
        *["native", "__getattr__"],
        *["native", "main", "<module>"],
        "native",
    ]
    names = [frame["name"] for frame in frames if frame["kind"] == "jit"]
    assert names == [f"py::innermost:{CHAIN}", f"py::through_sum:{CHAIN}"]


def test_python_frames_change_nothing_else(interleaved: Interleaved) -> None:
    without, having, _ = interleaved
    assert reported(without) == reported([frame for frame in having if frame["kind"] != "python"])
    assert [frame["index"] for frame in having] == list(range(len(having)))


# --- threads


def test_every_thread_is_shown_to_its_outermost_frame(threads: Program, version: str) -> None:
    stacks = stacks_of(threads.pid)

    assert {thread["tid"] for thread in stacks["threads"]} == set(threads.tids())
    assert len(stacks["threads"]) == 3
    assert [(thread["state"], thread["gil"]) for thread in stacks["threads"]] == [("idle", False)] * 3
    first, *others = sorted(stacks["threads"], key=lambda thread: thread["tid"] != threads.pid)
    assert first["frames"][-1]["name"] == "_start"
    for thread in others:
        assert thread["name"] in ("second", "third")
        outermost = thread["frames"][-1]
        assert returns_into_exit(threads.pid, int(outermost["pc"], 16)), outermost
        jit = [frame for frame in thread["frames"] if frame["kind"] == "jit"]
        assert len(jit) == 1


def returns_into_exit(pid: int, pc: int) -> bool:
    """Whether exit(2) is what follows: so do clone and clone3 of libc end, and nothing else
    (glibc sysdeps/unix/sysv/linux/x86_64/clone3.S)."""
    exit_with_result = rb"\x48?\x89\xc7\xb8\x3c\0\0\0\x0f\x05"  # mov %rax,%rdi; mov $60,%eax; syscall
    with LiveProcess(pid) as process:
        return re.match(exit_with_result, process.read(pc, 16)) is not None


def test_one_thread_alone(threads: Program) -> None:
    tid = threads.tids()[1]

    (thread,) = stacks_of(threads.pid, "--thread", tid)["threads"]

    assert thread["tid"] == tid


def test_a_thread_that_is_not_there(threads: Program) -> None:
    done = jitunwind("bt", threads.pid, "--thread", 1)

    assert (done.returncode, done.stdout) == (2, "")
    known = ", ".join(map(str, threads.tids()))
    assert done.stderr == f"error: {threads.pid} has no thread 1\n  try: one of its own: {known}\n"


def test_a_computing_thread_is_active_and_holds_the_gil(version: str) -> None:
    program = str(PROGRAMS / "hot_or_blocked.py")
    with Program([interpreter(version), program, "hot"]) as hot:
        assert hot.process.stdout is not None
        assert hot.process.stdout.readline() == b"ready\n"

        text = whole(jitunwind("bt", hot.pid)).stdout

    assert f'\nThread {hot.pid} (active, holds the GIL): "python{version}"\n' in text, text


@pytest.mark.live
@pytest.mark.one_version("a C function's lines do not depend on the version")
def test_lines_of_c_functions_when_asked_for(cold: Program) -> None:
    text = jitunwind("bt", "--c-lines", cold.pid).stdout

    assert re.search(r" native os_read_impl  posixmodule.c(\.h)?:\d+$", text, re.MULTILINE), text


# --- colours


@pytest.fixture(scope="module")
def cold() -> Iterator[Program]:
    with run("3.14", "loop.py") as program:
        program.settle()
        yield program


@pytest.mark.live
@pytest.mark.one_version("colours do not depend on the version")
@pytest.mark.parametrize(
    ("options", "environment", "coloured"),
    [
        ([], {}, False),
        (["--color", "always"], {}, True),
        (["--color", "never"], {"FORCE_COLOR": "1"}, False),
        (["--color", "auto"], {"NO_COLOR": "1"}, False),
    ],
    ids=["piped", "always", "never", "NO_COLOR"],
)
def test_colours(options: list[str], environment: dict[str, str], coloured: bool, cold: Program) -> None:
    done = jitunwind("bt", cold.pid, *options, environment=environment)

    assert re.search(r"^(\x1b\[2m)?#0 ", done.stdout, re.MULTILINE)
    assert (ESCAPE in done.stdout) == coloured


# --- cores


@pytest.fixture(scope="module")
def cores(version: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process, looked at alive, by gcore's core, and by the kernel's."""
    folder = tmp_path_factory.mktemp("cores")
    with run(version, "chain.py", cwd=folder, preexec_fn=unlimited_cores) as program:
        program.warm(WARM_CHAIN)
        live = only_thread(stacks_of(program.pid))
        gcore = subprocess.run(
            ["gcore", "-o", folder / "gcore", str(program.pid)], capture_output=True, text=True, check=False
        )
        assert gcore.returncode == 0, gcore.stderr
        program.kill(signal.SIGABRT)
        program.process.wait()
        return {
            "live": live,
            "gcore": folder / f"gcore.{program.pid}",
            "kernel": next(iter(folder.glob("core*")), None),
        }


def unlimited_cores() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("options", [[], ["--exe"]], ids=["alone", "exe"])
@pytest.mark.parametrize("kind", ["gcore", "kernel"])
def test_a_core_gives_the_stack_of_the_live_process(
    kind: str, options: list[str], cores: dict[str, Any], version: str
) -> None:
    core = cores[kind]
    if core is None:
        pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
        pytest.skip(f"the kernel puts cores elsewhere: {pattern}")

    stacks = stacks_of(core, *options, *[interpreter(version)] * len(options))

    assert (stacks["core"], stacks["executable"]) == (str(core), interpreter(version))
    assert [(thread["state"], thread["gil"]) for thread in stacks["threads"]] == [(None, False)]
    got = stacks["signal"] and [stacks["signal"][key] for key in ("name", "tid", "address")]
    assert got == (None if kind == "gcore" else ["SIGABRT", stacks["pid"], None])
    assert stacks["complete"] is True
    assert reported(only_thread(stacks)) == reported(cores["live"])


class Death(NamedTuple):
    """What makes a program die, where, and what `bt` says of that."""

    byte: bytes
    text: str
    signal: signal.Signals
    line: str


DEATHS = {
    "3.14": Death(
        *(b"n", "from_address(16)", signal.SIGSEGV),
        "Signal SIGSEGV in thread {pid} at address 0x10 (nothing is mapped there)",
    ),
    "3.15": Death(
        b"a", "os.abort()", signal.SIGABRT, "Signal SIGABRT in thread {pid}, sent by process {pid}"
    ),
}


def test_a_core_says_what_the_program_died_of(version: str, tmp_path: Path) -> None:
    with run(
        version, "loop.py", cwd=tmp_path, preexec_fn=unlimited_cores, stderr=subprocess.DEVNULL
    ) as program:
        program.warm()
        program.send(DEATHS[version].byte)
        assert program.process.wait(PATIENCE) == -DEATHS[version].signal
    core = next(iter(tmp_path.glob("core*")), None)
    if core is None:
        pytest.skip("the kernel puts cores elsewhere")

    done = whole(jitunwind("bt", core, "--python"))

    shown = re.findall(r"python (\w+|<module>)  (.*):(\d+)$", done.stdout, re.MULTILINE)
    assert [name for name, _, _ in shown] == ["answer", "take", "f", "<module>"]
    assert shown[0][1:] == ("waiting.py", str(line_of(WAITING, DEATHS[version].text)))
    assert "stood still" not in done.stdout
    what, which, signal_line, empty, thread, *_ = done.stdout.splitlines()
    assert what.startswith(f"Core {core}: {interpreter(version)}"[:60])
    assert which.endswith(f", JIT on ({interpreter(version)})")
    assert signal_line == DEATHS[version].line.format(pid=program.pid)
    assert (empty, thread) == ("", f"Thread {program.pid} (holds the GIL)")


# --- interrupted


def test_ctrl_c_leaves_the_process_running_and_untraced(loop: Program) -> None:
    moments = random.Random(20)
    statuses = []
    for _ in range(5):
        # as a terminal does: SIGINT for the whole foreground process group
        running = subprocess.Popen(
            command("bt", loop.pid),
            env=plain_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        try:
            running.wait(moments.uniform(0.1, 0.6))
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGINT)
        _, complaint = running.communicate(timeout=PATIENCE)

        now = status(loop.pid)
        assert (now["TracerPid"], now["State"][0]) == ("0", "S")
        statuses.append(running.returncode)
        if running.returncode == 130:
            assert complaint.strip() == ""
    assert set(statuses) <= {0, 130, -signal.SIGINT}  # the last: before Python had got as far as jitunwind
    assert loop.goes_on()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_gdb_holds_the_process(number: int, loop: Program, tmp_path: Path) -> None:
    # GIVEN a GDB that attaches, says so, and would stay for ever
    held, never = tmp_path / "held", tmp_path / "never"
    os.mkfifo(held)
    os.mkfifo(never)
    gdb = tmp_path / "gdb"
    wait = f"shell echo held > {held}; read line < {never}"
    gdb.write_text(f'#!/bin/sh\nexec {shutil.which("gdb")} -nx -batch -p {loop.pid} -ex "{wait}"\n')
    gdb.chmod(0o755)
    told = os.open(held, os.O_RDWR)  # so that opening it waits for nobody
    running = subprocess.Popen(command("bt", loop.pid, "--gdb", gdb), stderr=subprocess.PIPE, text=True)
    if not select.select([told], [], [], PATIENCE)[0]:
        running.kill()
        pytest.fail(f"GDB has not attached: {running.communicate()[1]}")
    os.close(told)
    assert status(loop.pid)["State"][0] == "t"
    # WHEN
    running.send_signal(number)
    _, complaint = running.communicate(timeout=PATIENCE)
    # THEN
    assert (running.returncode, complaint.strip()) == (128 + number, "")
    assert loop.goes_on()


def test_a_process_that_was_stopped_stays_stopped(version: str) -> None:
    with run(version, "loop.py") as program:
        program.warm()
        program.kill(signal.SIGSTOP)

        stacks = stacks_of(program.pid)

        assert stacks["complete"]
        assert [thread["state"] for thread in stacks["threads"]] == ["stopped"]
        assert status(program.pid)["State"][0] == "T"
        program.kill(signal.SIGCONT)
        assert program.goes_on()


def test_a_reader_that_leaves_early(loop: Program) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command("bt", loop.pid), stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)

    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")
    assert loop.goes_on()
