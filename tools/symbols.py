"""A copy of an interpreter with the symbols of its debug file in it, as builds that nobody stripped have them.

py-spy and pystack find the frames of the interpreter by the names of its functions, and look for them in the
executable. Debian's has none; its debug file has. one_process.py gives all tools the copy.
"""

import os
import struct
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

HEADER = struct.Struct("<IIQQQQIIQQ")
"""Elf64_Shdr: sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, sh_addralign, sh_entsize."""
SYMBOL = struct.Struct("<IBBHQQ")
"""Elf64_Sym: st_name, st_info, st_other, st_shndx, st_value, st_size."""
SYMTAB, STRTAB = 2, 3
E_SHOFF, E_SHNUM = 40, 60
"""Where the header of an ELF file has the offset and the length of the table of sections."""
RESERVED = 0xFF00  # SHN_LORESERVE: such numbers are no section's


def debug_file(program: Path, directory: Path) -> Path | None:
    """By the build-id, as GDB finds it (its manual, "Debugging Information in Separate Files"). None if there is
    no such file, or none with symbols."""
    with program.open("rb") as file:
        section: Any = ELFFile(file).get_section_by_name(".note.gnu.build-id")
        if section is None:
            return None
        number = next(note["n_desc"] for note in section.iter_notes())
    path = directory / ".build-id" / number[:2] / f"{number[2:]}.debug"
    if not path.exists():
        return None
    with path.open("rb") as file:
        return path if ELFFile(file).get_section_by_name(".symtab") else None


def with_symbols(program: Path, debug: Path, folder: Path) -> Path:
    """The copy, in `folder`/bin, which gets a link to the library beside the interpreter: CPython finds its own so.

    The symbol table and its strings go behind the end of the file, and so does a table of sections that has them (the
    ELF specification, "Sections"). Nothing that is loaded moves.
    """
    data = bytearray(program.read_bytes())

    def append(content: bytes | bytearray) -> tuple[int, int]:
        """Its offset and size, as a section's header has them."""
        data.extend(bytes(-len(data) % 8))
        data.extend(content)
        return len(data) - len(content), len(content)

    with program.open("rb") as file, debug.open("rb") as other:
        ours, theirs = ELFFile(file), ELFFile(other)
        symtab: Any = theirs.get_section_by_name(".symtab")
        strings = theirs.get_section(symtab["sh_link"]).data()
        names = [section.name for section in ours.iter_sections()]
        table = renumbered(symtab.data(), [section.name for section in theirs.iter_sections()], names)
        old_names = ours.get_section(ours["e_shstrndx"]).data()
        at_names, start, count = ours["e_shstrndx"] * HEADER.size, ours["e_shoff"], ours["e_shnum"]
    headers = data[start : start + count * HEADER.size]
    name, kind, flags, address, _, _, *rest = HEADER.unpack_from(headers, at_names)
    new_names = append(old_names + b".symtab\0.strtab\0")
    HEADER.pack_into(headers, at_names, name, kind, flags, address, *new_names, *rest)
    where, first_global = len(old_names), symtab["sh_info"]
    headers += HEADER.pack(where, SYMTAB, 0, 0, *append(table), count + 1, first_global, 8, SYMBOL.size)
    headers += HEADER.pack(where + len(".symtab") + 1, STRTAB, 0, 0, *append(strings), 0, 0, 1, 0)
    struct.pack_into("<Q", data, E_SHOFF, append(headers)[0])
    struct.pack_into("<H", data, E_SHNUM, count + 2)
    copy = folder / "bin" / program.name
    copy.parent.mkdir()
    copy.write_bytes(data)
    copy.chmod(0o755)
    os.symlink(program.parents[1] / "lib", folder / "lib")
    return copy


def renumbered(symbols: bytes, old: list[str], new: list[str]) -> bytearray:
    """A symbol table whose sections have the numbers that they have in another file; 0 where it has none such."""
    table, numbers = bytearray(symbols), {name: number for number, name in enumerate(new)}
    for at in range(0, len(table), SYMBOL.size):
        name, info, visibility, index, value, size = SYMBOL.unpack_from(table, at)
        if 0 < index < RESERVED:
            SYMBOL.pack_into(table, at, name, info, visibility, numbers.get(old[index], 0), value, size)
    return table
