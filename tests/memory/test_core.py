"""Core files made by hand: what they say of themselves, and what damaged ones are refused with."""

import os
import random
import struct
from pathlib import Path

import pytest

from jitunwind.errors import BadCore, UnreadableMemory
from jitunwind.memory.core import (
    MappedFile,
    Program,
    Segment,
    can_have_left,
    check_core,
    is_core,
    load_segments,
    mapped_files,
    program_of,
)
from jitunwind.memory.corefile import CoreFile
from tests.support.files import write_anew

PT_LOAD, PT_NOTE = 1, 4
ENTRY = 0x401040
EXE = "/usr/bin/python3.14"


def note(kind: int, data: bytes) -> bytes:
    name = b"CORE\0\0\0\0"  # namesz 5, padded to 8
    return struct.pack("<III", 5, len(data), kind) + name + data + bytes(-len(data) % 4)


AUXV = struct.pack("<QQQQQQ", 3, 0x400040, 9, ENTRY, 0, 0)  # AT_PHDR, AT_ENTRY, AT_NULL
FILES = (
    struct.pack("<QQ", 2, 4096)  # count, page size
    + struct.pack("<QQQ", 0x400000, 0x402000, 0)
    + struct.pack("<QQQ", 0x7F0000000000, 0x7F0000001000, 0)
    + f"{EXE}\0/usr/lib/libc.so.6\0".encode()
)
NOTES = note(1, b"status") + note(6, AUXV) + note(0x46494C45, FILES)  # NT_PRSTATUS, NT_AUXV, NT_FILE


def a_core(extended: bool = False) -> bytes:
    """An ELF core with a note segment and two PT_LOADs; `extended`: their number is in a section header."""
    count, start = 3, 64
    notes, first = start + 56 * count, start + 56 * count + len(NOTES)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *[b"\x7fELF\x02\x01\x01", 4, 62, 1, 0, start],
        *[first + 32 if extended else 0, 0, 64, 56, 0xFFFF if extended else count, 64, 0, 0],
    )
    programs = (
        struct.pack("<IIQQQQQQ", PT_NOTE, 0, notes, 0, 0, len(NOTES), 0, 4)
        + struct.pack("<IIQQQQQQ", PT_LOAD, 5, first, 0x400000, 0, 16, 0x2000, 4096)
        + struct.pack("<IIQQQQQQ", PT_LOAD, 6, first + 16, 0x7F0000002000, 0, 16, 0x1000, 4096)
    )
    section = bytes(44) + struct.pack("<I", count) + bytes(16)  # sh_info
    return header + programs + NOTES + bytes(32) + (section if extended else b"")


@pytest.fixture(params=[False, True], ids=["plain", "extended"])
def core(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "core"
    path.write_bytes(a_core(request.param))
    return path


def test_segments(core: Path) -> None:
    first = 64 + 56 * 3 + len(NOTES)
    assert load_segments(str(core)) == [
        Segment(0x400000, 0x402000, True, first, 16, False),
        Segment(0x7F0000002000, 0x7F0000003000, False, first + 16, 16, True),
    ]


def test_the_program_that_left_it(core: Path) -> None:
    assert program_of(core) == Program(EXE, ENTRY)


def test_a_whole_core_is_accepted(core: Path) -> None:
    check_core(core)
    assert is_core(core)


def test_every_shorter_file_is_refused(core: Path, tmp_path: Path) -> None:
    data, cut = core.read_bytes(), tmp_path / "cut"
    needed = 64 + 56 * 3 + len(NOTES) + 32
    for size in range(0, needed, 3):
        write_anew(cut, data[:size])
        with pytest.raises(BadCore):
            check_core(cut)


def test_damaged_bytes_raise_nothing_else(core: Path, tmp_path: Path) -> None:
    chance, data, damaged = random.Random(7), core.read_bytes(), tmp_path / "damaged"
    for _ in range(600):
        spoiled = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(spoiled))
            spoiled[at] = chance.choice([0, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        write_anew(damaged, spoiled)
        try:
            check_core(damaged)
            program_of(damaged)
            load_segments(str(damaged))
        except BadCore:
            pass


@pytest.mark.parametrize(
    ("kind", "own", "true"),
    [
        (2, ENTRY, True),
        (2, ENTRY + 0x1000, False),
        (3, ENTRY & 0xFFF, True),  # moved by whole pages
        (3, (ENTRY & 0xFFF) + 16, False),
    ],
)
def test_whether_a_program_can_have_left_it(kind: int, own: int, true: bool, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(struct.pack("<16sHHIQ", b"\x7fELF\x02\x01\x01", kind, 62, 1, own) + bytes(40))
    assert can_have_left(program, ENTRY) == true
    assert can_have_left(program, 0)  # the core does not say


def test_what_is_no_program_cannot_have_left_it(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("x" * 100)
    assert not can_have_left(text, ENTRY)
    assert not can_have_left(tmp_path / "missing", ENTRY)


def test_the_files_that_were_mapped(core: Path, tmp_path: Path) -> None:
    libc = MappedFile(0x7F0000000000, 0x7F0000001000, 0, "/usr/lib/libc.so.6")
    assert mapped_files(core, None) == [MappedFile(0x400000, 0x402000, 0, EXE), libc]
    assert mapped_files(core, tmp_path)[0].path == str(tmp_path)


def test_memory_is_what_the_core_stored_and_else_what_its_files_have(core: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(bytes(range(256)) * 16)
    with CoreFile(core, program) as memory:
        assert memory.read(0x400000, 16) == bytes(16)
        assert memory.read(0x400008, 16) == bytes(8) + bytes(range(16, 24))
        assert memory.read(0x400100, 4) == bytes(range(4))
        assert [mapping.path for mapping in memory.mappings() if mapping.start == 0x400000] == [str(program)]
        for address in (0x401000, 0x402000, 0x7F0000002010, 8):  # behind the file's end; mapped by nobody
            with pytest.raises(UnreadableMemory):
                memory.checked_read(address, 8)


def test_what_is_no_file_is_not_waited_for(core: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with CoreFile(core, tmp_path / "fifo") as memory:
        assert memory.symbol("_PyRuntime") is None
        assert not any(mapping.executable for mapping in memory.mappings() if mapping.start == 0x7F0000000000)
        with pytest.raises(UnreadableMemory):
            memory.read(0x400100, 4)
