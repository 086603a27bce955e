"""The cases: hand-made functions with hand-made call frame information, and what each says by the standard.

All have the same code. It is called by `enter` (enter.S), makes a frame of 64 bytes and calls what reads the stack:

    +0x00  push %rbx            the caller's rbx is at CFA-16, its return address at CFA-8
    +0x01  sub %rax,%rsp        rax is 48: CFA = rsp+64
    +0x04  mov %r13,%rbx        the function's own rbx
    +0x07  ...                  an address in `marks` at CFA-24, CFA-32 … CFA-64, another in each
    +0x34  mov %rsp,%rbp        CFA = rbp+64; and CFA = r14+BIG
    +0x37  nop ...
    +0x40  call *%rsi           here a reader asks (CALL), and comes back to RETURN
    +0x42  nop ...; add $48,%rsp; pop %rbx; ret

So each case says in another way where the caller's stack pointer, return address and rbx are, and what a reader
makes of it is known by its value. DWARF 5 section 6.4.2 is the standard; LSB core 5.0 section 10.6 where `.eh_frame`
differs.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from jitunwind.dwarf.constants import CallFrame as C
from jitunwind.dwarf.leb128 import signed, unsigned
from jitunwind.rows import SAME_VALUE, CfaRule, RegisterRule, Row, SavedAt, UnwindTable
from jitunwind.rows import UNDEFINED as UNDEFINED_RULE

RBX, RBP, RSP, R12, R14, RA = 3, 6, 7, 12, 14, 16
BIG = 0x123456
CALL, RETURN, SIZE = 0x40, 0x42, 0x60


# --- the instructions, as bytes


def _with(opcode: C, *operands: int) -> bytes:
    return bytes([opcode]) + b"".join(map(unsigned, operands))


def advance(delta: int) -> bytes:
    assert delta < 64
    return bytes([C.ADVANCE_LOC | delta])


def offset(register: int, factored: int) -> bytes:
    return bytes([C.OFFSET | register]) + unsigned(factored)


def restore(register: int) -> bytes:
    return bytes([C.RESTORE | register])


def undefined(register: int) -> bytes:
    return _with(C.UNDEFINED, register)


def same_value(register: int) -> bytes:
    return _with(C.SAME_VALUE, register)


def def_cfa(register: int, offset: int) -> bytes:
    return _with(C.DEF_CFA, register, offset)


def def_cfa_offset(offset: int) -> bytes:
    return _with(C.DEF_CFA_OFFSET, offset)


def def_cfa_register(register: int) -> bytes:
    return _with(C.DEF_CFA_REGISTER, register)


REMEMBER, RESTORE_STATE = bytes([C.REMEMBER_STATE]), bytes([C.RESTORE_STATE])
LIT16, LIT24, MINUS, BREG7 = 0x40, 0x48, 0x1C, 0x77
"""DW_OP_*: DWARF 5 section 7.7.1."""


def block(*operations: int) -> bytes:
    return unsigned(len(operations)) + bytes(operations)


# --- what comes of them


class Answer(NamedTuple):
    """What a reader makes of the function's frame.

    ra: "caller", "itself" (the same program counter again, without end), "CFA-n" (what is in that slot), "none" (the
    stack ends there), or another word. cfa: how many bytes too high. rbx: "saved" (at CFA-16, as it was in the caller),
    "kept" (as it is in the function), "r12", "CFA-n" (that address), "at CFA-n" (what is in that slot), "unknown", or
    "signal": saved, and the caller's row is looked for as that of an interrupted function."""

    ra: str
    cfa: int | None = None
    rbx: str | None = None


RIGHT = Answer("caller", 0, "saved")
KEPT = Answer("caller", 0, "kept")
UNKNOWN = Answer("caller", 0, "unknown")
END = Answer("none")


@dataclass(frozen=True)
class Cie:
    augmentation: bytes = b"zR"
    code_alignment: int = 1
    data_alignment: int = -8
    encoding: int = 0x1C  # pcrel | sdata8
    version: int = 1
    wide: int = 0
    """In 64-bit DWARF, the bytes of a CIE ID and CIE pointer; 0: 32-bit DWARF. LSB core 5.0 says 4, DWARF 8."""
    instructions: bytes = def_cfa(RSP, 8) + offset(RA, 1)


@dataclass(frozen=True)
class Case:
    """`name` is what the case shows, then in which way. `fdes`: the ranges in the code and their instructions, if there
    is not one for all of it."""

    group: str
    name: str
    instructions: bytes
    standard: Answer = RIGHT
    cie: Cie = field(default_factory=Cie)
    fdes: tuple[tuple[int, int, bytes], ...] = ()
    symbols: bool = False
    """Whether each FDE has a symbol of its own, as a function has; otherwise there is one for all of the code."""
    table: UnwindTable | None = None
    """What our own encoder is given instead."""

    @property
    def shows(self) -> str:
        """The use of an instruction, as `uses_in` calls it, or another trait."""
        return self.name.partition(":")[0]

    @property
    def is_relative(self) -> bool:
        """Whether the table can lie anywhere, together with its code: perf moves it."""
        return self.table is not None or bool(self.cie.encoding & 0x10)

    def ranges(self) -> tuple[tuple[int, int, bytes], ...]:
        return self.fdes or ((0, SIZE, self.instructions),)


ENTRY = def_cfa(RSP, 8) + offset(RA, 1)
PUSHED = advance(1) + def_cfa_offset(16)
FRAME = PUSHED + advance(3) + def_cfa_offset(64)
"""A frame whose rbx is not told of yet: +4."""
SAVED = PUSHED + offset(RBX, 2) + advance(3) + def_cfa_offset(64)
"""As compilers write it: +4."""
ON = advance(8)
SET_LOC = b"\xff set_loc"
"""Stands for DW_CFA_set_loc of +0x20, as it is encoded depends on where it lies."""

_SAVED_IN_CIE = Cie(instructions=ENTRY + offset(RBX, 2))
_SAME_IN_CIE = Cie(instructions=ENTRY + same_value(RBX))
_UNDEFINED_IN_CIE = Cie(instructions=ENTRY + undefined(RBX))
_FACTOR_4 = advance(1) + def_cfa_offset(64) + offset(RBX, 2)

RESTORES = "Back to the CIE's rule"
STATES = "States"
UNDEFINED = "Undefined"
SAVED_AT = "Saved registers"
OTHERS = "Other rules of registers"
CFAS = "The CFA"
ADVANCES = "Advances"
RANGES = "Ranges of FDEs"
FORMS = "Forms of CIEs and FDEs"
OURS = "What jitunwind writes"
SIGNALS = "Signal frames"


# Ranges: a first one whose last row does not hold at the call, others that do.
FIRST = (0, 0x20, SAVED + def_cfa_offset(72))
SECOND = (0x20, SIZE - 0x20, def_cfa_offset(64) + offset(RBX, 2))
AT_CALL = (CALL, SIZE - CALL, def_cfa_offset(64) + offset(RBX, 2))
BEHIND = (RETURN, SIZE - RETURN, def_cfa_offset(72) + undefined(RA))


def _ours(name: str, standard: Answer, *rows: tuple[int, Row]) -> Case:
    offsets, each = zip(*rows, strict=True)
    return Case(OURS, f"jitunwind: {name}", b"", standard, table=UnwindTable(SIZE, offsets, each))


def _row(cfa: int, rules: dict[int, RegisterRule] | None = None) -> Row:
    """All that a callee saves is kept, but for `rules`."""
    kept: dict[int, RegisterRule] = dict.fromkeys((RBX, RBP, R12, 13, R14, 15), SAME_VALUE)
    return Row(CfaRule(RSP, cfa), tuple(sorted({**kept, RA: SavedAt(-8), **(rules or {})}.items())))


_ENTRY = (0, _row(8))
_WHOLE = _row(64, {RBX: SavedAt(-16)})
_UNREACHED = Row(CfaRule(RSP, 8), ((RA, UNDEFINED_RULE),))
_LOST = _row(64, {RBX: UNDEFINED_RULE})

CASES: tuple[Case, ...] = (
    # restore
    Case(RESTORES, "restore to offset: rip, after undefined", SAVED + ON + undefined(RA) + ON + restore(RA)),
    Case(
        RESTORES,
        "restore_extended to offset: rip, after undefined",
        SAVED + ON + undefined(RA) + ON + _with(C.RESTORE_EXTENDED, RA),
    ),
    Case(
        RESTORES,
        "restore to offset: rip, with no other rule before",
        SAVED + ON + restore(RA),
    ),
    Case(
        RESTORES,
        "restore to offset: rbx, after same_value",
        FRAME + ON + same_value(RBX) + ON + restore(RBX),
        cie=_SAVED_IN_CIE,
    ),
    Case(
        RESTORES,
        "restore to offset: rbx, after another offset",
        FRAME + ON + offset(RBX, 3) + ON + restore(RBX),
        cie=_SAVED_IN_CIE,
    ),
    Case(
        RESTORES,
        "restore to offset: rbx, after undefined",
        FRAME + ON + undefined(RBX) + ON + restore(RBX),
        cie=_SAVED_IN_CIE,
    ),
    Case(
        RESTORES,
        "restore_extended to offset: rbx, after same_value",
        FRAME + ON + same_value(RBX) + ON + _with(C.RESTORE_EXTENDED, RBX),
        cie=_SAVED_IN_CIE,
    ),
    Case(RESTORES, "restore to same_value: rbx, after offset", SAVED + ON + restore(RBX), KEPT, _SAME_IN_CIE),
    Case(
        RESTORES,
        "restore_extended to same_value: rbx, after offset",
        SAVED + ON + _with(C.RESTORE_EXTENDED, RBX),
        KEPT,
        _SAME_IN_CIE,
    ),
    Case(
        RESTORES,
        "restore to same_value: rbx, after undefined",
        SAVED + ON + undefined(RBX) + ON + restore(RBX),
        KEPT,
        _SAME_IN_CIE,
    ),
    Case(RESTORES, "restore to no rule: rbx, after offset", SAVED + ON + restore(RBX), KEPT),
    Case(
        RESTORES,
        "restore to undefined: rbx, after offset",
        SAVED + ON + restore(RBX),
        UNKNOWN,
        _UNDEFINED_IN_CIE,
    ),
    # the same by other means
    Case(SAVED_AT, "offset: rbx and rip, as compilers write it", SAVED),
    Case(SAVED_AT, "offset: rip, after undefined", SAVED + ON + undefined(RA) + ON + offset(RA, 1)),
    Case(
        SAVED_AT,
        "offset_extended: rip, after undefined",
        SAVED + ON + undefined(RA) + ON + _with(C.OFFSET_EXTENDED, RA, 1),
    ),
    Case(
        SAVED_AT,
        "offset_extended_sf: rip, after undefined",
        SAVED + ON + undefined(RA) + ON + _with(C.OFFSET_EXTENDED_SF, RA) + signed(1),
    ),
    Case(SAVED_AT, "offset: rbx, after undefined", FRAME + ON + undefined(RBX) + ON + offset(RBX, 2)),
    Case(SAVED_AT, "offset: rbx, after same_value", FRAME + ON + same_value(RBX) + ON + offset(RBX, 2)),
    Case(SAVED_AT, "offset: rbx, after another offset", FRAME + ON + offset(RBX, 3) + ON + offset(RBX, 2)),
    Case(SAVED_AT, "offset_extended: rbx", FRAME + ON + _with(C.OFFSET_EXTENDED, RBX, 2)),
    Case(SAVED_AT, "offset_extended_sf: rbx", FRAME + ON + _with(C.OFFSET_EXTENDED_SF, RBX) + signed(2)),
    Case(
        SAVED_AT,
        "GNU_negative_offset_extended: rbx",
        FRAME + ON + _with(C.GNU_NEGATIVE_OFFSET_EXTENDED, RBX, 2),
        cie=Cie(
            data_alignment=8, instructions=def_cfa(RSP, 8) + _with(C.OFFSET_EXTENDED_SF, RA) + signed(-1)
        ),
    ),
    # states
    Case(
        STATES,
        "remember_state, restore_state: rules of registers",
        SAVED + ON + REMEMBER + offset(RBX, 3) + ON + RESTORE_STATE,
    ),
    Case(
        STATES,
        "no rule: rbx, by restore_state",
        FRAME + ON + REMEMBER + offset(RBX, 3) + ON + RESTORE_STATE,
        KEPT,
    ),
    Case(
        STATES,
        "remember_state, restore_state: the offset of the CFA",
        SAVED + ON + REMEMBER + def_cfa_offset(72) + ON + RESTORE_STATE,
    ),
    Case(
        STATES,
        "remember_state, restore_state: the register of the CFA",
        SAVED + ON + REMEMBER + def_cfa(R14, 16) + ON + RESTORE_STATE,
    ),
    Case(
        STATES,
        "remember_state, restore_state: two rows between",
        SAVED
        + REMEMBER
        + ON
        + def_cfa_offset(72)
        + ON
        + def_cfa_offset(80)
        + same_value(RBX)
        + ON
        + RESTORE_STATE,
    ),
    Case(
        STATES,
        "remember_state, restore_state: two deep, the inner one restored",
        PUSHED
        + offset(RBX, 3)
        + ON
        + REMEMBER
        + def_cfa_offset(64)
        + offset(RBX, 2)
        + ON
        + REMEMBER
        + def_cfa_offset(80)
        + undefined(RBX)
        + ON
        + RESTORE_STATE,
    ),
    Case(
        STATES,
        "remember_state, restore_state: two deep, both restored",
        SAVED
        + ON
        + REMEMBER
        + def_cfa_offset(72)
        + offset(RBX, 3)
        + ON
        + REMEMBER
        + def_cfa_offset(80)
        + undefined(RBX)
        + ON
        + RESTORE_STATE
        + ON
        + RESTORE_STATE,
    ),
    Case(
        STATES,
        "remember_state, restore_state: the same state twice",
        SAVED
        + ON
        + REMEMBER
        + def_cfa_offset(72)
        + ON
        + RESTORE_STATE
        + REMEMBER
        + advance(4)
        + def_cfa_offset(80)
        + ON
        + RESTORE_STATE,
    ),
    Case(
        STATES,
        "remember_state, restore_state: across an undefined rip",
        SAVED + ON + REMEMBER + undefined(RA) + ON + RESTORE_STATE,
    ),
    Case(
        STATES,
        "remember_state, restore_state: across an undefined rbx",
        SAVED + ON + REMEMBER + undefined(RBX) + ON + RESTORE_STATE,
    ),
    Case(
        STATES,
        "remember_state, restore_state: undefined rip itself",
        SAVED + ON + undefined(RA) + REMEMBER + ON + offset(RA, 1) + ON + RESTORE_STATE,
        END,
    ),
    # undefined
    Case(UNDEFINED, "undefined rip: the stack ends", SAVED + ON + undefined(RA), END),
    Case(
        UNDEFINED,
        "undefined rip: in the CIE",
        SAVED,
        END,
        Cie(instructions=def_cfa(RSP, 8) + undefined(RA)),
    ),
    Case(UNDEFINED, "undefined of a register: rbx", FRAME + ON + undefined(RBX), UNKNOWN),
    Case(UNDEFINED, "undefined of a register: rbx, after offset", SAVED + ON + undefined(RBX), UNKNOWN),
    Case(UNDEFINED, "undefined rbp: rip known", SAVED + ON + undefined(RBP)),
    # others
    Case(OTHERS, "no rule: rbx", FRAME, KEPT),
    Case(OTHERS, "same_value: rbx", FRAME + ON + same_value(RBX), KEPT),
    Case(OTHERS, "same_value: rbx, after offset", SAVED + ON + same_value(RBX), KEPT),
    Case(
        OTHERS, "same_value: rbx, after undefined", SAVED + ON + undefined(RBX) + ON + same_value(RBX), KEPT
    ),
    Case(
        OTHERS, "register: rbx in r12", FRAME + ON + _with(C.REGISTER, RBX, R12), Answer("caller", 0, "r12")
    ),
    Case(OTHERS, "val_offset: rbx", FRAME + ON + _with(C.VAL_OFFSET, RBX, 3), Answer("caller", 0, "CFA-24")),
    Case(
        OTHERS,
        "val_offset_sf: rbx",
        FRAME + ON + _with(C.VAL_OFFSET_SF, RBX) + signed(3),
        Answer("caller", 0, "CFA-24"),
    ),
    Case(
        OTHERS,
        "val_expression: rbx",
        FRAME + ON + _with(C.VAL_EXPRESSION, RBX) + block(LIT24, MINUS),
        Answer("caller", 0, "CFA-24"),
    ),
    Case(OTHERS, "expression: rbx", FRAME + ON + _with(C.EXPRESSION, RBX) + block(LIT16, MINUS)),
    # the CFA
    Case(CFAS, "def_cfa_offset: 72, then 64", SAVED + def_cfa_offset(72) + ON + def_cfa_offset(64)),
    Case(CFAS, "def_cfa: rbp", SAVED + ON + def_cfa(RBP, 64)),
    Case(CFAS, "def_cfa_register: rbp", SAVED + ON + def_cfa_register(RBP)),
    Case(
        CFAS,
        "def_cfa_register: after an offset of 0x123456",
        SAVED + def_cfa_offset(BIG) + ON + def_cfa_register(R14),
    ),
    Case(CFAS, "def_cfa_sf", SAVED + ON + _with(C.DEF_CFA_SF, RBP) + signed(-8)),
    Case(
        CFAS, "def_cfa_offset_sf", SAVED + def_cfa_offset(72) + ON + _with(C.DEF_CFA_OFFSET_SF) + signed(-8)
    ),
    Case(
        CFAS,
        "def_cfa_expression",
        SAVED + ON + _with(C.DEF_CFA_EXPRESSION) + block(BREG7, 64 | 0x80, 0),
    ),
    Case(
        CFAS,
        "def_cfa: after def_cfa_expression",
        SAVED + ON + _with(C.DEF_CFA_EXPRESSION) + block(BREG7, 72 | 0x80, 0) + ON + def_cfa(RSP, 64),
    ),
    # advances
    Case(
        ADVANCES,
        "advance_loc: 0, between two rules of the CFA",
        SAVED + ON + def_cfa_offset(72) + advance(0) + def_cfa_offset(64),
    ),
    Case(ADVANCES, "advance_loc: 0, first", advance(0) + SAVED),
    Case(
        ADVANCES,
        "advance_loc1: 0, between two rules of the CFA",
        SAVED + ON + def_cfa_offset(72) + _with(C.ADVANCE_LOC1) + b"\0" + def_cfa_offset(64),
    ),
    Case(
        ADVANCES,
        "advance_loc1: 8",
        SAVED + bytes([C.ADVANCE_LOC1, 8]) + def_cfa_offset(72) + ON + def_cfa_offset(64),
    ),
    Case(
        ADVANCES,
        "advance_loc2: 8",
        SAVED + bytes([C.ADVANCE_LOC2, 8, 0]) + def_cfa_offset(72) + ON + def_cfa_offset(64),
    ),
    Case(
        ADVANCES,
        "advance_loc4: 8",
        SAVED + bytes([C.ADVANCE_LOC4, 8, 0, 0, 0]) + def_cfa_offset(72) + ON + def_cfa_offset(64),
    ),
    Case(
        ADVANCES,
        "advance_loc2: 0x3c, to the call",
        SAVED + def_cfa_offset(72) + bytes([C.ADVANCE_LOC2, CALL - 4, 0]) + def_cfa_offset(64),
    ),
    Case(ADVANCES, "set_loc", SAVED + def_cfa_offset(72) + SET_LOC + def_cfa_offset(64)),
    Case(
        ADVANCES,
        "advance_loc: a row that begins at the call",
        SAVED + def_cfa_offset(72) + advance(CALL - 4) + def_cfa_offset(64),
    ),
    Case(
        ADVANCES,
        "advance_loc: a row that begins inside the call",
        SAVED + def_cfa_offset(72) + advance(RETURN - 1 - 4) + def_cfa_offset(64),
    ),
    Case(
        ADVANCES,
        "a row behind a call that does not return: begins where the caller goes on",
        SAVED + advance(RETURN - 4) + def_cfa_offset(72) + undefined(RA),
    ),
    # ranges
    Case(RANGES, "no FDE at the pc: a gap between two", b"", END, fdes=(FIRST, (0x50, 0x10, b""))),
    Case(RANGES, "no FDE at the pc: the FDE ends before the code", b"", END, fdes=(FIRST,)),
    Case(RANGES, "two FDEs in one symbol: side by side", b"", fdes=(FIRST, SECOND)),
    Case(RANGES, "two FDEs, a symbol for each: side by side", b"", fdes=(FIRST, SECOND), symbols=True),
    Case(RANGES, "two FDEs in one symbol: a gap between them", b"", fdes=(FIRST, AT_CALL)),
    Case(RANGES, "two FDEs, a symbol for each: a gap between them", b"", fdes=(FIRST, AT_CALL), symbols=True),
    Case(
        RANGES,
        "two FDEs in one symbol: the second begins behind the call",
        b"",
        fdes=((0, RETURN, SAVED), BEHIND),
    ),
    Case(
        RANGES,
        "two FDEs, a symbol for each: the second begins behind the call",
        b"",
        fdes=((0, RETURN, SAVED), BEHIND),
        symbols=True,
    ),
    Case(RANGES, "an FDE that ends behind the call: none follows", b"", fdes=((0, RETURN, SAVED),)),
    Case(
        RANGES,
        "rows behind the FDE's end: ignored",
        SAVED + advance(63) + def_cfa_offset(72) + advance(63) + undefined(RA),
    ),
    # forms
    Case(
        FORMS,
        "code alignment factor: 4",
        _FACTOR_4 + advance(15) + def_cfa_offset(64),
        cie=Cie(code_alignment=4),
    ),
    Case(
        FORMS,
        "data alignment factor: -1",
        FRAME + offset(RBX, 16),
        cie=Cie(data_alignment=-1, instructions=def_cfa(RSP, 8) + offset(RA, 8)),
    ),
    Case(FORMS, "pcrel, sdata4: as compilers write it", SAVED, cie=Cie(encoding=0x1B)),
    Case(FORMS, "pcrel, absptr", SAVED, cie=Cie(encoding=0x10)),
    Case(FORMS, "absptr: by augmentation zR", SAVED, cie=Cie(encoding=0x00)),
    Case(FORMS, "absptr: without augmentation", SAVED, cie=Cie(augmentation=b"", encoding=0x00)),
    Case(FORMS, "absptr: by augmentation z alone", SAVED, cie=Cie(augmentation=b"z", encoding=0x00)),
    Case(FORMS, "64-bit DWARF: CIE pointers of 4 bytes", SAVED, cie=Cie(wide=4)),
    Case(FORMS, "64-bit DWARF: CIE pointers of 8 bytes", SAVED, cie=Cie(wide=8)),
    Case(FORMS, "CIE version 3", SAVED, cie=Cie(version=3)),
    Case(
        FORMS,
        "GNU_args_size: and nops",
        SAVED + _with(C.GNU_ARGS_SIZE, 16) + bytes(3) + ON + def_cfa_offset(64),
    ),
    # what our encoder makes of rows
    _ours("a frame", RIGHT, _ENTRY, (1, _row(16, {RBX: SavedAt(-16)})), (4, _WHOLE)),
    _ours(
        "code that nothing reaches before the call",
        RIGHT,
        _ENTRY,
        (4, _row(72)),
        (8, _UNREACHED),
        (CALL, _WHOLE),
    ),
    _ours("code that nothing reaches first", RIGHT, (0, _UNREACHED), (4, _WHOLE)),
    _ours(
        "code that nothing reaches, again and again",
        RIGHT,
        *((at, _UNREACHED if at % 8 else _WHOLE) for at in range(0, CALL, 4)),
        (CALL, _WHOLE),
    ),
    _ours("a stack that ends", END, _ENTRY, (4, _UNREACHED)),
    _ours("rbx kept, after it was saved", KEPT, _ENTRY, (4, _WHOLE), (8, _row(64))),
    _ours("rbx saved again, after it was unknown", RIGHT, _ENTRY, (4, _LOST), (8, _WHOLE)),
    _ours("rbx unknown", UNKNOWN, _ENTRY, (4, _LOST)),
    _ours(
        "rows that come back soon",
        RIGHT,
        _ENTRY,
        (4, _WHOLE),
        (8, _row(72)),
        (12, _WHOLE),
        (16, _row(72)),
        (20, _WHOLE),
    ),
    _ours("a CFA by rbp", RIGHT, _ENTRY, (4, Row(CfaRule(RBP, 64), _WHOLE.rules))),
    # the last: who remembers rows by program counter is asked about it alone
    Case(
        SIGNALS,
        "zRS, a signal frame: its caller's row is looked for at the pc, not before it",
        SAVED,
        Answer("caller", 0, "signal"),
        Cie(augmentation=b"zRS"),
    ),
)
