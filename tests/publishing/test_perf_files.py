"""The files that perf reads: who may write them, what is in them, and what becomes of them when a process forks,
executes another program, is killed, or has written too much."""

import json
import os
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from jitunwind.arch.known import native
from jitunwind.jits.jitdump import Loaded, code_in
from jitunwind.region import Line
from jitunwind.rows import Row

PROGRAM = Path(__file__).parent / "programs/perf_files.py"
PATIENCE = 60
KINDS = ("jitdump", "map")
kinds = pytest.mark.parametrize("kind", KINDS)
_made: set[str] = set()


@pytest.fixture(autouse=True)
def _removed() -> Iterator[None]:
    yield
    while _made:
        Path(_made.pop()).unlink(missing_ok=True)


def command(kind: str, course: str) -> list[str]:
    return [sys.executable, str(PROGRAM), kind, course]


def noted(said: dict[str, Any]) -> dict[str, Any]:
    _made.add(said["path"])
    return said


def run(kind: str, course: str) -> dict[str, Any]:
    done = subprocess.run(command(kind, course), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return noted(json.loads(done.stdout))


def names(path: str) -> list[str]:
    """Of the regions in a file, in its order."""
    data = Path(path).read_bytes()
    if path.endswith(".map"):
        return [line.split(" ", 2)[2] for line in data.decode().splitlines()]
    return [each.name for each in loads(data)]


def loads(data: bytes) -> list[Loaded]:
    return sorted(code_in(data), key=lambda each: each.start)


def numbers(data: bytes) -> Iterator[tuple[int, int]]:
    """Process and index of each load."""
    return ((load[0], load[5]) for load in records(data))


def addresses(data: bytes) -> Iterator[int]:
    """Of each load."""
    return (load[3] for load in records(data))


def records(data: bytes) -> Iterator[tuple[int, ...]]:
    """The fields of each load."""
    at = 40
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == 0:
            yield struct.unpack_from("<II4Q", data, at + 16)
        at += size
    assert at == len(data), "a record is cut short"


@kinds
def test_a_file_is_its_users_alone(kind: str) -> None:
    said = run(kind, "tells")
    status = os.stat(said["path"])
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.geteuid())
    assert (said["problem"], said["told"]) == (None, None)


def test_a_map_has_a_line_for_each_piece() -> None:
    said = run("map", "tells")
    lines = [line.split(" ", 2) for line in Path(said["path"]).read_text().splitlines()]
    assert [(size, name) for _, size, name in lines] == [("200", "f"), ("200", "g?h")]
    assert int(lines[1][0], 16) - int(lines[0][0], 16) == 0x200


def test_a_jitdump_has_code_names_lines_and_tables() -> None:
    said = run("jitdump", "tells")
    data = Path(said["path"]).read_bytes()
    first, second = loads(data)
    assert [first.name, second.name] == ["f", "g\nh"]
    assert first.data == b"\x90" * 0x40, "without the zeros behind it"
    assert first.lines == (Line(0, "/tmp/f.py", 7),)
    ((start, size, table),) = first.fdes(native())
    assert (start, size) == (first.start, 0x200)
    row, entry = table.at(0), native().at_entry(native().platform)
    assert isinstance(row, Row)
    assert (row.cfa, row.rule(native().return_address)) == (entry.cfa, entry.rule(native().return_address))
    assert list(numbers(data)) == [(said["pid"], 0), (said["pid"], 1)]


def test_code_without_room_for_its_table_is_told_of_twice() -> None:
    """First where nobody has any: below, for perf 6.1 looks for the table from the lowest place on."""
    said = run("jitdump", "tight")
    data = Path(said["path"]).read_bytes()
    assert list(numbers(data)) == [(said["pid"], 0)] * 2
    (code,) = loads(data)
    places = list(addresses(data))
    assert places[1] == code.start
    assert 0 < places[1] - places[0] < 1 << 31
    fdes = {start: size for start, size, _ in code.fdes(native())}
    assert fdes == {code.start: 0x40, 2 * places[1] - places[0]: 0x40}


OBSTACLES: Mapping[str, str] = {
    "link": "it is a link",
    "hard link": "it has another name as well",
    "fifo": "it is no regular file",
    "writable": "others may write to it",
    "foreign": "it belongs to another user",
    "locked": "another process writes it",
    "mapped": "another JIT of this process writes it",
}


@pytest.mark.parametrize("make", OBSTACLES)
@kinds
def test_a_file_that_is_not_ours_is_left_alone(kind: str, make: str) -> None:
    if make == "foreign" and os.geteuid():
        pytest.skip("only root can give a file away")
    said = run(kind, make)
    assert OBSTACLES[make] in said["problem"]
    assert said["path"] in said["problem"]
    assert said["regions"] == 0
    assert said["other"] == ("before\n" if make == "hard link" else "other's")
    assert said["is"] in ("", b"before\n".hex(), b"other's".hex())


@kinds
def test_a_file_of_a_process_that_had_the_same_number_is_replaced(kind: str) -> None:
    said = run(kind, "stale")
    assert said["problem"] is None
    assert names(said["path"]) == ["f"]


@kinds
def test_the_child_of_a_fork_has_a_file_of_its_own(kind: str) -> None:
    """With all that it has inherited, and as its own."""
    said = run(kind, "forks")
    child = noted(said["child"])
    assert names(said["path"]) == ["before", "too", "parent's"]
    assert names(child["path"]) == ["before", "too", "child's"]
    if kind == "jitdump":
        found = list(numbers(Path(child["path"]).read_bytes()))
        assert found == [(child["pid"], index) for index in range(3)]


@kinds
def test_a_program_that_is_executed_goes_on_with_the_file(kind: str) -> None:
    """Behind the last whole record; code that was there before has not been forgotten."""
    said = run(kind, "executes")
    assert said["problem"] is None
    data = Path(said["path"]).read_bytes()
    if kind == "map":
        assert names(said["path"]) == ["before", "too", "after"]
    else:
        assert [index for _, index in numbers(data)] == [0, 1, 2]
        assert all(name in data for name in (b"before\0", b"too\0", b"after\0"))


@kinds
def test_a_file_is_complete_when_the_process_is_killed(kind: str) -> None:
    process = subprocess.Popen(
        command(kind, "stays"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = noted(json.loads(process.stdout.readline()))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert names(said["path"]) == [f"f{number}" for number in range(10)]
    if kind == "jitdump":
        assert len(list(numbers(Path(said["path"]).read_bytes()))) == 10


@kinds
def test_a_file_that_is_full_is_said_to_be(kind: str) -> None:
    """It keeps whole records, and publishing goes on without it."""
    said = run(kind, "full")
    assert said["problem"] is None
    assert "is full" in said["told"]
    assert said["regions"] == 3
    assert names(said["path"]) == ["f"]
