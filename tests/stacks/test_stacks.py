"""Stacks without a debugger: against GDB with the plugin, frame by frame, and in situations that processes are in."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from jitunwind.errors import AlreadyTraced, CannotStop, JitunwindError, NoSuchProcess, NotPython
from jitunwind.stacks.library import stacks
from jitunwind.stacks.model import FrameKind, Stacks
from jitunwind.stacks.seizing import with_threads_stopped
from tests.support import THOROUGH
from tests.support.compiled import compiled, needs_gcc
from tests.support.live import PROGRAMS, REPOSITORY, Interpreter, running
from tests.support.processes import plain_environment, status, wait_until
from tests.support.situations import SOURCE, names, only, started
from tests.support.stopped import at_random_moments, differences, stop, witness

COMPARED = ("loops", "recursion", "exceptions", "threads", "generators", "calls_c")
OTHERS = (
    *("attributes", "calls", "deep", "exits", "floats", "interpreters"),
    *("side_exits", "strings", "throws", "two_threads"),
)
STOPS = 200 if THOROUGH else 5
MOST_STOPS = 40 * STOPS
KILLS = 100 if THOROUGH else 20
LONGEST_STOP = 1.0
"""Seconds: of a stop on a machine that is busy with other tests."""
DEEP = (500, 1_000, 2_000)


@pytest.mark.parametrize("program", COMPARED)
def test_each_frame_is_as_gdb_has_it(python: Interpreter, program: str, tmp_path: Path) -> None:
    """Program counters, stack pointers, names, lines, and the callee-saved registers at each frame. And no GDB is
    needed."""
    with running(python, program, cwd=tmp_path) as started:
        compared(started.pid, tmp_path, wants_jit_code=True)
        assert_no_gdb_is_needed(started.pid, tmp_path)


def test_each_frame_of_other_programs_is_as_gdb_has_it(python: Interpreter, tmp_path: Path) -> None:
    for program in OTHERS if THOROUGH else OTHERS[:1]:
        folder = tmp_path / program
        folder.mkdir()
        with running(python, program, cwd=folder) as started:
            compared(started.pid, folder)
            assert_no_gdb_is_needed(started.pid, folder)


def compared(pid: int, folder: Path, wants_jit_code: bool = False) -> None:
    """All stops are as GDB has them; there are more than STOPS until one has JIT code on a stack, if that is wanted."""
    with witness(pid, folder) as gdb:
        for number, (gdbs, ours) in enumerate(at_random_moments(pid, MOST_STOPS, gdb), 1):
            assert not differences(gdbs, ours), "\n".join(differences(gdbs, ours))
            assert ours.complete, ours.warnings
            kinds = {frame.kind for each in ours.threads for frame in each.frames}
            wants_jit_code = wants_jit_code and FrameKind.JIT not in kinds
            if number >= STOPS and not wants_jit_code:
                return
    pytest.fail(f"{MOST_STOPS} stops, and none has JIT code on a stack")


def assert_no_gdb_is_needed(pid: int, folder: Path) -> None:
    """Nothing is on PATH, no program is started, and nothing of what runs a GDB is imported."""
    (folder / "bin").mkdir()
    environment = plain_environment() | {"PATH": str(folder / "bin")}
    command = [sys.executable, "-c", ALONE, "bt", "--python", str(pid)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "all stacks are whole" in done.stdout


ALONE = """
import sys
def refuse(event, arguments):
    starts = event in ("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system")
    if starts or event == "import" and arguments[0].startswith("jitunwind.gdbplugin"):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(refuse)
from jitunwind.cli import main
main()
"""


def test_deep_stacks_take_calls_and_frames_in_proportion(python: Interpreter, tmp_path: Path) -> None:
    """Each level is the same native frames, Python frames, and function calls of ours: a count that no load changes."""
    frames, calls = [], []
    for depth in DEEP:
        command = [python.python, str(REPOSITORY / "bench/many.py"), "1", str(depth)]
        with started(command, python.environment()) as pid:
            with counting_calls() as made:
                found = stacks(pid, python=True)
            assert found.complete, found.threads[0].reason
            assert found.stopped_seconds < LONGEST_STOP
        kinds = [frame.kind for frame in found.threads[0].frames]
        assert kinds.count(FrameKind.PYTHON) >= depth
        frames.append(len(kinds))
        calls.append(made[0])
    for count in (frames, calls):
        per_level = (count[2] - count[1]) / (DEEP[2] - DEEP[1])
        assert per_level == pytest.approx((count[1] - count[0]) / (DEEP[1] - DEEP[0]), rel=0.2), count


@contextmanager
def counting_calls() -> Iterator[list[int]]:
    """Gives a list that has, afterwards, how many functions were called meanwhile in this thread: all but the stop."""
    made = [0]

    def count(frame: object, event: str, argument: object) -> None:
        made[0] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        yield made
    finally:
        sys.setprofile(None)


# --- situations


def assert_handler_is_above_main(found: Stacks) -> None:
    """The frames of the situation `alternate`, all by tables."""
    assert found.complete, found.threads[0].reason
    called = names(only(found))
    assert called.index("handler") < called.index("interrupted") < called.index("main"), called
    assert all(frame.exact for frame in only(found))


@needs_gcc
def test_a_signal_handler_on_a_stack_of_its_own(situations: Path) -> None:
    with started([str(situations), "alternate"]) as pid:
        found = stacks(pid)
    assert_handler_is_above_main(found)


@needs_gcc
def test_a_jump_to_nowhere_has_its_caller_and_is_said_to_be_guessed(situations: Path) -> None:
    with started([str(situations), "nowhere"]) as pid:
        frames = only(stacks(pid))
    nowhere = next(number for number, frame in enumerate(frames) if frame.pc == 16)
    assert names(frames[nowhere + 1 : nowhere + 2]) == ["main"]
    assert [frame.exact for frame in frames[nowhere : nowhere + 2]] == [True, False]


@needs_gcc
def test_code_without_tables_is_unwound_by_the_frame_pointer_and_marked(situations: Path) -> None:
    with started([str(situations), "by_pointer"]) as pid:
        frames = only(stacks(pid))
    called = names(frames)
    at = called.index("by_pointer")
    assert called[at + 1] == "main", called
    assert [frame.exact for frame in frames[at : at + 2]] == [True, False]


@needs_gcc
@pytest.mark.parametrize(
    ("situation", "reason"),
    [
        ("lost", "no unwind information for {path} at"),
        ("switched", "no unwind information for {path} at"),
        ("circle", "the stack goes in a circle"),
    ],
)
def test_a_walk_that_cannot_go_on_says_why(situation: str, reason: str, situations: Path) -> None:
    with started([str(situations), situation]) as pid:
        (thread,) = stacks(pid).threads
    assert thread.reason.startswith(reason.format(path=situations)), thread
    assert thread.frames[-1].name == situation


@needs_gcc
@pytest.mark.parametrize("options", ["-g -fno-asynchronous-unwind-tables", "-static"])
def test_tables_that_are_in_the_file_alone(options: str, tmp_path: Path) -> None:
    """.debug_frame, and the .eh_frame of a static program, which no header leads to."""
    program = compiled(
        tmp_path / "program", SOURCE.read_text(), f"-O1 -pthread -fomit-frame-pointer {options}"
    )
    with started([str(program), "alternate"]) as pid:
        found = stacks(pid)
    assert_handler_is_above_main(found)


@needs_gcc
def test_a_main_thread_that_has_ended_hides_nothing(situations: Path) -> None:
    with started([str(situations), "zombie"]) as pid:
        wait_until(lambda: status(pid)["State"][0] == "Z", "the end of the main thread")
        found = stacks(pid)
    (thread,) = found.threads
    assert (thread.tid != pid, found.complete) == (True, True)
    assert "other" in names(thread.frames)
    assert found.executable == str(situations)


@needs_gcc
def test_threads_that_come_and_go(situations: Path) -> None:
    with started([str(situations), "threads"]) as pid:
        for _ in range(20):
            found = stacks(pid)
            assert pid in found.tids
            assert len(found.threads) == len(found.tids)
            assert all(thread.frames or thread.reason for thread in found.threads), found
        assert status(pid)["TracerPid"] == "0"


@needs_gcc
def test_programs_one_after_the_other(situations: Path) -> None:
    with started([str(situations), "exec"]) as pid:
        for _ in range(10):
            with contextlib.suppress(CannotStop):  # it has run one after the other
                assert stacks(pid).pid == pid
        wait_until(lambda: status(pid).get("TracerPid") == "0", "nobody to trace it")
        assert status(pid)["State"][0] != "T"


def test_a_process_that_is_traced_is_let_alone(python: Interpreter, tmp_path: Path) -> None:
    strace = [sys.executable, "-c", TRACER]
    with running(python, "loops", cwd=tmp_path) as started:
        with subprocess.Popen(
            [*strace, str(started.pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as tracer:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == b"ready\n"
            with pytest.raises(AlreadyTraced):
                stacks(started.pid)
            tracer.communicate(b"")
        assert stacks(started.pid).complete


TRACER = """
import ctypes, sys
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long] * 2 + [ctypes.c_void_p] * 2
assert ptrace(0x4206, int(sys.argv[1]), None, None) == 0
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_process_that_a_signal_has_stopped_stays_stopped(python: Interpreter, tmp_path: Path) -> None:
    with running(python, "threads", cwd=tmp_path) as started:
        stop(started.pid)
        found = stacks(started.pid)
        assert found.complete
        assert {thread.state for thread in found.threads} == {"stopped"}
        assert status(started.pid)["State"][0] == "T"
        os.kill(started.pid, signal.SIGCONT)
        wait_until(lambda: status(started.pid)["State"][0] in "RS", "it to go on")


def test_no_signal_is_lost(tmp_path: Path) -> None:
    """Each signal that is sent while the process is looked at again and again arrives."""
    program = "\n".join(
        [
            *("import os, signal, sys", "count = 0"),
            *("def handler(*_):", "    global count", "    count += 1", "    os.write(1, b'.')"),
            *("signal.signal(signal.SIGUSR1, handler)", "print('ready', flush=True)"),
            "while True: signal.pause()",
        ]
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        for _ in range(50):
            process.send_signal(signal.SIGUSR1)
            stacks(process.pid)
            assert process.stdout.read(1) == b"."
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_process_goes_on_whenever_who_looks_is_killed(
    number: int, python: Interpreter, tmp_path: Path
) -> None:
    moments = random.Random(number)
    with running(python, "threads", cwd=tmp_path) as started, looking_again_and_again(started.pid) as looking:
        assert looking.stdin is not None
        assert looking.stdout is not None
        for _ in range(KILLS):
            looking.stdin.write("again\n")
            looking.stdin.flush()
            child = int(looking.stdout.readline())
            time.sleep(moments.uniform(0, 0.03))  # any moment is as good
            os.kill(child, number)
            assert looking.stdout.readline() == "ended\n"
            wait_until(lambda: all_go_on(started.pid), f"{started.pid} to go on: {status(started.pid)}")


def test_an_interruption_at_the_end_of_a_stop_is_not_waited_with() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        for _ in range(40):
            begin = time.monotonic()
            with contextlib.suppress(KeyboardInterrupt):
                with_threads_stopped(process.pid, lambda stop: os.kill(os.getpid(), signal.SIGINT))
                time.sleep(LONGEST_STOP)  # it comes at the latest now
            assert time.monotonic() - begin < LONGEST_STOP
        assert all_go_on(process.pid)
        process.kill()


@contextmanager
def looking_again_and_again(pid: int) -> "Iterator[subprocess.Popen[str]]":
    """A process that forks for each line that it gets: the child prints its number, and reads the stacks of `pid` for
    ever. When that has ended, it says so."""
    command = [sys.executable, "-c", LOOKING, str(pid)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with process:
        yield process
        process.kill()


LOOKING = """
import os, sys
from jitunwind.stacks.library import stacks
stacks(int(sys.argv[1]))
for line in sys.stdin:
    child = os.fork()
    if not child:
        print(os.getpid(), flush=True)  # not its parent: after a fork Python forgets signals
        while True:
            stacks(int(sys.argv[1]))
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


def all_go_on(pid: int) -> bool:
    """Whether nobody traces any of its threads, and none stands still."""
    of = [status_of(pid, tid) for tid in os.listdir(f"/proc/{pid}/task")]
    return all(each.get("TracerPid") == "0" and each["State"][0] in "RSD" for each in of)


def status_of(pid: int, tid: str) -> dict[str, Any]:
    lines = Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize(
    ("pid", "error"),
    [(2, NotPython), ((1 << 22) - 1, NoSuchProcess), (1 << 40, NoSuchProcess)],
    ids=["kernel", "none", "huge"],
)
def test_what_is_no_process_of_ours(pid: int, error: type[JitunwindError]) -> None:
    if pid == 2 and Path("/proc/2/comm").exists() and Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("in this PID namespace there are no kernel threads")
    with pytest.raises(error if pid != 2 or Path("/proc/2").exists() else NoSuchProcess) as caught:
        stacks(pid)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("target", "said"),
    [(os.getpid, "is this one, which cannot stop itself"), (str, "neither a process nor a core is named")],
)
def test_what_cannot_be_asked_for(target: Callable[[], int | str], said: str) -> None:
    with pytest.raises(JitunwindError, match=said) as caught:
        stacks(target())
    assert caught.value.hint


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_an_interpreter_that_is_not_there_any_more(how: str, python: Interpreter, tmp_path: Path) -> None:
    copy = tmp_path / "python"
    shutil.copy(python.python, copy)
    home = {"PYTHONHOME": str(Path(python.python).resolve().parents[1])}
    with started([str(copy), str(PROGRAMS / "loops.py")], python.environment() | home) as pid:
        copy.unlink()
        if how == "replaced":
            shutil.copy("/bin/true", copy)
        found = stacks(pid)
        assert found.complete, found.threads[0].reason
        assert found.python is not None
        assert "_PyEval_EvalFrameDefault" in names(only(found)) or "_start" in names(only(found))


def test_the_library_gives_typed_objects(python: Interpreter, tmp_path: Path) -> None:
    """Before and after the room that has the function's name was imported."""
    code = "import sys, jitunwind; a = jitunwind.stacks(int(sys.argv[1])); b = jitunwind.stacks(int(sys.argv[1])); "
    code += "print(type(a) is type(b) is jitunwind.Stacks, a.threads[0].frames[-1].name, a.complete)"
    with running(python, "loops", cwd=tmp_path) as started:
        command = [sys.executable, "-c", code, str(started.pid)]
        done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True _start True\n", "")


def test_a_python_in_a_pid_namespace(python: Interpreter) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", python.python, str(PROGRAMS / "threads.py")]
    if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
        pytest.skip("this user may make no PID namespace")
    with started(command, python.environment()) as pid:
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found = stacks(int(child), python=True)
    assert found.complete
    assert len(found.threads) > 1
    for thread in found.threads:
        assert any(frame.kind is FrameKind.PYTHON for frame in thread.frames), thread


def test_a_python_that_the_dynamic_loader_was_started_with(python: Interpreter) -> None:
    with Path(python.python).open("rb") as file:
        elf = ELFFile(file)
        loader = next(each for each in elf.iter_segments("PT_INTERP")).get_interp_name()
    with started([loader, *python.command("loops")], python.environment()) as pid:
        found = stacks(pid)
    assert (found.complete, found.python is not None, found.jit) == (True, True, True)
    assert "_start" in names(only(found))


def test_lines_of_c_and_inlined_functions(python: Interpreter) -> None:
    pytest.importorskip("symbolic")
    with started(python.command("calls_c"), python.environment()) as pid:
        frames = only(stacks(pid, c_lines=True, python=True, debug_dirs=[python.debug_file_directory]))
    evaluated = next(frame for frame in frames if frame.name == "PyEval_EvalCode")
    assert evaluated.file is not None
    assert (os.path.basename(evaluated.file), bool(evaluated.line)) == ("ceval.c", True)
    assert any(one.pc == other.pc and one.name != other.name for one, other in itertools.pairwise(frames))
