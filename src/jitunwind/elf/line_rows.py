"""The rows of an object's line programs (DWARF 5, section 6.2), by pyelftools."""

import io
from collections.abc import Iterator
from typing import Any

from elftools.dwarf.dwarfinfo import DWARFInfo
from elftools.elf.elffile import ELFFile

from jitunwind.elf.sections import ET_REL, relocated, sections, type_and_machine
from jitunwind.errors import NotElf

_FIRST_VERSION_FROM_0 = 5
"""From DWARF 5 on, files and directories count from 0."""


def line_rows(image: bytes) -> list[tuple[int, str, int]]:
    """(address, file, line), by rising address, line 0 where none is known from there on; empty where there are none,
    or they are damaged."""
    try:
        if type_and_machine(image)[0] == ET_REL:
            image = relocated(image, sections(image), ".debug_")
        elf = ELFFile(io.BytesIO(image))
        if not elf.has_dwarf_info():
            return []
        found = sorted(_rows(elf.get_dwarf_info(relocate_dwarf_sections=False)))
    except NotElf:
        return []
    except Exception:  # pyelftools meets damaged objects with whatever its code runs into
        return []
    return found


def _rows(info: DWARFInfo) -> Iterator[tuple[int, str, int]]:
    for unit in info.iter_CUs():
        program = info.line_program_for_CU(unit)
        if program is None:
            continue
        folder = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
        names = _Files(program.header, _text(folder.value) if folder is not None else "")
        for entry in program.get_entries():
            state = entry.state
            if state is not None:
                is_end = state.end_sequence or not state.line
                yield (state.address, "", 0) if is_end else (state.address, names.at(state.file), state.line)


class _Files:
    """The paths of one line program's files."""

    def __init__(self, header: Any, folder: str) -> None:
        self._header, self._folder = header, folder
        self._known: dict[int, str] = {}

    def at(self, number: int) -> str:
        if number not in self._known:
            self._known[number] = self._path(number)
        return self._known[number]

    def _path(self, number: int) -> str:
        first = 0 if self._header["version"] >= _FIRST_VERSION_FROM_0 else 1
        try:
            entry = self._header["file_entry"][number - first]
            folders, index = self._header["include_directory"], entry["dir_index"]
        except IndexError:
            return "?"
        name = _text(entry["name"])
        folder = (
            ""
            if first and not index
            else _text(folders[index - first])
            if index - first < len(folders)
            else ""
        )
        return _joined(_joined(self._folder, folder), name)


def _joined(folder: str, name: str) -> str:
    return name if name.startswith("/") or not folder else f"{folder}/{name}" if name else folder


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
