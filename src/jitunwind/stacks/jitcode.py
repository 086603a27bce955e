"""The JIT code on the stacks: its rules for `walk`, and what a frame in it is called, by what JITs tell of it."""

from collections.abc import Callable

from jitunwind.arch.known import decoder
from jitunwind.jits import Code
from jitunwind.jits.known import UNKNOWN_NAME, Jits
from jitunwind.jits.optional import EntersByCall, Fallback, Positions
from jitunwind.region import Region, RegionKind
from jitunwind.rows import Row, UnwindTable
from jitunwind.stacks.model import Extent, Frame, FrameKind
from jitunwind.stacks.native import NoRules, Rules, rules_of_row
from jitunwind.stacks.walk import RawFrame


class JitFrames:
    """The frames in code of `jits`. `is_unchanged(start, size)`: whether code that stood still is in memory still, so
    that what the process says of it now is true of it (None: nothing changes)."""

    def __init__(self, jits: Jits, is_unchanged: Callable[[int, int], bool] | None = None) -> None:
        self._jits, self._is_unchanged = jits, is_unchanged
        self._fallback = jits.telling(Fallback)
        self._codes: dict[int, Code | None] = {}
        self._at: dict[tuple[int, bool], Code | None] = {}
        self._tables: dict[int, UnwindTable] = {}
        self._held: dict[int, bool] = {}

    # Rules

    def rules_at(self, pc: int, at_pc: bool) -> Rules | NoRules | None:
        if not self._may_hold(pc):
            return None
        code = self._code_at(pc, at_pc)
        if code is None:
            return NoRules(f"no JIT of this process says what code there is at {pc:#x}")
        row = self._table(code).at_return_address(pc - code.start)
        return rules_of_row(row) if isinstance(row, Row) else NoRules(f"at {pc:#x}: {row.reason}")

    def _may_hold(self, pc: int) -> bool:
        """Whether `pc` may be in JIT code: asked once, as deep stacks have few program counters."""
        held = self._held.get(pc)
        if held is None:
            held = self._held[pc] = self._jits.may_hold(pc) is not None
        return held

    def _table(self, code: Code) -> UnwindTable:
        table = self._tables.get(code.start)
        if table is None:
            decode = decoder(self._jits.architecture)
            table = self._tables[code.start] = self._jits.recovered(code, decode)
        return table

    def caller_of_unknown(self, frame: RawFrame) -> tuple[int, int] | None:
        if self._fallback is None or not self._may_hold(frame.pc):
            return None
        return self._fallback.unwind_unknown(frame.pc, frame.registers.get)

    def _code_at(self, pc: int, at_pc: bool) -> Code | None:
        """The code of a frame at `pc`; None, if it is not in any that is known."""
        key = pc, at_pc
        if key not in self._at:
            found = self._found(pc)
            if found is None and not at_pc:  # the call is the last of its code
                found = self._found(pc - 1)
            self._at[key] = found
        return self._at[key]

    def _found(self, pc: int) -> Code | None:
        """Not code that has come since, at the place of some that has gone. Code with a gate of its own, such as
        CPython 3.14's, says itself what it is."""
        code = self._jits.find(pc) if self._jits.may_hold(pc) is not None else None
        if code is None or code.gate_size or self._is_unchanged is None:
            return code
        if code.start not in self._codes:
            self._codes[code.start] = code if self._is_unchanged(code.start, code.size) else None
        return self._codes[code.start]

    # Names

    def frame(self, raw: RawFrame, below: Code | None) -> tuple[Frame, Code | None] | None:
        """The frame, and its code, if that is a JIT's and no gate; None, if it is not a JIT's. `below`: the code of
        the frame that it has called."""
        is_held = self._may_hold(raw.pc)
        code = self._code_at(raw.pc, raw.at_pc) if is_held else None
        if code is None:
            found = self._gate(raw, below) if below is not None else None
            if found is None and is_held:
                found = self._of_nobody(raw)
            return None if found is None else (found, None)
        place = raw.pc if raw.at_pc else raw.pc - 1
        pieces = self._jits.pieces(code)
        piece = next((piece for piece in pieces if place in piece), pieces[0])
        frame = _frame(raw, piece)
        if frame.kind is not FrameKind.JIT:
            return frame, None
        return self._positioned(raw, frame, code, place), code

    def _positioned(self, raw: RawFrame, frame: Frame, code: Code, place: int) -> Frame:
        """Which function runs there, and where."""
        telling = self._jits.teller(code, Positions)
        if telling is not None:
            found = telling.position(code, raw.pc, raw.at_pc, raw.registers.get)
            return frame._replace(
                function=found.function,
                trace=found.trace,
                inlined=found.is_inlined,
                file=found.file,
                line=found.line,
            )
        before = [line for line in self._jits.lines(code) if line.offset <= place - code.start]
        return frame._replace(file=before[-1].filename, line=before[-1].line) if before else frame

    def _gate(self, raw: RawFrame, below: Code) -> Frame | None:
        """The caller of JIT code, if it is a gate that is code of a file."""
        entering, gate = self._jits.teller(below, EntersByCall), self._jits.gate_at(raw.pc)
        if gate is not None:
            return _frame(raw, gate)._replace(kind=FrameKind.SHIM)
        name = entering.gate_name if entering is not None and not entering.gates() else None
        return None if name is None else Frame(raw.pc, raw.sp, FrameKind.SHIM, name)

    def _of_nobody(self, raw: RawFrame) -> Frame | None:
        """Executable memory that no JIT knows."""
        piece = self._jits.unknown_piece(raw.pc)
        return None if piece is None else _frame(raw, piece)


def is_known(frame: Frame) -> bool:
    """Whether the frame is in JIT code that somebody knows, or enters it."""
    return frame.kind in (FrameKind.JIT, FrameKind.SHIM) and frame.name != UNKNOWN_NAME


def _frame(raw: RawFrame, piece: Region) -> Frame:
    kind = FrameKind.JIT if piece.kind is RegionKind.JIT else FrameKind.SHIM
    return Frame(raw.pc, raw.sp, kind, piece.name, region=Extent(piece.start, piece.size))
