"""The file behind each mapping of a live process or a core: the one that was mapped, not another one of its path.

In comes an address, out comes the file with its bytes and what to add to its addresses, or a reason. A file may have
been deleted, replaced by an upgrade, lie in memory alone (memfd_create(2)), or in a container. It is believed if it
is the same inode, or has the build-id that the process has in memory.
"""

import mmap
import os
import stat
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jitunwind.elf.headers import PT_INTERP, PT_NOTE, SHT_DYNSYM, Headers, build_id_in
from jitunwind.elf.symbols import dynamic_table, section_table
from jitunwind.errors import NotElf, UnreadableMemory
from jitunwind.memory import Memory
from jitunwind.memory.maps import FileMapping, parse_file_mappings
from jitunwind.memory.procfiles import text_of

_DELETED = " (deleted)"
_VDSO = "[vdso]"
_PAGE = 4096
FIRST_BYTES = 1 << 14
"""Of a file, in which its program headers and its build-id are."""
_LARGEST_IMAGE = 1 << 28
"""Bytes of a file that are taken from the memory of the process, where the file is not to be had."""


class OpenFile(NamedTuple):
    """A file, open for reading, and where it was found. `is_certain`: the kernel says that it is the one."""

    descriptor: int
    place: str
    is_certain: bool = False


class _Content(NamedTuple):
    """The bytes of a file, its headers (None: it is no ELF file), and where it is (None: in the process alone)."""

    data: memoryview
    headers: Headers | None
    place: str | None


class BackingFile(NamedTuple):
    """The file behind a mapping.

    `path` is what the process calls it, `place` where it was opened on this machine (None: its bytes were taken from
    the memory of the process, and what the process does not map is missing: .symtab, the names of sections). `bias`
    is added to the file's addresses. `build_id` is hexadecimal, empty where the file has none.
    """

    path: str
    place: str | None
    headers: Headers
    bias: int
    build_id: str

    @property
    def data(self) -> memoryview:
        """All bytes."""
        return self.headers.data


class BackingFiles(ABC):
    """The files of one process, by its memory and what it has mapped (`LiveFiles`, `CoreFiles`)."""

    def __init__(self, memory: Memory, mappings: list[FileMapping]) -> None:
        self._memory = memory
        self._mappings = sorted(mappings)
        self._starts = [mapping.start for mapping in self._mappings]
        self._contents: dict[tuple[str, int, int], _Content | None] = {}
        self._files: dict[tuple[str, int, int, int], BackingFile] = {}
        self._missing: list[str] = []
        self._unchecked: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """What was asked for and could not be had, or only from memory, with the build-id; and what was not
        checked."""
        if not self._unchecked:
            return self._missing
        names = ", ".join(os.path.basename(path) for path in self._unchecked)
        return [
            *self._missing,
            f"these files may be others than the process had, as the core does not hold their first pages: {names}",
        ]

    @abstractmethod
    def _candidates(self, mapping: FileMapping) -> Iterator[OpenFile]:
        """Open files that may be the one behind `mapping`, the best first. Whoever takes one closes it."""

    @abstractmethod
    def _is_same(self, mapping: FileMapping, opened: OpenFile, status: os.stat_result) -> bool:
        """Whether an open file is the one that is mapped, whatever its bytes say."""

    def _is_believed_unchecked(self) -> bool:
        """Whether a file is taken for the one that is mapped, where the process's memory does not tell its
        build-id."""
        return False

    @abstractmethod
    def _in_memory(self, address: int, size: int) -> bytes:
        """What the process itself has at `address`, never a file's bytes: up to `size` bytes, b"" where it is not
        known."""

    @property
    @abstractmethod
    def root(self) -> str:
        """Where the root directory of the process is on this machine: before a path that begins with a slash."""

    @property
    def mappings(self) -> list[FileMapping]:
        """What is mapped of files, by rising address."""
        return self._mappings

    def at(self, address: int) -> BackingFile | None:
        """The file behind the mapping that has `address`; None, where there is no ELF file, or it is not to be
        had."""
        mapping = self.mapping_of(address)
        return self._of(mapping) if mapping is not None else None

    def mapping_of(self, address: int) -> FileMapping | None:
        """The mapping of a file that has `address`."""
        index = bisect_right(self._starts, address) - 1
        mapping = self._mappings[index] if index >= 0 else None
        return mapping if mapping is not None and address < mapping.end else None

    def places(self, starts: Iterable[int]) -> dict[str, str]:
        """Where the ELF files that are mapped at these addresses are on this machine, by their paths in the
        process."""
        found: dict[str, str] = {}
        for start in starts:
            mapping = self.mapping_of(start)
            file = self._of(mapping) if mapping is not None else None
            if mapping is not None and file is not None and file.place is not None:
                found[mapping.path] = file.place
        return found

    def read(self, address: int, size: int) -> bytes:
        """What the file has that is mapped at `address`: up to `size` bytes, as far as one mapping reaches."""
        mapping = self.mapping_of(address)
        content = self._content(mapping) if mapping is not None else None
        if mapping is None or content is None or content.place is None:
            return b""
        start = mapping.offset + address - mapping.start
        return bytes(content.data[start : start + min(size, mapping.end - address)])

    def files(self) -> Iterator[BackingFile]:
        """Each file that code is mapped from, by rising address."""
        seen = set()
        for mapping in self._mappings:
            file = self._of(mapping) if mapping.executable else None
            if file is not None and (file.path, file.bias) not in seen:
                seen.add((file.path, file.bias))
                yield file

    def find_all(self) -> None:
        """Look for every file that is mapped, so that `warnings` has all that are missing."""
        for mapping in self._mappings:
            self._content(mapping)

    def _of(self, mapping: FileMapping) -> BackingFile | None:
        content = self._content(mapping)
        if content is None or content.headers is None:
            return None
        headers = content.headers
        bias = headers.bias(mapping.start, mapping.offset, mapping.executable)
        if bias is None:
            return None
        key = (*mapping.identity, bias)
        if key not in self._files:
            path = mapping.path.removesuffix(_DELETED)
            self._files[key] = BackingFile(path, content.place, headers, bias, headers.build_id)
        return self._files[key]

    def _content(self, mapping: FileMapping) -> _Content | None:
        if mapping.identity not in self._contents:
            self._contents[mapping.identity] = self._found(mapping)
        return self._contents[mapping.identity]

    def _found(self, mapping: FileMapping) -> _Content | None:
        """The file behind a mapping; None where it is not to be had."""
        build_id = self._build_id(mapping)
        others: list[str] = []
        for opened in self._candidates(mapping):
            try:
                content = self._believed(mapping, opened, build_id, others)
            finally:
                os.close(opened.descriptor)
            if content is not None:
                return content
        return self._from_memory(mapping, build_id, others)

    def _believed(
        self, mapping: FileMapping, opened: OpenFile, build_id: str | None, others: list[str]
    ) -> _Content | None:
        """The content of an open file, if it is the one that is mapped. Else `others` says what it is."""
        status = os.fstat(opened.descriptor)
        try:
            data = memoryview(mmap.mmap(opened.descriptor, 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # it is empty
            return None
        try:
            headers = Headers(data)
        except NotElf:
            headers = None
        if self._is_same(mapping, opened, status):
            return _Content(data, headers, opened.place)
        if build_id is None:
            is_it = self._is_believed_unchecked()
            if is_it and headers is not None and not self._has_first_page(mapping, data):
                self._unchecked.append(opened.place)
        else:
            is_it = headers is not None and headers.build_id == build_id
            is_it = is_it and (bool(build_id) or self._has_first_page(mapping, data))
        if is_it:
            return _Content(data, headers, opened.place)
        if opened.place.endswith(mapping.path.removesuffix(_DELETED)):  # else it is no file of that path
            others.append(f"{opened.place} is another file ({_called(headers.build_id if headers else '')})")
        return None

    def _has_first_page(self, mapping: FileMapping, data: memoryview) -> bool:
        """Whether the first page of a file is what the process has in memory: its headers, of a file without a
        build-id."""
        first = self._first(mapping)
        return first is not None and self._in_memory(first.start, _PAGE) == bytes(data[:_PAGE]).ljust(
            _PAGE, b"\0"
        )

    def _build_id(self, mapping: FileMapping) -> str | None:
        """The build-id of the file that is mapped, as the process's memory has it: "" where it has none, None where
        that cannot be told."""
        first = self._first(mapping)
        data = self._in_memory(first.start, min(FIRST_BYTES, first.end - first.start)) if first else b""
        try:
            headers = Headers(data) if data else None
        except NotElf:
            return None
        if first is None or headers is None:
            return None
        return headers.build_id or self._build_id_elsewhere(headers, first, len(data))

    def _build_id_elsewhere(self, headers: Headers, first: FileMapping, known: int) -> str | None:
        """The same, where notes lie behind the first `known` bytes: patchelf moves them to a file's end."""
        notes = [
            each for each in headers.segments if each.kind == PT_NOTE and each.offset + each.stored > known
        ]
        for each in notes:
            data = self._in_memory(first.start + each.address - headers.begin, min(each.stored, FIRST_BYTES))
            found = build_id_in(memoryview(data))
            if found:
                return found
        return None if notes else ""

    def _first(self, mapping: FileMapping) -> FileMapping | None:
        """The mapping of the file's first bytes: that of the same load of it, the nearest one before. A library may
        map a part of itself once more, with nothing before it."""
        before = reversed(self._mappings[: bisect_right(self._starts, mapping.start)])
        behind = self._mappings[bisect_right(self._starts, mapping.start) :]
        of_file = (each for each in (*before, *behind) if each.identity == mapping.identity)
        return next((each for each in of_file if not each.offset), None)

    def _from_memory(self, mapping: FileMapping, build_id: str | None, others: list[str]) -> _Content | None:
        """The file as the process has it in memory, and a warning."""
        path = mapping.path.removesuffix(_DELETED)
        named = f"{path} ({_called(build_id)})" if build_id else path
        why = "; ".join(others) or ("it was deleted" if mapping.path.endswith(_DELETED) else "it is not here")
        image = self._image(mapping)
        try:
            headers = Headers(image)
        except NotElf:
            if mapping.path.startswith("/") and (build_id is not None or mapping.executable):
                self._missing.append(f"{named} cannot be read: {why}")
            return None
        if mapping.path != _VDSO:
            self._missing.append(f"{named} is known from the process's memory alone: {why}")
        return _Content(headers.data, headers, None)

    def _image(self, mapping: FileMapping) -> bytes:
        """The parts of a file that the process has in memory, each at its place; empty without the first one."""
        first = self._first(mapping)
        if first is None:
            return b""
        parts = [
            (each.offset, each.end - each.start, each.start)
            for each in self._mappings
            if each.identity == first.identity and each.start >= first.start
        ]
        size = max(offset + length for offset, length, _ in parts)
        if size > _LARGEST_IMAGE:
            return b""
        image = bytearray(size)
        for offset, length, start in reversed(parts):  # of two loads the first counts
            data = self._in_memory(start, length)
            image[offset : offset + len(data)] = data
        return bytes(image) if image[:4] == b"\x7fELF" else b""


class LiveFiles(BackingFiles):
    """The files of the process `pid`, through `memory`. `maps`: what /proc/PID/maps said, for a process that has
    gone on since; None: as it is now. OSError where the process has gone."""

    def __init__(self, pid: int, memory: Memory, maps: str | None = None) -> None:
        self._pid = pid
        text = text_of(f"/proc/{pid}/maps", "surrogateescape") if maps is None else maps
        super().__init__(memory, parse_file_mappings(text))

    @property
    def root(self) -> str:
        return f"/proc/{self._pid}/root"

    def _candidates(self, mapping: FileMapping) -> Iterator[OpenFile]:
        if not mapping.path.startswith("/"):
            return
        path = mapping.path.removesuffix(_DELETED)
        mapped = f"/proc/{self._pid}/map_files/{mapping.start:x}-{mapping.end:x}"  # needs rights
        places = [
            f"/proc/{self._pid}/root{path}",
            f"/proc/{self._pid}/exe",
            path,  # of a process in a chroot /proc/PID/maps has paths as they are here
        ]
        for place in (mapped, *places):
            descriptor = open_file(place)
            if descriptor >= 0:
                yield OpenFile(descriptor, place, place == mapped)

    def _is_same(self, mapping: FileMapping, opened: OpenFile, status: os.stat_result) -> bool:
        device = (os.major(status.st_dev), os.minor(status.st_dev))
        return opened.is_certain or (status.st_ino == mapping.inode and mapping.device == device)

    def _in_memory(self, address: int, size: int) -> bytes:
        return _read(self._memory, address, size)


def _read(memory: Memory, address: int, size: int) -> bytes:
    try:
        return memory.checked_read(address, size)
    except UnreadableMemory:
        return b""


def open_file(path: str) -> int:
    """A descriptor of the regular file at `path`; -1 where there is none to be read. What is no file is not waited
    for, and does not become the controlling terminal."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return -1
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return -1


def exported_symbols(files: BackingFiles, program: str | None) -> dict[str, int]:
    """The dynamic symbols of a program and of a libpython, where there is one: their addresses. A program that was
    started through the dynamic loader is the file that asks for a loader itself."""
    by_loader = program is not None and is_loader(program)
    found: dict[str, int] = {}
    for file in files.files():
        name = os.path.basename(file.path)
        is_wanted = file.path == program or name.startswith("libpython")
        if is_wanted or (by_loader and asks_for_loader(file.path, file.headers)):
            found = {**exported(file.headers, file.bias), **found}
    return found


def exported(headers: Headers, bias: int) -> dict[str, int]:
    """The dynamic symbols that a file defines: their addresses in the process."""
    table = section_table(headers, SHT_DYNSYM) or dynamic_table(headers, bias)
    return {symbol.name: bias + symbol.address for symbol in table.named()} if table is not None else {}


def is_loader(path: str) -> bool:
    """Whether the file is called as dynamic loaders are: glibc's, and musl's."""
    return os.path.basename(path).startswith(("ld-", "ld.so", "ld64.so"))


def asks_for_loader(path: str, headers: Headers) -> bool:
    """Whether a file has an interpreter (gABI, PT_INTERP), as programs do; glibc's libc.so has one, too."""
    if os.path.basename(path).startswith("libc"):
        return False
    return any(segment.kind == PT_INTERP for segment in headers.segments)


def _called(build_id: str) -> str:
    return f"build-id {build_id}" if build_id else "without a build-id"
