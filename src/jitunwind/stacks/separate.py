"""Separate debug files, found as GDB finds them (its manual, "Debugging Information in Separate Files").

In comes a file, out come the headers of its debug file, and where that is. By build-id under each folder, then by
.gnu_debuglink beside the file and under the folders. It counts only with the same build-id, or the CRC in the link.
"""

import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jitunwind.elf.headers import Headers
from jitunwind.errors import NotElf
from jitunwind.memory.backing import open_file

USUAL = "/usr/lib/debug"


class DebugFile(NamedTuple):
    """A debug file and its headers."""

    path: str
    headers: Headers


def debug_file(headers: Headers, path: str, folders: Sequence[str], root: str = "") -> DebugFile | None:
    """The debug file of the file with these headers, which the process calls `path`; `root` is the process's root
    directory. None, where there is none."""
    for candidate in _candidates(headers, path, folders, root):
        found = opened_elf(candidate)
        if found is not None and _belongs(found, headers):
            return DebugFile(candidate, found)
    return None


def opened_elf(path: str) -> Headers | None:
    """The headers of the ELF file at `path`; None where there is none."""
    descriptor = open_file(path)
    if descriptor < 0:
        return None
    try:
        return Headers(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError, NotElf):
        return None
    finally:
        os.close(descriptor)


def _candidates(headers: Headers, path: str, folders: Sequence[str], root: str) -> Iterator[str]:
    """Where the debug file may be."""
    everywhere = list(dict.fromkeys([*folders, *([f"{root}{USUAL}"] if root else [])]))
    build_id, link = headers.build_id, headers.debug_link
    if build_id:
        for folder in everywhere:
            yield f"{folder}/.build-id/{build_id[:2]}/{build_id[2:]}.debug"
    if link is not None:
        name, _ = link
        beside = os.path.dirname(path)
        if not root:  # the links are the process's, and lead elsewhere from here
            beside = os.path.dirname(os.path.realpath(path))
        yield from (f"{root}{beside}/{name}", f"{root}{beside}/.debug/{name}")
        for folder in everywhere:
            yield from (f"{folder}{beside}/{name}", f"{folder}/{name}")


def _belongs(candidate: Headers, headers: Headers) -> bool:
    if headers.build_id and candidate.build_id:
        return candidate.build_id == headers.build_id
    link = headers.debug_link
    return link is not None and zlib.crc32(candidate.data) == link[1]
