"""What this process has published, as a debugger sees it: the symbol files in the list of GDB's JIT interface.

Also the C interface's own structures, for tables that are given as rows.
"""

import ctypes
import errno
import os
from collections.abc import Collection, Iterator, Sequence

from jitunwind.agent import library
from jitunwind.agent.built import AGENT, DESCRIPTOR
from jitunwind.agent.library import GDB, loaded_agent
from jitunwind.errors import AgentFailed
from jitunwind.rows import InRegister, RegisterRule, Row, SameValue, SavedAt, Undefined

KINDS: dict[type[RegisterRule], int] = {SameValue: 0, SavedAt: 1, InRegister: 2, Undefined: 3}
"""enum jitunwind_kind."""
ERRORS = {
    errno.EINVAL: "makes no sense",
    errno.EEXIST: "overlaps",
}


class Entry(ctypes.Structure):
    """struct jit_code_entry."""


Entry._fields_ = (
    ("next", ctypes.POINTER(Entry)),
    ("prev", ctypes.POINTER(Entry)),
    ("symbol_file", ctypes.c_void_p),
    ("symbol_file_size", ctypes.c_uint64),
)


class _Descriptor(ctypes.Structure):
    """struct jit_descriptor."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("action", ctypes.c_uint32),
        ("relevant", ctypes.POINTER(Entry)),
        ("first", ctypes.POINTER(Entry)),
    )


class RuleStruct(ctypes.Structure):
    """struct jitunwind_rule."""

    _fields_ = (("number", ctypes.c_uint32), ("kind", ctypes.c_uint32), ("value", ctypes.c_int64))


class RowStruct(ctypes.Structure):
    """struct jitunwind_row."""

    _fields_ = (
        ("offset", ctypes.c_uint64),
        ("cfa_register", ctypes.c_uint32),
        ("rule_count", ctypes.c_uint32),
        ("cfa_offset", ctypes.c_int64),
        ("rules", ctypes.POINTER(RuleStruct)),
    )


class LineStruct(ctypes.Structure):
    """struct jitunwind_line."""

    _fields_ = (("offset", ctypes.c_uint64), ("file", ctypes.c_char_p), ("line", ctypes.c_uint64))


class RegionStruct(ctypes.Structure):
    """struct jitunwind_region."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("entry_name", ctypes.c_char_p),
        ("entry_size", ctypes.c_size_t),
        ("rows", ctypes.c_void_p),
        ("row_count", ctypes.c_size_t),
        ("eh_frame", ctypes.c_char_p),
        ("eh_frame_size", ctypes.c_size_t),
        ("lines", ctypes.c_void_p),
        ("line_count", ctypes.c_size_t),
        ("perf_eh_frame", ctypes.c_char_p),
        ("perf_eh_frame_size", ctypes.c_size_t),
    )


def struct_of(region: library.Published) -> RegionStruct:
    """As C gets it."""
    lines = (LineStruct * len(region.lines))(
        *((region.entry_size + line.offset, os.fsencode(line.filename), line.line) for line in region.lines)
    )
    struct = RegionStruct(
        start=region.start,
        size=region.size,
        name=os.fsencode(region.name),
        entry_name=os.fsencode(region.entry_name),
        entry_size=region.entry_size,
        eh_frame=region.eh_frame,
        eh_frame_size=len(region.eh_frame),
        lines=ctypes.cast(lines, ctypes.c_void_p),
        line_count=len(lines),
        perf_eh_frame=region.perf_eh_frame,
        perf_eh_frame_size=len(region.perf_eh_frame),
    )
    struct.kept = lines
    return struct


def files() -> list[bytes]:
    """The symbol files, the newest first."""
    return [ctypes.string_at(entry.symbol_file, entry.symbol_file_size) for entry in entries()]


def entries() -> Iterator[Entry]:
    """The list's entries, the newest first."""
    loaded_agent()
    descriptor = _Descriptor.in_dll(ctypes.CDLL(DESCRIPTOR), "__jit_debug_descriptor")
    entry = descriptor.first
    while entry:
        yield entry.contents
        entry = entry.contents.next


def with_rows(start: int, size: int, rows: Sequence[tuple[int, Row]], name: bytes = b"f") -> RegionStruct:
    """A region whose table is given as rows, by their offsets."""
    structs = (RowStruct * len(rows))()
    for struct, (offset, row) in zip(structs, rows, strict=True):
        rules = (RuleStruct * len(row.rules))(*(_rule(number, rule) for number, rule in row.rules))
        struct.offset, struct.cfa_register, struct.cfa_offset = offset, row.cfa.register, row.cfa.offset
        struct.rule_count, struct.rules = len(rules), rules
    address = ctypes.cast(structs, ctypes.c_void_p)
    region = RegionStruct(start=start, size=size, name=name, rows=address, row_count=len(rows))
    region.kept = structs
    return region


def _rule(number: int, rule: RegisterRule) -> RuleStruct:
    value = rule.offset if isinstance(rule, SavedAt) else rule.register if isinstance(rule, InRegister) else 0
    return RuleStruct(number, KINDS[type(rule)], value)


class Announced:
    """Regions published to debuggers, or `consumers` and those of `bits`, while this is entered; AgentFailed."""

    def __init__(
        self,
        regions: Sequence[RegionStruct | library.Published],
        consumers: Collection[str] = (GDB,),
        bits: int = 0,
    ) -> None:
        structs = [each if isinstance(each, RegionStruct) else struct_of(each) for each in regions]
        self._regions = (RegionStruct * len(structs))(*structs)
        self._structs = structs  # which have what the array's copies point to
        self._consumers = bits | sum(loaded_agent().consumers[name] for name in consumers)
        self._c = ctypes.PyDLL(AGENT)

    def __enter__(self) -> list[int]:
        self._handles = (ctypes.c_void_p * len(self._regions))()
        count = ctypes.c_size_t(len(self._regions))
        error = self._c.jitunwind_publish(self._regions, count, self._consumers, self._handles)
        if error:
            raise AgentFailed(ERRORS.get(error) or errno.errorcode[error])
        return [handle or 0 for handle in self._handles]

    def __exit__(self, *_: object) -> None:
        self._c.jitunwind_withdraw(self._handles, ctypes.c_size_t(len(self._handles)))
