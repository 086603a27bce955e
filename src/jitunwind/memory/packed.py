"""Cores as they are kept: compressed, or inside of an apport report. Out comes a plain one, as a temporary file.

systemd-coredump writes zstd, xz or lz4 (coredump.conf(5)), many others gzip. apport's reports (`.crash`) are text,
with the core as base64 of gzip or zstd. What a file is, its first bytes say, not its name. Nothing is believed of
it: what does not begin like a core is not unpacked, and no more is written than there is room for.
"""

import binascii
import contextlib
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from jitunwind.errors import BadCore

Note = Callable[[int, int], None]
"""Told how many bytes of the file are done, of how many."""
_CHUNK = 1 << 12
"""Compressed bytes that are taken at once: zstd makes up to 128 MB of them."""
_BLOCK = 1 << 16
"""Bytes of zeros that become a hole in the file."""
_RESERVE = 1 << 26
"""Bytes that stay free on the disk."""
_LARGEST_CORE = 1 << 42
_LARGEST_DICTIONARY = 1 << 30
_LONGEST_LINE = 1 << 26
_APPORT = b"ProblemType:"
_APPORT_CORE = b"CoreDump: base64"


class _Decompressor(Protocol):
    """As the standard library's are."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class Form(NamedTuple):
    """A way to compress. `package` has to be installed for it; empty where Python has it. `tool` unpacks it by
    hand."""

    name: str
    magic: bytes
    tool: str
    package: str = ""


ZSTD = Form("zstd", b"\x28\xb5\x2f\xfd", "zstd -d", "zstandard>=0.20")
FORMS = (
    ZSTD,
    Form("xz", b"\xfd7zXZ\0", "xz -d"),
    Form("gzip", b"\x1f\x8b", "gzip -d"),
    Form("lz4", b"\x04\x22\x4d\x18", "lz4 -d", "lz4>=4"),
)
"""RFC 8878 and 1952; the xz and LZ4 frame formats."""


def is_packed(path: Path) -> bool:
    """Whether the file is compressed, or an apport report."""
    start = _start_of(path)
    return start.startswith(_APPORT) or _form_of(start) is not None


@contextlib.contextmanager
def unpacked(path: Path, note: Note) -> Iterator[Path]:
    """The plain core of a packed one, as a file that goes when this ends. BadCore, where there is none, or no
    room."""
    folder = Path(tempfile.mkdtemp(prefix="jitunwind-", dir=_roomy()))
    try:
        plain = folder / (path.stem if path.suffix else f"{path.name}.core")
        try:
            with path.open("rb") as packed, plain.open("wb") as core:
                _unpack(path, packed, core, note)
        except BadCore:
            raise
        except Exception as error:  # packages have exceptions of their own
            raise BadCore(f"{path} cannot be unpacked: {error or type(error).__name__}") from None
        yield plain
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(32)
    except OSError:
        return b""


def _form_of(start: bytes) -> Form | None:
    return next((form for form in FORMS if start.startswith(form.magic)), None)


def _roomy() -> str:
    """The folder for temporary files: of those that are not asked for by name, the one that is on a disk."""
    usual = "/var/tmp"
    return usual if "TMPDIR" not in os.environ and os.access(usual, os.W_OK) else tempfile.gettempdir()


def _unpack(path: Path, packed: BinaryIO, core: BinaryIO, note: Note) -> None:
    is_report = packed.read(len(_APPORT)) == _APPORT
    packed.seek(0)
    total = os.fstat(packed.fileno()).st_size
    chunks = _of_report(packed) if is_report else iter(lambda: packed.read(_CHUNK), b"")
    out = _Sparse(core)
    for data in _decompressed(path, chunks):
        if not out.size and not data.startswith(b"\x7fELF"):
            raise BadCore(
                f"{path} is compressed, and holds no core file", "name a process number or a core file"
            )
        out.write(data)
        note(packed.tell(), total)
        if out.size > _LARGEST_CORE or not out.has_room():
            raise BadCore(
                f"{path} needs more room than there is in {os.path.dirname(core.name)}",
                "name a folder with more in the environment: TMPDIR",
            )
    out.end()


def _of_report(report: BinaryIO) -> Iterator[bytes]:
    """The compressed bytes of the core in an apport report: a line each, behind the field's name."""
    while line := report.readline(_LONGEST_LINE):
        if line.startswith(_APPORT_CORE):
            break
    else:
        raise BadCore(f"{report.name} is an apport report without a core", "take one with CoreDump in it")
    while (line := report.readline(_LONGEST_LINE)).startswith(b" "):
        data = binascii.a2b_base64(line.strip())
        yield from (data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK))


def _decompressed(path: Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """What compressed bytes hold: of one stream or several (RFC 1952, section 2.2). EOFError, where the last is cut
    short."""
    decompressor: _Decompressor | None = None
    for chunk in chunks:
        left = chunk
        while left:
            if decompressor is None:
                if not left.strip(b"\0"):  # xz pads with zeros
                    break
                form = _form_of(left)
                if form is None:
                    raise ValueError("it is not compressed throughout")
                decompressor = _decompressor_of(path, form)
            data = decompressor.decompress(left)
            if data:
                yield data
            left = b""
            if decompressor.eof:
                left, decompressor = decompressor.unused_data, None
    if decompressor is not None:
        raise EOFError("it is cut short")


def _decompressor_of(path: Path, form: Form) -> _Decompressor:
    if form.name == "gzip":
        return zlib.decompressobj(wbits=31)
    if form.name == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LARGEST_DICTIONARY)
    made: Any = None
    with contextlib.suppress(ImportError):
        made = _zstd() if form is ZSTD else import_module("lz4.frame").LZ4FrameDecompressor()
    if made is None:
        hint = f"pip install '{form.package}', for the Python that jitunwind runs in; or unpack it: {form.tool} {path}"
        raise BadCore(f"{path} is compressed by {form.name}, which this Python cannot read", hint)
    return made  # type: ignore[no-any-return]


def _zstd() -> Any:
    """Python's own from 3.14 on, or the package's. ImportError."""
    try:
        return import_module("compression.zstd").ZstdDecompressor()
    except ImportError:
        return import_module("zstandard").ZstdDecompressor().decompressobj()


class _Sparse:
    """Writes a file, with holes for zeros."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = self._written = self._checked = 0

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), _BLOCK):
            block = data[at : at + _BLOCK]
            if block.count(0) == len(block):
                self._file.seek(len(block), os.SEEK_CUR)
            else:
                self._file.write(block)
                self._written += len(block)
        self.size += len(data)

    def has_room(self) -> bool:
        """Whether the disk has some left; asked now and then."""
        if self._written - self._checked < _RESERVE // 4 and self._checked:
            return True
        self._checked = max(self._written, 1)
        return shutil.disk_usage(os.path.dirname(self._file.name)).free > _RESERVE

    def end(self) -> None:
        """Make the file as long as what was written, holes at its end included."""
        self._file.truncate(self.size)
