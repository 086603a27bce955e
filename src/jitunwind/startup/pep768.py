"""Asking a running Python to execute a script, from outside: the protocol of PEP 768, which sys.remote_exec speaks.

The path of the script is written into the state of a thread, with a flag beside it. A bit in the thread's
`eval_breaker` makes the interpreter look at the flag between two instructions (CPython Python/remote_debugging.c;
the offsets are `_Py_DebugOffsets.debugger_support`). sys.remote_exec needs a Python of the same version for that, and
asks the main thread of the newest interpreter, which a program that embeds Python may not have. This module needs no
Python, and asks a thread of the first interpreter.
"""

import os
import struct
from collections.abc import Iterator

from jitunwind.errors import (
    AlreadyTraced,
    JitunwindError,
    NoSafePoint,
    NoSuchProcess,
    NotPermitted,
    RemoteDebuggingOff,
    UnreadableMemory,
)
from jitunwind.jits.cpython.executors import interpreters
from jitunwind.jits.cpython.layout import Layout
from jitunwind.memory.live import ids_inside, is_alive
from jitunwind.memory.process import LiveProcess
from jitunwind.stacks.seizing import with_threads_stopped

_PLEASE_STOP = 1 << 5
"""_PY_EVAL_PLEASE_STOP_BIT (Include/internal/pycore_ceval.h)."""
_MOST_THREADS = 1 << 16
_MAIN_INTERPRETER = 0


class Request:
    """One to the CPython in process `pid`, which `memory` reads by `layout`. Make it when it is due: threads end.

    RemoteDebuggingOff; NoSafePoint where no thread of the first interpreter can execute Python; NotPermitted.
    """

    def __init__(self, memory: LiveProcess, layout: Layout) -> None:
        self._memory, self._offsets = memory, layout.offsets
        interpreter = self._main_interpreter(layout)
        switch = interpreter + self._offsets["debugger_support.remote_debugging_enabled"]
        if self._integer(switch) != 1:
            raise RemoteDebuggingOff(f"process {memory.pid} has remote debugging switched off")
        self._thread = self._main_thread(interpreter)
        support = self._thread + self._offsets["debugger_support.remote_debugger_support"]
        self._path = support + self._offsets["debugger_support.debugger_script_path"]
        self._pending = support + self._offsets["debugger_support.debugger_pending_call"]
        self._room = self._offsets["debugger_support.debugger_script_path_size"]
        try:
            self._file = os.open(f"/proc/{memory.pid}/mem", os.O_RDWR)
        except PermissionError:
            raise NotPermitted(f"process {memory.pid} may not be written to by this user") from None
        except OSError:
            raise NoSuchProcess(f"process {memory.pid} has ended") from None

    def close(self) -> None:
        os.close(self._file)

    def make(self, script: str) -> None:
        """Have the thread execute the file `script`, a path as the process sees it, when it can."""
        path = os.fsencode(script) + b"\0"
        if len(path) > self._room:
            raise NotPermitted(
                f"the path {script} is too long for process {self._memory.pid}", "set TMPDIR to a shorter one"
            )
        self._write(self._path, path)
        self._write(self._pending, struct.pack("<i", 1))
        try:
            with_threads_stopped(self._memory.pid, lambda _: self._interrupt())
        except (AlreadyTraced, NotPermitted):  # as sys.remote_exec does it
            self._interrupt()

    def _interrupt(self) -> None:
        """Set the bit. The thread sets and clears others in the same word: so it stands still meanwhile, if it can be
        stopped."""
        breaker = self._thread + self._offsets["debugger_support.eval_breaker"]
        try:
            word = self._memory.word(breaker)
        except UnreadableMemory:
            raise self._nobody() from None
        self._write(breaker, struct.pack("<Q", word | _PLEASE_STOP))

    def withdraw(self) -> None:
        """Take it back, if it has not been executed."""
        self._write(self._pending, struct.pack("<i", 0))

    def _write(self, address: int, data: bytes) -> None:
        try:
            os.pwrite(self._file, data, address)
        except OSError:
            raise NoSuchProcess(f"process {self._memory.pid} has ended") from None

    def _integer(self, address: int) -> int:
        try:
            return int.from_bytes(self._memory.checked_read(address, 4), "little", signed=True)
        except UnreadableMemory:
            raise self._nobody() from None

    def _main_interpreter(self, layout: Layout) -> int:
        """The first that the process has made, whose number is 0."""
        try:
            for interpreter in interpreters(self._memory, layout):
                if (
                    self._memory.word(interpreter + self._offsets["interpreter_state.id"])
                    == _MAIN_INTERPRETER
                ):
                    return interpreter
        except UnreadableMemory:
            pass
        raise self._nobody()

    def _main_thread(self, interpreter: int) -> int:
        """That in which the interpreter runs its main program; of a program that embeds Python, which need not tell,
        the one in the process's first thread, else the oldest."""
        try:
            main = self._memory.word(interpreter + self._offsets["interpreter_state.threads_main"])
            threads = list(self._threads(interpreter))
            if main in threads:
                return main
            ids, number = ids_inside(self._memory.pid), self._offsets["thread_state.native_thread_id"]
            for thread in threads:
                if ids.get(self._memory.word(thread + number)) == self._memory.pid:
                    return thread
        except UnreadableMemory:
            raise self._nobody() from None
        if not threads:
            raise self._nobody()
        return threads[-1]

    def _threads(self, interpreter: int) -> Iterator[int]:
        """The thread states, the newest first."""
        thread = self._memory.word(interpreter + self._offsets["interpreter_state.threads_head"])
        seen: set[int] = set()
        while thread and thread not in seen and len(seen) < _MOST_THREADS:
            seen.add(thread)
            yield thread
            thread = self._memory.word(thread + self._offsets["thread_state.next"])

    def _nobody(self) -> JitunwindError:
        if not is_alive(self._memory.pid):
            return NoSuchProcess(f"process {self._memory.pid} has ended")
        return NoSafePoint(
            f"process {self._memory.pid} has no thread that could execute Python: it is starting, or ending",
            "try again",
        )
