"""What is costly to make and belongs to one build of a file, kept on disk by its build-id.

In comes a build-id and a kind, out go the bytes that were stored for it, as long as they are whole: each entry ends
with its checksum. Several processes may write at once. Where nothing can be written, nothing is kept.
"""

import contextlib
import mmap
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

_TRAILER = Struct("<8sQII")
"""Magic, size and CRC-32 of what comes before, and zero."""
_MAGIC = b"jitunwnd"
_MOST_BYTES = 1 << 30
"""Of all entries: the oldest go first."""
_BUILD_ID = re.compile(r"[0-9a-f]{4,128}")


def folder() -> Path:
    """The folder of all that jitunwind keeps: JITUNWIND_CACHE, or as the XDG Base Directory Specification has it."""
    named = os.environ.get("JITUNWIND_CACHE", "")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~/.cache"))) / "jitunwind"


class Cache:
    """Entries of one `kind`, a word that names the form of what is kept and its version."""

    def __init__(self, kind: str, place: Path | None = None) -> None:
        self._folder = (place if place is not None else folder()) / kind

    def get(self, build_id: str) -> Path | None:
        """The file that has what was stored, with a trailer behind; None where there is none, or it is damaged."""
        if not _BUILD_ID.fullmatch(build_id):
            return None
        path = self._folder / build_id
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                size = len(data) - _TRAILER.size
                magic, stored, checksum, _ = _TRAILER.unpack_from(data, max(size, 0))
                with memoryview(data) as view, view[: max(size, 0)] as content:
                    is_whole = magic == _MAGIC and stored == size and zlib.crc32(content) == checksum
        except Exception:  # cut short, or a file that cannot be mapped
            return None
        return path if is_whole else None

    def put(self, build_id: str, data: bytes) -> Path | None:
        """Store `data`; gives its file, or None where it cannot be written."""
        if not _BUILD_ID.fullmatch(build_id):
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, beside = tempfile.mkstemp(dir=self._folder, prefix=".")
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
                    file.write(_TRAILER.pack(_MAGIC, len(data), zlib.crc32(data), 0))
                os.replace(beside, self._folder / build_id)
            except BaseException:
                os.unlink(beside)
                raise
        except OSError:
            return None
        self._shrink()
        return self._folder / build_id

    def _shrink(self) -> None:
        """Remove the oldest entries, until all take less than `_MOST_BYTES`."""
        entries = sorted(self._entries(), key=lambda entry: entry[0], reverse=True)
        total = 0
        for _, size, path in entries:
            total += size
            if total > _MOST_BYTES:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        with contextlib.suppress(OSError), os.scandir(self._folder) as found:
            for entry in found:
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    yield status.st_mtime, status.st_size, entry.path
