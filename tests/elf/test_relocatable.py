"""Relocatable objects: every section has an address of its own, and what the linker would fill in is filled in."""

import contextlib
import subprocess
from pathlib import Path

import pytest

from jitunwind.check.compare import PADDING
from jitunwind.check.functions import Program
from jitunwind.check.rounds import in_turn, judge_all
from jitunwind.elf.inspect import ElfFile
from jitunwind.errors import NotElf
from tests.support.compiled import compiled, needs_gcc
from tests.support.files import write_anew

SOURCE = r"""
extern void abort(void) __attribute__((noreturn));
extern int out(int, const char *);
int chooses(int a, int b)
{
    switch (a) {
    case 0: return out(b, "zero");
    case 1: return out(b, "one") + b;
    case 2: out(b, "two"); return out(b + 1, "two");
    case 3: return b;
    case 4: return out(b, "four") * out(b, "vier");
    case 5: if (b) abort(); return out(a, "five");
    default: return -1;
    }
}
static __attribute__((noinline)) int helper(int a) { return out(a, "h") + a; }
int gives_up(int a) { if (out(a, "?")) { out(a, "bye"); abort(); } return out(a, "!") + helper(a); }
"""

pytestmark = needs_gcc


@pytest.mark.parametrize(
    "options",
    ["-O2", "-O2 -ffunction-sections", "-Os -fPIC", "-O2 -fPIC -fno-plt", "-O0", "-O2 -fno-pic -no-pie"],
)
def test_all_of_an_object_is_reached_and_agrees(tmp_path: Path, options: str) -> None:
    """GIVEN functions at address 0 whose tables, jump tables and calls are relocations, THEN every instruction is
    judged as in a linked file: jump tables are followed, and calls of `abort` do not return."""
    program = Program(compiled(tmp_path / "a.o", SOURCE, f"{options} -c"))
    assert len({fde.start for fde in program.fdes}) == len(program.fdes) >= 3
    for report in judge_all(program, in_turn(program)).values():
        assert not report.comparison.wrong
        assert set(report.comparison.unknown) <= {PADDING}, report.comparison.findings
        assert report.comparison.exact


def test_relocated_values_are_a_linkers(tmp_path: Path) -> None:
    """GIVEN one relocation of each kind, THEN the bytes are those that ld makes with the same addresses."""
    path = compiled(
        tmp_path / "a.o",
        """
        .globl here, there
        .text
        here:   call there
                movq there@GOTPCREL(%rip), %rax
                call *elsewhere@GOTPCREL(%rip)
                movl $here, %eax
                movq $here, %rax
        .section .other, "ax"
        there:  nop
        .data
                .quad here + 4, there - .
                .long there - .
        """,
        "-c",
        "assembler",
    )
    elf = ElfFile(path)
    here, there, data = (elf.sections[name].address for name in (".text", ".other", ".data"))
    code, bytes_ = elf.read(here, 31), elf.read(data, 20)

    def number(source: bytes, at: int, size: int = 4) -> int:
        return int.from_bytes(source[at : at + size], "little", signed=True)

    assert here + 5 + number(code, 1) == there
    slot = here + 12 + number(code, 8)
    assert number(elf.read(slot, 8), 0, 8) == there
    assert elf.imports[slot] == "there"
    assert elf.imports[here + 18 + number(code, 14)] == "elsewhere"
    assert number(code, 19) == here
    assert number(code, 26) == here
    assert number(bytes_, 0, 8) == here + 4
    assert data + 8 + number(bytes_, 8, 8) == there
    assert data + 16 + number(bytes_, 16) == there
    assert "elsewhere" in elf.externals.values()


def test_groups_and_sections_of_one_name_are_apart(tmp_path: Path) -> None:
    """GIVEN two COMDAT groups with a `.text.f` each, THEN both are there, at addresses of their own."""
    sections = "".join(
        f'.section .text.f,"axG",@progbits,group{n},comdat\n.type f{n},@function\n'
        f"f{n}: .cfi_startproc\npush %rbx\n.cfi_adjust_cfa_offset 8\n.cfi_offset %rbx,-16\n"
        "pop %rbx\n.cfi_adjust_cfa_offset -8\n.cfi_restore %rbx\nret\n.cfi_endproc\n"
        for n in (1, 2)
    )
    program = Program(compiled(tmp_path / "a.o", sections, "-c", "assembler"))
    assert sorted(program.defined) == ["f1", "f2"]
    assert sorted(program.starts) == sorted(program.defined.values())
    assert [r.comparison.exact for r in judge_all(program, in_turn(program)).values()] == [3, 3]


def test_an_object_agrees_with_what_it_is_linked_to(tmp_path: Path) -> None:
    """GIVEN the same functions in an object and in the library made of it, THEN their tables are the same."""
    path = compiled(tmp_path / "a.o", SOURCE, "-O2 -fPIC -c")
    subprocess.run(["gcc", "-shared", "-o", tmp_path / "a.so", path], check=True)
    one, other = Program(path), Program(tmp_path / "a.so")
    for name, address in one.defined.items():
        tables = [
            p.table(p.starts.index(p.defined[name])) for p in (one, other) if p.defined[name] in p.starts
        ]
        assert len(tables) == 2, f"{name} at {address:#x}"
        assert tables[0] == tables[1]


def test_files_cut_short_or_damaged_are_refused_by_name(tmp_path: Path) -> None:
    whole = compiled(tmp_path / "a.o", SOURCE).read_bytes()
    for size in (3, 20, 64, len(whole) // 2, len(whole) - 1):
        write_anew(tmp_path / "b.o", whole[:size])
        with pytest.raises(NotElf, match=r"b\.o"):
            ElfFile(tmp_path / "b.o")
    for at in range(0, len(whole), 7):
        write_anew(tmp_path / "b.o", whole[:at] + b"\xff\xff\xff\xff" + whole[at + 4 :])
        with contextlib.suppress(NotElf):
            ElfFile(tmp_path / "b.o")
