"""Whether GDB can load the libthread_db that belongs to a program's own libc; where it cannot, GDB is not to try.

GDB executes that library in itself. One of a newer libc than GDB's own lacks symbol versions there (dlopen(3)), so no
trust makes it load; GDB's advice to trust it, eleven lines long, would help nobody. Nothing is trusted here that GDB
does not trust by itself. Runs outside GDB, before it starts; `cli/gdb.py` calls it.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jitunwind.memory.maps import parse_maps

DO_NOT_TRY = "set auto-load libthread-db off"
"""GDB then takes its own libc's libthread_db, or none (GDB manual, "Threads")."""
_ELF = b"\x7fELF"
_LIBC, _THREAD_LIBRARY = "libc.so.6", "libthread_db.so.1"


def settings(arguments: Sequence[str], processes: Sequence[int]) -> list[str]:
    """GDB commands for before it loads a program, given its arguments and the processes that it attaches to."""
    ours = _libc_of("self")
    others = {*map(_libc_of, processes), *map(_libc_for, arguments)} - {None, ours}
    if ours is None or not others:
        return []
    known = set(_versions(ours, ".gnu.version_d"))
    libraries = [Path(libc).with_name(_THREAD_LIBRARY) for libc in others if libc is not None]
    return [DO_NOT_TRY] if any(not known.issuperset(_needed(library)) for library in libraries) else []


def _libc_of(process: int | str) -> Path | None:
    """The file of the libc that a process has mapped."""
    try:
        mappings = parse_maps(Path(f"/proc/{process}/maps").read_text(errors="replace"))
    except OSError:
        return None
    return next((Path(m.path) for m in mappings if os.path.basename(m.path) == _LIBC), None)


def _libc_for(program: str) -> Path | None:
    """The file of the libc beside the dynamic loader that a program names (gABI, PT_INTERP)."""
    if not _is_elf(program):
        return None
    from elftools.common.exceptions import ELFError  # later: GDB starts faster without it
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    try:
        with open(program, "rb") as file:
            loaders = [
                segment.get_interp_name()
                for segment in ELFFile(file).iter_segments()
                if isinstance(segment, InterpSegment)
            ]
    except (OSError, ELFError):
        return None
    found = [Path(os.path.realpath(loader)).with_name(_LIBC) for loader in loaders]
    return next((path for path in found if path.is_file()), None)


def _is_elf(path: str) -> bool:
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(len(_ELF)) == _ELF
    except (OSError, ValueError):  # no file of that name, or no name of a file
        return False


def _needed(library: Path) -> Iterator[str]:
    """The versions of libc's symbols that a library needs."""
    return _versions(library, ".gnu.version_r")


def _versions(path: Path, section_name: str) -> Iterator[str]:
    """The names of libc's symbol versions in a section of an ELF file (LSB, "Symbol Versioning"); none where it cannot
    be read."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVersionSection

    try:
        with path.open("rb") as file:
            section = ELFFile(file).get_section_by_name(section_name)
            for version, names in section.iter_versions() if isinstance(section, GNUVersionSection) else ():
                if getattr(version, "name", None) in (None, _LIBC):
                    yield from [each.name for each in names]
    except (OSError, ELFError):
        return
