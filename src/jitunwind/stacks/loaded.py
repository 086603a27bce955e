"""The libraries that a process has loaded, as its dynamic loader lists them: for cores that do not say what files were
mapped, as qemu-user's.

The list is `struct r_debug`, to which DT_DEBUG leads (<link.h>; glibc elf/link.h, musl's dynlink.c).
"""

import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

from jitunwind.elf.headers import PF_X, Headers
from jitunwind.errors import NotElf, UnreadableMemory
from jitunwind.memory import Memory
from jitunwind.memory.backing import open_file
from jitunwind.memory.maps import FileMapping
from jitunwind.stacks.images import Image

_DT_DEBUG = 21
_MAP = 8
"""Of struct r_debug: r_map."""
_LONGEST_PATH = 4096
_MOST_LIBRARIES = 1 << 14
_PAGE = 4096


class Library(NamedTuple):
    """A library: what is added to its file's addresses, and the path by which it was loaded."""

    bias: int
    path: str


def libraries(memory: Memory, program: Image) -> Iterator[Library]:
    """Those that the loader of `program` has loaded, in its order. Ends at what cannot be read, and at a cycle."""
    try:
        debug = program.dynamic.get(_DT_DEBUG, 0)
        entry = memory.word(debug + _MAP) if debug else 0
        seen: set[int] = set()
        while entry and entry not in seen and len(seen) < _MOST_LIBRARIES:
            seen.add(entry)
            bias, name, _, following = memory.words(entry, 4)
            path = memory.cstring(name, _LONGEST_PATH) if name else ""
            if path.startswith("/"):
                yield Library(bias, path)
            entry = following
    except UnreadableMemory:
        return


def mappings_of(library: Library) -> list[FileMapping]:
    """Where the loader has mapped a library, by the program headers of its file on this machine; none where it is not
    here."""
    descriptor = open_file(library.path)
    if descriptor < 0:
        return []
    try:
        segments = Headers(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)).loaded
    except (OSError, ValueError, NotElf):
        return []
    finally:
        os.close(descriptor)
    return [
        FileMapping(
            library.bias + (each.address & -_PAGE),
            library.bias + (each.address + each.stored + _PAGE - 1 & -_PAGE),
            each.offset & -_PAGE,
            bool(each.flags & PF_X),
            library.path,
        )
        for each in segments
        if each.stored
    ]
