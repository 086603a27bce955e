"""The unwinder: for each frame that GDB meets in JIT code, the row that holds there, evaluated."""

import gdb
import gdb.unwinder

from jitunwind.arch.x86_64.registers import RBP
from jitunwind.cpython.regions import FRAME_POINTER_ROW, Regions
from jitunwind.errors import JitunwindError
from jitunwind.gdbplugin.session import ARCHITECTURE, session
from jitunwind.rows import WORD, InRegister, Row, SameValue, SavedAt, cfa_of

_NAMES = ARCHITECTURE.register_names
_PC = _NAMES[ARCHITECTURE.return_address]
_SP = _NAMES[ARCHITECTURE.stack_pointer]


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
    regions = current.regions()
    if regions is None:
        return None
    pc = int(pending_frame.read_register(_PC))
    if regions.may_hold(pc) is None:
        return None
    jit_code = regions.find(pc)
    if jit_code is None:
        return _of_unknown_executor(pending_frame, regions, pc)
    table = current.table(jit_code)
    row = table.at_return_address(pc - jit_code.start)
    if not isinstance(row, Row):
        current.count(f"at {pc:#x}: {row.reason}")
        return None
    in_shim = pc - jit_code.start < jit_code.shim_size
    function = jit_code.start if in_shim else jit_code.start + jit_code.shim_size
    return _evaluate(pending_frame, row, function)


def _of_unknown_executor(pending_frame: gdb.PendingFrame, regions: Regions, pc: int) -> gdb.UnwindInfo | None:
    """JIT code that no list of the process leads to (invalidated while it runs, or the lists are damaged):
    by the frame pointer, where it is a body's that 3.15's shim has called."""
    shim, mapping = regions.entry_shim, regions.may_hold(pc)
    if shim is not None and mapping is not None:
        frame_pointer = int(pending_frame.read_register("rbp")) & 0xFFFFFFFFFFFFFFFF
        try:
            back = session().memory.word(cfa_of(FRAME_POINTER_ROW, {RBP: frame_pointer}) - WORD)
        except JitunwindError:
            back = 0
        if back in shim:
            return _evaluate(pending_frame, FRAME_POINTER_ROW, mapping.start)
    session().count(f"no executor is known at {pc:#x}")
    return None


def _evaluate(pending_frame: gdb.PendingFrame, row: Row, function: int) -> gdb.UnwindInfo:
    def read(register: int) -> int:
        return int(pending_frame.read_register(_NAMES[register])) & 0xFFFFFFFFFFFFFFFF

    cfa = cfa_of(row, {row.cfa.register: read(row.cfa.register)})
    info = pending_frame.create_unwind_info(_FrameId(cfa, function))
    memory = session().memory
    for register, rule in row.rules:
        name = _NAMES[register]
        if isinstance(rule, SavedAt):
            info.add_saved_register(name, gdb.Value(memory.word(cfa + rule.offset)))
        elif isinstance(rule, SameValue):
            value = _value(pending_frame, name)
            if value is not None:
                info.add_saved_register(name, value)
        elif isinstance(rule, InRegister):
            value = _value(pending_frame, _NAMES[rule.register])
            if value is not None:
                info.add_saved_register(name, gdb.Value(int(value)))
    info.add_saved_register(_SP, gdb.Value(cfa))
    return info


def _value(pending_frame: gdb.PendingFrame, name: str) -> gdb.Value | None:
    """A register that an inner frame may not have saved; GDB raises then, or gives an optimized-out value."""
    try:
        value = pending_frame.read_register(name)
        int(value)
    except (gdb.error, JitunwindError):
        return None
    return value
