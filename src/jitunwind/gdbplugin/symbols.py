"""Names and lines that every GDB command sees: one symbol file for the JIT code that stacks lead to.

GDB asks for symbols from many places, and only symbol files answer all of them. So at each stop, before GDB
prints anything (a `hook-stop`), the stacks are searched for words that point into JIT code, and a symbol
file for just those regions is put in the place of the one before: cost follows what is on the stacks, not
how many executors are alive.
"""

import os
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import gdb

from jitunwind.arch import Architecture
from jitunwind.dwarf.lines import Function
from jitunwind.elf.image import MOST_FUNCTIONS, symbol_file
from jitunwind.gdbplugin.inferior import OWN_FILES, Inferior, is_core
from jitunwind.gdbplugin.session import follow, name_of, session
from jitunwind.jits import Code, codes_of, lines_of_piece
from jitunwind.jits.gdbjit import GdbJit
from jitunwind.jits.known import Jits
from jitunwind.region import Region

MOST_STACK = 1 << 26
"""Bytes of one thread's stack that are searched."""
MOST_WALKED = 400
"""Frames that are looked at one by one, where that is needed."""
_WORD = 8


class SymbolFile:
    """The symbol file that GDB holds now, and what is in it."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="jitunwind-")
        self._path: Path | None = None
        self._count = 0
        self._loaded: dict[int, Code] = {}
        self._gates: list[Region] = []
        self._is_named: dict[str, bool] = {}
        """Whether the program's own symbols have a gate of that name: asked before these files may have it."""
        self.expired = False
        """What GDB holds is of a process that has gone."""

    def show(self, wanted: list[Code], jits: Jits) -> None:
        """Have GDB know `wanted`, besides what it knows already and what is true still. What a process has registered
        through GDB's JIT interface, GDB reads itself."""
        now = {start: code for start, code in self._loaded.items() if jits.find(start) == code}
        now.update((code.start, code) for code in wanted if jits.teller(code, GdbJit) is None)
        for gate in jits.gates():
            if gate.name not in self._is_named:
                self._is_named[gate.name] = jits.memory.symbol(gate.name) is not None
        gates = [gate for gate in jits.gates() if now and not self._is_named[gate.name]]
        if now == self._loaded and gates == self._gates:
            return
        self._replace(_functions(list(now.values()), gates, jits), jits.architecture)
        self._loaded, self._gates = now, gates

    @staticmethod
    def owns(objfile: gdb.Objfile) -> bool:
        """Whether it is one of these files."""
        return os.path.basename(objfile.filename or "").startswith(OWN_FILES)

    def expire(self) -> None:
        """The process is gone. GDB is not told at once: it may be in the middle of following a fork."""
        self.expired = True

    def drop(self) -> None:
        """Take everything back."""
        self._loaded, self._gates, self._is_named, self.expired = {}, [], {}, False
        self._remove()

    def _replace(self, functions: list[Function], arch: Architecture) -> None:
        self._remove()
        if not functions:
            return
        self._count += 1
        path = Path(self._directory.name) / f"{OWN_FILES}{self._count}.o"
        path.write_bytes(symbol_file(arch.elf_machine, functions[:MOST_FUNCTIONS]))
        gdb.execute(f"add-symbol-file {path} -o 0", to_string=True)
        self._path = path

    def _remove(self) -> None:
        path, self._path = self._path, None
        if path is None:
            return
        with suppress(gdb.error):  # GDB may have dropped it itself
            gdb.execute(f"remove-symbol-file {path}", to_string=True)
        path.unlink(missing_ok=True)


def _functions(codes: list[Code], gates: list[Region], jits: Jits) -> list[Function]:
    functions = []
    for code in sorted(codes, key=lambda each: each.start):
        for piece in jits.pieces(code):
            lines = lines_of_piece(code, piece, jits.lines(code))
            functions.append(Function(piece.name, piece.start, piece.size, lines))
    return [*functions, *(Function(gate.name, gate.start, gate.size, []) for gate in gates)]


def words_into(memory: Inferior, stack_pointer: int, jits: Jits) -> set[int]:
    """The words between `stack_pointer` and its stack's end that point into JIT code."""
    ranges = jits.ranges
    if not ranges:
        return set()
    words = array("Q", memory.stack(stack_pointer & -_WORD, MOST_STACK))
    low, high = ranges[0].start, ranges[-1].end
    return {word for word in words if low <= word < high and jits.may_hold(word)}


def jit_code_on_stacks() -> list[Code]:
    """The JIT code that the selected inferior's threads are in, or come back to."""
    current = session()
    jits = current.jits()
    if jits is None:
        return []
    words: set[int] = set()
    if not current.memory.knows_anonymous:
        words |= {pc for pc in _walked() if jits.may_hold(pc)}
    if not jits.ranges:
        return []
    for pc, back, stack_pointer in _threads(jits.architecture):
        words |= words_into(current.memory, stack_pointer, jits)
        words |= {address for address in (pc, back) if jits.may_hold(address)}
    found = {}
    for word in words:
        code = jits.find(word)
        if code is not None:
            found[code.start] = code
    return list(found.values())


def _walked() -> Iterator[int]:
    """The program counters of the selected thread's frames: where mappings are not known, code that no list leads
    to is met there only."""
    try:
        frame: gdb.Frame | None = gdb.newest_frame()
        for _ in range(MOST_WALKED):
            if frame is None:
                return
            yield frame.pc()
            frame = frame.older()
    except gdb.error:
        return


def _threads(arch: Architecture) -> list[tuple[int, int, int]]:
    """Of each thread the program counter, the return address where a register holds it (else the program counter
    again), and the stack pointer."""
    selected = gdb.selected_thread()
    if selected is None:
        return []
    threads = selected.inferior.threads()
    if len(threads) == 1:
        return [_state(arch)]
    frame = gdb.selected_frame() if selected.is_stopped() else None
    found = []
    try:
        for thread in threads:
            if thread.is_stopped():
                thread.switch()
                found.append(_state(arch))
    finally:
        selected.switch()
        if frame is not None and frame.is_valid():
            frame.select()
    return found


def _state(arch: Architecture) -> tuple[int, int, int]:
    frame = gdb.newest_frame()
    back, stack_pointer = (
        int(frame.read_register(name_of(register, arch))) & 0xFFFFFFFFFFFFFFFF
        for register in (arch.return_address, arch.stack_pointer)
    )
    return frame.pc(), back, stack_pointer


_files: dict[int, SymbolFile] = {}


def synchronize(everything: bool = False) -> None:
    """Bring GDB's symbols up to date with the process: what stacks lead to, or `everything` there is."""
    try:
        number = gdb.selected_inferior().num
        if number in _files and _files[number].expired:
            _files[number].drop()
        thread = gdb.selected_thread()
        if thread is None or not thread.is_valid() or not thread.is_stopped():
            return
        current = session()
        jits = current.jits()
        if jits is None:
            return
        wanted = codes_of(jits) if everything else jit_code_on_stacks()
        if wanted or number in _files:
            if number not in _files:
                _files[number] = SymbolFile()
            _files[number].show(wanted, jits)
    except Exception as error:  # a damaged process must not cost the user the session
        session().count(f"{type(error).__name__}: {error}")


def _exited(event: gdb.ExitedEvent) -> None:
    file = _files.get(event.inferior.num)
    if file is not None:
        file.expire()


class _SyncCommand(gdb.Command):
    """Bring the names and lines of JIT code up to date. GDB does it at every stop by itself (hook-stop)."""

    def __init__(self) -> None:
        super().__init__(_SYNC, gdb.COMMAND_SUPPORT)

    def invoke(self, argument: str, from_tty: bool) -> None:
        global _hook_ran
        _hook_ran = True
        with suppress(gdb.error):  # GDB has looked at frames while the process ran, as where a thread begins
            session().ran()
        synchronize()


_SYNC = "jitunwind-sync"
_hook_ran = False


def _goes_on(event: object) -> None:
    global _hook_ran
    _hook_ran = False


def _stopped(event: object) -> None:
    """GDB has stopped and printed where. If that was without our hook, the user has defined one since."""
    if not _hook_ran:
        synchronize()
        _hook_stop()


def _loaded(event: gdb.NewObjFileEvent) -> None:
    """A core does not stop: its symbols are brought up to date as soon as its files are there.

    They are loaded before GDB prints where the core stands, and before any `-ex` of a `-batch`.
    """
    if is_core(gdb.selected_inferior()) and not SymbolFile.owns(event.new_objfile):
        synchronize()


def install() -> None:
    """Have the symbols follow the process."""
    _SyncCommand()
    follow(exited=_exited, before_prompt=synchronize, cont=_goes_on, stop=_stopped, new_objfile=_loaded)
    _hook_stop()


def _hook_stop() -> None:
    """Append to the user's `hook-stop`, if there is one: it runs before GDB prints where it stopped."""
    try:
        text = gdb.execute("show user hook-stop", to_string=True)
        body = [line[2:] for line in text.splitlines()[1:]]
    except gdb.error:
        body = []
    if _SYNC not in map(str.strip, body):
        gdb.execute("\n".join(["define hook-stop", *body, _SYNC, "end"]), to_string=True)
