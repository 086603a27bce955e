"""What this process has published, as a debugger sees it: the symbol files in the list of GDB's JIT interface.

Also the C interface's own structures, for tables that are given as rows.
"""

import ctypes
import errno
from collections.abc import Iterator, Sequence

from jitunwind.agent.library import FOLDER, GDB, RegionStruct, agent
from jitunwind.rows import InRegister, RegisterRule, Row, SameValue, SavedAt, Undefined

KINDS: dict[type[RegisterRule], int] = {SameValue: 0, SavedAt: 1, InRegister: 2, Undefined: 3}
"""enum jitunwind_kind."""
ERRORS = {
    errno.EINVAL: "makes no sense",
    errno.EEXIST: "overlaps",
}


class _Entry(ctypes.Structure):
    """struct jit_code_entry."""


_Entry._fields_ = (
    ("next", ctypes.POINTER(_Entry)),
    ("prev", ctypes.POINTER(_Entry)),
    ("symbol_file", ctypes.c_void_p),
    ("symbol_file_size", ctypes.c_uint64),
)


class _Descriptor(ctypes.Structure):
    """struct jit_descriptor."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("action", ctypes.c_uint32),
        ("relevant", ctypes.POINTER(_Entry)),
        ("first", ctypes.POINTER(_Entry)),
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


def files() -> list[bytes]:
    """The symbol files, the newest first."""
    return list(_files())


def _files() -> Iterator[bytes]:
    agent()
    descriptor = _Descriptor.in_dll(ctypes.CDLL(str(FOLDER / "descriptor.so")), "__jit_debug_descriptor")
    entry = descriptor.first
    while entry:
        yield ctypes.string_at(entry.contents.symbol_file, entry.contents.symbol_file_size)
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


class Published:
    """Regions published to debuggers while this is entered."""

    def __init__(self, regions: Sequence[RegionStruct], consumers: int = GDB) -> None:
        self._regions, self._consumers = regions, consumers

    def __enter__(self) -> list[int]:
        self.handles = agent().publish(self._regions, self._consumers)
        return self.handles

    def __exit__(self, *_: object) -> None:
        agent().withdraw(self.handles)
