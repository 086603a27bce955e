"""The unwinder: for each frame that GDB meets in JIT code, the row that holds there, evaluated."""

import gdb
import gdb.unwinder

from jitunwind.arch import Architecture
from jitunwind.errors import JitunwindError
from jitunwind.gdbplugin.session import is_general, name_of, session
from jitunwind.jits.known import Jits
from jitunwind.jits.optional import Fallback
from jitunwind.memory import Mapping
from jitunwind.rows import (
    WORD,
    InRegister,
    RegisterRule,
    Row,
    SameValue,
    SavedAt,
    cfa_of,
)

_MASK = 0xFFFFFFFFFFFFFFFF


class _FrameId:
    """As gdb.UnwindInfo wants it: the CFA, and the start of the code."""

    def __init__(self, sp: int, pc: int) -> None:
        self.sp = gdb.Value(sp)
        self.pc = gdb.Value(pc)


class JitUnwinder(gdb.unwinder.Unwinder):
    def __init__(self) -> None:
        super().__init__("jitunwind")

    def __call__(self, pending_frame: gdb.PendingFrame) -> gdb.UnwindInfo | None:
        try:
            return _unwind(pending_frame)
        except Exception as error:  # GDB must not see any: it would abort the user's command
            session().count(f"{type(error).__name__}: {error}")
            return None


def _unwind(pending_frame: gdb.PendingFrame) -> gdb.UnwindInfo | None:
    current = session()
    jits = current.jits()
    if jits is None:
        return None
    arch = jits.architecture
    pc = int(pending_frame.read_register(name_of(arch.program_counter, arch)))
    mapping = jits.may_hold(pc)
    if mapping is None:
        return None
    code = jits.find(pc)
    if code is None and pending_frame.level():  # a call may be the last of its code
        code = jits.find(pc - 1)
    if code is None:
        return _of_unknown_code(pending_frame, jits, mapping, pc)
    row = current.table(code).at_return_address(pc - code.start)
    if not isinstance(row, Row):
        current.count(f"at {pc:#x}: {row.reason}")
        return None
    return _evaluate(pending_frame, arch, row, code.function_at(pc))


def _of_unknown_code(
    pending_frame: gdb.PendingFrame, jits: Jits, mapping: Mapping, pc: int
) -> gdb.UnwindInfo | None:
    """Code that no list of the process leads to: invalidated while it runs, or the lists are damaged, or another
    JIT's."""
    arch, fallback = jits.architecture, jits.telling(Fallback)

    def read(register: int) -> int | None:
        value = _value(pending_frame, name_of(register, arch))
        return None if value is None else int(value) & _MASK

    found = fallback.unwind_unknown(pc, read) if fallback is not None else None
    if found is None:
        session().count(f"no JIT of this process says what code there is at {pc:#x}")
        return None
    cfa, back = found
    info = pending_frame.create_unwind_info(_FrameId(cfa, mapping.start))
    name = name_of(arch.frame_pointer, arch)
    info.add_saved_register(name, _value(pending_frame, name))
    return _returning(info, arch, cfa, back)


def _evaluate(
    pending_frame: gdb.PendingFrame, arch: Architecture, row: Row, function: int
) -> gdb.UnwindInfo | None:
    base = int(pending_frame.read_register(name_of(row.cfa.register, arch))) & _MASK
    cfa = cfa_of(row, {row.cfa.register: base})
    info = pending_frame.create_unwind_info(_FrameId(cfa, function))
    back = None
    for register, rule in row.rules:
        value = _before(pending_frame, arch, cfa, register, rule)
        if value is None:
            continue
        if register == arch.return_address:
            back = int(value) & _MASK
        else:
            info.add_saved_register(name_of(register, arch), value)
    if back is None:
        session().count(f"the return address is not known in the code at {function:#x}")
        return None
    if row.signed is not None:
        back = arch.without_signature(back)
    return _returning(info, arch, cfa, back)


def _returning(info: gdb.UnwindInfo, arch: Architecture, cfa: int, back: int) -> gdb.UnwindInfo:
    """`info` with what is always known: where control comes back to, and the stack pointer there."""
    for register in {arch.return_address, arch.program_counter}:
        info.add_saved_register(name_of(register, arch), gdb.Value(back))
    info.add_saved_register(name_of(arch.stack_pointer, arch), gdb.Value(cfa))
    return info


def _before(
    pending_frame: gdb.PendingFrame, arch: Architecture, cfa: int, register: int, rule: RegisterRule
) -> gdb.Value | None:
    """A register of the caller; None, where it is not known."""
    if isinstance(rule, SavedAt):
        saved = session().memory.word(cfa + rule.offset)
        return (
            gdb.Value(saved) if is_general(register, arch) else _widened(pending_frame, register, arch, saved)
        )
    if isinstance(rule, SameValue):
        return _value(pending_frame, name_of(register, arch), is_general(register, arch))
    if isinstance(rule, InRegister) and is_general(register, arch) and is_general(rule.register, arch):
        value = _value(pending_frame, name_of(rule.register, arch))
        return None if value is None else gdb.Value(int(value))
    return None


def _widened(
    pending_frame: gdb.PendingFrame, register: int, arch: Architecture, low: int
) -> gdb.Value | None:
    """The vector register whose low word that is, as GDB has it: what its high word was, nobody has saved."""
    try:
        kind = pending_frame.read_register(name_of(register, arch)).type
        return gdb.Value(low.to_bytes(WORD, "little").ljust(kind.sizeof, b"\0"), kind)
    except (gdb.error, ValueError):
        return None


def _value(pending_frame: gdb.PendingFrame, name: str, general: bool = True) -> gdb.Value | None:
    """A register that an inner frame may not have saved; GDB raises then, or gives an optimized-out value."""
    try:
        value = pending_frame.read_register(name)
        if general:
            int(value)
        elif value.is_optimized_out:
            return None
    except (gdb.error, JitunwindError):
        return None
    return value
