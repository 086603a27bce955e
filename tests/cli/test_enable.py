"""`jitunwind enable PID`: plain GDB sees the JIT code of a process that was asked, and refusals say why."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import (
    PATIENCE,
    PROGRAMS,
    ROOT,
    Done,
    Program,
    command,
    jitunwind,
    plain_environment,
    status,
    wait_until,
)

PROGRAM = str(PROGRAMS / "hot_or_blocked.py")
GDB = shutil.which("gdb")
is_root = os.geteuid() == 0


def started(python: str, does: str, **options: Any) -> Program:
    """The program, once it has said that it is ready."""
    program = Program([python, PROGRAM, does], **options)
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == b"ready\n"
    return program


def asked(program: Program, environment: dict[str, str]) -> subprocess.Popen[str]:
    """`jitunwind enable` of the program, which waits for it."""
    return subprocess.Popen(
        command("enable", "--timeout", PATIENCE, program.pid),
        env=plain_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def left_over(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose folder for temporary files must be empty afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield {"TMPDIR": str(folder)}
    assert not list(folder.iterdir())


def refused(done: Done, *said: str) -> None:
    """A message, perhaps with what to do, and status 2."""
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
    for text in said:
        assert text in done.stderr


def backtrace(pid: int) -> str:
    """What plain GDB says."""
    arguments = [str(GDB), "-nx", "-batch", "-iex", "set auto-load no", "-p", str(pid), "-ex", "bt"]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout


def is_named(text: str) -> bool:
    """Whether the hot function's JIT frame is there, and the stack comes to its end."""
    return bool(
        re.search(rf"^#\d+ .*\bpy::work:{re.escape(PROGRAM)} ", text, re.MULTILINE)
        and re.search(r"^#\d+ .* _start \(\)$", text, re.MULTILINE)
    )


@pytest.mark.skipif(GDB is None, reason="no gdb")
def test_plain_gdb_shows_jit_frames_from_then_on(python: str, left_over: dict[str, str]) -> None:
    with started(python, "hot") as hot:
        assert not is_named(backtrace(hot.pid))
        for already in ("", " already"):  # the second time changes nothing
            done = jitunwind("enable", hot.pid, environment=left_over)
            assert done.returncode == 0, done.stderr
            said, then = done.stdout.splitlines()
            assert re.match(
                rf"process {hot.pid} publishes its JIT code{already}: [1-9]\d* regions? so far;", said
            )
            assert then == f"next: gdb -p {hot.pid}, and bt there; jitunwind disable {hot.pid} ends it"
        wait_until(lambda: is_named(backtrace(hot.pid)), "py::work in plain GDB")
        # WHEN it is to publish no more, what it has published is withdrawn
        done = jitunwind("disable", hot.pid, environment=left_over)
        assert done.returncode == 0, done.stderr
        no_more = rf"process {hot.pid} publishes its JIT code no more: [1-9]\d* regions? withdrawn\n"
        assert re.fullmatch(no_more, done.stdout), done.stdout
        assert not is_named(backtrace(hot.pid))
        done = jitunwind("disable", hot.pid, environment=left_over)
        unchanged = f"process {hot.pid} does not publish its JIT code: nothing was changed\n"
        assert (done.returncode, done.stdout) == (0, unchanged)


@pytest.mark.parametrize("kind", ["jitdump", "map"])
def test_a_file_for_perf(python: str, left_over: dict[str, str], kind: str) -> None:
    """Asked for when publishing is on already, too."""
    with started(python, "hot") as program:
        path = Path(f"/tmp/jit-{program.pid}.dump" if kind == "jitdump" else f"/tmp/perf-{program.pid}.map")
        try:
            assert jitunwind("enable", program.pid, environment=left_over).returncode == 0
            assert not path.exists()
            done = jitunwind("enable", "--perf", kind, program.pid, environment=left_over)
            assert (done.returncode, done.stderr) == (0, "")
            assert f"\nfor perf it writes {path} (from now on)\nnext: perf record " in done.stdout
            done = jitunwind("enable", "--perf", kind, program.pid, environment=left_over)
            assert f"\nfor perf it writes {path} (as before)\n" in done.stdout
            assert (
                f"hot_or_blocked.py{chr(0) if kind == 'jitdump' else chr(10)}".encode() in path.read_bytes()
            )
        finally:
            path.unlink(missing_ok=True)


def test_a_process_that_is_blocked_is_left_as_it_was(python: str, left_over: dict[str, str]) -> None:
    with started(python, "read", stderr=subprocess.PIPE) as blocked:
        blocked.settle()
        done = jitunwind("enable", "--timeout", 0.2, blocked.pid, environment=left_over)
        refused(done, "in 0.2 s", "its main thread waits in a system call", "--timeout")
        # WHEN it runs Python code again, nothing of the request is left
        assert blocked.ask(b"x") == b"done\n"
        assert blocked.process.stdin is not None
        blocked.process.stdin.close()
        assert blocked.process.stderr is not None
        assert blocked.process.stderr.read() == b""
        assert blocked.process.wait(PATIENCE) == 0


def test_a_process_that_is_blocked_and_goes_on_in_time(python: str, left_over: dict[str, str]) -> None:
    with started(python, "read") as blocked:
        blocked.settle()
        asking = asked(blocked, left_over)

        def has_answered() -> bool:
            return blocked.ask(b"x") == b"done\n" and asking.poll() is not None

        wait_until(has_answered, "an answer")
        said = asking.communicate(timeout=PATIENCE)[0]
        assert said.startswith(f"process {blocked.pid} publishes its JIT code: "), said
        assert asking.returncode == 0


def test_an_interruption_withdraws_the_request(python: str, left_over: dict[str, str]) -> None:
    with started(python, "read", stderr=subprocess.PIPE) as blocked:
        blocked.settle()
        asking = asked(blocked, left_over)
        folder = Path(left_over["TMPDIR"])
        wait_until(lambda: bool(list(folder.glob("*/request.py"))), "the request")
        asking.send_signal(signal.SIGINT)
        assert asking.wait(PATIENCE) == 130
        assert blocked.ask(b"x") == b"done\n"
        assert blocked.process.stdin is not None
        blocked.process.stdin.close()
        assert blocked.process.stderr is not None
        assert blocked.process.stderr.read() == b""


def test_a_process_that_ends_instead(python: str, left_over: dict[str, str]) -> None:
    with started(python, "read") as ending:
        ending.settle()
        asking = asked(ending, left_over)
        folder = Path(left_over["TMPDIR"])
        wait_until(lambda: bool(list(folder.glob("*/request.py"))), "the request")
        ending.kill()
        assert f"process {ending.pid} has ended" in asking.communicate(timeout=PATIENCE)[1]
        assert asking.returncode == 2


def test_a_process_with_its_jit_off(python: str, left_over: dict[str, str]) -> None:
    with started(python, "hot", jit="0") as off:
        done = jitunwind("enable", off.pid, environment=left_over)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"warning: process {off.pid} has its JIT off (PYTHON_JIT=1 turns it on): there is nothing to publish\n"
    )


def test_a_process_that_lets_nobody_in(python: str, left_over: dict[str, str]) -> None:
    with started(python, "hot", environment={"PYTHON_DISABLE_REMOTE_DEBUG": "1"}) as shut:
        done = jitunwind("enable", shut.pid, environment=left_over)
        refused(done, "remote debugging switched off", "PYTHON_DISABLE_REMOTE_DEBUG")


def test_our_own_environment_is_not_the_processs(python: str, left_over: dict[str, str]) -> None:
    own = {"PYTHON_DISABLE_REMOTE_DEBUG": "1", "PYTHONHOME": ""}
    with started(python, "hot") as hot:
        assert jitunwind("enable", hot.pid, environment=own | left_over).returncode == 0


def test_a_process_that_is_stopped(python: str, left_over: dict[str, str]) -> None:
    with started(python, "hot") as stopped:
        stopped.kill(signal.SIGSTOP)
        wait_until(lambda: status(stopped.pid)["State"][0] == "T", "it to stop")
        refused(jitunwind("enable", stopped.pid, environment=left_over), f"kill -CONT {stopped.pid}")


def test_a_program_that_has_been_deleted(python: str, left_over: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / Path(python).name
    shutil.copy(python, copy)
    home = {"PYTHONHOME": str(Path(python).parent.parent)}
    with started(str(copy), "hot", environment=home) as hot:
        copy.unlink()
        done = jitunwind("enable", hot.pid, environment=left_over)
        assert done.returncode == 0, done.stderr


def test_a_program_of_any_name(python: str, left_over: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "game"
    shutil.copy(python, copy)
    home = {"PYTHONHOME": str(Path(python).parent.parent)}
    with started(str(copy), "hot", environment=home) as hot:
        assert jitunwind("enable", hot.pid, environment=left_over).returncode == 0


SUBINTERPRETERS = """
import threading
from concurrent import interpreters
busy = interpreters.create()
idle = interpreters.create()
threading.Thread(target=busy.exec, args=("while True: pass",), daemon=True).start()
"""


def test_a_process_with_subinterpreters_busy_and_idle(
    python: str, left_over: dict[str, str], tmp_path: Path
) -> None:
    program = tmp_path / "several.py"
    program.write_text(SUBINTERPRETERS + Path(PROGRAM).read_text())
    with Program([python, program, "hot"]) as several:
        assert several.process.stdout is not None
        assert several.process.stdout.readline() == b"ready\n"
        done = jitunwind("enable", several.pid, environment=left_over)
        assert done.returncode == 0, done.stderr
        assert re.match(rf"process {several.pid} publishes its JIT code: [1-9]", done.stdout), done.stdout


@pytest.mark.skipif(not is_root, reason="only root can become somebody else")
def test_not_permitted(python: str, left_over: dict[str, str]) -> None:
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
    with started(python, "hot") as hot:
        done = subprocess.run(
            [*drop, *command("enable", hot.pid)],
            env=plain_environment() | left_over,
            capture_output=True,
            text=True,
            check=False,
        )
        refused(done, "may not be looked into by this user", "CAP_SYS_PTRACE")


BECOMES_NOBODY = """
import jitunwind, os, signal, sys
jitunwind.enable(), jitunwind.flush(60), jitunwind.disable()  # all is imported while its files can be read
os.setgroups([]), os.setgid(65534), os.setuid(65534)
exec(open(0).read())
"""


@pytest.mark.skipif(not is_root, reason="only root can become somebody else")
@pytest.mark.skipif(GDB is None, reason="no gdb")
def test_root_and_a_process_of_another_user(python: str) -> None:
    code = BECOMES_NOBODY.replace("open(0).read()", repr(Path(PROGRAM).read_text()))
    environment = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{sysconfig.get_path('platlib')}"}
    with Program([python, "-c", code, "hot"], environment=environment) as other:
        assert other.process.stdout is not None
        assert other.process.stdout.readline() == b"ready\n"
        assert status(other.pid)["Uid"].split()[0] == "65534"
        done = jitunwind("enable", other.pid)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: "py::work:<string>" in backtrace(other.pid), "py::work in plain GDB")


CHROOT = ["unshare", "--mount", "sh", "-c"]


def in_chroot(python: str, root: Path, hidden: Path | None) -> Program:
    """The program in another root directory: the machine's files mounted there, but for a folder that is `hidden`."""
    root.mkdir()
    hide = f"mount -t tmpfs none {root}{hidden} && " if hidden else ""
    command = f"mount --rbind / {root} && {hide}exec chroot {root} {python} {PROGRAM} hot"
    program = Program([*CHROOT, command], stderr=subprocess.PIPE)
    assert program.process.stdout is not None
    assert program.process.stdout.readline() == b"ready\n"
    return program


needs_chroot = pytest.mark.skipif(
    subprocess.run([*CHROOT, "true"], capture_output=True, check=False).returncode != 0,
    reason="no mount namespaces for this user",
)


@needs_chroot
def test_a_process_in_a_chroot_with_the_same_files(
    python: str, left_over: dict[str, str], tmp_path: Path
) -> None:
    with in_chroot(python, tmp_path / "root", None) as inside:
        done = jitunwind("enable", inside.pid, environment=left_over)
        assert done.returncode == 0, done.stderr
        assert re.match(rf"process {inside.pid} publishes its JIT code: [1-9]", done.stdout), done.stdout


@needs_chroot
def test_a_process_in_a_chroot_without_them(python: str, left_over: dict[str, str], tmp_path: Path) -> None:
    with in_chroot(python, tmp_path / "root", ROOT / "src") as inside:
        done = jitunwind("enable", inside.pid, environment=left_over)
        refused(done, "sees other files than this one, and jitunwind's own are not among them", "chroot(1)")
        assert str(ROOT) not in done.stderr
        assert inside.process.poll() is None
        inside.process.kill()
        assert inside.process.stderr is not None
        assert inside.process.stderr.read() == b""


def test_no_such_process() -> None:
    refused(jitunwind("enable", 4194305), "there is no process 4194305")


def test_not_a_python() -> None:
    with Program(["cat"]) as cat:
        cat.settle()
        refused(jitunwind("enable", cat.pid), f"process {cat.pid} is no CPython: ", "3.14 or 3.15")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python is not too old")
def test_a_python_before_3_14() -> None:
    with Program([sys.executable, "-c", "input()"]) as old:
        old.settle()
        version = ".".join(map(str, sys.version_info[:3]))
        refused(
            jitunwind("enable", old.pid),
            f"process {old.pid}: CPython {version} is not known here",
            "JIT code is published on 3.14 and 3.15",
        )


@pytest.mark.parametrize("arguments", [[], ["x"], ["1", "2"], ["--timeout", "-1", "1"]], ids=str)
def test_wrong_usage(arguments: list[str]) -> None:
    done = jitunwind("enable", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: .+\n  try: jitunwind enable .+\n", done.stderr)
