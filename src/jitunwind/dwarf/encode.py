"""Call frame information, encoded: unwind tables in, the bytes of an `.eh_frame` section out.

The counterpart of `decode`, for whoever publishes tables. It knows no ELF and no process. Formats: DWARF 5
section 6.4.2 (instructions), LSB core 5.0 section 10.6.1 (entries).
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.dwarf.constants import CallFrame, PointerBase, PointerFormat
from jitunwind.dwarf.leb128 import signed, unsigned
from jitunwind.rows import (
    SAME_VALUE,
    UNDEFINED,
    WORD,
    CfaPlus,
    CfaRule,
    InRegister,
    RegisterRule,
    Row,
    SameValue,
    SavedAt,
    Unknown,
    UnwindTable,
)

TERMINATOR = bytes(4)
"""An entry of length 0 ends the section (LSB core 5.0, section 10.6.1.1). libgcc's `__register_frame` reads until
it finds one; whoever knows the section's size does without."""

_MASK = (1 << 64) - 1
_LONGEST_ADVANCE = 0xFFFFFFFF
_IN_OPCODE = 0x3F
"""The largest operand that an opcode has room for (DWARF 5 section 7.24)."""
_RELATIVE = PointerBase.PCREL | PointerFormat.SDATA8
_ABSOLUTE = PointerFormat.ABSPTR
"""How FDEs have their addresses: from their own place, or as they are; 64 bits wide. Four bytes would not do: JIT
code and the heap, where what is published lies, are often more than 2 GiB apart."""
_MOST_KNOWN = 1 << 12
_MOST_COMMONS = 32
_SOON = 5
"""Rows from one on, among which it is looked for again."""
_SHORT_CHANGE = 3
"""Bytes: what is not longer is not worth remembering a row, which takes two."""
_CIE_VERSION = 1
"""LSB core 5.0, section 10.6.1.1: the return address's register is one byte."""

_identity = object.__hash__
"""As `id`, of rows. A program that publishes runs this: a breakpoint on `builtin_id`, which people set in GDB to stop
in their own Python code, should not stop here."""

_Rules = Mapping[int, RegisterRule]


class _Kind(NamedTuple):
    """What FDEs share with their CIE: the factors of distances in code and of offsets, and the key by which return
    addresses are signed, where they are (AADWARF64, section 4.3)."""

    code_alignment: int
    data_alignment: int
    key: str


class _Piece(NamedTuple):
    """What one FDE describes: `size` bytes of code at `start`; `rows` by the offset in it, the first at 0."""

    start: int
    size: int
    rows: list[tuple[int, Row]]


def eh_frame(
    arch: Architecture, tables: Iterable[tuple[int, UnwindTable]], address: int | None = None
) -> bytes:
    """The `.eh_frame` section that says what `tables` say, to lie at `address`; without one, to lie anywhere.

    `tables` are (address of the region, its table); regions do not overlap. Addresses and sizes are 64-bit,
    offsets of rules signed 64-bit but for the least, register numbers as DWARF counts them. ValueError for others.

    Decoded with `arch.callee_saved` same_value_by_default, each row has the same rule for each register. To that end, a
    register that a callee saves, or the return address, is called undefined where its row does not list it:
    silence would mean that it has its value still. An `Unknown` is silence: no FDE covers that part of the
    region. There is no terminator: append `TERMINATOR` where one is needed.
    """
    by_kind: dict[_Kind, list[_Piece]] = {}
    for start, table in tables:
        for piece in _pieces(start, table):
            by_kind.setdefault(_kind(arch, piece), []).append(piece)
    out = bytearray()
    for kind, pieces in by_kind.items():
        # A CIE's row is what most of its FDEs begin with: those need not say it.
        firsts = [piece.rows[0][1] for piece in pieces]
        usual = Counter(firsts).most_common(1)[0][0] if len(firsts) > 1 else firsts[0]
        common = _common(arch, kind, usual, _ABSOLUTE if address is None else _RELATIVE)
        cie = len(out)
        out += common.cie
        for piece in pieces:
            place = len(out) + 4  # of the CIE pointer, which counts back from itself
            base = 0 if address is None else address + place + 4
            pointers = struct.pack("<IQQ", place - cie, piece.start - base & _MASK, piece.size)
            out += _entry(pointers + b"\0" + common.instructions(piece))  # without augmentation data
    return bytes(out)


def moved(frames: bytes, distance: int) -> bytes:
    """An `.eh_frame` section to lie anywhere, as `eh_frame` makes it, for the same code that lies `distance` bytes
    further on."""
    out = bytearray(frames)
    at = 0
    while at < len(out):
        length, cie = struct.unpack_from("<II", out, at)
        if cie:
            (start,) = struct.unpack_from("<Q", out, at + 8)
            struct.pack_into("<Q", out, at + 8, start + distance & _MASK)
        at += 4 + length
    return bytes(out)


def _pieces(start: int, table: UnwindTable) -> Iterator[_Piece]:
    """The runs of rows between `Unknown`s. A row 4 GiB behind the one before begins another one, too: no
    advance reaches it; and so does one that is signed with another key."""
    if not 0 <= start <= start + table.size <= _MASK + 1:
        raise ValueError(f"{table.size:#x} bytes at {start:#x} are not 64-bit address space")
    rows: list[tuple[int, Row]] = []
    key: str | None = None
    begin = until = last = 0
    for offset, end, row in table.spans():
        known = None if isinstance(row, Unknown) else row
        signed = known.signed if known is not None else None
        if rows and (
            known is None
            or offset - last > _LONGEST_ADVANCE
            or (signed is not None and key not in (None, signed.key))
        ):
            yield _Piece(start + begin, until - begin, rows)
            rows, key = [], None
        if offset < end and known is not None:
            if not rows:
                begin = offset
            rows.append((offset - begin, known))
            last = offset
            if signed is not None:
                key = signed.key
        until = end
    if rows:
        yield _Piece(start + begin, until - begin, rows)


def _kind(arch: Architecture, piece: _Piece) -> _Kind:
    """Factors: instructions and words, where all distances and offsets are whole ones; else bytes."""
    rows = {_identity(row): row for _, row in piece.rows}
    size = arch.instruction_size
    whole = size == 1 or all(offset % size == 0 for offset, _ in piece.rows)
    key = next((row.signed.key for row in rows.values() if row.signed is not None), "")
    ranges = [_range(identity, row) for identity, row in rows.items()]
    lowest, highest = min(each.lowest for each in ranges), max(each.highest for each in ranges)
    if not -(1 << 63) < lowest <= highest < 1 << 63:  # divided by -1, they still have to fit
        raise ValueError(f"the rows at {piece.start:#x} have an offset that is not signed 64-bit")
    return _Kind(size if whole else 1, -WORD if all(each.is_words for each in ranges) else -1, key)


class _Range(NamedTuple):
    """The offsets in a row, and whether all of them are whole words."""

    lowest: int
    highest: int
    is_words: bool
    row: Row


def _range(identity: int, row: Row) -> _Range:
    known = _ranges.get(identity)
    if known is None:
        if len(_ranges) >= _MOST_KNOWN:
            _ranges.clear()
        offsets = [row.cfa.offset, *(rule.offset for _, rule in row.rules if isinstance(rule, SavedAt))]
        is_words = all(offset % WORD == 0 for offset in offsets)
        known = _ranges[identity] = _Range(min(offsets), max(offsets), is_words, row)
    return known


_ranges: dict[int, _Range] = {}
"""By the identity of their rows, which are kept alive."""


class _Common:
    """A CIE, and the instructions of FDEs upon it: those say only how rows differ from its own."""

    def __init__(self, arch: Architecture, kind: _Kind, usual: Row, pointers: int) -> None:
        self._scale, self._factor, key = kind
        self._spoken: _Rules = dict.fromkeys((*arch.callee_saved, arch.return_address), UNDEFINED)
        self._cfa = usual.cfa
        self._initial: _Rules = {}
        self._changes: dict[tuple[int, int], tuple[bytes, Row, Row]] = {}
        rules = self._rules(usual)
        # Only those that each row speaks of: from another one's initial rule no way leads back to none.
        initial = {register: rules[register] for register in self._spoken}
        header = (
            bytes(4)  # CIE ID
            + bytes([_CIE_VERSION])
            + (b"zRB\0" if key == "B" else b"zR\0")  # its data has a length, and is the encoding of pointers
            + unsigned(self._scale)
            + signed(self._factor)
            + bytes([arch.return_address])
            + bytes([1, pointers])
        )
        begin = CfaRule(usual.cfa.register, max(usual.cfa.offset, 0))
        define = _operation(CallFrame.DEF_CFA, begin.register, begin.offset)
        self.cie = _entry(header + define + self._rule_changes(begin, usual.cfa, {}, initial))
        self._initial = initial

    def instructions(self, piece: _Piece) -> bytes:
        """What makes the CIE's row the first of `piece`, then each row the next."""
        rows, changes, scale = piece.rows, self._changes, self._scale
        at, last = rows[0]
        out = bytearray(self._rule_changes(self._cfa, last.cfa, self._initial, self._rules(last)))
        out += _NEGATE if last.signed is not None else b""
        identities = [_identity(row) for _, row in rows]
        back = 0
        for index in range(1, len(rows)):
            offset, row = rows[index]
            out += _advance((offset - at) // scale)
            if index == back:
                out += _RESTORE_STATE
            else:
                before = identities[index - 1]
                if back < index:
                    comes_back = before in identities[index + 1 : index - 1 + _SOON]
                    back = self._return(rows, index - 1) if comes_back else 0
                    out += _REMEMBER_STATE if back else b""
                known = changes.get((before, identities[index]))
                out += known[0] if known is not None else self._change(last, row)
            at, last = offset, row
        return bytes(out)

    def _change(self, last: Row, row: Row) -> bytes:
        """What makes one row another."""
        # By identity, and kept alive: hashing rows would take longer than all else.
        known = self._changes.get((_identity(last), _identity(row)))
        if known is None:
            change = self._rule_changes(last.cfa, row.cfa, self._rules(last), self._rules(row))
            if (last.signed is None) != (row.signed is None):
                change += _NEGATE
            if len(self._changes) > _MOST_KNOWN:
                self._changes.clear()
            known = self._changes[_identity(last), _identity(row)] = (change, last, row)
        return known[0]

    def _return(self, rows: Sequence[tuple[int, Row]], index: int) -> int:
        """Where soon the row at `index` is come back to, if it is shorter to have it remembered until then; else 0."""
        row = rows[index][1]
        for back in range(index + 2, min(index + _SOON, len(rows))):
            if rows[back][1] is row:
                return back if len(self._change(rows[back - 1][1], row)) > _SHORT_CHANGE else 0
        return 0

    def _rules(self, row: Row) -> _Rules:
        return {**self._spoken, **dict(row.rules)}

    def _rule_changes(self, cfa: CfaRule, to_cfa: CfaRule, rules: _Rules, to_rules: _Rules) -> bytes:
        """The instructions that make one row another (DWARF 5 sections 6.4.2.2 and 6.4.2.3)."""
        out = self._cfa_change(cfa, to_cfa) if cfa != to_cfa else b""
        for register in sorted(rules.keys() | to_rules.keys()):
            rule = to_rules.get(register)
            if rule == rules.get(register):
                continue
            if rule is None or rule == SAME_VALUE == self._initial.get(register):
                # Only there: libgcc takes the register for unsaved then, whatever the CIE says.
                out += _packed(CallFrame.RESTORE, CallFrame.RESTORE_EXTENDED, register)
            else:
                out += self._rule(register, rule)
        return out

    def _cfa_change(self, cfa: CfaRule, to: CfaRule) -> bytes:
        if to.offset < 0:
            # DW_CFA_def_cfa_sf would be a byte shorter; pyelftools 0.33 takes the wrong factor for it.
            offset = bytes([CallFrame.DEF_CFA_OFFSET_SF]) + signed(to.offset // self._factor)
            if to.register == cfa.register:
                return offset
            return _operation(CallFrame.DEF_CFA_REGISTER, to.register) + offset
        if to.register == cfa.register:
            return _operation(CallFrame.DEF_CFA_OFFSET, to.offset)
        if to.offset == cfa.offset:
            return _operation(CallFrame.DEF_CFA_REGISTER, to.register)
        return _operation(CallFrame.DEF_CFA, to.register, to.offset)

    def _rule(self, register: int, rule: RegisterRule) -> bytes:
        if isinstance(rule, SameValue):
            return _operation(CallFrame.SAME_VALUE, register)
        if isinstance(rule, InRegister):
            return _operation(CallFrame.REGISTER, register, rule.register)
        if isinstance(rule, CfaPlus):  # not by DW_CFA_val_offset, which some readers do not know
            expression = _PLUS_UCONST + unsigned(rule.offset)
            return _operation(CallFrame.VAL_EXPRESSION, register, len(expression)) + expression
        if not isinstance(rule, SavedAt):
            return _operation(CallFrame.UNDEFINED, register)
        factored = rule.offset // self._factor
        if factored < 0:
            return _operation(CallFrame.OFFSET_EXTENDED_SF, register) + signed(factored)
        return _packed(CallFrame.OFFSET, CallFrame.OFFSET_EXTENDED, register) + unsigned(factored)


def _common(arch: Architecture, kind: _Kind, usual: Row, pointers: int) -> _Common:
    """One of those made before, where there is one: recovery gives the same rows, as the same objects, again and again.
    By identity, and kept alive: hashing what it is made of would take a fifth of the time of encoding a region."""
    key = _identity(arch), kind, _identity(usual), pointers
    known = _commons.get(key)
    if known is None:
        if len(_commons) >= _MOST_COMMONS:
            _commons.clear()
        known = _commons[key] = (_Common(arch, kind, usual, pointers), arch, usual)
    return known[0]


_commons: dict[tuple[int, _Kind, int, int], tuple[_Common, Architecture, Row]] = {}


_PLUS_UCONST = b"\x23"
"""DW_OP_plus_uconst (DWARF 5 section 7.7.1), with the CFA on the stack (section 6.4.2.3)."""
_NEGATE = bytes([CallFrame.AARCH64_NEGATE_RA_STATE])
_REMEMBER_STATE, _RESTORE_STATE = bytes([CallFrame.REMEMBER_STATE]), bytes([CallFrame.RESTORE_STATE])


def _operation(opcode: CallFrame, *operands: int) -> bytes:
    return bytes([opcode]) + b"".join(map(unsigned, operands))


def _packed(opcode: CallFrame, extended: CallFrame, register: int) -> bytes:
    """`opcode` with the register in it, where there is room."""
    return bytes([opcode | register]) if register <= _IN_OPCODE else _operation(extended, register)


@lru_cache(maxsize=1024)
def _advance(delta: int) -> bytes:
    """The shortest instruction that goes on by `delta` units of code (DWARF 5 section 6.4.2.1)."""
    if delta <= _IN_OPCODE:
        return bytes([CallFrame.ADVANCE_LOC | delta])
    if delta <= 0xFF:
        return struct.pack("<BB", CallFrame.ADVANCE_LOC1, delta)
    if delta <= 0xFFFF:
        return struct.pack("<BH", CallFrame.ADVANCE_LOC2, delta)
    return struct.pack("<BI", CallFrame.ADVANCE_LOC4, delta)


def _entry(body: bytes) -> bytes:
    """`body` behind its length, filled with DW_CFA_nop (0) to whole words (LSB core 5.0, section 10.6.1)."""
    body += bytes(-(4 + len(body)) % WORD)
    return struct.pack("<I", len(body)) + body
