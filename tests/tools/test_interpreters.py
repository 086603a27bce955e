"""tools/interpreters.py from outside, as a command. Stand-ins for interpreters and for apt-get keep
most of it off the network; where a real interpreter is needed, the private folder's own is taken,
and filled once if it is empty."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.live import VERSIONS

TOOL = Path(__file__).parents[2] / "tools/interpreters.py"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")
Done = subprocess.CompletedProcess[str]


def test_it_is_run_as_the_docs_name_it() -> None:
    done = subprocess.run([TOOL, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def ask(*arguments: str, **environment: str) -> Done:
    """Runs the tool without the caller's own overrides."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JITUNWIND_PYTHON")}
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True)


def script(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def stand_in(path: Path, version: str = "3.14.0", jit: bool = True) -> Path:
    """A program that answers the tool's question as an interpreter would; its standard library is beside it."""
    facts = {"python": str(path), "version": version, "prefix": "/", "include": "/", "jit": jit}
    facts |= {"shared": False, "stdlib": str(path.parent / "lib")}
    return script(path, f"echo '{json.dumps(facts)}'")


def real(version: str, *arguments: str) -> dict[str, str]:
    """What the tool says of a real interpreter; skips where none can be had."""
    done = ask(version, "--json", *arguments)
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """An environment with an empty private folder, and no command but an apt-get that fails and
    leaves a trace."""
    script(tmp_path / "bin/patchelf", "exit 1")
    script(tmp_path / "bin/dpkg-deb", "exit 1")
    script(tmp_path / "bin/apt-get", f"echo called >> {tmp_path}/trace", "echo E: offline >&2", "exit 100")
    return {"PATH": str(tmp_path / "bin"), "JITUNWIND_CACHE": str(tmp_path / "cache")}


# --- asked for what there cannot be


@pytest.mark.parametrize("text", ["x", "3", "2.7", "3.12", "3.14.1", "", "../3.14"])
def test_refuses_what_is_no_version_with_a_jit(text: str, offline: dict[str, str]) -> None:
    done = ask(text, **offline)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"{text!r} is no version such as 3.14" in done.stderr


def test_refuses_an_architecture_without_a_jit(offline: dict[str, str]) -> None:
    done = ask("3.14", "--arch", "riscv64", **offline)

    assert (done.returncode, done.stdout) == (2, "")
    assert "amd64, x86_64, arm64, aarch64" in done.stderr


def test_says_that_debians_3_13_has_no_jit_and_what_helps(offline: dict[str, str]) -> None:
    done = ask("3.13", **offline)

    assert (done.returncode, done.stdout) == (2, "")
    assert "Debian's python3.13 has no JIT" in done.stderr
    assert "JITUNWIND_PYTHON_3_13" in done.stderr


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb"])
def test_without_apt_says_what_helps(missing: str, offline: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / missing).unlink()

    done = ask("3.14", **offline)

    assert (done.returncode, done.stdout) == (2, "")
    assert "no apt-get" in done.stderr
    assert "JITUNWIND_PYTHON_3_14" in done.stderr


# --- an interpreter of one's own


def test_takes_the_one_that_the_environment_names(offline: dict[str, str], tmp_path: Path) -> None:
    own = stand_in(tmp_path / "own/python")

    done = ask("3.14", JITUNWIND_PYTHON_3_14=str(own), **offline)

    assert (done.returncode, done.stdout) == (0, f"{own}\n"), done.stderr


def test_takes_the_one_on_path(offline: dict[str, str], tmp_path: Path) -> None:
    own = stand_in(tmp_path / "bin/python3.15", version="3.15.0rc1")

    done = ask("3.15", **offline)

    assert (done.returncode, done.stdout) == (0, f"{own}\n"), done.stderr


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            ["echo pyenv: not found >&2", "echo '      found at the same time' >&2", "exit 127"],
            "exit status 127",
        ),
        (["echo Traceback >&2", "echo 'ImportError: no json' >&2", "exit 1"], "ImportError: no json"),
        (["exit 3"], "exit status 3"),
    ],
    ids=["another program", "a Python", "silent"],
)
def test_says_why_one_on_path_does_not_run(
    lines: list[str], why: str, offline: dict[str, str], tmp_path: Path
) -> None:
    own = script(tmp_path / "bin/python3.14", *lines)

    said = ask("3.14", **offline).stderr.splitlines()

    assert said[0] == f"interpreters: not taken: {own} does not run: {why}"


def test_leaves_one_on_path_that_has_no_jit(offline: dict[str, str], tmp_path: Path) -> None:
    stand_in(tmp_path / "bin/python3.14", jit=False)

    assert ask("3.14", **offline).stdout == ""


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "is not an executable file"),
        (lambda path: path.write_text("not executable"), "is not an executable file"),
        (lambda path: script(path, "exit 1"), "runs no python3.14"),
        (lambda path: script(path, "echo nonsense"), "runs no python3.14"),
        (lambda path: stand_in(path, version="3.15.0"), "runs no python3.14"),
        (lambda path: stand_in(path, jit=False), "was built without the JIT"),
    ],
    ids=["missing", "not executable", "fails", "says nonsense", "other version", "no JIT"],
)
def test_refuses_a_bad_override_by_name(
    make: Callable[[Path], object], complaint: str, offline: dict[str, str], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    make(own)

    done = ask("3.14", JITUNWIND_PYTHON_3_14=str(own), **offline)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"JITUNWIND_PYTHON_3_14={own} {complaint}" in done.stderr
    assert not (tmp_path / "trace").exists(), "something else was looked for"


@pytest.mark.parametrize("has_tests", [True, False])
def test_asked_for_the_test_suite_takes_only_one_that_has_it(
    has_tests: bool, offline: dict[str, str], tmp_path: Path
) -> None:
    own = stand_in(tmp_path / "own/python")
    if has_tests:
        script(tmp_path / "own/lib/test/test_generators.py")

    done = ask("3.14", "--testsuite", JITUNWIND_PYTHON_3_14=str(own), **offline)

    assert (done.returncode, done.stdout) == ((0, f"{own}\n") if has_tests else (2, "")), done.stderr
    assert ("has no tests: looking for another" in done.stderr) is not has_tests


# --- the private folder


@pytest.mark.parametrize("finished", [True, False])
def test_takes_only_a_finished_tree(finished: bool, offline: dict[str, str], tmp_path: Path) -> None:
    tree = tmp_path / "cache/interpreters" / ARCH / "3.14"
    python = stand_in(tree / "usr/bin/python3.14")
    if finished:
        (tree / ".complete").touch()

    done = ask("3.14", **offline)

    assert (done.returncode, done.stdout) == ((0, f"{python}\n") if finished else (2, "")), done.stderr


def test_does_not_take_a_finished_tree_that_runs_no_more(offline: dict[str, str], tmp_path: Path) -> None:
    tree = tmp_path / "cache/interpreters" / ARCH / "3.14"
    script(tree / "usr/bin/python3.14", "exit 1")
    (tree / ".complete").touch()

    done = ask("3.14", **offline)

    assert (done.returncode, done.stdout) == (2, "")


def test_an_interrupted_run_leaves_nothing_behind(offline: dict[str, str], tmp_path: Path) -> None:
    if not list(Path("/usr/share/keyrings").glob("debian-archive-keyring.*")):
        pytest.skip("without Debian's keys the tool does not get as far as calling apt-get")
    # GIVEN an apt-get that tells when it is called, and then waits for ever
    called, never = tmp_path / "called", tmp_path / "never"
    os.mkfifo(called)
    os.mkfifo(never)
    script(tmp_path / "bin/apt-get", f"echo called > {called}", f"read line < {never}")
    command = [sys.executable, str(TOOL), "3.14"]
    running = subprocess.Popen(
        command, env=os.environ | offline, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    )
    assert called.read_text() == "called\n"
    # WHEN it is interrupted as by Ctrl-C
    os.killpg(running.pid, signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    # THEN
    assert (running.returncode, stdout) == (130, b""), stderr
    assert b"Traceback" not in stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]


# --- real ones


@pytest.mark.parametrize("version", VERSIONS)
def test_the_last_line_is_an_interpreter_whose_jit_can_be_on(version: str) -> None:
    real(version)
    path = ask(version).stdout.splitlines()[-1]

    code = "import sys; print(*sys.version_info[:2], sys._jit.is_enabled())"
    done = subprocess.run([path, "-c", code], env={"PYTHON_JIT": "1"}, capture_output=True, text=True)

    assert done.stdout == f"{version.replace('.', ' ')} True\n", done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_the_second_run_downloads_nothing(version: str, tmp_path: Path) -> None:
    first = real(version)
    script(tmp_path / "apt-get", f"echo called >> {tmp_path}/trace", "exit 100")

    second = ask(version, "--json", PATH=f"{tmp_path}:{os.environ['PATH']}")

    assert json.loads(second.stdout) == first
    assert not (tmp_path / "trace").exists(), "apt-get was called"


@pytest.mark.parametrize("version", VERSIONS)
def test_its_libraries_are_found_without_any_environment(version: str) -> None:
    path = real(version)["python"]

    code = (
        "import bz2, ctypes, decimal, hashlib, lzma, readline, sqlite3, ssl, sys, zlib; print(sys.executable)"
    )
    done = subprocess.run([path, "-c", code], env={}, capture_output=True, text=True)

    assert done.stdout == f"{path}\n", done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_extensions_compile_against_its_headers(version: str, tmp_path: Path) -> None:
    include, compiler = real(version)["include"], shutil.which("cc")
    if not include or not compiler:
        pytest.skip("no headers or no C compiler")
    source = tmp_path / "extension.c"
    source.write_text("#include <Python.h>\nint size = SIZEOF_VOID_P;\n")

    command = [compiler, f"-I{include}", "-fsyntax-only", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_gdb_finds_the_debug_symbols(version: str) -> None:
    answer, gdb = real(version, "--debug-symbols"), shutil.which("gdb")
    if not gdb:
        pytest.skip("no gdb")

    where = f"set debug-file-directory {answer['debug_file_directory']}"
    what = "info line _PyEval_EvalFrameDefault"
    command = [gdb, "-nx", "-batch", "-iex", where, "-ex", what, answer["python"]]
    done = subprocess.run(command, capture_output=True, text=True)

    assert "ceval.c" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_cpythons_own_tests_run(version: str) -> None:
    path = real(version, "--testsuite")["python"]

    done = subprocess.run([path, "-m", "test", "-v", "test_int_literal"], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_hex_unsigned (test.test_int_literal.TestHexOctBin.test_hex_unsigned) ... ok" in (
        done.stdout + done.stderr
    )
