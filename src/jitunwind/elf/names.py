"""The names of a file's functions, from its debug file: what `bt` calls code without a symbol.

In comes the path of a program or library, out go names by offset. The debug file is found as GDB finds it (its manual,
"Debugging Information in Separate Files"), and counts only with the same build id.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection, SymbolTableSection

from jitunwind.elf.relocatable import symbols, text_at

_FUNCTION_TYPES = (2, 10)  # STT_FUNC, STT_GNU_IFUNC
_LOCAL = 0  # STB_LOCAL, in the upper half of st_info
_PAGE = 4096
_APPENDED = re.compile(r"(\.(cold|part|isra|constprop|lto_priv|llvm)(\.\d+)?)+$")
"""What GCC and LLVM append to the name of a function for its copies and parts."""


class FunctionNames:
    """The functions of the file at `path`, by what lies under `folders`; none, where there is no debug file that can
    be read."""

    def __init__(self, path: Path, folders: Sequence[Path]) -> None:
        self._begin = 0
        self._functions: list[tuple[int, int, str]] = []
        try:
            with path.open("rb") as stream:
                elf = ELFFile(stream)
                loaded = [segment["p_vaddr"] for segment in elf.iter_segments("PT_LOAD")]
                self._begin = min(loaded, default=0) & -_PAGE
                build_id, link = _build_id(elf), _debug_link(elf)
        except (OSError, ELFError):
            return
        if build_id:
            for candidate in _candidates(path, folders, build_id, link):
                if candidate.is_file() and self._read(candidate, build_id):
                    break

    def _read(self, path: Path, build_id: str) -> bool:
        try:
            with path.open("rb") as stream:
                elf = ELFFile(stream)
                table = elf.get_section_by_name(".symtab")
                if _build_id(elf) != build_id or not isinstance(table, SymbolTableSection):
                    return False
                data, strings = table.data(), table.stringtable.data()
        except (OSError, ELFError):
            return False
        found: dict[int, tuple[bool, int, int]] = {}
        for name, info, _, _, value, size in symbols(data):
            if size and info & 0xF in _FUNCTION_TYPES:
                found[value] = max(found.get(value, (False, 0, 0)), (info >> 4 != _LOCAL, size, name))
        self._functions = sorted(
            (value, value + size, _APPENDED.sub("", text_at(strings, name)))
            for value, (_, size, name) in found.items()
        )
        return True

    def at(self, offset: int) -> str | None:
        """The function `offset` bytes behind the first byte of the file that is mapped; None where it is not known."""
        address = self._begin + offset
        index = bisect_right(self._functions, address, key=lambda function: function[0]) - 1
        if index < 0:
            return None
        _, end, name = self._functions[index]
        return name if address < end else None


def _candidates(path: Path, folders: Sequence[Path], build_id: str, link: str) -> Iterator[Path]:
    """Where the debug file may be."""
    for folder in folders:
        yield folder / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    if link:
        beside = _folder(path)
        yield from (beside / link, beside / ".debug" / link)
        for folder in folders:
            yield from (folder / beside.relative_to("/") / link, folder / link)


def _folder(path: Path) -> Path:
    """Without links, unless the path ends on the way: resolve raises for /proc/PID/root of a process that has ended."""
    try:
        return path.resolve().parent
    except OSError:
        return path.parent


def _build_id(elf: ELFFile) -> str:
    section = elf.get_section_by_name(".note.gnu.build-id")
    notes = section.iter_notes() if isinstance(section, NoteSection) else ()
    return next((note["n_desc"] for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"), "")


def _debug_link(elf: ELFFile) -> str:
    """The name in .gnu_debuglink, which a NUL ends."""
    section = elf.get_section_by_name(".gnu_debuglink")
    name = section.data().partition(b"\0")[0].decode(errors="replace") if section is not None else ""
    return "" if "/" in name else name
