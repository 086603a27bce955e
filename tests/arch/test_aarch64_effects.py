"""What the encodings say, against capstone's account of the same words: registers written, control flow, targets."""

import subprocess
from functools import cache
from pathlib import Path

import capstone
import pytest
from capstone import arm64
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from jitunwind.arch.aarch64.effects import decode, meaning
from jitunwind.arch.aarch64.registers import D8, SP, X30
from jitunwind.arch.effects import Control, Exchange, Store
from tests.support.aarch64 import PREFIX, assemble

V0 = D8 - 8
EVERY = frozenset((*range(SP + 1), *range(V0, V0 + 32)))
BASE = 0x1000_0000
CALLS = {"bl", "blr", "blraa", "blrab", "blraaz", "blrabz"}
COMPARISONS = {"cmp", "cmn", "tst"}
"""Capstone 5 takes their first operand for written."""
READ_AND_WRITTEN = ("cas", "swp", "ldadd", "ldclr", "ldset", "ldeor", "ldsmax", "ldsmin", "ldumax", "ldumin")
"""Atomics: capstone 5 takes what they write for read only."""
UNSEEN = {
    "adds",
    "subs",
    "smov",
    "irg",
    "gmi",
    "ldg",
    "svc",
    "hint",
    "cpyfp",
    "cpyfm",
    "cpyfe",
    "setp",
    "setm",
}
UNSEEN |= {"sete", "cpyp", "cpym", "cpye", "pacga", "subp", "subps", "ldraa", "ldrab", "sha512h"}
"""Capstone 5 has no writes, or not all of them, of these; for svc it has x30 for the kernel's result in x0."""
SIGNS = {
    "xpaclri",
    "paciasp",
    "autiasp",
    "pacibsp",
    "autibsp",
    "paciaz",
    "autiaz",
    "pacibz",
    "autibz",
    "retaa",
    "retab",
}
STRUCTURES = ("ld2", "ld3", "ld4", "st2", "st3", "st4")
"""Of these, capstone 5 mistakes registers that are read for written, and the other way round."""
TRAPS = {"udf", "brk", "hlt", "eret", "eretaa", "eretab", "drps", "dcps1", "dcps2", "dcps3"}


@cache
def capstone_with_details() -> capstone.Cs:
    disassembler = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    disassembler.detail = True
    return disassembler


@cache
def numbers() -> dict[int, int]:
    """Capstone's registers of any width -> DWARF number."""
    names = {f"{letter}{n}": n for letter in "XW" for n in range(31)} | {"SP": SP, "WSP": SP}
    names |= {f"{letter}{n}": V0 + n for letter in "BHSDQVZ" for n in range(32)}
    return {getattr(arm64, f"ARM64_REG_{name}"): number for name, number in names.items()}


def is_scalable(word: int) -> bool:
    """SVE and SME, of which more vector registers are taken for written than are."""
    return word >> 25 & 15 == 2 or word >> 25 & 15 == 0


def difference(word: int) -> str:
    """What capstone says else of `word`, but for what is explained above; "" for nothing."""
    ins = next(capstone_with_details().disasm(word.to_bytes(4, "little"), BASE), None)
    meant = meaning(word, EVERY)
    effects, control, distance = meant if meant is not None else ((), Control.NEXT, None)
    if ins is None:
        return "" if control is Control.HALT or is_scalable(word) else f"{word:#010x}: no instruction"
    text = f"{word:#010x} {ins.mnemonic} {ins.op_str}"
    if (control is Control.HALT) != (ins.mnemonic in TRAPS):
        return f"{text}: {control}"
    ours = {e.target for e in effects if not isinstance(e, (Store, Exchange))}
    theirs = {numbers()[each] for each in ins.regs_access()[1] if each in numbers()}
    theirs -= {X30} if ins.mnemonic in CALLS else set()
    explained = (
        (ins.mnemonic in COMPARISONS and not ours)
        or (ins.mnemonic.startswith(READ_AND_WRITTEN) and ours >= theirs)
        or ins.mnemonic in UNSEEN
        or ins.mnemonic.startswith(STRUCTURES)
        or (ins.mnemonic in SIGNS and ours == {X30})
        or (is_scalable(word) and ours >= theirs)
    )
    if ours != theirs and not explained:
        return f"{text}: writes {sorted(theirs)}, ours {sorted(ours)}"
    leaves = any(ins.group(g) for g in (capstone.CS_GRP_JUMP, capstone.CS_GRP_CALL, capstone.CS_GRP_RET))
    if leaves != (control not in (Control.NEXT, Control.HALT)):
        return f"{text}: {control}"
    if (control is Control.CALL) != (ins.mnemonic in CALLS):
        return f"{text}: {control}"
    if distance is not None and ins.operands[-1].imm != BASE + distance:
        return f"{text}: goes {distance:+#x}"
    return ""


@pytest.mark.parametrize("library", ["libc.so.6", "libstdc++.so.6"])
def test_real_code(library):
    found = subprocess.run(
        [f"{PREFIX}gcc", f"-print-file-name={library}"], capture_output=True, text=True, check=True
    )
    with open(Path(found.stdout.strip()), "rb") as file:
        text = ELFFile(file).get_section_by_name(".text").data()
    words = sorted({int.from_bytes(text[at : at + 4], "little") for at in range(0, len(text) - 3, 4)})
    assert len(words) > 50_000
    wrong = [said for word in words[::5] if (said := difference(word))]
    assert not wrong, "\n".join(wrong[:20])


KINDS = """
    ldr x0, [x1, #8]!
    ldr x29, [sp], #16
    ldrsw x19, [x20, x21, lsl #2]
    ldpsw x1, x2, [x3], #8
    ldr q8, [x0, #16]
    ldp q8, q9, [sp, #32]!
    ldp s8, s9, [x0], #8
    stnp x1, x2, [sp, #16]
    ldr d8, .
    ldrsw x8, .
    ldtr x19, [x20, #8]
    ldxp x19, x20, [x0]
    stxp w19, x20, x21, [x0]
    stlxrb w19, w20, [x0]
    ldar x19, [x20]
    stlr x19, [x20]
    ldapr x19, [x20]
    ldapur x19, [x20, #1]
    ldraa x19, [x20, #8]
    ldrab x19, [x20, #8]!
    ld1 {v8.16b, v9.16b}, [x19], #32
    ld4 {v7.4s, v8.4s, v9.4s, v10.4s}, [x19], x20
    ld1 {v8.s}[1], [x19], #4
    ld2r {v31.8h, v0.8h}, [x19], #4
    st3 {v7.b, v8.b, v9.b}[3], [x19], #3
    fmov x19, d8
    fmov v8.d[1], x19
    fcvtzs w19, d8
    scvtf d8, x19
    fcvtzs x19, d8, #3
    ucvtf d8, w19, #3
    fcmp d8, d9
    fccmp d8, d9, #0, eq
    fcsel d8, d9, d10, eq
    fmadd d8, d9, d10, d11
    umov w19, v8.b[0]
    dup v8.2d, x19
    aese v8.16b, v9.16b
    sha512h q8, q9, v10.2d
    and sp, x0, #-16
    ands x19, x0, #-16
    add wsp, w0, #16
    add sp, sp, x19
    subs xzr, sp, x19
    csel x19, x20, x21, eq
    ccmp x19, x20, #0, eq
    madd x19, x20, x21, x22
    extr x19, x20, x21, #3
    rmif x19, #3, #5
    setf8 w19
    pacia x30, x0
    pacia x19, x20
    xpaci x30
    mrs x19, nzcv
    msr nzcv, x19
    tbz x19, #33, .+64
    cbnz w19, .-64
    b.le .+1024
    braa x19, x20
    blraaz x19
    retab
    bti jc
    cntb x19
    incb x19
    rdvl x19, #1
    addvl sp, sp, #-1
    lasta x19, p0, z8.d
    whilelo p8.b, x19, x20
    ld4d {z7.d, z8.d, z9.d, z10.d}, p0/z, [x19]
"""


def test_one_of_each_kind():
    code = assemble(KINDS).bytes
    wrong = [
        said
        for at in range(0, len(code), 4)
        if (said := difference(int.from_bytes(code[at : at + 4], "little")))
    ]
    assert not wrong, "\n".join(wrong)


@settings(max_examples=2000, deadline=None)
@given(st.integers(0, (1 << 32) - 1))
def test_any_word_means_something_and_the_sweep_has_the_same(word):
    """GIVEN any word, THEN what is said of it is well-formed, and the same when it is met again."""
    meant = meaning(word, EVERY)
    code = word.to_bytes(4, "little") + b"\x1f\x20\x03\xd5"
    first, again = decode(code, 0, EVERY), decode(code, 0, EVERY)
    assert first == again
    if meant is None:
        assert first.steps == []
        return
    (step,) = first.steps
    target = None if meant[2] is None else meant[2]
    assert (step.offset, step.next, step.effects, step.control, step.target) == (0, 4, *meant[:2], target)
    assert all(e.target in EVERY for e in step.effects if not isinstance(e, (Store, Exchange)))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("stgp x1, x2, [x3, #16]!", {3}),
        ("ldraa x19, [x20, #8]", {19}),
        ("ldrab x19, [x20, #8]!", {19, 20}),
        ("ld4 {v30.4s, v31.4s, v0.4s, v1.4s}, [x19], x20", {19, V0, V0 + 1, V0 + 30, V0 + 31}),
        ("st3 {v7.b, v8.b, v9.b}[3], [x19], #3", {19}),
        ("sha512h q8, q9, v10.2d", {D8}),
        ("cas x19, x20, [x21]", {19}),
        ("casp x2, x3, x4, x5, [x21]", {2, 3}),
        ("swpal w19, w20, [x21]", {20}),
        ("adds x19, x20, #1", {19}),
        ("cmn x19, #1", set()),
        ("irg sp, x19", {SP}),
        ("ldg x19, [x20]", {19}),
        ("svc #0", {0}),
        ("retaa", {X30}),
        ("sysl x19, #3, c7, c7, #1", {19}),
    ],
)
def test_what_capstone_does_not_know_is_written(text, written):
    found = meaning(int.from_bytes(assemble(text).bytes, "little"), EVERY)
    effects = found[0] if found is not None else ()
    assert {e.target for e in effects if not isinstance(e, (Store, Exchange))} == written


def test_the_sweep_ends_behind_the_last_instruction_that_control_reaches():
    code = assemble("cbz x0, 1f\n ret\n 1: ret\n .word 0xffffffff\n").bytes
    steps, starts = decode(code, 0, EVERY)
    assert starts == [0, 4, 8]
    assert [step.control for step in steps] == [Control.BRANCH, Control.RETURN, Control.RETURN]


@pytest.mark.parametrize("offset", [1, 2, 6])
def test_no_instruction_begins_at_an_odd_place(offset):
    steps, starts = decode(assemble("nop\n ret").bytes, offset, EVERY)
    assert starts == [offset]
    assert steps[0].control is Control.HALT
