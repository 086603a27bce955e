"""Our decoder of call frame information: against hand-made bytes, and against other people's tools."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from jitunwind.arch.machine import Machine
from jitunwind.arch.x86_64.registers import NAMES, RBP, RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.dwarf.decode import Fde, debug_frame, eh_frame, table_of
from jitunwind.elf.inspect import ElfFile
from jitunwind.errors import MalformedFrames
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SavedAt,
    Signed,
    Unknown,
    UnwindTable,
)
from tests.support.witnesses import EXPRESSION, PYELFTOOLS, READELF, Witness

CODE = 0x1000
SECTION = 0x8000

PROLOGUE = bytes(
    [
        *(0x0C, 7, 8),  # DW_CFA_def_cfa rsp 8
        *(0x90, 1),  # DW_CFA_offset rip at cfa-8
    ]
)


def entry(identity: int, body: bytes) -> bytes:
    body = struct.pack("<I", identity) + body
    body += bytes(-len(body) % 8 + 4)
    return struct.pack("<I", len(body)) + body


def section(
    instructions: bytes, augmentation: bytes = b"zR\0", data: bytes = b"\x1b", size: int = 0x40
) -> bytes:
    """One CIE (pointers pcrel sdata4) and one FDE for the code at CODE."""
    cie = entry(
        0,
        b"\x01" + augmentation + b"\x01\x78\x10" + bytes([len(data)]) + data + PROLOGUE,
    )
    at = len(cie) + 8
    start = struct.pack("<iI", CODE - (SECTION + at), size)
    return cie + entry(len(cie) + 4, start + b"\0" + instructions) + bytes(4)


def only(data: bytes) -> Fde:
    (fde,) = eh_frame(data, SECTION)
    return fde


def rows(instructions: bytes) -> dict[int, Row | Unknown]:
    table = table_of(only(section(instructions)), ())
    return dict(zip(table.offsets, table.rows, strict=True))


def row(offset: int, **rules: RegisterRule) -> Row:
    by_number = {NAMES.index(name): rule for name, rule in rules.items()}
    by_number.setdefault(RETURN_ADDRESS, SavedAt(-8))
    return Row(CfaRule(RSP, offset), tuple(sorted(by_number.items())))


class TestInstructions:
    def test_advance_and_offsets_make_a_row_each(self) -> None:
        code = bytes([0x41, 0x0E, 16, 0x86, 2, 0x02, 3, 0x0E, 24])
        assert rows(code) == {0: row(8), 1: row(16, rbp=SavedAt(-16)), 4: row(24, rbp=SavedAt(-16))}

    def test_advances_of_all_sizes_add_up(self) -> None:
        code = bytes([0x41, 0x0E, 16, 0x02, 1, 0x0E, 24, 0x03, 1, 0, 0x0E, 32, 0x04, 1, 0, 0, 0, 0x0E, 40])
        assert list(rows(code)) == [0, 1, 2, 3, 4]

    def test_set_loc_is_an_encoded_pointer(self) -> None:
        head = len(section(b"")) - 8
        bytes_before = section(bytes([0x01, 0, 0, 0, 0, 0x0E, 16]))
        at = bytes_before.index(bytes([0x01, 0, 0, 0, 0, 0x0E, 16]), head - 16) + 1
        data = bytearray(bytes_before)
        struct.pack_into("<i", data, at, CODE + 5 - (SECTION + at))
        assert table_of(only(bytes(data)), ()).offsets == [0, 5]

    def test_remembered_state_comes_back_whole(self) -> None:
        code = bytes([0x41, 0x0E, 16, 0x83, 2, 0x0A, 0x41, 0x0E, 8, 0xC3, 0x41, 0x0B])
        assert rows(code) == {
            0: row(8),
            1: row(16, rbx=SavedAt(-16)),
            2: row(8),
            3: row(16, rbx=SavedAt(-16)),
        }

    def test_restore_without_an_initial_rule_goes_back_to_unspecified(self) -> None:
        table = table_of(only(section(bytes([0x83, 2, 0x41, 0xC3]))), (RBX,))
        assert [each.rule(RBX) for each in table.rows if isinstance(each, Row)] == [SavedAt(-16), SAME_VALUE]

    def test_extended_forms_take_register_then_operand(self) -> None:
        code = bytes([0x05, 3, 4, 0x41, 0x09, 6, 10, 0x41, 0x11, 12, 0x7E, 0x41, 0x08, 3, 0x07, 6])
        last = rows(code)[3]
        assert isinstance(last, Row)
        assert rows(code)[0] == row(8, rbx=SavedAt(-32))
        assert [last.rule(r) for r in (RBX, RBP, 12)] == [SAME_VALUE, UNDEFINED, SavedAt(16)]
        assert rows(code)[1] == row(8, rbx=SavedAt(-32), rbp=InRegister(10))

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            ([0x0F, 2, 0x77, 0x08], "the CFA is given by an expression"),
            ([0x10, 6, 2, 0x76, 0x00], "a register is given by an expression"),
            ([0x16, 6, 2, 0x76, 0x00], "a register is given by an expression"),
            ([0x14, 6, 2], "a register is given as an offset from the CFA"),
        ],
    )
    def test_what_the_model_cannot_say_is_unknown_with_a_reason(self, code: list[int], reason: str) -> None:
        assert rows(bytes(code)) == {0: Unknown(reason)}

    def test_argument_sizes_change_no_row(self) -> None:
        assert rows(bytes([0x2E, 16, 0x41, 0x2E, 32])) == {0: row(8)}

    @pytest.mark.parametrize(("augmentation", "key"), [(b"zR\0", "A"), (b"zRB\0", "B")])
    def test_a_return_address_is_signed_from_one_negation_to_the_next(self, augmentation, key) -> None:
        #       negate, remember, +1, negate, +1, restore, +1, negate with pc
        code = bytes([0x2D, 0x0A, 0x41, 0x2D, 0x41, 0x0B, 0x41, 0x2C])
        table = table_of(only(section(code, augmentation)), ())
        signed = Row(row(8).cfa, row(8).rules, Signed(RETURN_ADDRESS, key))
        assert list(table.spans()) == [(0, 1, signed), (1, 2, row(8)), (2, 3, signed), (3, 64, row(8))]


class TestAugmentation:
    def test_signal_frames_are_told(self) -> None:
        assert only(section(b"", b"zRS\0")).cie.signal_frame
        assert not only(section(b"")).cie.signal_frame

    def test_personality_and_exception_table_are_read(self) -> None:
        #      P udata4        L absolute udata4, R pcrel sdata4
        data = section(b"", b"zPLR\0", b"\x03\x78\x56\x34\x12\x03\x1b")
        assert only(data).cie.personality == 0x12345678
        assert only(data).cie.lsda_encoding == 0x03

    def test_the_code_range_is_relative_to_its_own_place(self) -> None:
        assert (only(section(b"")).start, only(section(b"")).size) == (CODE, 0x40)


class TestDamage:
    @pytest.mark.parametrize("instructions", [b"\x0b", b"\x3e", b"\x0f\x7f"])
    def test_instructions_that_break_the_rules_are_named(self, instructions: bytes) -> None:
        with pytest.raises(MalformedFrames):
            rows(instructions + b"\xff" * 4)

    def test_any_cut_and_any_flipped_byte_gives_a_table_or_a_named_error(self) -> None:
        good = section(bytes([0x41, 0x0E, 16, 0x86, 2, 0x0A, 0x42, 0x0B, 0x0C, 6, 16]))
        for at in range(len(good)):
            for value in (0x00, 0x7F, 0x80, 0xFF):
                damaged = bytearray(good)
                damaged[at] = value
                for data in (bytes(damaged), good[:at]):
                    try:
                        tables = [table_of(fde, ()) for fde in eh_frame(data, SECTION)]
                    except MalformedFrames:
                        continue
                    assert all(isinstance(table, UnwindTable) for table in tables)


def test_debug_frame_has_its_own_cie_pointers(tmp_path: Path) -> None:
    """GIVEN a program with .debug_frame, THEN its table is what .eh_frame says of the same code."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    (tmp_path / "a.c").write_text(
        "int g(int); int f(int a) { return g(a) + g(a + 1) + a; } int g(int a) {return a;}"
    )
    tables = []
    for option in ("-fno-asynchronous-unwind-tables", "-fasynchronous-unwind-tables"):
        library = tmp_path / f"a{option}.so"
        command = [
            "gcc",
            "-g",
            "-O1",
            "-shared",
            "-fPIC",
            "-nostdlib",
            option,
            "-o",
            library,
            tmp_path / "a.c",
        ]
        subprocess.run(command, check=True)
        elf = ElfFile(library)
        frames = elf.sections.get(".eh_frame")
        found = (
            eh_frame(elf.section_data(".eh_frame"), frames.address)
            if option == "-fasynchronous-unwind-tables" and frames is not None
            else debug_frame(elf.section_data(".debug_frame"))
        )
        every = [table_of(fde, ()) for fde in found]
        tables.append([table for table in every if not any(isinstance(each, Unknown) for each in table.rows)])
    assert len(tables[0]) == 2
    assert tables[0] == tables[1]


@pytest.fixture(scope="module")
def libc() -> Path:
    """The C library of this machine; each claim about it is checked against what others read in it."""
    for path in (Path("/usr/lib/x86_64-linux-gnu/libc.so.6"), Path("/lib64/libc.so.6")):
        if path.is_file() and ElfFile(path).machine == Machine.X86_64:
            return path
    pytest.skip("no x86_64 libc here")


def tables_of(path: Path) -> dict[int, UnwindTable]:
    elf = ElfFile(path)
    frames = elf.sections[".eh_frame"]
    found = eh_frame(elf.section_data(".eh_frame"), frames.address)
    return {fde.start: table_of(fde, ()) for fde in found}


# Not llvm-dwarfdump: LLVM 14's DW_CFA_restore_state forgets the CFA.
@pytest.mark.parametrize("witness", [PYELFTOOLS, READELF], ids=lambda witness: witness.name)
def test_others_read_the_same_tables_in_all_of_libc(libc: Path, witness: Witness) -> None:
    ours = tables_of(libc)
    checked = refused = 0
    for start, _, rows_ in {fde.start: fde for fde in witness.read(libc)}.values():  # of several the last
        refused += not rows_
        for pc, theirs in rows_.items():
            if pc - start < ours[start].size:
                our = ours[start].at(pc - start)
                assert theirs == (witness.can_say(our) if isinstance(our, Row) else EXPRESSION), f"{pc:#x}"
                checked += 1
    assert checked > 10_000
    assert refused < 20


def test_all_unspecified_callee_saved_registers_keep_their_value() -> None:
    table = table_of(only(section(b"")), X86_64.callee_saved)
    (first,) = table.rows
    assert isinstance(first, Row)
    assert all(first.rule(register) == SAME_VALUE for register in X86_64.callee_saved)
