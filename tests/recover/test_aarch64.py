"""Recovery of AArch64 code: annotated assembly in, and the row at each instruction compared."""

import pytest

from jitunwind.arch.aarch64.effects import decode
from jitunwind.arch.aarch64.registers import AARCH64, X19, X28, X30
from jitunwind.recover.table import NOT_REACHED, flow_of, recover
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaRule,
    InRegister,
    Row,
    SavedAt,
    Signed,
    Unknown,
    evaluate,
)
from tests.support.aarch64 import assemble, wrong_rows
from tests.support.codes import body_entry

PLATFORM = {0: AARCH64.at_entry(AARCH64.platform)}


@pytest.mark.parametrize(
    "source",
    [
        """
        stp x29, x30, [sp, #-48]!       // sp+0
        mov x29, sp                     // sp+48 x29@-48 x30@-40
        stp x19, x20, [sp, #16]         // sp+48 x29@-48 x30@-40
        str x21, [x29, #32]             // sp+48 x29@-48 x30@-40 x19@-32 x20@-24
        mov x19, x0                     // sp+48 x29@-48 x30@-40 x19@-32 x20@-24 x21@-16
        blr x1                          // sp+48 x29@-48 x30@-40 x19@-32 x20@-24 x21@-16
        ldp x19, x20, [sp, #16]         // sp+48 x29@-48 x30@-40 x19@-32 x20@-24 x21@-16
        ldp x29, x30, [sp], #48         // sp+48 x29@-48 x30@-40 x19@-32 x20@-24 x21@-16
        ret                             // sp+0
        """,
        """
        sub sp, sp, #16                 // sp+0
        sub sp, sp, #1, lsl #12         // sp+16
        str x30, [sp, #0x1008]          // sp+4112
        bl .+4096                       // sp+4112 x30@-8
        mov w30, wzr                    // sp+4112 x30@-8
        ldr x30, [sp, #0x1008]          // sp+4112 x30@-8
        add sp, sp, #16                 // sp+4112 x30@-8
        add sp, sp, #1, lsl #12         // sp+4096 x30@-8
        ret                             // sp+0
        """,
        """
        stp d8, d9, [sp, #-32]!         // sp+0
        str q10, [sp, #16]              // sp+32 d8@-32 d9@-24
        fmov d8, d0                     // sp+32 d8@-32 d9@-24 d10@-16
        movi v10.2d, #0                 // sp+32 d8@-32 d9@-24 d10@-16
        ldr q10, [sp, #16]              // sp+32 d8@-32 d9@-24 d10@-16
        ldp d8, d9, [sp], #32           // sp+32 d8@-32 d9@-24 d10@-16
        fmov x0, d11                    // sp+0
        ldr s11, [x0]                   // sp+0
        ret                             // sp+0 d11=x0
        """,
        """
        paciasp                         // sp+0
        str x30, [sp, #-16]!            // sp+0 signedA
        xpaclri                         // sp+16 x30@-16 signedA
        blr x8                          // sp+16 x30@-16 signedA
        ldr x30, [sp], #16              // sp+16 x30@-16 signedA
        autiasp                         // sp+0 signedA
        ret                             // sp+0
        """,
        """
        bti c                           // sp+0
        pacibsp                         // sp+0
        stp x29, x30, [sp, #-16]!       // sp+0 signedB
        bl .+4096                       // sp+16 x29@-16 x30@-8 signedB
        ldp x29, x30, [sp], #16         // sp+16 x29@-16 x30@-8 signedB
        retab                           // sp+0 signedB
        """,
        """
        stp x29, x30, [sp, #-16]!       // sp+0
        mov x12, #0x2340                // sp+16 x29@-16 x30@-8
        sub sp, sp, x12                 // sp+16 x29@-16 x30@-8
        blr x1                          // sp+9040 x29@-16 x30@-8
        mov x12, #0x2340                // sp+9040 x29@-16 x30@-8
        add sp, sp, x12                 // sp+9040 x29@-16 x30@-8
        mov x29, sp                     // sp+16 x29@-16 x30@-8
        sub sp, sp, x0                  // sp+16 x29@-16 x30@-8
        mov sp, x29                     // x29+16 x29@-16 x30@-8
        ldp x29, x30, [sp], #16         // sp+16 x29@-16 x30@-8
        ret                             // sp+0
        """,
        """
        ldaxr x1, [x0]                  // sp+0
        stlxr w2, x1, [x0]              // sp+0
        swp x19, x3, [x0]               // sp+0
        ldadd x3, x20, [x0]             // sp+0
        ret                             // sp+0 x20=lost
        """,
    ],
    ids=["frame record", "large frame", "vectors", "signed", "signed with B", "by a register", "atomics"],
)
def test_rows(source):
    code = assemble(source)
    assert not wrong_rows(code, recover(AARCH64, code.bytes, decode, PLATFORM))


def test_what_is_said_of_x30_in_x30_is_same_value_until_a_call():
    table = recover(AARCH64, assemble("blr x0\n ret").bytes, decode, PLATFORM)
    first, second = table.rows
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert first.rule(X30) == SAME_VALUE
    assert second.rule(X30) == UNDEFINED


def test_a_veneer_behind_a_body_has_the_row_of_an_entry_and_keeps_what_a_body_does_not():
    code = assemble("""
        str x30, [sp, #-16]!
        bl veneer
        ldr x30, [sp], #16
        ret
        veneer: ldr x8, there
        mov x19, x8
        br x8
        there: .quad 0
    """)
    table = recover(AARCH64, code.bytes, decode, {0: body_entry(AARCH64)})
    at = code.labels["veneer"]
    body, veneer, after = table.at(4), table.at(at), table.at(at + 8)
    assert isinstance(body, Row)
    assert isinstance(veneer, Row)
    assert isinstance(after, Row)
    assert (veneer.cfa, veneer.rule(X30)) == (CfaRule(AARCH64.stack_pointer, 0), SAME_VALUE)
    assert [row.rule(X19) for row in (body, veneer, after)] == [UNDEFINED, SAME_VALUE, UNDEFINED]
    assert veneer.rule(X28) == SAME_VALUE
    assert table.at(code.labels["there"]) == NOT_REACHED


def test_paths_that_sign_and_do_not_disagree():
    code = assemble("""
        cbz x0, 1f
        paciasp
        1: nop
        ret
    """)
    row = recover(AARCH64, code.bytes, decode, PLATFORM).at(8)
    assert isinstance(row, Unknown)
    assert "where x30 is" in row.reason


@pytest.mark.parametrize("word", [0, 0xD4200020, 0xD4400000, 0x00000001, 0x02000000, 0xD69F03E0])
def test_traps_and_what_is_no_instruction_end_a_path(word):
    code = word.to_bytes(4, "little") + bytes.fromhex("1f2003d5")
    assert recover(AARCH64, code, decode, PLATFORM).at(4) == NOT_REACHED


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_an_instruction_that_is_cut_off_ends_the_code(cut):
    code = bytes.fromhex("1f2003d5c0035fd6")[: 4 + cut]
    table = recover(AARCH64, code, decode, PLATFORM)
    assert table.size == 4 + cut
    assert isinstance(table.at(4), Row)


def test_a_return_with_x30_lost_is_not_as_at_entry():
    flow = flow_of(AARCH64, assemble("mov x30, x1\n ret").bytes, decode, PLATFORM)
    assert not flow.exits[4].at_entry_state
    flow = flow_of(AARCH64, assemble("paciasp\n ret").bytes, decode, PLATFORM)
    assert not flow.exits[4].at_entry_state
    flow = flow_of(AARCH64, assemble("paciasp\n autiasp\n ret").bytes, decode, PLATFORM)
    assert flow.exits[8].at_entry_state


@pytest.mark.parametrize(
    ("signed", "plain"),
    [
        (0x003F_7F12_3456_7890, 0x7F12_3456_7890),
        (0xFFFF_7F12_3456_7890 & ~(1 << 55), 0x7F12_3456_7890),
        (0xAB80_8000_0012_3450, 0xFFFF_8000_0012_3450),
        (0x0000_0000_0040_0000, 0x0000_0000_0040_0000),
    ],
)
def test_a_signature_is_taken_off_by_bit_55(signed, plain):
    assert AARCH64.without_signature(signed) == plain
    row = Row(CfaRule(31, 16), ((X30, SavedAt(-8)),), Signed(X30, "A"))
    assert evaluate(row, {31: 0x1000}, {0x1008: signed}.__getitem__, 31, AARCH64.without_signature) == {
        31: 0x1010,
        X30: plain,
    }


def test_a_signed_return_address_is_not_given_as_a_plain_one():
    row = Row(CfaRule(31, 16), ((X30, SavedAt(-8)),), Signed(X30, "A"))
    with pytest.raises(ValueError, match="signed"):
        evaluate(row, {31: 0x1000}, {0x1008: 0x003F_7F12_3456_7890}.__getitem__, 31)


def test_a_return_address_in_another_register_is_found_there():
    code = assemble("mov x9, x30\n mov x30, xzr\n br x9")
    row = recover(AARCH64, code.bytes, decode, PLATFORM).at(8)
    assert isinstance(row, Row)
    assert row.rule(X30) == InRegister(9)
