"""Run by CPython 3.15 with its JIT on: prints, as JSON, how many bytes it holds for publishing an executor.

    PYTHON_JIT=1 python3.15 bench/held.py EXECUTORS

It makes so many executors and looks at what CPython has made for each (Python/jit_publish.c, Python/jit_unwind.c):
an entry in GDB's list with its symbol file, an .eh_frame for libgcc, and a note that joins the two. Each counts with
what malloc gives it, its own word of bookkeeping included. libgcc's own record of the .eh_frame stays out.
"""

import ctypes
import json
import sys
import sysconfig
from types import FunctionType

FUNCTION = """
def f{n}(count):
    total = {n}
    for i in range(count):
        total = (total + i * {n}) & 0xFFFF
        if total > 0xFFF0:
            total -= i
    return total
"""
WORD = ctypes.sizeof(ctypes.c_void_p)
REGISTRATION = 96  # in _PyExecutorObject: struct _PyJitCodeRegistration, {gdb_handle, gnu_backtrace_handle}
FIRST = 16  # in struct jit_descriptor; an entry is {next, prev, symfile_addr, symfile_size}
NEXT, SYMFILE = 0, 16

program = ctypes.CDLL(None)
program.malloc_usable_size.restype = ctypes.c_size_t
program.malloc_usable_size.argtypes = [ctypes.c_void_p]


def word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def allocated(address: int) -> int:
    """What malloc gave for a block, and the word that it keeps before it."""
    return program.malloc_usable_size(address) + WORD if address else 0


def registrations(functions: list[FunctionType]) -> set[int]:
    import _opcode

    found = set()
    for function in functions:
        for offset in range(0, len(function.__code__.co_code), 2):
            try:
                executor = _opcode.get_executor(function.__code__, offset)
            except ValueError:
                continue
            if executor is not None:
                found.add(word(id(executor) + REGISTRATION))
    return found - {0}


def entries() -> list[int]:
    descriptor = ctypes.addressof(ctypes.c_uint64.in_dll(program, "__jit_debug_descriptor"))
    found = []
    entry = word(descriptor + FIRST)
    while entry:
        found.append(entry)
        entry = word(entry + NEXT)
    return found


def main() -> None:
    functions: list[FunctionType] = []
    for number in range(int(sys.argv[1])):
        names: dict[str, FunctionType] = {}
        exec(compile(FUNCTION.format(n=number), f"/tmp/held-{number}.py", "exec"), names)
        functions.append(names[f"f{number}"])
    for function in functions:
        function(5_000)
    listed, notes = entries(), registrations(functions)
    if not listed or not notes or not {word(note) for note in notes} <= set(listed):
        raise SystemExit(f"{sysconfig.get_python_version()} does not publish as CPython 3.15.2 does")
    each = {
        "list entry": sum(map(allocated, listed)) / len(listed),
        "symbol file": sum(allocated(word(entry + SYMFILE)) for entry in listed) / len(listed),
        ".eh_frame": sum(allocated(word(note + WORD)) for note in notes) / len(notes),
        "note": sum(map(allocated, notes)) / len(notes),
    }
    print(json.dumps({"executors": len(listed), "each": each, "bytes": sum(each.values())}))


if __name__ == "__main__":
    main()
