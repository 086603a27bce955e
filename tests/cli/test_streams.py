"""Every verb, whatever its stdout and its files are: no traceback, and a status that is documented."""

import errno
import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from jitunwind.cli.app import cli
from tests.support.forked import BROKEN_PIPE, CLOSED, Forked
from tests.support.processes import (
    PROGRAMS,
    Program,
    command,
    interpreter,
    jitunwind,
    plain_environment,
    wait_until,
)

ENCODINGS = {
    "C": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
    "ISO-8859-1": ({"LC_ALL": "C.UTF-8", "PYTHONUTF8": "0", "PYTHONIOENCODING": "iso-8859-1"}, "iso-8859-1"),
    "UTF-8": ({"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}, "utf-8"),
}
WIDTHS = (40, 60, 100, 200)
VERBS = tuple(cli.list_commands(click.Context(cli)))
ODD = "ěšč→.o"
HELPS = (("--help",), *((verb, "--help") for verb in VERBS))
TEXTS = (
    ("--help",),
    ("--version",),
    ("agent",),
    ("audit", "--static", "--max-unknown", "1000000", "DUMP"),
    ("audit", "--static", "--max-unknown", "1000000", "--json", "DUMP"),
    ("check", "--jobs", "1", ODD),
    ("check", "--jobs", "1", "--json", ODD),
    ("completion", "bash"),
    ("dump", "DUMP", "-o", "-"),
    ("explain", "DUMP"),
    ("explain", "DUMP", "--region", "0"),
    ("explain", "DUMP", "--region", "0", "-o", "-"),
    ("explain", "DUMP", "--region", "0", "--json"),
    ("gdb", "--print-init"),
    ("help", "audit"),
)
"""Commands that need no process and print something, each of another kind."""
BINARY = ("dump", "DUMP", "-o", "-")
OUTPUTS = (
    ("audit", "--static", "--markdown", "FILE", "DUMP"),
    ("audit", "--static", "--junit", "FILE", "DUMP"),
    ("check", "--jobs", "1", "--markdown", "FILE", ODD),
    ("check", "--jobs", "1", "--junit", "FILE", ODD),
    ("dump", "-o", "FILE", "DUMP"),
    ("explain", "--region", "0", "-o", "FILE", "DUMP"),
)
"""Commands that write to FILE."""

pytestmark = [pytest.mark.live, pytest.mark.one_version("where output goes does not depend on the version")]


def to(arguments: tuple[str, ...], file: object) -> list[str]:
    return [str(file) if each == "FILE" else each for each in arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a dump and a core of one process, and a file of an odd name to check."""
    folder = tmp_path_factory.mktemp("streams")
    subprocess.run(
        ["cc", "-xc", "-c", "-", "-o", folder / ODD], input=b"int f(void) { return 1; }", check=True
    )
    script = folder / "ěščř.py"
    script.write_bytes((PROGRAMS / "loop.py").read_bytes())
    environment = {"PYTHONPATH": str(PROGRAMS), "PYTHONUTF8": "1"}
    with Program([interpreter("3.14"), script], environment=environment) as program:
        program.warm()
        done = jitunwind("dump", program.pid, "-o", folder / "DUMP")
        assert done.returncode == 0, done.stderr
        subprocess.run(["gcore", "-o", folder / "core", str(program.pid)], capture_output=True, check=True)
        (folder / f"core.{program.pid}").rename(folder / "CORE")
    return folder


@pytest.fixture(scope="module", params=ENCODINGS)
def encoded(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[str, Forked]]:
    environment, encoding = ENCODINGS[request.param]
    with Forked(folder, plain_environment() | environment) as forked:
        yield encoding, forked


@pytest.fixture(scope="module")
def forked(folder: Path) -> Iterator[Forked]:
    with Forked(folder, plain_environment()) as forked:
        yield forked


def error_of(stderr: bytes) -> str:
    """The error, where stderr has nothing but one and what to try."""
    said = re.fullmatch(r"error: (.+)\n  try: .+\n", stderr.decode())
    assert said, stderr.decode()
    return said[1]


def test_every_encoding(encoded: tuple[str, Forked]) -> None:
    encoding, forked = encoded
    for arguments in (*HELPS, *TEXTS):
        done = forked(*arguments, columns=40)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), (arguments, done)
        assert done.stdout, arguments
        if arguments != BINARY:
            done.stdout.decode("utf-8" if "-o" in arguments else encoding)


def test_every_width(forked: Forked) -> None:
    for arguments in (*HELPS, ("explain", "DUMP"), ("check", "--jobs", "1", ODD)):
        for columns in WIDTHS:
            done = forked(*arguments, columns=columns)
            assert done.returncode == 0, (arguments, done)
            text = done.stdout.decode()
            assert text, arguments
            if arguments in HELPS:
                wrapped = [
                    line for line in text.splitlines() if "jitunwind " not in line
                ]  # not commands to copy
                assert max(map(len, wrapped)) <= columns, (arguments, columns, text)


def test_a_name_that_the_encoding_lacks_is_escaped(encoded: tuple[str, Forked]) -> None:
    encoding, forked = encoded
    shown = {
        "utf-8": ODD,
        "iso-8859-1": r"\u011b\u0161\u010d->.o",
        "ascii": ascii(ODD.encode().decode("ascii", "surrogateescape"))[1:-1],  # to Python they are bytes
    }
    done = forked("check", "--jobs", "1", ODD)
    assert done.stdout.decode(encoding).startswith(f"{shown[encoding]}: "), done


def test_a_stdout_that_is_full_or_closed(forked: Forked) -> None:
    for arguments in TEXTS:
        full = forked(*arguments, stdout="/dev/full")
        assert full.returncode == 2, (arguments, full)
        assert error_of(full.stderr) == "stdout cannot be written: No space left on device", arguments
        closed = forked(*arguments, stdout=CLOSED)
        assert closed.returncode == 2, (arguments, closed)
        assert error_of(closed.stderr) == "stdout cannot be written: it is closed", arguments


def test_stacks_for_a_stdout_that_is_full_or_closed(forked: Forked) -> None:
    for stdout, why in (("/dev/full", "No space left on device"), (CLOSED, "it is closed")):
        done = forked("bt", "CORE", stdout=stdout)
        assert (done.returncode, error_of(done.stderr)) == (2, f"stdout cannot be written: {why}")


def test_stacks_in_another_encoding(encoded: tuple[str, Forked]) -> None:
    encoding, forked = encoded
    done = forked("bt", "--python", "CORE", columns=60)
    assert done.returncode == 0, done
    text = done.stdout.decode(encoding)
    assert "_start" in text
    assert {"utf-8": "ěščř.py", "iso-8859-1": r"\u011b\u0161\u010d\u0159.py"}.get(encoding, ".py") in text


def test_a_closed_stdout_is_told_before_the_work(forked: Forked) -> None:
    for verb in ("audit", "bt", "check", "enable"):
        done = forked(verb, "0", stdout=CLOSED)
        assert error_of(done.stderr) == "stdout cannot be written: it is closed", verb


def test_a_reader_that_leaves_ends_it_quietly(forked: Forked) -> None:
    for arguments in TEXTS:
        done = forked(*arguments, stdout=BROKEN_PIPE)
        assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b""), arguments


def test_descriptors_of_the_shell() -> None:
    """The same with a shell's own descriptors, from a Python's start to its end."""
    for redirection, why in ((">/dev/full", "No space left on device"), (">&-", "it is closed")):
        for verb in ("bt --help", "bt 0") if redirection == ">&-" else ("bt --help",):
            line = f'"$0" -m jitunwind {verb} {redirection}'
            done = subprocess.run(
                ["sh", "-c", line, sys.executable], capture_output=True, env=plain_environment()
            )
            assert (done.returncode, error_of(done.stderr)) == (2, f"stdout cannot be written: {why}")
    for redirection in (">/dev/full 2>/dev/full", ">&- 2>&- <&-"):
        line = f'"$0" -m jitunwind bt 0 {redirection}'
        assert subprocess.run(["sh", "-c", line, sys.executable], env=plain_environment()).returncode == 2


def test_a_program_of_run_finds_stdout_closed_as_it_was() -> None:
    python = interpreter("3.14")
    code = "import os, sys; os.write(2, repr([sys.stdin, sys.stdout]).encode())"
    done = subprocess.run(
        ["sh", "-c", '"$@" <&- >&-', "sh", *command("run", "--python", python, "-c", code)],
        capture_output=True,
        env=plain_environment(),
    )
    assert (done.returncode, done.stderr) == (0, b"[None, None]")


def test_a_pipe_that_does_not_block_is_waited_for(folder: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    capacity = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    arguments = command("explain", "DUMP", "--region", "0", "--json")
    with (
        open(reader, "rb") as stream,
        subprocess.Popen(arguments, cwd=folder, env=plain_environment(), stdout=writer) as process,
    ):
        os.close(writer)
        wait_until(lambda: unread(reader) == capacity or process.poll() is not None, "a full pipe")
        assert process.poll() is None
        assert len(json.loads(stream.read())["regions"]) == 1
        assert process.wait() == 0


def unread(descriptor: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0])


# --- files


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/nowhere/x", errno.ENOENT),
        ("/sys/x", errno.EACCES),
        ("/dev/null/x", errno.ENOTDIR),
        ("x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_files_are_tried_before_the_work(name: str, why: int, forked: Forked) -> None:
    for arguments in OUTPUTS:
        done = forked(*to(arguments, name)[:-1], "missing")
        assert done.returncode == 2, (arguments, done)
        reasons = {os.strerror(why), os.strerror(errno.EROFS), os.strerror(errno.EPERM)}
        assert error_of(done.stderr) in {f"{name} cannot be written: {each}" for each in reasons}, arguments


def test_a_folder_is_no_file(forked: Forked, folder: Path) -> None:
    for arguments in OUTPUTS:
        for name in (folder, f"{folder}/new/", "."):
            assert "cannot be written: " in error_of(forked(*to(arguments, name)).stderr), (arguments, name)
        done = forked(*to(arguments, ""))
        assert error_of(done.stderr).endswith(" is empty"), arguments


def test_a_full_device(forked: Forked) -> None:
    for arguments in OUTPUTS:
        done = forked(*to(arguments, "/dev/full"))
        assert done.returncode == 2, (arguments, done)
        assert error_of(done.stderr) == "/dev/full cannot be written: No space left on device", arguments


@pytest.mark.parametrize("is_there", [True, False])
def test_a_disk_that_gets_full_leaves_what_was_there(is_there: bool, forked: Forked, tmp_path: Path) -> None:
    file = tmp_path / "report"
    for arguments in OUTPUTS:
        if is_there:
            file.write_text("before")
        done = forked(*to(arguments, file), largest=200)
        assert done.returncode == 2, (arguments, done)
        assert f"{file} cannot be written: File too large" in done.stderr.decode(), arguments
        assert {each.name: each.read_text() for each in tmp_path.iterdir()} == (
            {"report": "before"} if is_there else {}
        ), arguments


def test_a_file_is_replaced_with_its_rights_through_links(forked: Forked, folder: Path) -> None:
    for number, arguments in enumerate(OUTPUTS):
        file, link = folder / f"report{number}", folder / f"link{number}"
        file.write_text("before" * 100_000)
        file.chmod(0o640)
        link.symlink_to(file.name)
        assert forked(*to(arguments, link)).returncode == (1 if "--static" in arguments else 0), arguments
        assert link.is_symlink()
        assert (file.stat().st_mode & 0o777, file.read_bytes()[:6] == b"before") == (0o640, False)
        new = folder / f"new{number}"
        forked(*to(arguments, new))
        assert new.read_bytes()
        assert new.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_dash_is_stdout_which_gets_nothing_else(forked: Forked, folder: Path) -> None:
    begins = (b"### ", b"<?xml", b"| ", b"<?xml", b"\x7fELF", b"<!doctype html>")
    for arguments, begin in zip(OUTPUTS, begins, strict=True):
        file = folder / "same"
        forked(*to(arguments, file))
        done = forked(*to(arguments, "-"))
        assert done.stdout[: len(begin)].lower() == begin.lower(), (arguments, done.stdout[:80])
        if begin in (b"\x7fELF", b"<!doctype html>"):
            assert len(done.stdout) == file.stat().st_size
        assert not (folder / "-").exists()
    done = forked("check", ODD, "--json", "--markdown", "-")
    assert error_of(done.stderr).startswith("only one can go to stdout")
    done = forked("check", ODD, "--junit", "x", "--markdown", "x")
    assert error_of(done.stderr) == "--markdown: --junit writes to x, too"


def test_a_file_that_stdout_leads_to_is_not_parted_from_it(forked: Forked, folder: Path) -> None:
    (folder / "all").write_bytes(b"")
    forked("check", "--jobs", "1", ODD, "--markdown", "/dev/stdout", stdout=str(folder / "all"))
    text = (folder / "all").read_text()
    assert text.startswith("| file | ")
    assert "FDEs/s" in text.splitlines()[-1]


# --- tables


def test_a_table_that_is_none(forked: Forked, folder: Path) -> None:
    text, cut = folder / "table.py", folder / "cut"
    text.write_text("print(1)\n")
    data = (folder / ODD).read_bytes()
    cut.write_bytes(data[:70])
    for verb in (["audit", "--static"], ["explain"]):
        assert error_of(forked(*verb, "--table", text, "DUMP").stderr).endswith("table.py is no ELF object")
        assert "cut" in error_of(forked(*verb, "--table", cut, "DUMP").stderr)
        assert "neither " in error_of(forked(*verb, "--table", "nowhere", "DUMP").stderr)


@pytest.mark.parametrize("reads_first", [False, True])
def test_a_pipe_that_nobody_reads_is_waited_for_with_a_word(tmp_path: Path, reads_first: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK) if reads_first else -1
    writer = subprocess.Popen(
        command("check", "--markdown", pipe, "/bin/true"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=plain_environment(),
    )
    assert writer.stderr is not None
    if reads_first:
        os.set_blocking(reader, True)
    else:
        assert writer.stderr.readline() == f"note: {pipe} is a pipe that nobody reads: waiting for a reader\n"
        reader = os.open(pipe, os.O_RDONLY)
    # A pipe without a writer yet reads as ended: it is there when the writer ends at the latest.
    assert writer.wait() == 0
    with open(reader, "rb") as file:
        assert b"| file |" in file.read().lower()
    assert writer.stderr.read() == ""
