"""Stencils that leave the frame pointer alone, and those that do not: found at the instruction."""

import subprocess
from pathlib import Path

import pytest

from jitunwind.check.files import Reports, judge_file
from jitunwind.check.reserved import UNPROVEN, Stencils, violations
from tests.support.compiled import compiled, needs_gcc

pytestmark = needs_gcc
OPTIONS = "-O2 -fomit-frame-pointer -fno-asynchronous-unwind-tables -ffixed-rbp -c"
CLEAN = r"""
typedef struct frame frame;
extern int slow(frame *, long), next(frame *, long, long), other(frame *, long, long);
extern void fatal(const char *) __attribute__((noreturn));
int _JIT_ENTRY(frame *f, long a, long b)
{
    char held[40];
    switch (a) {
    case 0: return next(f, b, a);
    case 1: if (slow(f, b) < 0) fatal("x"); break;
    case 2: slow(f, a + b); return other(f, a, b + 2);
    case 3: return slow(f, a * b) + 1;
    case 4: __asm__ volatile("" : : "r"(held) : "memory"); slow(f, a * 3); break;
    case 5: return next(f, 5, b);
    }
    return next(f, a + 1, b);
}
"""
ENTRY = ".globl _JIT_ENTRY\n.type _JIT_ENTRY,@function\n_JIT_ENTRY:\n"


def found(path: Path) -> list[tuple[int, str, str]]:
    """(offset in its function, instruction, what is wrong with it)."""
    program = Stencils(path)
    reports: Reports = {}
    judge_file(program, 1, reports, lambda report: None)
    return [
        (int(place.function.rpartition("+")[2], 16), " ".join(place.instruction.split()), place.about)
        for place in violations(program, reports)
    ]


def assembled(tmp_path: Path, body: str) -> list[tuple[int, str, str]]:
    return found(compiled(tmp_path / "a.o", ENTRY + body.replace(";", "\n") + "\n", "-c", "assembler"))


@pytest.mark.parametrize("more", ["", "-ffunction-sections", "-fPIC -fno-plt", "-mcmodel=medium", "-Os"])
def test_a_stencil_compiled_for_it_is_clean(tmp_path: Path, more: str) -> None:
    path = compiled(tmp_path / "a.o", CLEAN, f"{OPTIONS} {more}")
    assert "eh_frame" not in subprocess.run(["readelf", "-S", path], capture_output=True, text=True).stdout
    assert found(path) == []


def test_the_same_is_found_where_there_are_fdes(tmp_path: Path) -> None:
    options = OPTIONS.replace("-fno-asy", "-fasy")
    assert found(compiled(tmp_path / "a.o", CLEAN, options)) == []
    wrong = found(
        compiled(tmp_path / "b.o", CLEAN, options.replace("-ffixed-rbp", "-fno-omit-frame-pointer"))
    )
    assert (0, "push %rbp", "saves the frame pointer") in wrong


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (
            "push %rbp; mov $1,%ebp; lea 8(%rbp),%rdi; pop %rbp; ret",
            [
                (0, "push %rbp", "saves the frame pointer"),
                (1, "mov $0x1,%ebp", "writes the frame pointer"),
                (6, "lea 0x8(%rbp),%rdi", "reads the frame pointer"),
                (10, "pop %rbp", "writes the frame pointer"),
            ],
        ),
        ("mov %rbp,-8(%rsp); ret", [(0, "mov %rbp,-0x8(%rsp)", "saves the frame pointer")]),
        ("mov %bpl,%al; ret", [(0, "mov %bpl,%al", "reads the frame pointer")]),
        ("cmp %rbp,%rsp; jmp next", [(0, "cmp %rbp,%rsp", "reads the frame pointer")]),
        ("leave; ret", [(0, "leave", "writes the frame pointer"), (1, "ret", UNPROVEN)]),
        ("push %rax; ret", [(1, "ret", "leaves with the stack pointer 8 bytes below its place at entry")]),
        (
            "add $16,%rsp; ret",
            [(4, "ret", "leaves with the stack pointer 16 bytes above its place at entry")],
        ),
        (
            "push %rax; test %edi,%edi; je 1f; pop %rcx; jmp next; 1: jmp *there@GOTPCREL(%rip)",
            [(11, "jmpq *0x{slot}", "leaves with the stack pointer 8 bytes below its place at entry")],
        ),
        ("sub $24,%rsp; call slow; add $24,%rsp; jmp next", []),
        ("mov %rsp,%rbx; and $-16,%rsp; call slow; mov %rbx,%rsp; jmp *there@GOTPCREL(%rip)", []),
    ],
)
def test_each_violation_is_found_at_its_instruction(
    tmp_path: Path, body: str, wrong: list[tuple[int, str, str]]
) -> None:
    got = assembled(tmp_path, body)
    assert [(offset, about) for offset, _, about in got] == [(offset, about) for offset, _, about in wrong]
    for (_, instruction, _), (_, wanted, _) in zip(got, wrong, strict=True):
        assert instruction.startswith(wanted.partition("{")[0])


def test_a_cold_part_is_the_functions_not_one_of_its_own(tmp_path: Path) -> None:
    """GIVEN a part called `.cold` that is jumped to with the stack moved, THEN that is no exit; its own is."""
    got = assembled(
        tmp_path,
        "push %rax; test %edi,%edi; jne _JIT_ENTRY.cold; pop %rcx; jmp next;"
        ".section .text.unlikely; .type _JIT_ENTRY.cold,@function; _JIT_ENTRY.cold: call slow; jmp next",
    )
    assert [about for _, _, about in got] == [
        "leaves with the stack pointer 8 bytes below its place at entry"
    ]
