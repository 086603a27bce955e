"""`jitunwind record`: what is recorded, how a recording ends, and that it harms nobody."""

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from jitunwind.profile.collapsed import read
from jitunwind.profile.forms import form_of
from jitunwind.profile.labels import QUEUED, STOPPED, WAITING
from jitunwind.profile.recording import Frame, Kind, Recording
from tests.support.forked import Forked
from tests.support.live import Interpreter, running
from tests.support.processes import command, interpreter, plain_environment, status, wait_until
from tests.support.situations import started

PROGRAMS = Path(__file__).parent / "programs"
SHARES = PROGRAMS / "known_shares.py"
VERSION = "3.15"
of_one_version = pytest.mark.one_version("what is written and printed does not depend on the version")


@pytest.fixture(scope="module")
def hot_process() -> Iterator[int]:
    """The number of a process that runs in JIT code."""
    with hot(VERSION) as pid:
        yield pid


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    with Forked(tmp_path_factory.mktemp("record"), plain_environment()) as forked:
        yield forked


def record(forked: Forked, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = forked("record", *arguments)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def hot(version: str, *arguments: str, jit: str = "1") -> AbstractContextManager[int]:
    command = [interpreter(version), SHARES, *(arguments or ("loops",))]
    return started(command, plain_environment() | {"PYTHON_JIT": jit})


def recorded(file: Path) -> Recording:
    return read(file.read_text(), str(file))


def names(recording: Recording) -> set[str]:
    return {frame.name for frame in recording.frames}


DOUBT = "note: .*(the shares hold, if|its share is too small).*"
"""What is said where processors are scarce."""


# --- what comes out


@of_one_version
def test_each_form_by_the_name_of_the_file(hot_process: int, tmp_path: Path, forked: Forked) -> None:
    for name, begins in (
        ("a.html", b"<!doctype html>"),
        ("a.gecko.json", b'{"meta"'),
        ("a.pb.gz", b"\x1f\x8b"),
    ):
        done = record(forked, "-d", "0.2", "-o", tmp_path / name, hot_process)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).read_bytes().startswith(begins)
        begun = f"note: recording process {hot_process} for 0.2 s; Ctrl-C ends it\n"
        assert re.fullmatch(
            rf"{begun}(note: there is no sample: .*\n)?({DOUBT}\n)*"
            rf"note: {tmp_path}/{re.escape(name)}: \d+ samples? in \d\.\d s, .*\n",
            done.stderr,
        )
        assert done.stdout == ""


def test_the_case_of_a_file_s_name_does_not_matter() -> None:
    form = form_of("A.HTML")
    assert form is not None
    assert form.name == "html"


@of_one_version
def test_live_without_a_terminal_still_writes_the_file(
    hot_process: int, tmp_path: Path, forked: Forked
) -> None:
    done = record(forked, "--live", "-d", "0.1", "-o", tmp_path / "a.html", hot_process)
    assert (done.returncode, (tmp_path / "a.html").exists()) == (0, True), done.stderr
    assert "note: --live shows nothing, because stdout is no terminal\n" in done.stderr


@of_one_version
def test_the_form_can_be_named(hot_process: int, forked: Forked) -> None:
    done = record(forked, "-d", "0.2", "-o", "-", "--format", "speedscope", "-p", hot_process)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exporter"] == "jitunwind"


@of_one_version
def test_without_a_file_a_table_is_printed(hot_process: int, forked: Forked) -> None:
    done = record(forked, "-d", "0.5", "-r", "500", hot_process)
    begun = f"note: recording process {hot_process} for 0.5 s; Ctrl-C ends it\n"
    assert done.returncode == 0
    assert re.fullmatch(rf"{begun}({DOUBT}\n)*", done.stderr)
    assert re.search(r"^JIT code \d+\.\d %   interpreter \d+\.\d %   C \d+\.\d %", done.stdout, re.MULTILINE)
    for function in ("half", "third", "fifth"):
        assert re.search(rf"^ *(\d+\.\d % +){{3,5}} {function}  ", done.stdout, re.MULTILINE)


@of_one_version
def test_lines_of_a_function_are_told_apart_if_wanted(
    hot_process: int, tmp_path: Path, forked: Forked
) -> None:
    file = tmp_path / "a.collapsed"
    done = record(forked, "-d", "0.5", "-r", "1000", "--lines", "-o", file, hot_process)
    assert done.returncode == 0, done.stderr
    halves = {frame.line for frame in recorded(file).frames if frame.name == "half"}
    assert len(halves) > 1 or len(names(recorded(file))) < 5, done.stderr


def test_c_functions_have_lines_if_wanted(python: Interpreter, tmp_path: Path, forked: Forked) -> None:
    file = tmp_path / "a.collapsed"
    with hot(python.minor) as pid:
        options = ["--c-lines", "--lines", "--debug-dir", python.debug_file_directory]
        done = record(forked, "-d", "0.3", "-r", "300", *options, "-o", file, pid)
    assert done.returncode == 0, done.stderr
    in_c = [frame for frame in recorded(file).frames if (frame.file or "").endswith((".c", ".h"))]
    assert any(frame.name == "_PyEval_EvalFrameDefault" and frame.line for frame in in_c), done.stderr


@of_one_version
def test_two_recordings_are_compared(hot_process: int, tmp_path: Path, forked: Forked) -> None:
    for name in ("before", "after"):
        record(forked, "-d", "0.2", "--idle", "-o", tmp_path / f"{name}.collapsed", hot_process)
    files = [tmp_path / "before.collapsed", tmp_path / "after.collapsed"]
    done = record(forked, "--diff", *files, "-o", tmp_path / "page.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert 'data-difference="1"' in (tmp_path / "page.html").read_text()


# --- which threads


BLOCKED = """
import sys, threading
def blocked(): threading.Event().wait()
def hot():
    total = 0
    while True:
        for number in range(10_000): total += number & 7
threading.Thread(target=blocked, daemon=True).start()
threading.Thread(target=hot, daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""


def test_threads_that_wait_are_left_alone_unless_wanted(
    python: Interpreter, tmp_path: Path, forked: Forked
) -> None:
    program, file = tmp_path / "blocked.py", tmp_path / "a.collapsed"
    program.write_text(BLOCKED)
    with running(python, program) as started:
        for options, waits in (((), False), (("--idle",), True), (("--gil",), False)):
            done = record(forked, "-d", "0.8", *options, "-o", file, started.pid)
            assert done.returncode == 0, done.stderr
            assert "hot" in names(recorded(file)), done.stderr
            assert ("blocked" in names(recorded(file))) == waits, options
            assert (WAITING in names(recorded(file))) == waits, options
            assert "not whole" not in done.stderr, done.stderr


NAPS = """
import time
print("ready", flush=True)
while True: time.sleep(0.001)
"""


@pytest.mark.live
@pytest.mark.one_version("it is about the kernel's queue")
def test_a_wait_for_a_processor_is_no_time_in_the_call_that_slept(
    python: Interpreter, tmp_path: Path, forked: Forked
) -> None:
    """Programs that compute share a processor with one that naps."""
    program, file = tmp_path / "naps.py", tmp_path / "a.collapsed"
    program.write_text(NAPS)
    processor = min(os.sched_getaffinity(0))
    with running(python, program) as naps, hot(VERSION) as one, hot(VERSION) as other:
        for pid in (naps.pid, one, other):
            os.sched_setaffinity(pid, {processor})
        done = record(forked, "-d", "1", "-r", "200", "--idle", "-o", file, naps.pid)
        assert done.returncode == 0, done.stderr
        queued, _ = weights_of_queued(recorded(file))
        assert queued, done.stderr
        assert f", {queued:,} waiting for a processor" in done.stderr
        done = record(forked, "-d", "0.5", "-r", "200", "--idle", "-o", file, one)
        assert done.returncode == 0, done.stderr
        queued, all_together = weights_of_queued(recorded(file))
        assert queued < all_together, "it computes: a system call before is chance"


def weights_of_queued(found: Recording) -> tuple[int, int]:
    """Of the stacks of threads that waited for a processor, and of all."""
    marked = Frame(Kind.WAITING, QUEUED)
    stacks = found.weights().items()
    return sum(
        weight for index, weight in stacks if found.frames[found.stacks[index][-1]] == marked
    ), found.weight


@pytest.mark.live
@pytest.mark.one_version("it is about a process")
def test_a_process_that_is_stopped_is_said_and_marked(tmp_path: Path, forked: Forked) -> None:
    file = tmp_path / "a.collapsed"
    with hot(VERSION) as pid:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: status(pid)["State"][:1] == "T", "the process to stop")
        done = record(forked, "-d", "0.1", "-o", file, pid)
        assert "note: a signal or a debugger had stopped the process (kill -CONT" in done.stderr
        assert record(forked, "-d", "0.5", "--idle", "-o", file, pid).returncode == 0
        found = recorded(file)
        assert STOPPED in names(found)
        assert {found.frames[stack[-1]].kind for stack in found.stacks} == {Kind.WAITING}


# --- code that comes and goes


def test_code_that_is_made_anew_has_its_own_name(python: Interpreter, tmp_path: Path, forked: Forked) -> None:
    """Functions are made, become hot and are freed, one after the other: each lies where others lay before. A sample
    has them with what they call, and their file is called as they are."""
    file = tmp_path / "a.collapsed"
    with running(python, PROGRAMS / "made_anew.py") as started:
        done = record(forked, "-d", "1.5", "-r", "500", "-o", file, started.pid)
    assert done.returncode == 0, done.stderr
    found = recorded(file)
    assert "without a name" not in done.stderr, done.stderr
    pairs = 0
    for stack in found.stacks:
        own = [found.frames[index] for index in stack]
        numbers = {
            match[1]
            for frame in own
            for match in [re.fullmatch(r"(?:outer|inner)_(\d+)", frame.name)]
            if match
        }
        files = {
            match[1]
            for frame in own
            if frame.file
            for match in [re.match(r"made_(\d+)\.py", frame.file)]
            if match
        }
        assert len(numbers | files) <= 1, [frame.name for frame in own]
        pairs += len(numbers)
    assert pairs > 20, done.stderr


TWICE = """
import os, sys, time
def before(): return sum(number & 7 for number in range(3000))
def after(): return sum(number & 7 for number in range(3000))
work = after if len(sys.argv) > 1 else before
end = time.monotonic() + 0.5
while time.monotonic() < end: work()
if work is before: os.execv(sys.executable, [sys.executable, __file__, "again"])
"""


def test_a_process_that_executes_the_same_interpreter_again(
    python: Interpreter, tmp_path: Path, forked: Forked
) -> None:
    """Also where the new program has all at the same addresses."""
    program, file = tmp_path / "twice.py", tmp_path / "a.collapsed"
    program.write_text(TWICE)
    done = record(forked, "-r", "200", "-o", file, "--", "setarch", "-R", python.python, program)
    assert done.returncode == 0, done.stderr
    found = recorded(file)
    assert {"before", "after"} <= names(found), done.stderr
    for stack in found.stacks:
        assert not {"before", "after"} <= {found.frames[index].name for index in stack}
    cut = re.search(r", (\d+) not whole", done.stderr)
    assert cut is None or int(cut[1]) <= 5, done.stderr


# --- how a recording ends


@pytest.mark.live
@pytest.mark.one_version("it is about a process")
def test_a_recording_lasts_as_long_as_wanted_at_any_rate(hot_process: int, forked: Forked) -> None:
    done = record(forked, "-r", "0.1", "-d", "0.3", hot_process)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d samples? in 0\.[3-9] s, .* of 0\.1 Hz\n|(?s:.*1 sample in .*)", done.stdout)
    if done.stdout.startswith("0"):
        assert "the recording ended before the first moment came; take a higher --rate" in done.stderr


@pytest.mark.live
@pytest.mark.one_version("it is about files")
def test_a_full_disk_costs_nothing(hot_process: int, forked: Forked) -> None:
    done = record(forked, "-d", "0.1", "-f", "collapsed", "-o", "/dev/full", hot_process)
    assert done.returncode == 2
    assert "error: /dev/full cannot be written: No space left on device" in done.stderr
    elsewhere = re.search(r"note: the recording is in (\S+\.collapsed)\n", done.stderr)
    assert elsewhere is not None, done.stderr
    recorded(Path(elsewhere[1]))
    Path(elsewhere[1]).unlink()


@of_one_version
def test_an_interruption_gives_what_there_is(hot_process: int, tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        file = tmp_path / "a.collapsed"
        process = subprocess.Popen(
            command("record", "-o", file, hot_process),
            env=plain_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda process=process: signal.SIGALRM in caught(process.pid), "the first sample")  # type: ignore[misc]
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert f"note: {file}: " in said or "there is no sample" in said


def caught(pid: int) -> set[int]:
    """The signals that a process has handlers for (proc(5), SigCgt)."""
    with contextlib.suppress(OSError):
        mask = int(re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16)  # type: ignore[index]
        return {number for number in range(1, 65) if mask >> number - 1 & 1}
    return set()


@pytest.mark.live
@pytest.mark.one_version("it is about a process")
def test_the_end_of_the_process_ends_the_recording(tmp_path: Path) -> None:
    file = tmp_path / "a.collapsed"
    with hot(VERSION) as pid:
        process = subprocess.Popen(
            command("record", "-o", file, pid), env=plain_environment(), stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: signal.SIGALRM in caught(process.pid), "the first sample")
        os.kill(pid, signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said


@pytest.mark.live
@pytest.mark.one_version("it is about a process")
def test_a_recorder_that_is_killed_harms_nothing(tmp_path: Path) -> None:
    with hot(VERSION) as pid:
        for _ in range(5):
            process = subprocess.Popen(
                command("record", "-r", "5000", "-o", tmp_path / "a.html", pid), env=plain_environment()
            )
            wait_until(lambda process=process: signal.SIGALRM in caught(process.pid), "the first sample")  # type: ignore[misc]
            process.kill()
            process.wait()
        wait_until(lambda: status(pid)["State"][:1] in "RS", "the process to run")
        assert status(pid)["TracerPid"] == "0"


# --- commands


def test_a_command_is_recorded_and_its_exit_status_said(
    python: Interpreter, tmp_path: Path, forked: Forked
) -> None:
    file = tmp_path / "a.collapsed"
    code = "import sys\ntotal = 0\nfor number in range(6_000_000): total += number & 7\nsys.exit(3)"
    done = record(forked, "-o", file, "--", python.python, "-c", code)
    assert done.returncode == 3, done.stderr
    assert "note: the command has ended with exit status 3\n" in done.stderr
    kinds = {frame.kind for frame in recorded(file).frames if frame.name == "<module>"}
    assert Kind.JIT in kinds, "its JIT is on"


@pytest.mark.live
@pytest.mark.one_version("it is about what becomes a Python")
def test_a_command_may_become_another_program(tmp_path: Path, forked: Forked) -> None:
    file = tmp_path / "a.collapsed"
    code = "total = 0\nfor number in range(6_000_000): total += number & 7"
    script = f"i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec {interpreter(VERSION)} -c '{code}'"
    done = record(forked, "-o", file, "--", "/bin/sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "<module>" in names(recorded(file)), done.stderr


@pytest.mark.live
@pytest.mark.one_version("it is about signals")
def test_a_command_is_waited_for_when_the_recording_is_over(tmp_path: Path) -> None:
    """A terminal sends SIGINT to both."""
    heeds = "import signal, sys\nsignal.signal(signal.SIGINT, lambda *a: sys.exit(5))"
    code = f"{heeds}\nprint('ready', flush=True)\nwhile True: pass"
    process = subprocess.Popen(
        command("record", "-o", tmp_path / "a.collapsed", "--", interpreter(VERSION), "-c", code),
        env=plain_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    wait_until(lambda: signal.SIGALRM in caught(process.pid), "the first sample")
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 5, said
    assert "the command has ended with exit status 5" in said
    assert not Path(f"/proc/{child}").exists()


# --- what is wrong, or good to know


def test_a_jit_that_is_off_is_said(python: Interpreter, tmp_path: Path, forked: Forked) -> None:
    file = tmp_path / "a.collapsed"
    with hot(python.minor, jit="0") as pid:
        done = record(forked, "-d", "0.6", "-r", "500", "-o", file, pid)
    assert done.returncode == 0
    assert "note: the JIT of this Python is off" in done.stderr
    kinds = {frame.kind for frame in recorded(file).frames if frame.name == "half"}
    assert kinds == {Kind.PYTHON}


def test_a_program_that_is_no_python_is_recorded(tmp_path: Path, forked: Forked) -> None:
    program = ["/bin/sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"]
    done = record(forked, "-o", tmp_path / "a.collapsed", "--", *program)
    assert done.returncode == 0, done.stderr
    assert "note: no CPython that is known was found there: the frames are native ones only" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a PID, or a command behind --"),
        (("0",), "there is no process 0"),
        (("-o", "a.xyz", "1"), "the name of a.xyz does not say its form"),
        (("-o", "a.svg", "1"), "it ends in one of .html, .speedscope.json, .collapsed, .gecko.json, .pb.gz"),
        (("1", "2"), "one process is recorded, and 1 2 are 2: name one PID"),
        (("--format", "html", "1"), "--format needs -o FILE; -o - writes to stdout"),
        (("--rate", "nan", "1"), "--rate"),
        (("--rate", "0", "1"), "--rate"),
        (("--idle", "--gil", "1"), "--idle and --gil contradict each other"),
        (("--live", "1"), "--live needs a terminal"),
        (("-o", "/nowhere/a.html", "1"), "/nowhere/a.html cannot be written"),
        (("--", "/nowhere/program"), "/nowhere/program cannot be run"),
        (("--", "/bin/true"), "/bin/true has ended with exit status 0, before it could be looked at"),
        (("--diff", "/dev/null", "/dev/null"), "--diff"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], said: str, tmp_path: Path, forked: Forked) -> None:
    done = record(forked, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"error: {said}") or said in done.stderr


def test_a_file_that_is_no_recording_is_an_error(tmp_path: Path, forked: Forked) -> None:
    file = tmp_path / "a.collapsed"
    file.write_text("nonsense\n")
    done = record(forked, "--diff", file, file, "-o", tmp_path / "page.html")
    assert done.returncode == 2
    assert "a.collapsed, line 1: this is no collapsed stack with a weight" in done.stderr
