"""Run by a CPython with its JIT on: runs a program, then prints as JSON what is held for publishing its executors.

    PYTHON_JIT=1 python3.15 bench/held.py SCRIPT ARGUMENT …

Where publishing has been switched on, that is what jitunwind's agent says that it holds, and, as a check on it, the
sizes of the symbol files in the debuggers' list. Elsewhere it is what CPython 3.15 has made for each executor
(Python/jit_publish.c, Python/jit_unwind.c): an entry in the list with its symbol file, an .eh_frame for libgcc, and
a note that joins the two; each counts with what malloc gave for it, and malloc's own word. What libgcc keeps for a
registered .eh_frame is counted on neither side.
"""

import ctypes
import gc
import json
import os
import runpy
import sys
from contextlib import redirect_stdout
from types import CodeType, FunctionType

WORD = ctypes.sizeof(ctypes.c_void_p)
REGISTRATION = 96  # in _PyExecutorObject: struct _PyJitCodeRegistration, {gdb_handle, gnu_backtrace_handle}
FIRST = 16  # in struct jit_descriptor; an entry is {next, prev, symfile_addr, symfile_size}
NEXT, SYMFILE, SYMFILE_SIZE = 0, 16, 24


program = ctypes.CDLL(None)
program.malloc_usable_size.restype = ctypes.c_size_t
program.malloc_usable_size.argtypes = [ctypes.c_void_p]


def word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def allocated(address: int) -> int:
    """What malloc gave for a block, and the word that it keeps before it."""
    return program.malloc_usable_size(address) + WORD if address else 0


def entries() -> list[int]:
    """Those of the debuggers' list."""
    descriptor = ctypes.addressof(ctypes.c_uint64.in_dll(program, "__jit_debug_descriptor"))
    found = []
    entry = word(descriptor + FIRST)
    while entry:
        found.append(entry)
        entry = word(entry + NEXT)
    return found


def codes() -> set[CodeType]:
    """The code of all functions, and of those in them."""
    found = set()
    waiting = [each.__code__ for each in gc.get_objects() if isinstance(each, FunctionType)]
    while waiting:
        code = waiting.pop()
        if code not in found:
            found.add(code)
            waiting += [each for each in code.co_consts if isinstance(each, CodeType)]
    return found


def notes() -> set[int]:
    """CPython 3.15's registrations of the executors that bytecode enters: not those of side exits."""
    import _opcode

    found = set()
    for code in codes():
        for offset in range(0, len(code.co_code), 2):
            try:
                executor = _opcode.get_executor(code, offset)
            except ValueError:
                continue
            if executor is not None:
                found.add(word(id(executor) + REGISTRATION))
    return found - {0}


def held_by_cpython() -> dict[str, float]:
    listed = entries()
    registered = [note for note in notes() if word(note) in listed]  # the others' code is freed
    if not registered:
        raise SystemExit(f"CPython {sys.version.split()[0]} does not publish as 3.15.2 does")
    of_lists = sum(allocated(entry) + allocated(word(entry + SYMFILE)) for entry in listed)
    of_one_note = sum(allocated(note) + allocated(word(note + WORD)) for note in registered) / len(registered)
    return {"executors": len(listed), "unpublished": 0, "bytes": of_lists + of_one_note * len(listed)}


def held_by_jitunwind() -> dict[str, float]:
    import jitunwind
    from jitunwind.agent.library import loaded_agent
    from jitunwind.jits.cpython.discovery import read_layout
    from jitunwind.jits.cpython.inside.memory import OwnProcess
    from jitunwind.jits.cpython.regions import Regions

    jitunwind.flush(60)
    memory = OwnProcess()
    executors = Regions(memory, read_layout(memory)).starts
    unpublished = [start for start in executors if not loaded_agent().knows(start)]
    published = jitunwind.statistics()
    listed = sum(word(entry + SYMFILE_SIZE) for entry in entries())
    if published.bytes < listed:
        raise SystemExit(
            f"the symbol files that are listed have {listed} bytes, and the agent says: {published}"
        )
    held = len(executors) - len(unpublished)
    return {"executors": held, "unpublished": len(unpublished), "bytes": published.bytes}


def main() -> None:
    del sys.argv[0]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        kept = runpy.run_path(sys.argv[0], run_name="__main__")
    held = held_by_jitunwind() if "jitunwind" in sys.modules else held_by_cpython()
    print(json.dumps(held))
    del kept


if __name__ == "__main__":
    main()
