"""Source files that a process names are read with care."""

import os
from pathlib import Path

import pytest

from jitunwind.explain.sources import Sources

STRANGER = 4_000_000


@pytest.fixture
def sources() -> Sources:
    return Sources(os.getuid())


def test_a_line_without_what_stands_behind_it(tmp_path: Path, sources: Sources) -> None:
    file = tmp_path / "one.py"
    file.write_text("first = 1\n    second = 2   \n")
    assert sources.line(str(file), 2) == "    second = 2"
    assert sources.line(str(file), 3) is None
    assert sources.line(str(file), 0) is None


def test_what_is_not_there_or_no_file_is_nothing(tmp_path: Path, sources: Sources) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    for name in ("<string>", "relative.py", "", "nul\0", str(tmp_path), str(tmp_path / "fifo"), "/dev/zero"):
        assert sources.line(name, 1) is None


def test_a_process_cannot_have_a_file_read_that_it_could_not_read(tmp_path: Path, sources: Sources) -> None:
    secret = tmp_path / "secret.py"
    secret.write_text("password = 'x'\n")
    secret.chmod(0o600)
    assert sources.line(str(secret), 1) == "password = 'x'"
    assert Sources(STRANGER).line(str(secret), 1) is None
    secret.chmod(0o644)
    assert Sources(STRANGER).line(str(secret), 1) == "password = 'x'"


def test_long_lines_are_cut(tmp_path: Path, sources: Sources) -> None:
    file = tmp_path / "long.py"
    file.write_text("x" * 100_000)
    assert len(sources.line(str(file), 1) or "") == 400
