"""A live process on this machine, read through /proc: no debugger, and the process runs on meanwhile."""

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from mmap import ACCESS_READ, mmap
from pathlib import Path

from jitunwind.arch import Architecture
from jitunwind.arch.known import native
from jitunwind.elf.headers import ET_DYN, Headers
from jitunwind.errors import NoSuchProcess, NotElf, UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.backing import LiveFiles, exported, exported_symbols, open_file
from jitunwind.memory.maps import parse_maps

_BLOCK = 1 << 16
"""Bytes that are read at once while small pieces are gathered."""
_MOST_BLOCKS = 1 << 8
"""That are held at one time."""


class LoadedFiles(Memory):
    """A process whose symbols are those of the files that it has mapped, and that can be read here."""

    @abstractmethod
    def program(self) -> str:
        """The path of its executable."""

    def renew(self) -> None:
        """Forget what was read, when the process has become another program (execve(2))."""
        self.__dict__.pop("_symbols", None)

    def symbol(self, name: str) -> int | None:
        return self._symbols.get(name)

    def names(self) -> dict[int, str]:
        return {address: name for name, address in self._symbols.items()}

    def library_symbol(self, library: str, name: str) -> int | None:
        """The address of a symbol that a library exports, one whose file name begins with `library`."""
        for path, base in self._files().items():
            if os.path.basename(path).startswith(library):
                return dynamic_symbols(Path(path), base).get(name)
        return None

    @cached_property
    def _symbols(self) -> dict[str, int]:
        """The dynamic symbols of the executable and of a libpython, where there is one."""
        exe = self.program()
        symbols: dict[str, int] = {}
        for path, base in self._files().items():
            if path == exe or os.path.basename(path).startswith("libpython"):
                symbols = {**dynamic_symbols(Path(path), base), **symbols}
        return symbols

    def _files(self) -> dict[str, int]:
        """The mapped files, and where each begins."""
        files: dict[str, int] = {}
        for mapping in self.mappings():
            if mapping.path.startswith("/"):
                files.setdefault(mapping.path, mapping.start)
        return files


class LiveProcess(LoadedFiles):
    """The process `pid`. What is read may be changing: whoever needs it to stand still stops it first."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._file = _opened(pid)
        self._blocks: dict[int, bytes] | None = None
        """By address, while small pieces are gathered."""

    def __enter__(self) -> "LiveProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._file)

    def renew(self) -> None:
        super().renew()
        os.close(self._file)
        self._file = _opened(self.pid)

    @property
    def architecture(self) -> Architecture:
        return native()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        self._blocks = {}
        try:
            yield
        finally:
            self._blocks = None

    def read(self, address: int, size: int) -> bytes:
        blocks = self._blocks
        if blocks is not None:
            at = address % _BLOCK
            if at + size <= _BLOCK:
                block = blocks.get(address - at)
                if block is None:
                    block = self._read_block(blocks, address - at)
                if at + size <= len(block):
                    return block[at : at + size]
        return self._read(address, size)

    def _read_block(self, blocks: dict[int, bytes], start: int) -> bytes:
        """What can be read from `start` on: nothing, where that very address cannot."""
        if len(blocks) >= _MOST_BLOCKS:
            blocks.clear()
        try:
            block = os.pread(self._file, _BLOCK, start)
        except (OSError, OverflowError):
            block = b""
        blocks[start] = block
        return block

    def _read(self, address: int, size: int) -> bytes:
        try:
            data = os.pread(self._file, size, address)
        except (OSError, OverflowError):
            raise UnreadableMemory(address, size) from None
        if len(data) != size:
            raise UnreadableMemory(address, size)
        return data

    def mappings(self) -> list[Mapping]:
        return parse_maps(Path(f"/proc/{self.pid}/maps").read_text(errors="replace"))

    def program(self) -> str:
        return os.readlink(f"/proc/{self.pid}/exe")

    @property
    def files(self) -> LiveFiles:
        """The files that it has mapped now. OSError where it has gone."""
        return LiveFiles(self.pid, self)

    def places(self, mappings: Iterable[Mapping]) -> dict[str, str]:
        return self.files.places(mapping.start for mapping in mappings)

    def library_symbol(self, library: str, name: str) -> int | None:
        for file in self.files.files():
            if os.path.basename(file.path).startswith(library):
                return exported(file.headers, file.bias).get(name)
        return None

    @cached_property
    def _symbols(self) -> dict[str, int]:
        return exported_symbols(self.files, self.program().removesuffix(" (deleted)"))


def _opened(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except OSError as error:
        raise NoSuchProcess(f"process {pid} cannot be read: {error.strerror}") from None


def dynamic_symbols(path: Path, base: int) -> dict[str, int]:
    """The dynamic symbols of the file at `path`, mapped from `base` on; none where it cannot be read."""
    descriptor = open_file(str(path))
    if descriptor < 0:
        return {}
    try:
        headers = Headers(mmap(descriptor, 0, access=ACCESS_READ))
    except (OSError, ValueError, NotElf):
        return {}
    finally:
        os.close(descriptor)
    return exported(headers, base - headers.begin if headers.kind == ET_DYN else 0)
