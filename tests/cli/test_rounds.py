"""`jitunwind bt` of several processes, and again and again; and with frames or lines left out."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jitunwind.cli import rounds
from jitunwind.errors import AlreadyTraced, NoSuchProcess
from jitunwind.jits.cpython import regions
from jitunwind.jits.cpython.executors import Executors, find_executors
from jitunwind.stacks.library import stacks
from tests.support.processes import (
    PATIENCE,
    Program,
    command,
    jitunwind,
    plain_environment,
    run,
    status,
    wait_until,
)

pytestmark = [
    pytest.mark.live,
    pytest.mark.one_version("how often is looked, and what is shown of it, does not depend on the version"),
]
ESCAPE = "\x1b["
HEADING = "; * marks what has changed ---\n"


@pytest.fixture(scope="module")
def loop() -> Iterator[Program]:
    with run("3.14", "loop.py") as program:
        yield program.warm()


@pytest.fixture
def cat() -> Iterator[Program]:
    with Program(["cat"]) as program:
        program.settle()
        yield program


# --- several


def test_each_of_several_has_its_heading_and_the_worst_status_counts(loop: Program, cat: Program) -> None:
    done = jitunwind("bt", loop.pid, 4194305, cat.pid, loop.pid, Path("/nowhere"))
    headings = [line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("Process ")]
    assert headings == [f"Process {loop.pid}", f"Process {cat.pid}"]
    assert done.stdout.count("all stacks are whole") == 2
    assert done.returncode == 2
    one, hint, warning, other, _ = done.stderr.splitlines()
    assert (one, hint[:7]) == ("error: there is no process 4194305", "  try: ")
    assert warning.startswith(f"warning: {cat.pid}: no CPython here: ")
    assert other == "error: /nowhere is neither a process number nor a file"
    with run("3.15", "loop.py") as third:
        third.warm()
        done = jitunwind("bt", loop.pid, third.pid)
        assert (done.returncode, done.stderr) == (0, "")
        assert third.goes_on()


def test_json_of_several_is_a_list(loop: Program) -> None:
    done = jitunwind("bt", "--json", 4194305, loop.pid)
    missing, found = json.loads(done.stdout)
    assert done.returncode == 2
    assert missing == {"target": "4194305", "error": "there is no process 4194305"}
    assert found.keys() == json.loads(jitunwind("bt", "--json", loop.pid).stdout).keys()
    assert found["pid"] == loop.pid


# --- again and again


@contextlib.contextmanager
def watching(*arguments: object, **options: Any) -> "Iterator[subprocess.Popen[str]]":
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    started = command("bt", "--watch", 0.1, *arguments)
    with subprocess.Popen(started, env=plain_environment(), **options) as process:
        yield process
        process.kill()


def next_round(process: "subprocess.Popen[str]") -> str:
    """What a round has printed, up to the heading of the next."""
    assert process.stdout is not None
    lines = []
    while (line := process.stdout.readline()) and not line.endswith(HEADING):
        lines.append(line)
    return "".join(lines)


def test_rounds_go_into_a_pipe_until_the_process_has_ended() -> None:
    with run("3.14", "loop.py") as program, watching(program.warm().pid) as process:
        assert next_round(process) == ""
        first, second = next_round(process), next_round(process)
        program.kill()
        program.process.wait()
        rest, complaint = process.communicate(timeout=PATIENCE)
    assert (process.returncode, complaint) == (0, f"note: process {program.pid} has ended\n")
    assert ESCAPE not in first + second + rest
    assert [line for line in first.splitlines() if line.startswith("#")]
    frames = [line for line in second.splitlines() if "#" in line[:3]]
    assert frames
    assert all(line.startswith("  #") for line in frames)  # it stands in read(2): nothing has changed


def test_ctrl_c_ends_it_well(loop: Program) -> None:
    with watching("--json", loop.pid) as process:
        assert process.stdout is not None
        documents = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=PATIENCE)
    assert (process.returncode, complaint.strip()) == (130, "")
    assert [each["pid"] for each in documents] == [loop.pid] * 2
    assert documents[0]["time"] < documents[1]["time"]
    for document, changed in zip(documents, (None, False), strict=True):
        assert {frame["changed"] for frame in document["threads"][0]["frames"]} == {changed}
    assert loop.goes_on()


def test_of_several_those_that_have_ended_are_left_out(loop: Program, cat: Program) -> None:
    with watching("--json", loop.pid, cat.pid, 4194305) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.readline() == "error: there is no process 4194305\n"
        assert [each["pid"] for each in json.loads(process.stdout.readline())] == [loop.pid, cat.pid]
        cat.kill()
        cat.process.wait()
        while len(documents := json.loads(process.stdout.readline())) > 1:
            pass
        assert [each["pid"] for each in documents] == [loop.pid]
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=PATIENCE)
    assert f"note: process {cat.pid} has ended" in complaint
    assert process.returncode == 130


def test_a_terminal_shows_each_round_in_the_place_of_the_last(loop: Program) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (12, 100))
    environment = plain_environment() | {"TERM": "xterm", "LINES": "12"}
    running = subprocess.Popen(
        command("bt", "--watch", 0.1, loop.pid), stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    said = b""
    while said.count(b"\x1b[H") < 3:
        said += os.read(ours, 1 << 16)
    running.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # EIO: nobody has it open any more
        while os.read(ours, 1 << 16):
            pass
    os.close(ours)
    assert running.wait(PATIENCE) == 130
    _, first, second, *_ = said.decode().split("\x1b[H")
    for page in (first, second):
        lines = page.removesuffix("\r\n").split("\n")
        assert len(lines) == 11
        assert lines[0].startswith("--- ")
        assert "more lines" in lines[-1]
    assert loop.goes_on()


def test_only_processes_are_watched(tmp_path: Path) -> None:
    done = jitunwind("bt", "--watch", 1, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: --watch is for processes, and {tmp_path} is none\n")


def test_a_process_that_is_traced_for_a_while_is_shown_again(loop: Program) -> None:
    """What is refused in one round may be right in the next."""
    with watching(loop.pid) as process:
        assert process.stderr is not None
        assert next_round(process) == ""
        with subprocess.Popen(
            ["strace", "-o", "/dev/null", "-p", str(loop.pid)], stderr=subprocess.DEVNULL
        ) as other:
            wait_until(lambda: status(loop.pid)["TracerPid"] == str(other.pid), "strace to attach")
            assert process.stderr.readline().startswith(f"warning: process {loop.pid} is being traced by ")
            other.terminate()
        while "#0" not in next_round(process):
            pass
    assert loop.goes_on()


class Made:
    """A look that gives what it was made with, one after the other."""

    coloured = False

    def __init__(self, found: list[Any]) -> None:
        self.found = found

    def at(self, text: str) -> Any:
        found = self.found.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def page(self, seen: Any) -> str:
        return "page"


class Seen:
    """Of one thread, with frames of these program counters, the innermost first."""

    status = 0

    def __init__(self, *pcs: int) -> None:
        frame = {"kind": "native", "name": "f", "function": None, "sp": "0x10", "file": None, "line": None}
        frames = [{**frame, "pc": hex(pc)} for pc in pcs]
        self.document = self.stacks = {"threads": [{"tid": 1, "frames": frames}], "warnings": []}


def test_a_frame_has_changed_if_it_or_one_of_its_callers_has(capsys: pytest.CaptureFixture[str]) -> None:
    pid = os.getpid()
    looks = [
        Seen(1, 2, 3),
        Seen(4, 2, 3),
        Seen(4, 5, 3),
        Seen(9, 4, 5, 3),
        Seen(9, 8, 5, 3),
        Seen(9, 4, 8, 3),
    ]
    made = Made([*looks, AlreadyTraced("traced"), Seen(9, 4, 8, 3), NoSuchProcess("ended")])
    assert rounds.run([str(pid)], made, True, 0.001) == 0
    out, complaint = capsys.readouterr()
    documents = [json.loads(line) for line in out.splitlines()]
    assert documents.pop(6)["error"] == "traced"
    changed = [[frame["changed"] for frame in each["threads"][0]["frames"]] for each in documents]
    assert changed == [
        [None] * 3,
        [True, False, False],
        [True, True, False],
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
        [False] * 4,
    ]
    assert complaint == f"warning: traced\nnote: process {pid} has ended\n"


def test_a_core_beside_a_process_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    made = Made([Seen(1), Seen(2), Seen(3), NoSuchProcess("ended")])
    assert rounds.run([str(os.getpid()), "core"], made, False, 0.001) == 0
    out, _ = capsys.readouterr()
    assert [each.count("page") for each in out.split("---\n")[1:]] == [2, 1]


def test_what_is_wrong_with_executors_is_said_if_it_is_wrong_still(
    loop: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read while the process runs on: one that was freed meanwhile is no damage."""
    said = iter([["went", "stays"]])

    def find(*arguments: object) -> Executors:
        found = find_executors(*arguments)  # type: ignore[arg-type]
        found.warnings += next(said, ["stays"])
        return found

    monkeypatch.setattr(regions, "find_executors", find)
    assert list(stacks(loop.pid).warnings) == ["stays"]


# --- what is left out


def kinds(*options: object) -> list[tuple[str, int]]:
    frames = json.loads(jitunwind("bt", "--json", *options).stdout)["threads"][0]["frames"]
    assert [frame["index"] for frame in frames] == list(range(len(frames)))
    return [(frame["kind"], frame["line"]) for frame in frames]


def test_frames_of_one_kind(loop: Program) -> None:
    every = kinds("--python", loop.pid)
    assert kinds("--python-only", loop.pid) == [each for each in every if each[0] == "python"] != []
    assert kinds("--native-only", loop.pid) == [each for each in every if each[0] == "native"] != []
    without = kinds("--python", "--no-lines", loop.pid)
    assert without == [(kind, None) for kind, _ in every]
    page = jitunwind("bt", "--python-only", loop.pid)
    assert "names of C functions" not in page.stdout
    assert page.returncode == 0


def test_what_has_none_of_that_kind(cat: Program) -> None:
    done = jitunwind("bt", "--python-only", cat.pid)
    assert (done.returncode, "  (no frames of that kind)\n" in done.stdout) == (2, True)
    assert done.stderr.startswith("warning: there are no Python frames: ")
    done = jitunwind("bt", "--native-only", cat.pid)
    assert (done.returncode, done.stderr) == (0, "")
