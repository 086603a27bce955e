"""elfutils' libdw: its unwinder (libdwfl), given states by callbacks as a debugger or a profiler gives them.

libdw takes tables from ELF files, and none may lie between the parts of another. So each FDE under test becomes a file
of its own, which exists in memory only. All that runs in a child process: libdw may crash on what it is given.
"""

import os
import signal
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_int,
    c_uint64,
    c_void_p,
)
from multiprocessing import Pipe, get_context
from typing import TYPE_CHECKING, Any, NamedTuple

from jitunwind.arch import Architecture
from jitunwind.audit.readers import Outcome, Reader, Table
from jitunwind.audit.readers.guarded import Guarded
from jitunwind.audit.readers.recorded import Recorded, is_inside
from jitunwind.audit.records import Record, judged_registers
from jitunwind.dwarf.decode import alone, eh_frame
from jitunwind.elf.image import frames_file
from jitunwind.errors import JitunwindError, NoReader, ReaderFailed
from jitunwind.rows import WORD, Unknown

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LIBRARY = "libdw.so.1"
_PACKAGE = "libdw1"
"""Debian's."""
_OK, _ABORT = 0, 1
"""DWARF_CB_*: libdw.h."""
_MOST_FRAMES = 64
_PATIENCE = 30.0
"""Seconds that the child may take to answer: it takes milliseconds."""
_THREAD = 1
"""Any number: libdw knows the thread by what the callbacks say of it."""

# libdwfl.h
_FIND_ELF = CFUNCTYPE(c_int, c_void_p, c_void_p, c_char_p, c_uint64, c_void_p, c_void_p)
_FIND_DEBUGINFO = CFUNCTYPE(
    c_int, c_void_p, c_void_p, c_char_p, c_uint64, c_char_p, c_char_p, c_uint64, c_void_p
)
_NEXT_THREAD = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)
_GET_THREAD = CFUNCTYPE(c_bool, c_void_p, c_int, c_void_p, c_void_p)
_MEMORY_READ = CFUNCTYPE(c_bool, c_void_p, c_uint64, POINTER(c_uint64), c_void_p)
_SET_INITIAL_REGISTERS = CFUNCTYPE(c_bool, c_void_p, c_void_p)
_VISIT = CFUNCTYPE(c_int, c_void_p, c_void_p)


class _Callbacks(Structure):
    """Dwfl_Callbacks."""

    _fields_ = (
        ("find_elf", _FIND_ELF),
        ("find_debuginfo", _FIND_DEBUGINFO),
        ("section_address", c_void_p),
        ("debuginfo_path", c_void_p),
    )


class _ThreadCallbacks(Structure):
    """Dwfl_Thread_Callbacks."""

    _fields_ = (
        ("next_thread", _NEXT_THREAD),
        ("get_thread", _GET_THREAD),
        ("memory_read", _MEMORY_READ),
        ("set_initial_registers", _SET_INITIAL_REGISTERS),
        ("detach", c_void_p),
        ("thread_detach", c_void_p),
    )


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "dwfl_begin": (c_void_p, (c_void_p,)),
    "dwfl_end": (None, (c_void_p,)),
    "dwfl_errno": (c_int, ()),
    "dwfl_errmsg": (c_char_p, (c_int,)),
    "dwfl_version": (c_char_p, (c_void_p,)),
    "dwfl_report_begin": (None, (c_void_p,)),
    "dwfl_report_elf": (c_void_p, (c_void_p, c_char_p, c_char_p, c_int, c_uint64, c_bool)),
    "dwfl_report_module": (c_void_p, (c_void_p, c_char_p, c_uint64, c_uint64)),
    "dwfl_report_end": (c_int, (c_void_p, c_void_p, c_void_p)),
    "dwfl_attach_state": (c_bool, (c_void_p, c_void_p, c_int, c_void_p, c_void_p)),
    "dwfl_getthread_frames": (c_int, (c_void_p, c_int, _VISIT, c_void_p)),
    "dwfl_thread_state_registers": (c_bool, (c_void_p, c_int, c_int, c_void_p)),
    "dwfl_thread_state_register_pc": (None, (c_void_p, c_uint64)),
    "dwfl_frame_pc": (c_bool, (c_void_p, POINTER(c_uint64), c_void_p)),
    "dwfl_frame_reg": (c_int, (c_void_p, c_int, POINTER(c_uint64))),
}
"""Results and arguments."""


class _Libdw:
    """A `Reader`, in this process."""

    def __init__(self, name: str, arch: Architecture) -> None:
        self.name = name
        self._arch = arch
        self._library = _loaded()
        self.version = self._library.dwfl_version(None).decode()
        self._wanted = (arch.stack_pointer, *judged_registers(arch))
        self._files: dict[_Fde, bytes] = {}
        """The name that libdw has each FDE's file by."""
        self._fdes: dict[Table, list[_Fde]] = {}
        self._made = 0
        self._inside: Sequence[tuple[int, int]] = ()
        # What the callbacks answer with, and what they found.
        self._recorded = Recorded(arch)
        self._frames = 0
        self._outcome: Outcome | None = None
        # Referred to for as long as libdw has their addresses.
        self._callbacks = _Callbacks(_FIND_ELF(_find_no_elf), _FIND_DEBUGINFO(_find_no_debuginfo))
        self._thread_callbacks = _ThreadCallbacks(
            _NEXT_THREAD(_no_thread),
            _GET_THREAD(lambda dwfl, number, argument, thread: number == _THREAD),
            _MEMORY_READ(self._read),
            _SET_INITIAL_REGISTERS(self._set_registers),
        )
        self._visit = _VISIT(self._come_to)
        self._dwfl = c_void_p(self._library.dwfl_begin(byref(self._callbacks)))
        self._report_all([])
        process = byref(self._thread_callbacks)
        if not self._library.dwfl_attach_state(self._dwfl, None, _THREAD, process, None):
            raise ReaderFailed(self._failure())

    def close(self) -> None:
        self._library.dwfl_end(self._dwfl)
        self._dwfl = c_void_p()

    def _failure(self) -> str:
        said = self._library.dwfl_errmsg(-1)
        return f"{self.name}: {said.decode()}" if said else f"{self.name} does not say why it failed"

    # Tables

    def tell(self, tables: Sequence[Table], inside: Sequence[tuple[int, int]]) -> None:
        self._inside = inside
        self._fdes = {table: self._fdes.get(table) or _alone(table) for table in tables}
        wanted = _apart(fde for fdes in self._fdes.values() for fde in fdes)
        if wanted.keys() | {_NOWHERE} != self._files.keys():
            self._report_all(wanted)

    def _report_all(self, wanted: Iterable["_Fde"]) -> None:
        """Have libdw know these FDEs, and that one which takes no part: what machine it is, it learns from a file."""
        library, known = self._library, self._files
        self._files = {}
        library.dwfl_report_begin(self._dwfl)
        for fde in (_NOWHERE, *wanted):
            if fde in known:  # it stays, if it is reported as it was
                library.dwfl_report_module(self._dwfl, known[fde], fde.start, fde.start + fde.size)
                self._files[fde] = known[fde]
            else:
                self._files[fde] = self._report(fde)
        if library.dwfl_report_end(self._dwfl, None, None):
            raise ReaderFailed(self._failure())

    def _report(self, fde: "_Fde") -> bytes:
        """Give libdw the file of one FDE."""
        self._made += 1
        name = b"fde-%d" % self._made
        file = os.memfd_create(name.decode())
        with open(file, "wb", closefd=False) as written:
            written.write(frames_file(self._arch.elf_machine, [(fde.start, fde.size)], fde.data, fde.address))
        # libdw closes the file, if it takes it.
        if not self._library.dwfl_report_elf(self._dwfl, name, name, file, 0, False):
            os.close(file)
            raise ReaderFailed(self._failure())
        return name

    # States

    def ask(
        self, records: Sequence[Record], back: int, memory: Sequence[tuple[int, bytes]]
    ) -> list[Outcome | Unknown]:
        return [self._ask(record, memory) for record in records]

    def _ask(self, record: Record, memory: Sequence[tuple[int, bytes]]) -> Outcome | Unknown:
        self._recorded.turn_to(record, memory)
        self._frames, self._outcome = 0, None
        ended = self._library.dwfl_getthread_frames(self._dwfl, _THREAD, self._visit, None)
        if self._outcome is not None:
            return self._outcome
        return Unknown(self._failure() if ended else f"{self.name} ends the walk in JIT code")

    def _set_registers(self, thread: int, argument: int) -> bool:
        *registers, pc = self._recorded.registers
        count = len(registers)
        # Where the program counter has a DWARF number, it is that of the return address.
        self._library.dwfl_thread_state_register_pc(thread, pc)
        done: bool = self._library.dwfl_thread_state_registers(
            thread, 0, count, (c_uint64 * count)(*registers)
        )
        return done

    def _read(self, dwfl: int, address: int, result: Any, argument: int) -> bool:
        data = self._recorded.read(address, WORD)
        if data is not None:
            result[0] = int.from_bytes(data, "little")
        return data is not None

    def _come_to(self, state: int, argument: int) -> int:
        """One frame further out."""
        self._frames += 1
        if self._frames == 1:
            return _OK
        value = c_uint64()
        frame_reg = self._library.dwfl_frame_reg
        if not self._library.dwfl_frame_pc(state, byref(value), None):
            return _ABORT
        pc = value.value
        if is_inside(self._inside, pc - 1) and self._frames < _MOST_FRAMES:
            return _OK
        found = [
            value.value if not frame_reg(state, number, byref(value)) else None for number in self._wanted
        ]
        cfa, *registers = found
        if cfa is not None:
            self._outcome = Outcome(cfa, pc, tuple(registers))
        return _ABORT


class _Fde(NamedTuple):
    """An FDE of [start, start + size), as the `.eh_frame` `data`, which lies at `address`."""

    start: int
    size: int
    address: int
    data: bytes


_NOWHERE = _Fde(1, 1, 8, b"")
"""Code that there cannot be, without an FDE."""


def _alone(table: Table) -> list[_Fde]:
    """Each FDE of a table."""
    fdes = eh_frame(table.data, table.address)
    return [_Fde(fde.start, fde.size, *alone(table.data, table.address, fde)) for fde in fdes]


def _apart(fdes: Iterable[_Fde]) -> dict[_Fde, None]:
    """Those that share no code with one that comes before."""
    found: dict[_Fde, None] = {}
    starts: list[int] = []
    ends: list[int] = []
    for fde in fdes:
        at, end = bisect_right(starts, fde.start), fde.start + fde.size
        if (at == 0 or ends[at - 1] <= fde.start) and (at == len(starts) or end <= starts[at]):
            starts.insert(at, fde.start)
            ends.insert(at, end)
            found[fde] = None
    return found


def _find_no_elf(*arguments: Any) -> int:
    return -1


def _find_no_debuginfo(*arguments: Any) -> int:
    return -1


def _no_thread(*arguments: Any) -> int:
    return 0


def _loaded() -> CDLL:
    try:
        library = CDLL(LIBRARY)
    except OSError as error:
        raise NoReader(f"libdw cannot be loaded: {error}", f"Debian's package is {_PACKAGE}") from None
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise NoReader(f"this machine's libdw has no {name}", "0.188 and later have it") from None
        function.restype, function.argtypes = result, arguments
    return library


class Libdw:
    """A `Reader`: that in a child process."""

    def __init__(self, name: str, arch: Architecture) -> None:
        self.name = name
        self._connection, theirs = Pipe()
        self._child = get_context("fork").Process(target=_serve, args=(theirs, name, arch), daemon=True)
        self._child.start()
        theirs.close()
        try:
            self.version: str = self._answer()
        except JitunwindError:
            self.close()
            raise

    def close(self) -> None:
        self._child.kill()
        self._child.join()
        self._connection.close()

    def tell(self, tables: Sequence[Table], inside: Sequence[tuple[int, int]]) -> None:
        self._request("tell", tables, inside)

    def ask(
        self, records: Sequence[Record], back: int, memory: Sequence[tuple[int, bytes]]
    ) -> list[Outcome | Unknown]:
        outcomes: list[Outcome | Unknown] = self._request("ask", records, back, memory)
        return outcomes

    def _request(self, method: str, *arguments: Any) -> Any:
        try:
            self._connection.send((method, arguments))
        except OSError:
            raise ReaderFailed(f"{self.name} has crashed") from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            if not self._connection.poll(_PATIENCE):
                raise ReaderFailed(f"{self.name} has not come to an end in {_PATIENCE:.0f} s")
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise ReaderFailed(f"{self.name} has crashed") from None
        if isinstance(answer, JitunwindError):
            raise answer
        return answer


def _serve(connection: "Connection[Any, Any]", name: str, arch: Architecture) -> None:
    """In the child, which ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the audit
    try:
        reader = _Libdw(name, arch)
        connection.send(reader.version)
        while True:
            method, arguments = connection.recv()
            connection.send(getattr(reader, method)(*arguments))
    except JitunwindError as error:
        connection.send(error)
    except (EOFError, OSError):
        pass


def open_reader(name: str, arch: Architecture) -> Reader:
    return Guarded(lambda: Libdw(name, arch))
