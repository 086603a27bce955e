"""Call frame information, decoded: `.eh_frame` or `.debug_frame` bytes in, CIEs, FDEs and unwind tables out.

Own code, so that it can witness against binutils, LLVM and pyelftools; it knows no ELF and no process, and
the bytes may be anybody's: whatever they hold, the answer is a table or `MalformedFrames`.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from struct import Struct
from typing import NamedTuple

from jitunwind.dwarf.constants import OMITTED, CallFrame, PointerBase, PointerFormat
from jitunwind.errors import MalformedFrames
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    CfaPlus,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SavedAt,
    Signed,
    Unknown,
    UnwindTable,
)

_MASK = (1 << 64) - 1
_FIXED: dict[int, Struct] = {
    PointerFormat.ABSPTR: Struct("<Q"),
    PointerFormat.UDATA2: Struct("<H"),
    PointerFormat.UDATA4: Struct("<I"),
    PointerFormat.UDATA8: Struct("<Q"),
    PointerFormat.SDATA2: Struct("<h"),
    PointerFormat.SDATA4: Struct("<i"),
    PointerFormat.SDATA8: Struct("<q"),
}
_UNDECIDED = Unknown("the CFA is not defined")


class Expression(NamedTuple):
    """A DWARF expression (DWARF 5 section 2.5): where the register is saved, or, `is_value`, what its value is. Of a
    CFA it is always the value."""

    code: bytes
    is_value: bool


FrameRule = RegisterRule | Expression | CfaPlus


class FrameState(NamedTuple):
    """The rules at one program counter as the call frame machine has them: a `Row` and what no row can say. A register
    that is not listed is undefined."""

    cfa: CfaRule | Expression | Unknown
    rules: tuple[tuple[int, FrameRule], ...]
    signed: Signed | None = None


class Cie(NamedTuple):
    """A common information entry (DWARF 5 section 6.4.1); `offset` is its place in the section."""

    offset: int
    version: int
    augmentation: str
    code_alignment: int
    data_alignment: int
    return_register: int
    pointer_encoding: int
    lsda_encoding: int
    personality: int | None
    signal_frame: bool
    instructions: bytes


class Fde(NamedTuple):
    """A frame description entry: the code [start, start + size) and how to unwind it.

    `lsda` is the address of the function's exception table; `offset` the entry's place in the section,
    `instructions_address` that of its instructions in memory (for DW_CFA_set_loc).
    """

    offset: int
    cie: Cie
    start: int
    size: int
    lsda: int | None
    instructions: bytes
    instructions_address: int


class Cursor:
    """Reads the primitive types of DWARF (section 7.6) from `data`, which is at `address` in memory."""

    __slots__ = ("address", "at", "data", "end")

    def __init__(self, data: bytes, address: int, at: int = 0, end: int | None = None) -> None:
        self.data, self.address, self.at = data, address, at
        self.end = len(data) if end is None else min(end, len(data))

    def take(self, size: int) -> bytes:
        at = self.at
        if not 0 <= size <= self.end - at:
            raise MalformedFrames(f"{size} bytes wanted at +{at:#x}, {self.end - at} are left")
        self.at = at + size
        return self.data[at : at + size]

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def uleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.unsigned(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value & _MASK

    def sleb(self) -> int:
        value = shift = 0
        while True:
            byte = self.unsigned(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value - (1 << shift) if byte & 0x40 else value

    def string(self) -> str:
        end = self.data.find(b"\0", self.at, self.end)
        if end < 0:
            raise MalformedFrames(f"a string at +{self.at:#x} has no end")
        text = self.data[self.at : end].decode("latin-1")
        self.at = end + 1
        return text

    def pointer(self, encoding: int, function: int = 0) -> int | None:
        """An encoded pointer; None for one that is omitted. An indirect one is the address of its slot."""
        if encoding == OMITTED:
            return None
        base_kind = encoding & 0x70
        if base_kind == PointerBase.ALIGNED:
            self.take(-(self.address + self.at) % 8)
            return self.unsigned(8)
        place = self.address + self.at
        value = self._raw(encoding & 0x0F)
        if value == 0 or base_kind == PointerBase.ABSOLUTE:
            return value & _MASK
        if base_kind == PointerBase.PCREL:
            return value + place & _MASK
        if base_kind == PointerBase.FUNCREL:
            return value + function & _MASK
        raise MalformedFrames(f"pointer encoding {encoding:#x} needs a base that is not known here")

    def _raw(self, kind: int) -> int:
        if kind == PointerFormat.ULEB128:
            return self.uleb()
        if kind == PointerFormat.SLEB128:
            return self.sleb()
        fixed = _FIXED.get(kind)
        if fixed is None:
            raise MalformedFrames(f"pointer format {kind:#x} is none of the LSB's")
        value: int = fixed.unpack(self.take(fixed.size))[0]
        return value


def eh_frame(data: bytes, address: int) -> Iterator[Fde]:
    """The FDEs of an `.eh_frame` section (LSB core 5.0, section 10.6) that lies at `address`."""
    cies: dict[int, Cie] = {}
    for offset, body, end, identity, width in _entries(data, is_eh=True):
        if identity == 0:
            continue
        at = body - width - identity  # the CIE pointer counts back from itself
        if at not in cies:
            cies[at] = _cie(data, address, at, is_eh=True)
        yield _fde(data, address, offset, body, end, cies[at])


def fde_at(read: Callable[[int, int], bytes], address: int) -> Fde:
    """The FDE that begins at `address` in memory, in an `.eh_frame`; its `offset` is 0. `read(address, size)` gives up
    to `size` bytes: fewer, where memory ends. MalformedFrames, and what `read` raises."""
    data = _entry_at(read, address)
    body, end, width = _extent(data, 0, is_eh=True)
    cie_address = address + body - int.from_bytes(data[body : body + width], "little")
    if end == body or cie_address == address + body:
        raise MalformedFrames(f"the entry at {address:#x} is no FDE")
    cie = _cie(_entry_at(read, cie_address), cie_address, 0, is_eh=True)
    return _fde(data, address, 0, body + width, end, cie)


def _entry_at(read: Callable[[int, int], bytes], address: int) -> bytes:
    """The bytes of one entry, and maybe some more."""
    data = read(address, _USUAL_ENTRY)
    length = int.from_bytes(data[:4], "little") + 4
    if length == 0x1_0000_0003:
        length = int.from_bytes(data[4:12], "little") + 12
    if length > _LARGEST_ENTRY:
        raise MalformedFrames(f"the entry at {address:#x} has {length:#x} bytes")
    return data if length <= len(data) else read(address, length)


_USUAL_ENTRY = 256
_LARGEST_ENTRY = 1 << 24


def alone(data: bytes, address: int, fde: Fde) -> tuple[int, bytes]:
    """An FDE of the `.eh_frame` at `address`, with its CIE, as an `.eh_frame` of its own: where it has to lie, so
    that what the FDE says relative to its own place stays true, and its bytes."""
    entries = []
    for offset in (fde.cie.offset, fde.offset):
        body, end, _ = _extent(data, offset, is_eh=True)
        entries.append((bytearray(data[offset:end]), body - offset))
    (cie, _), (entry, pointer) = entries
    entry[pointer : pointer + 4] = (len(cie) + pointer).to_bytes(4, "little")
    return address + fde.offset - len(cie), bytes(cie + entry)


def debug_frame(data: bytes) -> Iterator[Fde]:
    """The FDEs of a `.debug_frame` section (DWARF 5, section 6.4.1)."""
    cies: dict[int, Cie] = {}
    for offset, body, end, identity, width in _entries(data, is_eh=False):
        if identity == (1 << 8 * width) - 1:
            continue
        if identity not in cies:
            cies[identity] = _cie(data, 0, identity, is_eh=False)
        yield _fde(data, 0, offset, body, end, cies[identity])


def _entries(data: bytes, is_eh: bool) -> Iterator[tuple[int, int, int, int, int]]:
    """Each entry as (offset, offset behind its CIE pointer, end, CIE pointer, width of that)."""
    offset = 0
    while offset + 4 <= len(data):
        body, end, width = _extent(data, offset, is_eh)
        if end == body:  # a terminator; crtend.o's is the section's last, ld -r may leave others
            offset = end
            continue
        yield offset, body + width, end, int.from_bytes(data[body : body + width], "little"), width
        offset = end


def _extent(data: bytes, offset: int, is_eh: bool) -> tuple[int, int, int]:
    """Where the entry at `offset` has its CIE pointer, where it ends, and the pointer's width: as wide as the
    length in `.debug_frame` (DWARF 5 section 7.4), always 4 in `.eh_frame` (LSB core 5.0, section 10.6.1)."""
    cursor = Cursor(data, 0, offset)
    length, width = cursor.unsigned(4), 4
    if length == 0xFFFFFFFF:
        length, width = cursor.unsigned(8), 4 if is_eh else 8
    if length and not width <= length <= len(data) - cursor.at:
        raise MalformedFrames(f"the entry at +{offset:#x} has {length:#x} bytes, which is not in the section")
    return cursor.at, cursor.at + length, width


def _cie(data: bytes, address: int, offset: int, is_eh: bool) -> Cie:
    if not 0 <= offset < len(data):
        raise MalformedFrames(f"a CIE at {offset:+#x} is outside the section")
    body, end, width = _extent(data, offset, is_eh)
    cursor = Cursor(data, address, body, end)
    identity = cursor.unsigned(width)
    if identity != (0 if is_eh else (1 << 8 * width) - 1):
        raise MalformedFrames(f"the entry at +{offset:#x} is no CIE")
    version = cursor.unsigned(1)
    if version not in (1, 3, 4):
        raise MalformedFrames(f"the CIE at +{offset:#x} has version {version}")
    augmentation = cursor.string()
    if version == 4 and (cursor.unsigned(1), cursor.unsigned(1)) != (8, 0):
        raise MalformedFrames(f"the CIE at +{offset:#x} has addresses that are not flat and 64-bit")
    code, factor = cursor.uleb(), cursor.sleb()
    return_register = cursor.unsigned(1) if version == 1 else cursor.uleb()
    pointer, lsda, personality, signal = int(PointerFormat.ABSPTR), OMITTED, None, False
    if augmentation:
        if augmentation[0] != "z":
            raise MalformedFrames(f"the CIE at +{offset:#x} has the augmentation {augmentation!r}")
        size = cursor.uleb()
        behind = cursor.at + size
        for letter in augmentation[1:]:
            if letter == "R":
                pointer = cursor.unsigned(1)
            elif letter == "P":
                personality = cursor.pointer(cursor.unsigned(1))
            elif letter == "L":
                lsda = cursor.unsigned(1)
            elif letter == "S":
                signal = True
            elif letter not in "BG":  # AArch64: return addresses signed with key B; tagged frames
                break
        cursor.at = behind
    instructions = cursor.take(end - cursor.at)
    return Cie(
        offset,
        version,
        augmentation,
        code,
        factor,
        return_register,
        pointer,
        lsda,
        personality,
        signal,
        instructions,
    )


def _fde(data: bytes, address: int, offset: int, body: int, end: int, cie: Cie) -> Fde:
    cursor = Cursor(data, address, body, end)
    start = cursor.pointer(cie.pointer_encoding)
    size = cursor.pointer(cie.pointer_encoding & 0x0F)
    if start is None or size is None:
        raise MalformedFrames(f"the FDE at +{offset:#x} has no range")
    lsda = None
    if cie.augmentation:
        behind = cursor.uleb()
        behind += cursor.at
        lsda = cursor.pointer(cie.lsda_encoding, start) or None
        cursor.at = behind
    at = cursor.at
    return Fde(offset, cie, start, size, lsda, cursor.take(end - at), address + at)


_Rules = dict[int, FrameRule]
_rows: dict[
    tuple[CfaRule | Expression | Unknown, tuple[tuple[int, FrameRule], ...], Signed | None], Row | Unknown
] = {}


class _Machine:
    """The registers of the call frame machine (DWARF 5 section 6.4.2), and the rows it has made so far."""

    def __init__(self, fde: Fde, same_value_by_default: Sequence[int]) -> None:
        self.fde, self.cie = fde, fde.cie
        self.cfa: CfaRule | Expression | Unknown = _UNDECIDED
        self.rules: _Rules = dict.fromkeys(same_value_by_default, SAME_VALUE)
        self.signed: Signed | None = None
        self.at = 0
        self.offsets: list[int] = []
        self.rows: list[Row | Unknown] = []
        self.initial: _Rules = {}
        self._run(fde.cie.instructions, 0)
        self.initial = dict(self.rules)

    def run(self) -> None:
        """Execute the FDE's own instructions; the CIE's have been."""
        self._run(self.fde.instructions, self.fde.instructions_address)
        self._note_row(self.fde.size)

    def table(self) -> UnwindTable:
        self.run()
        return UnwindTable(self.fde.size, self.offsets, self.rows)

    def _note_row(self, until: int) -> None:
        """The rules up to here hold on [at, until)."""
        at = self._went_on(until)
        if at is None:
            return
        key = (self.cfa, tuple(self.rules.items()), self.signed)
        row = _rows.get(key)
        if row is None:
            row = _rows[key] = _row(self.cfa, self.rules, self.signed)
        if not self.rows or self.rows[-1] is not row:
            self.offsets.append(at)
            self.rows.append(row)

    def _went_on(self, until: int) -> int | None:
        """Go there; the offset from which on the rules have held up to it, None where that is nowhere in the code."""
        at, self.at = self.at, until
        if until < at:
            raise MalformedFrames(f"the FDE at +{self.fde.offset:#x} goes back from +{at:#x} to +{until:#x}")
        return None if until == at or at >= self.fde.size else at

    def _run(self, code: bytes, address: int) -> None:
        cursor = Cursor(code, address)
        remembered: list[tuple[CfaRule | Expression | Unknown, _Rules, Signed | None]] = []
        size, scale, factor = len(code), self.cie.code_alignment, self.cie.data_alignment
        while cursor.at < size:
            opcode = code[cursor.at]
            cursor.at += 1
            high, low = opcode & 0xC0, opcode & 0x3F
            if high == CallFrame.ADVANCE_LOC:
                self._note_row(self.at + low * scale)
            elif high == CallFrame.OFFSET:
                self.rules[low] = SavedAt(cursor.uleb() * factor)
            elif opcode == CallFrame.DEF_CFA_OFFSET:
                self._define_offset(cursor.uleb())
            elif opcode == CallFrame.NOP:
                pass
            elif high == CallFrame.RESTORE:
                self._restore(low)
            elif opcode == CallFrame.REMEMBER_STATE:
                remembered.append((self.cfa, dict(self.rules), self.signed))
            elif opcode == CallFrame.RESTORE_STATE:
                if not remembered:
                    raise MalformedFrames(
                        f"the FDE at +{self.fde.offset:#x} restores a state never remembered"
                    )
                self.cfa, self.rules, self.signed = remembered.pop()
            else:
                self._extended(opcode, cursor, factor, scale)

    def _extended(self, opcode: int, cursor: Cursor, factor: int, scale: int) -> None:
        """The opcodes of a full byte, but for those few that `_run` has done."""
        rules = self.rules
        if opcode in _ADVANCES:
            self._note_row(self.at + cursor.unsigned(_ADVANCES[opcode]) * scale)
        elif opcode == CallFrame.SET_LOC:
            place = cursor.pointer(self.cie.pointer_encoding)
            self._note_row((place or 0) - self.fde.start)
        elif opcode == CallFrame.DEF_CFA:
            self.cfa = CfaRule(cursor.uleb(), cursor.uleb())
        elif opcode == CallFrame.DEF_CFA_SF:
            self.cfa = CfaRule(cursor.uleb(), cursor.sleb() * factor)
        elif opcode == CallFrame.DEF_CFA_REGISTER:
            register = cursor.uleb()
            if isinstance(self.cfa, CfaRule):
                self.cfa = CfaRule(register, self.cfa.offset)
        elif opcode == CallFrame.DEF_CFA_OFFSET_SF:
            self._define_offset(cursor.sleb() * factor)
        elif opcode == CallFrame.DEF_CFA_EXPRESSION:
            self.cfa = Expression(cursor.take(cursor.uleb()), is_value=True)
        elif opcode == CallFrame.OFFSET_EXTENDED:
            register, offset = cursor.uleb(), cursor.uleb()
            rules[register] = SavedAt(offset * factor)
        elif opcode == CallFrame.OFFSET_EXTENDED_SF:
            register, offset = cursor.uleb(), cursor.sleb()
            rules[register] = SavedAt(offset * factor)
        elif opcode == CallFrame.GNU_NEGATIVE_OFFSET_EXTENDED:
            register, offset = cursor.uleb(), cursor.uleb()
            rules[register] = SavedAt(-offset * factor)
        elif opcode == CallFrame.RESTORE_EXTENDED:
            self._restore(cursor.uleb())
        elif opcode == CallFrame.UNDEFINED:
            rules[cursor.uleb()] = UNDEFINED
        elif opcode == CallFrame.SAME_VALUE:
            rules[cursor.uleb()] = SAME_VALUE
        elif opcode == CallFrame.REGISTER:
            register, other = cursor.uleb(), cursor.uleb()
            rules[register] = InRegister(other)
        elif opcode in (CallFrame.EXPRESSION, CallFrame.VAL_EXPRESSION):
            register = cursor.uleb()
            code = cursor.take(cursor.uleb())
            rules[register] = Expression(code, opcode == CallFrame.VAL_EXPRESSION)
        elif opcode == CallFrame.VAL_OFFSET:
            register, offset = cursor.uleb(), cursor.uleb()
            rules[register] = CfaPlus(offset * factor)
        elif opcode == CallFrame.VAL_OFFSET_SF:
            register, offset = cursor.uleb(), cursor.sleb()
            rules[register] = CfaPlus(offset * factor)
        elif opcode == CallFrame.GNU_ARGS_SIZE:
            cursor.uleb()  # bytes of arguments pushed: of use to landing pads alone
        elif opcode in (CallFrame.AARCH64_NEGATE_RA_STATE, CallFrame.AARCH64_NEGATE_RA_STATE_WITH_PC):
            key = "B" if "B" in self.cie.augmentation else "A"
            self.signed = Signed(self.cie.return_register, key) if self.signed is None else None
        else:
            raise MalformedFrames(f"the FDE at +{self.fde.offset:#x} has the unknown opcode {opcode:#x}")

    def _define_offset(self, offset: int) -> None:
        if isinstance(self.cfa, CfaRule):
            self.cfa = CfaRule(self.cfa.register, offset)

    def _restore(self, register: int) -> None:
        if register in self.initial:
            self.rules[register] = self.initial[register]
        else:
            self.rules.pop(register, None)


_ADVANCES: dict[int, int] = {CallFrame.ADVANCE_LOC1: 1, CallFrame.ADVANCE_LOC2: 2, CallFrame.ADVANCE_LOC4: 4}


def _row(cfa: CfaRule | Expression | Unknown, rules: _Rules, signed: Signed | None) -> Row | Unknown:
    if isinstance(cfa, Unknown):
        return cfa
    if isinstance(cfa, Expression):
        return Unknown("the CFA is given by an expression")
    known: list[tuple[int, RegisterRule]] = []
    for register, rule in sorted(rules.items(), key=_register):
        if isinstance(rule, Expression):
            return Unknown("a register is given by an expression")
        if isinstance(rule, CfaPlus):
            return Unknown("a register is given as an offset from the CFA")
        known.append((register, rule))
    return Row(cfa, tuple(known), signed)


def _register(item: tuple[int, FrameRule]) -> int:
    return item[0]


class _Reached(Exception):
    """The state holds at the offset that is asked for."""


class _MachineUntil(_Machine):
    """Runs until the state that holds at `offset`."""

    _offset = -1

    def __init__(self, fde: Fde, same_value_by_default: Sequence[int], offset: int) -> None:
        super().__init__(fde, same_value_by_default)
        self.at = 0
        self._offset = offset

    def _note_row(self, until: int) -> None:
        if self.at <= self._offset < until:
            raise _Reached
        self.at = until


class States(NamedTuple):
    """All states of an FDE: the offsets at which they begin, rising from 0, and what holds from there on."""

    offsets: list[int]
    states: list[FrameState]

    def at(self, offset: int) -> FrameState:
        """The state that holds `offset` (0 or more) bytes behind the FDE's first instruction."""
        return self.states[bisect_right(self.offsets, offset) - 1]


class _MachineOfStates(_Machine):
    """Keeps all states."""

    def __init__(self, fde: Fde, same_value_by_default: Sequence[int]) -> None:
        self.states = States([], [])
        self._known: dict[tuple[object, ...], FrameState] = {}
        super().__init__(fde, same_value_by_default)
        self.states = States([], [])  # what a CIE says is nowhere yet
        self.at = 0

    def _note_row(self, until: int) -> None:
        at = self._went_on(until)
        if at is None:
            return
        key = (self.cfa, tuple(self.rules.items()), self.signed)
        state = self._known.get(key)
        if state is None:
            state = self._known[key] = _state(self)
        self.states.offsets.append(at)
        self.states.states.append(state)


def _state(machine: _Machine) -> FrameState:
    return FrameState(machine.cfa, tuple(sorted(machine.rules.items(), key=_register)), machine.signed)


def table_of(fde: Fde, same_value_by_default: Sequence[int]) -> UnwindTable:
    """The rows of one FDE. `same_value_by_default` are the registers that keep their value unless the FDE says
    otherwise: compilers leave out what the convention makes a callee keep."""
    return _Machine(fde, same_value_by_default).table()


def state_at(fde: Fde, same_value_by_default: Sequence[int], offset: int) -> FrameState:
    """The state that holds `offset` bytes behind the FDE's first instruction. `same_value_by_default` as for
    `table_of`. Quicker
    than a table where one program counter is asked for, and it has what a `Row` cannot say. MalformedFrames."""
    machine = _MachineUntil(fde, same_value_by_default, offset)
    with suppress(_Reached):
        machine.run()
    return _state(machine)


def states_of(fde: Fde, same_value_by_default: Sequence[int]) -> States:
    """All states of an FDE, for who asks for many of its program counters: each as `state_at` has it. MalformedFrames,
    also for damage behind those program counters."""
    machine = _MachineOfStates(fde, same_value_by_default)
    machine.run()
    return machine.states
