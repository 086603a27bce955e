"""GDB's JIT interface, read: the objects that a process has registered.

In comes a process's memory; out come the objects' bytes. The interface (GDB manual, "JIT Compilation Interface"): a
descriptor {version, action, relevant entry, first entry} and a list of entries {next, previous, address of an ELF
object, its size}. Each library may bring a descriptor of its own, LLVM one that only its symbol table names.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from jitunwind.dwarf.frames import EhFrame
from jitunwind.elf.sections import (
    ET_REL,
    SHF_ALLOC,
    SHT_RELA,
    Section,
    is_moved,
    offsets_of,
    type_and_machine,
)
from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory

DESCRIPTOR = "__jit_debug_descriptor"
MOST_ENTRIES = 1 << 20
LARGEST_IMAGE = 1 << 28
_FIRST_ENTRY = 16


def _descriptors_in(path: str, base: int) -> set[int]:
    """The addresses of the descriptors of a file of this machine; it is mapped from `base` on."""
    try:
        status = os.stat(path)
    except OSError:
        return set()
    offsets = _offsets_of(path, status.st_ino, status.st_mtime_ns)
    return {offset + (base if is_moved(path) else 0) for offset in offsets}


@lru_cache(maxsize=1 << 12)
def _offsets_of(path: str, inode: int, modified: int) -> list[int]:
    """A file that is the same still is not read again."""
    return offsets_of(path, DESCRIPTOR)


class Entry(NamedTuple):
    """One of the list: its own address, and where its object lies."""

    at: int
    address: int
    size: int


class JitInterface:
    """That of the process in `memory`. `warnings` is added to."""

    def __init__(self, memory: Memory, warnings: list[str]) -> None:
        self._memory, self._warnings = memory, warnings
        self._descriptors: dict[str, set[int]] = {}
        """By the path of each file that has been looked at."""

    def descriptors(self) -> Sequence[int]:
        """All there are: the program's own, and those that libraries have brought."""
        named = self._memory.symbol(DESCRIPTOR)
        found = {named} if named else set()
        mapped: dict[str, Mapping] = {}
        for mapping in self._memory.mappings():
            if mapping.path.startswith("/") and mapping.path not in self._descriptors:
                mapped.setdefault(mapping.path, mapping)
        places = self._memory.places(mapped.values()) if mapped else {}
        for path, mapping in mapped.items():
            self._descriptors[path] = (
                _descriptors_in(places[path], mapping.start) if path in places else set()
            )
        return sorted(found.union(*self._descriptors.values()))

    def entries(self) -> list[Entry]:
        """Those of all lists. A list that is damaged is cut there, with a warning."""
        found: dict[int, Entry] = {}
        for descriptor in self.descriptors():
            try:
                at = self._memory.word(descriptor + _FIRST_ENTRY)
                while at and at not in found and len(found) < MOST_ENTRIES:
                    following, _, address, size = self._memory.words(at, 4)
                    found[at] = Entry(at, address, size)
                    at = following
            except UnreadableMemory as error:
                self._warnings.append(f"the list of the GDB JIT interface is damaged: {error}")
        return list(found.values())

    def image(self, entry: Entry) -> bytes:
        """An entry's object; nothing, with a warning, where it cannot be read."""
        try:
            if entry.size > LARGEST_IMAGE:
                raise UnreadableMemory(entry.address, entry.size)
            return self._memory.checked_read(entry.address, entry.size)
        except UnreadableMemory as error:
            self._warnings.append(f"the object published at {entry.address:#x} cannot be read: {error}")
            return b""

    def frames(self, image: bytes, sections: Sequence[Section]) -> list[EhFrame]:
        """Each `.eh_frame` of an object. What has been relocated where it was loaded is read there."""
        relocated = set()
        if type_and_machine(image)[0] == ET_REL:
            relocated = {each.info for each in sections if each.type == SHT_RELA}
        found = []
        for index, each in enumerate(sections):
            if each.name != ".eh_frame" or not each.data:
                continue
            data = each.data
            if index in relocated:
                if not each.flags & SHF_ALLOC or not each.address:
                    continue
                try:
                    data = self._memory.checked_read(each.address, len(data))
                except UnreadableMemory as error:
                    self._warnings.append(f"the frames loaded at {each.address:#x} cannot be read: {error}")
                    continue
            found.append(EhFrame(each.address, data))
        return found
