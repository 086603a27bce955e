"""What a table is worth where the recovered state does not say all: unknown, not wrong; and wrong by its kind."""

import random
from collections import Counter
from pathlib import Path

from jitunwind.check.compare import HANDED_BACK, HIDDEN, MALFORMED, UNSIZED
from jitunwind.check.files import result_of
from jitunwind.check.functions import Program
from jitunwind.check.reserved import Stencils, violations
from jitunwind.check.rounds import in_turn, judge_all
from jitunwind.errors import JitunwindError
from tests.support.compiled import compiled, needs_gcc
from tests.support.files import write_anew

pytestmark = needs_gcc


def verdicts(tmp_path: Path, source: str) -> tuple[int, Counter[str], Counter[str]]:
    """(exact, wrong, unknown) of the one function f."""
    whole = f".type f,@function\nf: .cfi_startproc\n{source.replace(';', chr(10))}\n.cfi_endproc\n"
    program = Program(compiled(tmp_path / "a.o", whole, "-c", "assembler"))
    (report,) = judge_all(program, in_turn(program)).values()
    return report.comparison.exact, report.comparison.wrong, report.comparison.unknown


FRAME = "push %rbp; .cfi_def_cfa_offset 16; .cfi_offset %rbp,-16; mov %rsp,%rbp; .cfi_def_cfa_register %rbp;"
ALIGNED = (
    FRAME + "and $-32,%rsp; sub $32,%rsp; mov %rbx,8(%rsp); {} xor %ebx,%ebx; call g; mov 8(%rsp),%rbx; {}"
)
LEFT = "leave; .cfi_def_cfa %rsp,8; .cfi_restore %rbp; ret"


def test_a_register_saved_in_an_aligned_frame_is_unknown_once_it_is_overwritten(tmp_path: Path) -> None:
    """GIVEN rbx saved at a place that is no fixed distance from the CFA, THEN what the table says of it is not
    judged from where it is overwritten, and nothing is called wrong."""
    exact, wrong, unknown = verdicts(tmp_path, ALIGNED.format("", "") + LEFT)
    assert (exact, wrong, unknown) == (6, Counter(), Counter({HIDDEN: 4}))


def test_a_register_said_to_be_saved_in_the_callers_frame_is_wrong_all_the_same(tmp_path: Path) -> None:
    """As in libgcrypt's SHA-256, where the offset from the stack pointer is given as one from rbp."""
    exact, wrong, unknown = verdicts(
        tmp_path, ALIGNED.format(".cfi_offset %rbx,8;", ".cfi_restore %rbx;") + LEFT
    )
    assert exact == 5
    assert wrong == {
        "register: table says saved, recovered unchanged": 1,
        "register: table says saved, recovered nothing": 2,
    }
    assert unknown == {HIDDEN: 2}


def test_behind_a_store_of_unknown_size_a_saved_register_is_unknown(tmp_path: Path) -> None:
    moved = "sub $1016,%rsp; .cfi_adjust_cfa_offset 1016; xsave (%rsp); nop; add $1016,%rsp;"
    _, wrong, unknown = verdicts(tmp_path, f"{moved} .cfi_adjust_cfa_offset -1016; ret")
    assert (wrong, unknown) == (Counter(), Counter({UNSIZED: 3}))


def test_a_register_handed_back_changed_is_a_class_of_its_own(tmp_path: Path) -> None:
    exact, wrong, _ = verdicts(
        tmp_path, "mov (%rdi),%eax; xor %ebx,%ebx; test %eax,%eax; je 1f; ret; 1: nop; ret"
    )
    assert (exact, wrong) == (2, Counter({HANDED_BACK: 5}))


def test_a_register_lost_on_one_path_only_is_lost(tmp_path: Path) -> None:
    _, wrong, _ = verdicts(tmp_path, "test %edi,%edi; je 1f; ret; 1: xor %ebx,%ebx; nop; ret")
    assert wrong == {"register: table says unchanged, recovered nothing": 2}


def test_an_fde_that_cannot_be_decoded_is_wrong_at_all_its_instructions(tmp_path: Path) -> None:
    assert verdicts(tmp_path, "nop; nop; .cfi_escape 0x3f; ret") == (
        0,
        Counter({MALFORMED.reason: 3}),
        Counter(),
    )


def test_a_jump_table_ends_where_an_entry_is_no_instruction_of_a_cold_part(tmp_path: Path) -> None:
    """GIVEN a table followed by a number that happens to lie inside an instruction of a cold part (as in CPython's
    _ctypes), THEN that is no target; one at an instruction is."""
    source = """
    f: .cfi_startproc
    push %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_offset %rbx,-16
    jmp *table(,%rdi,8)
    1: pop %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore %rbx
    ret
    .cfi_endproc
    .section .text.unlikely, "ax"
    cold: .cfi_startproc
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx,-16
    mov $0x90909090,%eax
    2: jmp 1b
    .cfi_endproc
    .section .rodata
    table: .quad 1b, 2b, cold + 2
    """
    program = Program(compiled(tmp_path / "a.o", source, "-c", "assembler"))
    start, cold = program.starts
    assert program.judge(0, {}, program.never).continues == [cold + 5]
    assert program.is_entry(0)
    assert start < cold


def test_damaged_files_are_judged_or_refused(tmp_path: Path) -> None:
    """GIVEN objects with some bytes changed, THEN there is a verdict or an error of our own, nothing else."""
    source = "int out(int); int f(int a) { switch (a) { case 0: case 5: return out(a); default: return out(3) + a; } }"
    whole = compiled(tmp_path / "a.o", source).read_bytes()
    dice, refused = random.Random(7), 0
    for _ in range(120):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 3, 10, 60))):
            at = dice.randrange(len(whole) - 4)
            damaged[at : at + 4] = dice.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\x7f", bytes(4), dice.randbytes(4))
            )
        write_anew(tmp_path / "b.o", damaged)
        for kind in (Program, Stencils):
            try:
                program = kind(tmp_path / "b.o")
            except JitunwindError:
                refused += 1
                continue
            reports = judge_all(program, in_turn(program))
            assert reports.keys() == set(range(len(program.fdes)))
            result_of(program, reports, 1, 3)
            list(violations(program, reports))
    assert 0 < refused < 240


def test_of_two_fdes_that_overlap_the_later_one_holds(tmp_path: Path) -> None:
    """As unwinders find them: by the greatest start at or below the program counter."""
    source = """
    f: nop; nop; nop; nop; nop; ret
    .section .eh_frame,"a",@unwind
    cie: .long 1f-0f; 0: .long 0; .byte 1; .asciz "zR"; .uleb128 1; .sleb128 -8; .uleb128 16; .uleb128 1; .byte 0x1b
    .byte 0x0c; .uleb128 7; .uleb128 8; .byte 0x90; .uleb128 1; .balign 4; 1:
    .long 3f-2f; 2: .long 2b-cie; .long f-.; .long 6; .uleb128 0; .balign 4; 3:
    .long 3f-2f; 2: .long 2b-cie; .long f+2-.; .long 4; .uleb128 0; .balign 4; 3:
    """
    program = Program(compiled(tmp_path / "a.o", source, "-c", "assembler"))
    assert [(fde.start - program.starts[0], fde.size) for fde in program.fdes] == [(0, 2), (2, 4)]
