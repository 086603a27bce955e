"""Source files that a process names are read with care."""

import os
from pathlib import Path

import pytest

from jitunwind.explain.sources import Sources, sources_of

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


def test_links_are_followed_from_the_root_of_the_process(tmp_path: Path) -> None:
    """Absolute ones begin there, and `..` does not lead out of it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/one.py").write_text("first = 1\n")
    (tmp_path / "link").symlink_to("/real")
    (tmp_path / "up").symlink_to("../../../real")
    (tmp_path / "loop").symlink_to("/loop")
    sources = Sources(os.getuid(), str(tmp_path))
    for name in ("/real/one.py", "/link/one.py", "/up/one.py", "/real/../link/./one.py"):
        assert sources.line(name, 1) == "first = 1"
    for name in ("/loop", "/loop/one.py", "/nowhere"):
        assert sources.line(name, 1) is None


def test_a_file_newer_than_the_process_is_told(tmp_path: Path) -> None:
    old, new = tmp_path / "old.py", tmp_path / "new.py"
    for file, seconds in ((old, 0.0), (new, 4e9)):
        file.write_text("first = 1\n")
        os.utime(file, (seconds, seconds))
    sources = sources_of(os.getpid())
    assert sources.line(str(old), 1) == sources.line(str(new), 1) == "first = 1"
    assert sources.newer == [str(new)]
