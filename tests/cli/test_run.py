"""`jitunwind run`: a program sees what it sees without it, and plain GDB sees its JIT code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
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
    wait_until,
)

TOLD = str(PROGRAMS / "told.py")
HOT = str(ROOT / "tools/hot.py")
GDB = shutil.which("gdb")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def environment(**others: str) -> dict[str, str]:
    """Without a variable of jitunwind's or of Python's but those that are named."""
    before = plain_environment()
    clean = {name: value for name, value in before.items() if not name.startswith(("PYTHON", "JITUNWIND"))}
    return clean | others


def plain(python: str, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> Done:
    """What the interpreter itself does, with its JIT on as under `run`."""
    env = {"PYTHON_JIT": "1", "JITUNWIND": "1"} | (environment() if env is None else env)
    return _run([python, *arguments], env, **options)


def under_run(python: str, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> Done:
    return _run(run_command(python, *arguments), environment() if env is None else env, **options)


def run_command(python: str, *arguments: str) -> list[str]:
    """`jitunwind run`, of this Python, whose own imports no environment variable is needed for."""
    start = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from jitunwind.cli import main; main()"
    return [sys.executable, "-I", "-c", start, "run", "--python", python, *arguments]


def _run(arguments: Sequence[str], env: dict[str, str], **options: Any) -> Done:
    return subprocess.run(
        arguments, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )


def assert_same(python: str, *arguments: str, **options: Any) -> Done:
    """The program prints the same, by both ways, and ends the same."""
    expected, done = plain(python, *arguments, **options), under_run(python, *arguments, **options)
    assert _ADDRESS.sub("", done.stdout) == _ADDRESS.sub("", expected.stdout), done.stderr
    assert done.stderr == expected.stderr
    assert done.returncode == expected.returncode
    return done


# --- as the plain interpreter


@pytest.mark.parametrize(
    "arguments",
    [
        [TOLD],
        [TOLD, "a", "-b", "--python", "c", "--", "-h", "--help"],
        ["-c", Path(TOLD).read_text(), "-m", "x"],
        ["-O", "-u", "-W", "ignore", "-X", "utf8=0", TOLD, "-I"],
        ["-P", TOLD],
        ["--check-hash-based-pycs", "always", TOLD],
    ],
    ids=["script", "arguments", "-c", "options", "-P", "long option"],
)
def test_what_a_program_is_told(arguments: list[str], python: str) -> None:
    assert_same(python, *arguments)


def test_a_module_a_folder_and_a_zip_file(python: str, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    shutil.copy(TOLD, package / "__main__.py")
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", package)
    for arguments in (["-m", "package", "x"], ["package", "-c"], [archive, "-m"]):
        assert_same(python, *arguments, cwd=tmp_path)


@pytest.mark.parametrize("arguments", [["-", "x"], []], ids=["-", "nothing"])
def test_a_program_on_standard_input(arguments: list[str], python: str) -> None:
    assert_same(python, *arguments, input=Path(TOLD).read_text())


@pytest.mark.parametrize(
    "given",
    [
        {"PYTHONPATH": str(PROGRAMS)},
        {"PYTHONPATH": ""},
        {"PYTHONPATH": f"{PROGRAMS}:{ROOT}"},
        {"JITUNWIND": "0"},
        {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"},
        {"PYTHON_JIT": "0"},
    ],
    ids=str,
)
def test_the_environment(given: dict[str, str], python: str) -> None:
    done = assert_same(python, TOLD, env=environment(**given))
    told = json.loads(done.stdout)
    assert told["is_jit_on"] == (given.get("PYTHON_JIT") != "0")
    assert not [name for name in told["environment"] if name.startswith("JITUNWIND_")]


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(7)",
        "import sys; sys.exit('a message')",
        "def f():\n  raise ValueError(1)\nf()",
        "import os; os.abort()",
        "import os; os.kill(os.getpid(), 15)",
        "import os; os.kill(os.getpid(), 2)",
        "import os, signal; print(signal.getsignal(13), signal.getsignal(2), signal.getsignal(25))",
        "import atexit, threading; atexit.register(print, 'end'); print(threading.main_thread().name)",
        "this is no Python",
    ],
)
def test_how_a_program_ends(code: str, python: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(code)
    assert_same(python, str(script), cwd=tmp_path)
    assert_same(python, "-c", code, cwd=tmp_path)


def test_ignored_signals_stay_ignored(python: str) -> None:
    code = "import signal; print([n for n in (1, 2, 15, 17) if signal.getsignal(n) is signal.SIG_IGN])"
    assert_same(python, "-c", code, preexec_fn=ignore_signals)
    assert under_run(python, "-c", code, preexec_fn=ignore_signals).stdout == "[1, 2, 15, 17]\n"


def ignore_signals() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)


def test_a_script_that_is_not_there(python: str, tmp_path: Path) -> None:
    assert under_run(python, "missing.py", cwd=tmp_path).returncode == 2
    assert_same(python, "missing.py", cwd=tmp_path)
    assert_same(python, "-m", "missing", cwd=tmp_path)


@pytest.mark.parametrize(
    "content",
    ["print('the machine has one')", "import missing_module", "import sys; sys.path.append('/x')", "1 / 0"],
)
def test_the_machines_own_sitecustomize_has_its_turn(content: str, python: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(content)
    assert_same(python, TOLD, env=environment(PYTHONPATH=str(tmp_path)))


def test_no_process_stays_between(python: str) -> None:
    with subprocess.Popen(
        run_command(python, "-c", "import os; print(os.getpid(), flush=True); os.read(0, 1)"),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid}\n"
        assert os.readlink(f"/proc/{process.pid}/exe") == os.path.realpath(python)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_the_python_needs_nothing_installed_and_gains_two_packages(python: str) -> None:
    ask = (
        "import importlib.util as u; print([n for n in "
        "('jitunwind', 'iced_x86', 'click', 'elftools', 'pytest') if u.find_spec(n)])"
    )
    assert plain(python, "-c", ask).stdout == "[]\n"
    assert under_run(python, "-c", ask).stdout == "['jitunwind', 'iced_x86']\n"


def test_a_programs_own_iced_x86_is_its_own(python: str, tmp_path: Path) -> None:
    (tmp_path / "iced_x86.py").write_text("")
    (tmp_path / "jitunwind.py").write_text("")
    ask = "import iced_x86; print(iced_x86.__file__)"
    done = under_run(python, "-c", ask, cwd=tmp_path)
    assert done.stdout == f"{tmp_path}/iced_x86.py\n", done.stderr
    done = under_run(python, "-c", "import jitunwind; jitunwind.enable()", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_m_jitunwind_is_the_same_command(python: str) -> None:
    done = jitunwind("run", "--python", python, "-c", "print('here')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "here\n", "")


# --- published


def backtrace(pid: int) -> str:
    """What plain GDB says."""
    arguments = [str(GDB), "-nx", "-batch", "-iex", "set auto-load no", "-p", str(pid), "-ex", "bt"]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout


def is_named(text: str, function: str = "work", file: str = HOT) -> bool:
    """Whether the function's JIT frame is there, and the stack comes to its end."""
    return bool(
        re.search(rf"^#\d+ .*\bpy::{function}:{re.escape(file)} ", text, re.MULTILINE)
        and re.search(r"^#\d+ .* _start \(\)$", text, re.MULTILINE)
    )


@pytest.mark.skipif(GDB is None, reason="no gdb")
def test_plain_gdb_shows_jit_frames(python: str) -> None:
    with Program(run_command(python, HOT), environment=environment(), jit=None) as hot:
        assert hot.process.stdout is not None
        assert hot.process.stdout.readline() == b"ready\n"
        wait_until(lambda: is_named(backtrace(hot.pid)), "py::work in plain GDB")


# --- what cannot be started


def refused(done: Done) -> str:
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["-I", "x.py"], "I"),
        (["-uE", "-c", "1"], "E"),
        (["-X", "utf8", "-Wignore", "-S"], "S"),
        (["--check-hash-based-pycs", "default", "-bI"], "I"),
    ],
)
def test_options_that_keep_it_from_being_switched_on(arguments: list[str], option: str) -> None:
    said = refused(jitunwind("run", "--python", sys.executable, *arguments))
    assert f"with -{option} a Python does not heed" in said
    assert "jitunwind.enable()" in said


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    assert "--python nonsense: that is no program" in refused(jitunwind("run", "--python", "nonsense", "x"))
    broken = tmp_path / "python"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    assert f"{broken} cannot be run: Exec format error" in refused(jitunwind("run", "--python", broken, "x"))


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python may have a JIT")
def test_an_old_python_that_is_named_runs_the_program_all_the_same() -> None:
    done = under_run(sys.executable, "-c", "print(1)")
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert re.fullmatch(r"jitunwind: JIT code is not published: .+\n", done.stderr)


def test_help() -> None:
    own = jitunwind("run", "--help")
    assert own.stdout.startswith("Usage: jitunwind run ")
    theirs = jitunwind("run", "--python", sys.executable, "--", "--help")
    assert theirs.stdout == subprocess.run([sys.executable, "--help"], capture_output=True, text=True).stdout
    assert command("run")


def test_a_file_for_perf_that_nobody_knows(python: str) -> None:
    """One line says so, and the program goes on; children get to know what is to be written."""
    done = under_run(python, "-c", "print('on')", env=environment(JITUNWIND_PERF="flames"))
    assert (done.stdout, done.returncode) == ("on\n", 0)
    assert re.fullmatch(
        r"jitunwind: JIT code is not written for perf: ValueError: perf is one of jitdump, map; .+\n",
        done.stderr,
    )


@pytest.mark.parametrize("kind", ["jitdump", "map"])
def test_a_file_for_perf(kind: str, python: str) -> None:
    code = "import os; print(os.getpid(), os.environ['JITUNWIND_PERF'])"
    done = under_run(python, "--perf", kind, "--", "-c", code)
    pid, told = done.stdout.split()
    path = Path(f"/tmp/jit-{pid}.dump" if kind == "jitdump" else f"/tmp/perf-{pid}.map")
    assert (told, done.stderr) == (kind, "")
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
