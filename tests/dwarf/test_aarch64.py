"""Call frame information of AArch64: instructions of four bytes, return addresses in x30, signed with either key."""

import re
import subprocess
from pathlib import Path

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from jitunwind.arch.aarch64.effects import decode as instructions
from jitunwind.arch.aarch64.registers import AARCH64, D8, SP, X19, X29, X30
from jitunwind.arch.machine import Machine
from jitunwind.dwarf import decode
from jitunwind.dwarf.encode import eh_frame
from jitunwind.elf.image import unwind_file
from jitunwind.recover.table import recover
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    Row,
    SavedAt,
    Signed,
    Unknown,
    UnwindTable,
)
from tests.support.aarch64 import PREFIX, assemble, told

CODE, SECTION = 0x7F00_1234_5000, 0x7F00_0000_0000
TRACKED = (*AARCH64.callee_saved, X30)
KEPT = dict.fromkeys(TRACKED, SAME_VALUE)
A, B = Signed(X30, "A"), Signed(X30, "B")


def row(offset: int, signed: Signed | None = None, **saved: int) -> Row:
    rules = {**KEPT, **{AARCH64.register_names.index(name): SavedAt(at) for name, at in saved.items()}}
    return Row(CfaRule(SP, offset), tuple(sorted(rules.items())), signed)


SIGNING = [row(0), row(0, A), row(16, A, x29=-16, x30=-8), row(0, A), row(0)]


def read_back(data: bytes) -> list[tuple[int, int, Row | Unknown]]:
    return [
        (fde.start - CODE + start, fde.start - CODE + end, row)
        for fde in decode.eh_frame(data, SECTION)
        for start, end, row in decode.table_of(fde, AARCH64.same_value_by_default).spans()
    ]


def test_bytes_of_a_function_that_signs() -> None:
    table = UnwindTable(24, [0, 4, 8, 16, 20], SIGNING)
    (fde,) = decode.eh_frame(eh_frame(AARCH64, [(CODE, table)], SECTION), SECTION)
    assert (fde.cie.code_alignment, fde.cie.data_alignment, fde.cie.return_register) == (4, -8, 30)
    assert fde.cie.augmentation == "zR"
    # fmt: off
    expected = [
        0x41, 0x2D,  # advance 1 (4 bytes), negate
        0x41, 0x0E, 16, 0x9D, 2, 0x9E, 1,  # def_cfa_offset 16, offset x29 c-16, offset x30 c-8
        0x42, 0x0E, 0, 0xDD, 0xDE,  # advance 2, def_cfa_offset 0, restore x29, restore x30
        0x41, 0x2D,
    ]
    # fmt: on
    assert fde.instructions[: len(expected)] == bytes(expected)
    assert not any(fde.instructions[len(expected) :])


def test_the_b_key_is_in_the_augmentation_and_has_fdes_of_its_own() -> None:
    rows = [row(0), row(0, A), row(0), row(16, B, x30=-16), row(16)]
    table = UnwindTable(20, [0, 4, 8, 12, 16], rows)
    data = eh_frame(AARCH64, [(CODE, table)], SECTION)
    assert [fde.cie.augmentation for fde in decode.eh_frame(data, SECTION)] == ["zR", "zRB"]
    assert [each for *_, each in read_back(data)] == rows


@pytest.mark.parametrize("tool", ["readelf", "llvm-dwarfdump", "pyelftools"])
def test_other_readers_see_where_the_signature_changes(tmp_path: Path, tool: str) -> None:
    path = tmp_path / "a.elf"
    path.write_bytes(
        unwind_file(Machine.AARCH64, AARCH64, [(CODE, UnwindTable(24, [0, 4, 8, 16, 20], SIGNING))], SECTION)
    )
    if tool == "pyelftools":
        with open(path, "rb") as file:
            elf = ELFFile(file)
            assert elf["e_machine"] == "EM_AARCH64"
            entries = elf.get_dwarf_info(relocate_dwarf_sections=False).EH_CFI_entries()
        (found,) = [[i.opcode for i in entry.instructions] for entry in entries if isinstance(entry, FDE)]
        assert found.count(0x2D) == 2
        return
    options = {"readelf": [f"{PREFIX}readelf", "--debug-dump=frames"], "llvm-dwarfdump": [tool, "--eh-frame"]}
    command = [*options[tool], str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert text.count("DW_CFA_AARCH64_negate_ra_state") == 2
    assert [int(each) for each in re.findall(r"DW_CFA_advance_loc: (\d+)", text)] == [4, 4, 8, 4]


def test_a_signed_functions_recovered_rows_come_back() -> None:
    code = assemble(
        """
        pacibsp
        stp x29, x30, [sp, #-32]!
        stp d8, x19, [sp, #16]
        blr x0
        ldp x29, x30, [sp], #32
        retab
    """.replace("stp d8, x19, [sp, #16]", "str d8, [sp, #16]\n str x19, [sp, #24]")
    )
    table = recover(AARCH64, code.bytes, instructions, {0: AARCH64.at_entry(AARCH64.platform)})
    back = read_back(eh_frame(AARCH64, [(CODE, table)], SECTION))
    assert [(s, e, told(r)) for s, e, r in back] == [(s, e, told(r)) for s, e, r in table.spans()]
    assert "d8@-16" in told(table.at(12))
    assert "signedB" in told(table.at(12))


RULES = st.one_of(
    st.just(SAME_VALUE),
    st.just(UNDEFINED),
    st.integers(-500, 500).map(SavedAt),
    st.sampled_from([9, X19, D8]).map(InRegister),
)
ROWS = st.builds(
    lambda register, offset, rules, signed: Row(
        CfaRule(register, offset), tuple(zip(TRACKED, rules, strict=True)), signed
    ),
    st.sampled_from([SP, X29]),
    st.integers(-600, 6000),
    st.lists(RULES, min_size=len(TRACKED), max_size=len(TRACKED)),
    st.sampled_from([None, A, B]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 70000), ROWS | st.just(Unknown("?"))), min_size=1, max_size=6))
def test_any_table_comes_back(parts: list[tuple[int, Row | Unknown]]) -> None:
    offsets, at = [], 0
    for size, _ in parts:
        offsets.append(at)
        at += size
    table = UnwindTable(at, offsets, [each for _, each in parts])
    wanted: dict[int, Row] = {}
    for start, end, each in table.spans():
        if isinstance(each, Row):
            sorted_rules = tuple(sorted(each.rules))
            wanted[start] = Row(each.cfa, sorted_rules, each.signed)
            assert end > start
    data = eh_frame(AARCH64, [(CODE, table)], SECTION)
    tables = {
        f.start - CODE: decode.table_of(f, AARCH64.same_value_by_default)
        for f in decode.eh_frame(data, SECTION)
    }
    for start, expected in wanted.items():
        begin = max(each for each in tables if each <= start)
        assert tables[begin].at(start - begin) == expected
