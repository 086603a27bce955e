"""Names of native code: the function that an address of a process is in.

In come the files behind a process's mappings and folders of debug files, out go names as GDB prints them. A file's
own symbol tables are asked first (`elf/symbols.py`), then its debug file, then its procedure linkage table. Nothing
is read before it is asked for. A table of 37,000 symbols takes 25 ms, so nothing of it is kept on disk.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from jitunwind.elf.headers import Headers
from jitunwind.elf.symbols import Symbol, SymbolTable, tables_of
from jitunwind.memory.backing import BackingFile, BackingFiles
from jitunwind.stacks.demangling import demangled
from jitunwind.stacks.separate import DebugFile, debug_file

APPENDED = re.compile(r"(\.(cold|part|isra|constprop|lto_priv|llvm)(\.\d+)?)+$")
"""What GCC and LLVM append to the name of a function for its copies and parts. DWARF has the name without it, and GDB
prints that where there is DWARF."""


class Name(NamedTuple):
    """What an address is called: the function, and how many bytes behind its begin the address is."""

    function: str
    offset: int


class FileSymbols:
    """The names of one file, with those of its debug file. `path` is what the process calls the file, `root` the
    process's root directory ("": this machine's), `folders` those that have debug files, `servers` debuginfod's to
    ask."""

    def __init__(
        self,
        headers: Headers,
        path: str,
        folders: Sequence[str],
        root: str = "",
        servers: Sequence[str] = (),
    ) -> None:
        self.headers = headers
        self._path, self._folders, self._root, self._servers = path, folders, root, servers
        self.begin = headers.begin
        """The address of its first byte that is mapped."""

    def at(self, address: int) -> Name | None:
        """The function that has `address`, in the file's own terms; None where it is not known."""
        found = self._own(address) or self._separate(address) or self._linkage(address)
        return None if found is None else Name(found.name, address - found.address)

    def _own(self, address: int) -> Symbol | None:
        return _best(self._tables, address, has_dwarf(self.headers))

    def _linkage(self, address: int) -> Symbol | None:
        from jitunwind.elf.plt import plt_symbol  # seldom needed

        return plt_symbol(self.headers, address)

    def _separate(self, address: int) -> Symbol | None:
        if self.debug_file is None:
            return None
        return _best(self._separate_tables, address, has_dwarf(self.debug_file.headers))

    @cached_property
    def _tables(self) -> list[SymbolTable]:
        return tables_of(self.headers)

    @cached_property
    def _separate_tables(self) -> list[SymbolTable]:
        return tables_of(self.debug_file.headers) if self.debug_file is not None else []

    @cached_property
    def debug_file(self) -> DebugFile | None:
        """The separate debug file; None where there is none."""
        found = debug_file(self.headers, self._path, self._folders, self._root)
        if found is None and self._servers and self.headers.build_id:
            from jitunwind.stacks import debuginfod

            fetched = debuginfod.debug_file(self.headers.build_id, self._servers)
            found = DebugFile(*fetched) if fetched is not None else None
        return found


class Symbols:
    """The names of a process's native code. `folders`: where debug files may be; `servers`: debuginfod's, to be
    asked for those that are not there."""

    def __init__(self, files: BackingFiles, folders: Sequence[str], servers: Sequence[str] = ()) -> None:
        self._files, self._folders, self._servers = files, folders, servers
        self._by_file: dict[int, FileSymbols] = {}

    def name_at(self, address: int) -> Name | None:
        """What the code at `address` of the process is called; None where it is not known. The address of a call is
        one less than where it returns to."""
        file = self._files.at(address)
        return self.of_file(file).at(address - file.bias) if file is not None else None

    def of_file(self, file: BackingFile) -> FileSymbols:
        """The names of one of the process's files."""
        found = self._by_file.get(id(file.headers))
        if found is None:
            found = FileSymbols(file.headers, file.path, self._folders, self._files.root, self._servers)
            self._by_file[id(file.headers)] = found
        return found


def has_dwarf(headers: Headers) -> bool:
    """Whether the file describes its functions in DWARF."""
    return headers.section(".debug_info") is not None


def _best(tables: Sequence[SymbolTable], address: int, names_are_dwarfs: bool) -> Symbol | None:
    """The symbol that begins nearest before `address`, of all tables; of two at one address the first table's."""
    best: Symbol | None = None
    for table in tables:
        found = table.at(address)
        if found is not None and (best is None or found.address > best.address):
            best = found
    if best is None:
        return None
    name = APPENDED.sub("", best.name) if names_are_dwarfs else best.name
    return best._replace(name=demangled(name, with_parameters=not names_are_dwarfs))
