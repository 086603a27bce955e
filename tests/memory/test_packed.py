"""Cores as they are kept: compressed, and inside of apport's reports."""

import base64
import bz2
import gzip
import lzma
import os
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from jitunwind.errors import BadCore
from jitunwind.memory import packed
from jitunwind.memory.packed import is_packed, unpacked

lz4 = pytest.importorskip("lz4.frame")
zstandard = pytest.importorskip("zstandard")
CORE = b"\x7fELF" + random.Random(1).randbytes(100_000) + bytes(5_000_000) + b"end" + bytes(300_000)
NOTHING: Callable[[int, int], None] = lambda done, of: None  # noqa: E731


def deflated_lines(data: bytes) -> bytes:
    """As apport writes it: the header, pieces of one stream and the trailer, a line each (problem_report.py)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = [b"\x1f\x8b\x08\0\0\0\0\0\2\xff"]
    for at in range(0, len(data), 1 << 20):
        pieces.append(compressor.compress(data[at : at + (1 << 20)]))
    trailer = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    pieces.append(compressor.flush() + trailer)
    return b"".join(b" " + base64.b64encode(piece) + b"\n" for piece in pieces if piece)


def report(core: bytes) -> bytes:
    return (
        b"ProblemType: Crash\nDate: Tue Dec  1 09:00:00 2026\nCoreDump: base64\n"
        + core
        + b"Signal: 6\nProcCmdline: python3.14 x.py\n"
    )


PACKED = {
    "zstd": lambda: zstandard.ZstdCompressor().compress(CORE),
    "zstd, two frames": lambda: b"".join(
        map(zstandard.ZstdCompressor().compress, (CORE[:70_000], CORE[70_000:]))
    ),
    "xz": lambda: lzma.compress(CORE, preset=0),
    "gzip": lambda: gzip.compress(CORE),
    "gzip, two members": lambda: gzip.compress(CORE[:70_000]) + gzip.compress(CORE[70_000:]),
    "lz4": lambda: lz4.compress(CORE),
    "apport": lambda: report(deflated_lines(CORE)),
    "apport with zstd": lambda: report(
        b" " + base64.b64encode(zstandard.ZstdCompressor().compress(CORE)) + b"\n"
    ),
}


@pytest.mark.parametrize("form", PACKED)
def test_what_comes_out_is_what_went_in(form: str, tmp_path: Path) -> None:
    path = tmp_path / "core.python3.1000.0123456789abcdef.42.1700000000000000.xyz"  # as systemd names them
    path.write_bytes(PACKED[form]())
    assert is_packed(path)
    told: list[tuple[int, int]] = []
    with unpacked(path, lambda done, of: told.append((done, of))) as plain:
        assert plain.read_bytes() == CORE
        assert plain.name == path.stem
        assert plain.stat().st_blocks * 512 < len(CORE) // 2  # zeros are holes
    assert not plain.parent.exists()
    assert told == sorted(told)
    assert told[-1][0] <= told[-1][1] == path.stat().st_size


@pytest.mark.parametrize("form", PACKED)
def test_damage_is_an_error_and_leaves_nothing(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    chance, data, path = random.Random(2), PACKED[form](), tmp_path / "core"
    failed = 0
    for _ in range(20):
        spoiled = bytearray(data[: chance.choice([len(data), chance.randrange(len(data))])])
        at = chance.randrange(len(spoiled)) if spoiled else 0
        spoiled[at : at + 3] = chance.randbytes(3)
        path.write_bytes(spoiled)
        try:
            with unpacked(path, NOTHING):
                pass
        except BadCore as error:
            failed += str(path) in str(error)
    assert failed > 10
    assert [entry.name for entry in tmp_path.iterdir()] == ["core"]


def test_plain_files_are_not_packed(tmp_path: Path) -> None:
    for content in (b"", b"\x7fELF", b"hello", bz2.compress(CORE)):
        (tmp_path / "x").write_bytes(content)
        assert not is_packed(tmp_path / "x")
    assert not is_packed(tmp_path)


def test_what_is_no_core_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"hello" * 1000))
    with pytest.raises(BadCore, match="is compressed, and holds no core file"), unpacked(path, NOTHING):
        pass
    path.write_bytes(report(b"").replace(b"CoreDump", b"Other"))
    with pytest.raises(BadCore, match="is an apport report without a core"), unpacked(path, NOTHING):
        pass


def test_a_full_disk_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    path = tmp_path / "core.gz"
    path.write_bytes(gzip.compress(CORE))
    monkeypatch.setattr(packed.shutil, "disk_usage", lambda folder: Usage(1000))
    with pytest.raises(BadCore, match="needs more room than there is in") as caught, unpacked(path, NOTHING):
        pass
    assert "TMPDIR" in caught.value.hint


def test_an_endless_one_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "core.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b"\x7fELF" + bytes(1 << 28)))
    assert path.stat().st_size < 1 << 15
    monkeypatch.setattr(packed, "_LARGEST_CORE", 1 << 24)
    with pytest.raises(BadCore, match="needs more room"), unpacked(path, NOTHING):
        pass


@pytest.mark.parametrize(("form", "package"), [("zstd", "zstandard"), ("lz4", "lz4")])
def test_without_the_package_the_error_says_what_helps(
    form: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> ModuleType:
        raise ImportError(name)

    path = tmp_path / "core"
    path.write_bytes(PACKED[form]())
    monkeypatch.setattr(packed, "import_module", none)
    with pytest.raises(BadCore, match=f"is compressed by {form}, which") as caught, unpacked(path, NOTHING):
        pass
    assert f"pip install '{package}" in caught.value.hint
    assert f"{form} -d {path}" in caught.value.hint


def test_pythons_own_zstd_is_used_where_there_is_one() -> None:
    made = packed._zstd()
    assert (type(made).__module__ == "compression.zstd") == (sys.version_info >= (3, 14)), os.fspath(
        sys.prefix
    )
