"""No process is left stopped: not one that cannot be stopped, whatever happens to jitunwind, to GDB, or to both."""

import contextlib
import os
import random
import select
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import THOROUGH
from tests.support.cgroups import KINDS, Cgroup, cgroup
from tests.support.compiled import compiled
from tests.support.processes import (
    PATIENCE,
    PROGRAMS,
    ROOT,
    VERSIONS,
    Done,
    Program,
    command,
    interpreter,
    jitunwind,
    plain_environment,
    run,
    status,
    wait_until,
)

GDB = shutil.which("gdb")
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
MOMENTS = 100 if THOROUGH else 18
_SIGSTOP = 1 << signal.SIGSTOP - 1
ATTACHING = {"bt": ["bt"], "gdb": ["gdb", "-nx", "-batch", "-p"], "gdb-ex": ["gdb", "-nx", "-batch", "-ex"]}

pytestmark = [
    pytest.mark.live,
    pytest.mark.one_version("how a process is stopped and let go does not depend on the version"),
]


def looking(verb: str, pid: int) -> list[str]:
    """The arguments of a verb that attaches to a process."""
    return [*ATTACHING[verb], f"attach {pid}" if verb == "gdb-ex" else str(pid)]


def refused(done: Done, *said: str) -> None:
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    for text in said:
        assert text in done.stderr


def has_pending_stop(pid: int) -> bool:
    """Whether SIGSTOP waits for one of its threads, as GDB's attaching leaves it."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        masks = [line for line in (task / "status").read_text().splitlines() if line.startswith("SigPnd")]
        if int(masks[0].split()[1], 16) & _SIGSTOP:
            return True
    return False


def is_let_alone(pid: int) -> bool:
    """Whether nothing will stop it: no tracer, no SIGSTOP pending, and none taken."""
    now = status(pid)
    return now["TracerPid"] == "0" and now["State"][0] != "T" and not has_pending_stop(pid)


def is_stopped_and_untraced(pid: int) -> bool:
    now = status(pid)
    return (now["State"][0], now["TracerPid"]) == ("T", "0")


# --- processes that cannot be stopped


class Vforking(Program):
    """A program that stops in a vfork when it is told to, until it is released."""

    def __init__(self, python: str, library: Path) -> None:
        self._released, self._release = os.pipe()
        arguments = [python, PROGRAMS / "vforks.py", library, self._released]
        super().__init__(arguments, pass_fds=[self._released])

    def block(self, byte: bytes = b"v") -> int:
        """Have the main thread (`v`) or a new one (`t`) wait in vfork; gives its id."""
        self.send(byte)
        wait_until(lambda: bool(self.blocked()), "a thread in state D")
        return self.blocked()[0]

    def blocked(self) -> list[int]:
        found = []
        for tid in self.tids():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                text = Path(f"/proc/{self.pid}/task/{tid}/stat").read_text()
                if text.rpartition(")")[2].split()[0] == "D":
                    found.append(tid)
        return found

    def release(self) -> None:
        os.write(self._release, b".")
        wait_until(lambda: not self.blocked(), "the end of vfork")

    def __exit__(self, *exception: object) -> None:
        os.close(self._release)
        os.close(self._released)  # what ends the child
        super().__exit__(*exception)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = (ROOT / "tests/support/vfork.c").read_text()
    return compiled(tmp_path_factory.mktemp("vfork") / "vfork.so", source, "-O2 -shared -fPIC -Wall -Wextra")


@pytest.fixture
def vforking(python: str, library: Path) -> Iterator[Vforking]:
    with Vforking(python, library) as program:
        program.warm()
        yield program


@pytest.fixture
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cgroup]:
    with cgroup(request.param, tmp_path / "cgroups") as made:
        yield made


each_kind = pytest.mark.parametrize("group", KINDS, indirect=True)


@contextlib.contextmanager
def frozen(group: Cgroup, python: str) -> Iterator[Program]:
    """A program that stands still with its cgroup; thawed at the end, when it goes on."""
    with Program([python, PROGRAMS / "loop.py"]) as program:
        program.warm()
        group.add(program.pid)
        group.freeze()
        try:
            wait_until(group.is_frozen, "the freezing")
            yield program
        finally:
            group.thaw()
        assert program.goes_on()


@each_kind
def test_a_frozen_process_is_not_attached_to(group: Cgroup, python: str) -> None:
    with frozen(group, python) as program:
        for verb in ATTACHING:
            done = jitunwind(*looking(verb, program.pid))
            refused(done, f"its cgroup {group.folder} is frozen", "thaw it: echo")
            assert is_let_alone(program.pid)


@each_kind
def test_a_frozen_process_is_explained_and_not_asked(group: Cgroup, python: str) -> None:
    with frozen(group, python) as program:
        assert "py::f:" in jitunwind("explain", program.pid).stdout
        refused(
            jitunwind("enable", program.pid), f"is frozen, with its cgroup {group.folder}", "thaw it: echo"
        )
        assert is_let_alone(program.pid)


@pytest.mark.parametrize("byte", [b"v", b"t"], ids=["main-thread", "other-thread"])
def test_a_process_in_vfork_is_not_attached_to(byte: bytes, vforking: Vforking) -> None:
    tid = vforking.block(byte)
    for verb in ATTACHING:
        done = jitunwind(*looking(verb, vforking.pid))
        refused(done, f"its thread {tid} is in an uninterruptible wait (state D)", "started with vfork")
        assert is_let_alone(vforking.pid)
    vforking.release()
    assert vforking.goes_on()


def test_a_process_in_vfork_is_explained_and_not_asked(vforking: Vforking) -> None:
    vforking.block()
    assert "py::f:" in jitunwind("explain", vforking.pid).stdout
    refused(
        jitunwind("enable", "--timeout", 0.2, vforking.pid), "its main thread is in an uninterruptible wait"
    )
    assert is_let_alone(vforking.pid)
    vforking.release()
    assert vforking.goes_on()


def test_a_short_uninterruptible_wait_is_waited_for(vforking: Vforking) -> None:
    # GIVEN one that is in state D when jitunwind comes, which waits for it
    vforking.block()
    running = subprocess.Popen(
        command("bt", vforking.pid), stdout=subprocess.PIPE, env=plain_environment(), text=True
    )
    wait_until(lambda: "nanosleep" in Path(f"/proc/{running.pid}/wchan").read_text(), "jitunwind to wait")
    # WHEN
    vforking.release()
    # THEN
    said, _ = running.communicate(timeout=PATIENCE)
    assert (running.returncode, "all stacks are whole" in said) == (0, True)
    assert vforking.goes_on()


# --- interrupted, killed


class Gate:
    """A GDB that says when it is about to attach to a process, or, `holding`, when it has attached; and goes on when
    it is let through."""

    def __init__(self, folder: Path, pid: int, holding: bool = False) -> None:
        told, go = folder / "told", folder / "go"
        for pipe in (told, go):
            os.mkfifo(pipe)
        self._told, self._go = (os.open(pipe, os.O_RDWR) for pipe in (told, go))  # so that no open waits
        wait, after = f"read line < {go}", ""
        if holding:
            after = f" -ex 'shell echo $PPID > {told}; {wait}'"
        before = "" if holding else f"echo $$ > {told}; {wait}; "
        self.path = folder / "gdb"
        self.path.write_text(
            f"""#!/bin/sh
            case " $* " in *" -p {pid} "*) {before}exec {GDB} "$@"{after} ;; esac
            exec {GDB} "$@"
            """
        )
        self.path.chmod(0o755)

    def wait(self) -> int:
        """Until it has said so. Its process id."""
        assert select.select([self._told], [], [], PATIENCE)[0], "GDB has not said anything"
        return int(os.read(self._told, 64))

    def open(self) -> None:
        os.write(self._go, b"go\n")


def begun(verb: str, pid: int, gate: Gate, **more: Any) -> subprocess.Popen[str]:
    """A look at a process by the GDB of a gate."""
    name, *rest = looking(verb, pid)
    arguments = command(name, "--gdb", gate.path, *rest)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    return subprocess.Popen(arguments, env=plain_environment(), **options)  # type: ignore[no-any-return]


def assert_let_alone(pid: int) -> None:
    wait_until(lambda: is_let_alone(pid), f"{pid} to be let alone, which is {status(pid)}")


@pytest.mark.parametrize("number", INTERRUPTIONS)
def test_interrupted_while_a_process_gets_frozen(number: int, tmp_path: Path) -> None:
    with cgroup("cgroup2", tmp_path / "cgroups") as group, run("3.14", "loop.py") as program:
        program.warm()
        group.add(program.pid)
        gate = Gate(tmp_path, program.pid)
        running = begun("bt", program.pid, gate)
        gate.wait()
        # GIVEN a GDB that waits for a process that cannot stop any more
        group.freeze()
        wait_until(group.is_frozen, "the freezing")
        gate.open()
        wait_until(lambda: status(program.pid)["TracerPid"] != "0", "GDB to attach")
        # WHEN
        running.send_signal(number)
        running.communicate(timeout=PATIENCE)
        # THEN
        assert_let_alone(program.pid)
        group.thaw()
        assert program.goes_on()


@pytest.mark.parametrize("number", INTERRUPTIONS)
def test_interrupted_while_a_process_waits_in_vfork(number: int, library: Path, tmp_path: Path) -> None:
    with Vforking(interpreter("3.15"), library) as program:
        program.warm()
        gate = Gate(tmp_path, program.pid)
        running = begun("bt", program.pid, gate)
        gate.wait()
        program.block()
        gate.open()
        wait_until(lambda: has_pending_stop(program.pid), "GDB to attach")
        running.send_signal(number)
        running.communicate(timeout=PATIENCE)
        assert_let_alone(program.pid)
        program.release()
        assert program.goes_on()


def test_a_killed_gdb_that_waits_for_a_process_in_vfork(library: Path, tmp_path: Path) -> None:
    with Vforking(interpreter("3.14"), library) as program:
        program.warm()
        gate = Gate(tmp_path, program.pid)
        running = begun("gdb", program.pid, gate)
        gate.wait()
        program.block()
        gate.open()
        wait_until(lambda: has_pending_stop(program.pid), "GDB to attach")
        running.kill()  # jitunwind has become GDB
        running.communicate(timeout=PATIENCE)
        assert_let_alone(program.pid)
        program.release()
        assert program.goes_on()


@pytest.mark.parametrize("verb", ["bt", "gdb"])
@pytest.mark.parametrize("whom", ["jitunwind", "GDB", "guardian"])
def test_killed_while_gdb_holds_the_process(whom: str, verb: str, tmp_path: Path) -> None:
    with run("3.15", "threads.py") as program:
        program.settle()
        gate = Gate(tmp_path, program.pid, holding=True)
        running = begun(verb, program.pid, gate)
        gdb = gate.wait()
        assert status(program.pid)["State"][0] == "t"
        killed = {"jitunwind": running.pid, "GDB": gdb, "guardian": guardian_of(running.pid, gdb)}
        os.kill(killed[whom], signal.SIGKILL)
        gate.open()  # for a GDB that lives, and for the shell of one that does not
        running.communicate(timeout=PATIENCE)
        assert_let_alone(program.pid)
        assert program.goes_on()


def guardian_of(jitunwind: int, gdb: int) -> int:
    """The process that lets the target go on. It is started before GDB, or before jitunwind becomes GDB."""
    if jitunwind != gdb:
        return int(status(gdb)["PPid"])
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            links = [os.readlink(link) for link in Path(f"/proc/{name}/fd").iterdir()]
            infos = [
                (Path(f"/proc/{name}/fdinfo") / link.name).read_text()
                for link in Path(f"/proc/{name}/fd").iterdir()
            ]
            if "anon_inode:[pidfd]" in links and any(f"Pid:\t{gdb}\n" in info for info in infos):
                return int(name)
    raise AssertionError(f"nobody guards {gdb}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_ignored_signal_stays_ignored(number: int, tmp_path: Path) -> None:
    """As nohup(1) and a shell's background jobs expect it."""
    with run("3.15", "loop.py") as program:
        program.warm()
        gate = Gate(tmp_path, program.pid, holding=True)
        running = begun("bt", program.pid, gate, preexec_fn=lambda: signal.signal(number, signal.SIG_IGN))
        gate.wait()
        running.send_signal(number)
        gate.open()
        said, complaint = running.communicate(timeout=PATIENCE)
        assert (running.returncode, complaint) == (0, "")
        assert "all stacks are whole" in said
        assert program.goes_on()


@pytest.mark.parametrize("verb", ["bt", "gdb"])
def test_a_process_that_its_user_stops_meanwhile_stays_stopped(verb: str, tmp_path: Path) -> None:
    with run("3.14", "loop.py") as program:
        program.warm()
        gate = Gate(tmp_path, program.pid, holding=True)
        running = begun(verb, program.pid, gate)
        gate.wait()
        program.kill(signal.SIGSTOP)
        gate.open()
        running.communicate(timeout=PATIENCE)
        wait_until(lambda: status(program.pid)["State"][0] == "T", "the stop")
        program.kill(signal.SIGCONT)
        assert program.goes_on()


def interrupted(pid: int, number: int, seconds: float) -> bool:
    """Whether a `bt` got a signal after that time, before it ended. All that it has started has ended then, too."""
    mark = f"JITUNWIND_TEST_MARK={uuid.uuid4()}"
    environment = plain_environment() | dict([mark.split("=")])
    running = subprocess.Popen(
        command("bt", pid), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        running.wait(seconds)
    except subprocess.TimeoutExpired:
        running.send_signal(number)
    status = running.wait(PATIENCE)
    wait_until(lambda: not has_mark(mark), "the end of GDB and its guardian")
    return status != 0


def has_mark(mark: str) -> bool:
    """Whether a process runs that has this in its environment."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in file.read_bytes():
                return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("stands", [False, True], ids=["runs", "stopped-before"])
@pytest.mark.parametrize("version", VERSIONS)
def test_interrupted_at_any_moment(version: str, stands: bool) -> None:
    moments = random.Random(14)
    with run(version, "threads.py") as program:
        program.settle()
        begin = time.monotonic()
        assert jitunwind("bt", program.pid).stdout
        longest = time.monotonic() - begin
        hit = 0
        for moment in range(MOMENTS // 3 if stands else MOMENTS):
            if stands:
                program.kill(signal.SIGSTOP)
                wait_until(lambda: status(program.pid)["State"][0] == "T", "the stop")
            hit += interrupted(program.pid, INTERRUPTIONS[moment % 3], moments.uniform(0, longest))
            if stands:
                wait_until(
                    lambda: is_stopped_and_untraced(program.pid), f"the stop after interruption {moment}"
                )
                program.kill(signal.SIGCONT)
            assert is_let_alone(program.pid), (moment, status(program.pid))
            assert program.goes_on(), moment
        assert hit
