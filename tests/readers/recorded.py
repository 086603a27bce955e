"""What the readers do otherwise than the standard says, as docs/readers.md has it; and what follows for an encoder.

The tests hold every reader to this, and `make readers` makes the page's table of the readers themselves.
"""

from collections.abc import Iterator, Mapping

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.dwarf import decode
from jitunwind.dwarf.constants import CallFrame
from jitunwind.dwarf.decode import Cursor
from tests.readers.cases import CASES, END, RA, RBP, Answer

AS_SAID = "✓"
"""What the standard says."""

DECODER = "jitunwind's decoder"
"""It prints tables, and unwinds nothing."""
NOT_ASKED, REFUSED = "not asked", "refused"

DIFFERENT: Mapping[str, Mapping[str, str]] = {
    "restore to offset: rip, after undefined": {"libgcc": "loops", "LLVM's libunwind": "loops"},
    "restore_extended to offset: rip, after undefined": {"libgcc": "loops", "LLVM's libunwind": "loops"},
    "restore to offset: rip, with no other rule before": {"libgcc": "loops", "LLVM's libunwind": "loops"},
    "restore to offset: rbx, after same_value": {
        "libgcc": "rbx unchanged",
        "LLVM's libunwind": "rbx unchanged",
    },
    "restore to offset: rbx, after another offset": {
        "libgcc": "rbx unchanged",
        "LLVM's libunwind": "rbx unchanged",
    },
    "restore to offset: rbx, after undefined": {
        "libgcc": "rbx unchanged",
        "LLVM's libunwind": "rbx unchanged",
    },
    "restore_extended to offset: rbx, after same_value": {
        "libgcc": "rbx unchanged",
        "LLVM's libunwind": "rbx unchanged",
    },
    "restore to no rule: rbx, after offset": {
        "libdw": "rbx unknown",
        "LLDB 14": "rbx from CFA−16",
        "perf 7.2": "rbx unknown",
    },
    "restore to undefined: rbx, after offset": {
        "libgcc": "rbx unchanged",
        "LLVM's libunwind": "rbx unchanged",
    },
    "GNU_negative_offset_extended: rbx": {"LLDB": "rbx unchanged"},
    "no rule: rbx, by restore_state": {"libdw": "rbx unknown", "perf 7.2": "rbx unknown"},
    "undefined of a register: rbx": {"libgcc": "rbx unchanged", "LLVM's libunwind": "rbx 0"},
    "undefined of a register: rbx, after offset": {"libgcc": "rbx unchanged", "LLVM's libunwind": "rbx 0"},
    "undefined rbp: rip known": {"libunwind": "ends", "perf 6.1": "ends"},
    "no rule: rbx": {"libdw": "rbx unknown", "perf 7.2": "rbx unknown"},
    "val_offset: rbx": {
        "libunwind": "rbx unchanged",
        "LLVM's libunwind": "crashes",
        "LLDB": "rbx unchanged",
        "perf 6.1": "rbx unchanged",
        "jitunwind's decoder": "refused",
    },
    "val_offset_sf: rbx": {
        "libunwind": "rbx unchanged",
        "LLVM's libunwind": "crashes",
        "LLDB": "rbx unchanged",
        "perf 6.1": "rbx unchanged",
        "jitunwind's decoder": "refused",
    },
    "val_expression: rbx": {"jitunwind's decoder": "refused"},
    "expression: rbx": {"jitunwind's decoder": "refused"},
    "def_cfa_expression": {"jitunwind's decoder": "refused"},
    "set_loc": {
        "LLVM's libunwind 14": "CFA +8",
        "LLVM's libunwind 19": "ends",
        "LLVM's libunwind 23": "ends",
        "GDB": "crashes",
        "LLDB": "CFA +8",
    },
    "a row behind a call that does not return: begins where the caller goes on": {"LLDB 14": "ends"},
    "no FDE at the pc: a gap between two": {
        "libunwind": "CFA −48",
        "LLVM's libunwind": "ends before it",
        "libdw": "CFA −48",
        "GDB 13": "CFA −56",
        "GDB 18": "CFA −48",
        "LLDB": "CFA +8",
        "perf": "CFA −48",
    },
    "no FDE at the pc: the FDE ends before the code": {
        "libunwind": "CFA −48",
        "LLVM's libunwind": "ends before it",
        "libdw": "CFA −48",
        "GDB 13": "CFA −56",
        "GDB 18": "CFA −48",
        "LLDB": "CFA +8",
        "perf": "CFA −48",
    },
    "two FDEs in one symbol: side by side": {"LLDB": "CFA +8"},
    "two FDEs in one symbol: a gap between them": {"LLDB": "CFA +8"},
    "rows behind the FDE's end: ignored": {"jitunwind's decoder": "refused"},
    "absptr: by augmentation zR": {"perf": "not asked"},
    "absptr: without augmentation": {"perf": "not asked"},
    "absptr: by augmentation z alone": {"perf": "not asked"},
    "64-bit DWARF: CIE pointers of 4 bytes": {
        "libgcc": "ends",
        "libunwind": "crashes",
        "libdw": "CFA −48",
        "GDB 13": "CFA −56",
        "GDB 18": "CFA −48",
        "LLDB": "CFA −48",
        "perf 6.1": "ends",
        "perf 7.2": "CFA −48",
    },
    "64-bit DWARF: CIE pointers of 8 bytes": {
        "libgcc": "ends",
        "LLVM's libunwind": "ends before it",
        "jitunwind's decoder": "refused",
    },
    "jitunwind: rbx unknown": {"libgcc": "rbx unchanged", "LLVM's libunwind": "rbx 0"},
    "zRS, a signal frame: its caller's row is looked for at the pc, not before it": {
        "LLVM's libunwind": "as if called"
    },
}
"""By a case's name and a reader's, with its version where they differ."""

TOLERATED: Mapping[str, str] = {
    "undefined of a register": "there is no other way to say it: libgcc takes it for kept, LLVM's libunwind for 0",
    "undefined rbp": "there is no other way to say it: nongnu libunwind and perf 6.1 end the stack there",
    "restore to no rule of a scratch register": "nobody asks for a register that a call clobbers",
    "restore_extended to no rule of a scratch register": "nobody asks for a register that a call clobbers",
}
"""Not portable, and written nevertheless: the reason."""


def recorded(case: str, reader: str, version: str) -> str:
    """What that version of a reader makes of a case."""
    said = DIFFERENT.get(case, {})
    return said.get(f"{reader} {version}", said.get(reader, AS_SAID))


def words(answer: Answer, standard: Answer) -> str:
    """An answer as the page has it."""
    if answer == standard or answer.ra == standard.ra == END.ra:
        return AS_SAID
    if answer.ra == "itself":
        return "loops"
    if answer.ra == END.ra:
        return "ends"
    if answer.ra == "lost":
        return "ends before it"
    if answer.ra == "crash":
        return "crashes"
    if answer.ra != "caller" and answer.cfa is None:
        return answer.ra
    wrong = []
    if answer.cfa:
        wrong.append(f"CFA {answer.cfa:+d}".replace("-", "−"))
    elif answer.ra != "caller":
        wrong.append("wrong caller")
    if answer.ra == "caller" and answer.rbx != standard.rbx:
        rbx = {"kept": "unchanged", "unknown": "unknown", "zero": "0", "saved": "from CFA−16"}
        is_signal = standard.rbx == "signal"
        wrong.append("as if called" if is_signal else f"rbx {rbx.get(answer.rbx or '', answer.rbx)}")
    return ", ".join(wrong)


def portable() -> set[str]:
    """What every reader does as the standard says, in each case that shows it. Our own decoder's refusals do not count:
    it has no rows for expressions."""
    shown = {case.shows for case in CASES}
    return shown - {
        case.shows for case in CASES if set(DIFFERENT.get(case.name, {}).values()) - {NOT_ASKED, REFUSED}
    }


def uses_in(frames: bytes, address: int) -> set[str]:
    """The uses of instructions in an `.eh_frame` section at `address`, by what cases call them."""
    found = set()
    for fde in decode.eh_frame(frames, address):
        initial: dict[int, str] = {}
        for use, register, kind in _uses(fde.cie.instructions, {}):
            found.add(use)
            if kind:
                initial[register] = kind
        found |= {use for use, _, _ in _uses(fde.instructions, initial)}
    return found - {"nop"}


_OPERANDS = {
    CallFrame.ADVANCE_LOC1: "1",
    CallFrame.ADVANCE_LOC2: "2",
    CallFrame.ADVANCE_LOC4: "4",
    CallFrame.OFFSET_EXTENDED: "uu",
    CallFrame.RESTORE_EXTENDED: "u",
    CallFrame.UNDEFINED: "u",
    CallFrame.SAME_VALUE: "u",
    CallFrame.REGISTER: "uu",
    CallFrame.REMEMBER_STATE: "",
    CallFrame.RESTORE_STATE: "",
    CallFrame.DEF_CFA: "uu",
    CallFrame.DEF_CFA_REGISTER: "u",
    CallFrame.DEF_CFA_OFFSET: "u",
    CallFrame.OFFSET_EXTENDED_SF: "uu",
    CallFrame.DEF_CFA_SF: "uu",
    CallFrame.DEF_CFA_OFFSET_SF: "u",
    CallFrame.NOP: "",
}
"""DWARF 5 section 7.24; u: LEB128, of either sign. An instruction that is not here is none that we write."""
_KINDS = {"offset": "offset", "offset_extended": "offset", "offset_extended_sf": "offset"}
_KEPT = (*X86_64.callee_saved, X86_64.return_address)
_STATES = "remember_state, restore_state"


def _uses(code: bytes, initial: Mapping[int, str]) -> Iterator[tuple[str, int, str]]:
    """(use, register or the first operand, kind of rule that the register has then) of each instruction."""
    cursor = Cursor(code, 0)
    while cursor.at < len(code):
        byte = cursor.unsigned(1)
        opcode = CallFrame(byte & 0xC0 or byte)
        operands = [byte & 0x3F] if byte & 0xC0 else []
        if opcode == CallFrame.OFFSET:
            operands.append(cursor.uleb())
        for kind in _OPERANDS[opcode] if not byte & 0xC0 else "":
            operands.append(cursor.uleb() if kind == "u" else cursor.unsigned(int(kind)))
        name, register = opcode.name.lower(), operands[0] if operands else -1
        if opcode in (CallFrame.RESTORE, CallFrame.RESTORE_EXTENDED):
            to = initial.get(register, "no rule" if register in _KEPT else "no rule of a scratch register")
            yield f"{name} to {to}", register, ""
        elif opcode in (CallFrame.REMEMBER_STATE, CallFrame.RESTORE_STATE):
            yield _STATES, -1, ""
        elif opcode == CallFrame.UNDEFINED:
            which = {RA: "undefined rip", RBP: "undefined rbp"}.get(register, "undefined of a register")
            yield which, register, "undefined"
        else:
            rule = _KINDS.get(name, name if name in ("same_value", "register") else "")
            yield name, register, rule
