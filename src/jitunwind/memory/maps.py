"""The kernel's list of a process's mappings, as text to `Mapping`s."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from jitunwind.memory import Mapping

_NAMED_ANONYMOUS = ("[anon:", "[anon_shmem:")
"""What PR_SET_VMA_ANON_NAME (prctl(2)) calls memory; CPython 3.15 uses it (internal/pycore_mmap.h)."""
_VDSO = "[vdso]"
_ESCAPED = re.compile(r"\\([0-3][0-7]{2})")
"""How the kernel writes a newline in a path (proc(5))."""


class FileMapping(NamedTuple):
    """[start, end) of the process, which a file holds from `offset` on; or the vDSO, which is like a file. `device`
    is its major and minor number; it and `inode` are 0 in a core, which does not tell them."""

    start: int
    end: int
    offset: int
    executable: bool
    path: str
    device: tuple[int, int] = (0, 0)
    inode: int = 0

    @property
    def identity(self) -> tuple[str, int, int]:
        """The same for all mappings of one file: a deleted one and its successor share a path."""
        return (self.path, self.device[0] << 32 | self.device[1], self.inode)


def parse_maps(text: str) -> list[Mapping]:
    """/proc/PID/maps (proc(5)). `path` is empty for anonymous memory only."""
    mappings = []
    for line in text.splitlines():
        extent, permissions, _offset, _device, inode, *path = line.split(None, 5)
        start, _, end = extent.partition("-")
        named = path[0] if path else "" if inode == "0" else "?"
        if named.startswith(_NAMED_ANONYMOUS):
            named = ""
        mappings.append(Mapping(int(start, 16), int(end, 16), "x" in permissions, named))
    return mappings


def parse_file_mappings(text: str) -> list[FileMapping]:
    """What /proc/PID/maps says of files and of the vDSO."""
    return list(_file_mappings(text))


def _file_mappings(text: str) -> Iterator[FileMapping]:
    for line in text.splitlines():
        extent, permissions, offset, device, inode, *path = line.split(None, 5)
        if path and (inode != "0" or path[0] == _VDSO):
            start, _, end = extent.partition("-")
            major, _, minor = device.partition(":")
            named = _ESCAPED.sub(lambda escape: chr(int(escape[1], 8)), path[0])
            yield FileMapping(
                int(start, 16),
                int(end, 16),
                int(offset, 16),
                "x" in permissions,
                named,
                (int(major, 16), int(minor, 16)),
                int(inode),
            )
