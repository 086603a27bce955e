"""Source files, lines and inlined functions of native code, from DWARF.

In comes an address of the process, out go the functions that run there, innermost first. The work is that of
`symbolic` (PyPI), which makes a table of a debug file once: 0.8 s for CPython's, microseconds for a look-up. The
tables are kept by build-id. Nothing here is needed for anything but lines, and `symbolic` need not be installed.
"""

from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jitunwind.elf.headers import Headers
from jitunwind.errors import NoLineReader
from jitunwind.memory.backing import BackingFiles
from jitunwind.stacks.cache import Cache
from jitunwind.stacks.demangling import demangled
from jitunwind.stacks.symbols import APPENDED, FileSymbols, Symbols, has_dwarf

if TYPE_CHECKING:
    from symbolic.symcache import SymCache


class Location(NamedTuple):
    """A function that runs at an address. `file` and `line` are where it is in the source; the line is 0 where the
    compiler names none."""

    function: str
    file: str
    line: int


def check_available() -> None:
    """NoLineReader, where `symbolic` is not installed."""
    if find_spec("symbolic") is None:
        raise NoLineReader("lines of C functions need symbolic, which is not installed")


class Lines:
    """The source lines of a process's native code. `place`: where tables are kept (None: the user's cache).
    NoLineReader."""

    def __init__(self, files: BackingFiles, symbols: Symbols, place: Path | None = None) -> None:
        check_available()
        self._files, self._symbols, self._place = files, symbols, place
        self._by_file: dict[int, FileLines] = {}

    def at(self, address: int) -> list[Location]:
        """What runs at `address` of the process: the innermost inlined function, those it is inlined into, and last
        the function whose code it is. Empty, where there is no DWARF. The address of a call is one less than where it
        returns to."""
        file = self._files.at(address)
        if file is None:
            return []
        lines = self._by_file.get(id(file.headers))
        if lines is None:
            symbols = self._symbols.of_file(file)
            lines = self._by_file[id(file.headers)] = FileLines(symbols, self._place)
        return lines.at(address - file.bias)


class FileLines:
    """The source lines of one file."""

    def __init__(self, symbols: FileSymbols, place: Path | None = None) -> None:
        self._symbols, self._place = symbols, place

    def at(self, address: int) -> list[Location]:
        """As `Lines.at`, in the file's own terms."""
        described = self._described
        if described is None or self._table is None:
            return []
        begin = described.loaded[0].address if described.loaded else 0
        if address < begin:
            return []
        found = self._table.lookup(address - begin)
        return [Location(_called(each.symbol), each.full_path, each.line) for each in found if each.full_path]

    @cached_property
    def _described(self) -> Headers | None:
        """The file that has DWARF, which is this one or its debug file; None where neither has."""
        if has_dwarf(self._symbols.headers):
            return self._symbols.headers
        debug_file = self._symbols.debug_file
        return debug_file.headers if debug_file is not None and has_dwarf(debug_file.headers) else None

    @cached_property
    def _table(self) -> "SymCache | None":
        """The table of all lines; None, where `symbolic` can make nothing of the file."""
        from symbolic.debuginfo import Archive
        from symbolic.exceptions import SymbolicError
        from symbolic.symcache import SYMCACHE_LATEST_VERSION, SymCache

        headers = self._described
        if headers is None:
            return None
        cache = Cache(f"lines-{SYMCACHE_LATEST_VERSION}", self._place)
        try:
            kept = cache.get(headers.build_id)
            if kept is not None:
                return SymCache.open(str(kept))
            data = bytes(headers.data)  # an Archive borrows it
            table = next(Archive.from_bytes(data).iter_objects()).make_symcache()
            del data
            if headers.build_id:
                cache.put(headers.build_id, table.open_stream().read())
        except (SymbolicError, StopIteration, OSError):
            return None
        return table


def _called(symbol: str) -> str:
    """A function as its source calls it. `symbolic` takes its name from the symbol of its first part in memory."""
    return demangled(APPENDED.sub("", symbol), with_parameters=False)
