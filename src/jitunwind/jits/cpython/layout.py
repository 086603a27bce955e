"""Where things are inside one process's CPython: its own debug offsets, and the record of its version for what those
leave out.

`_PyRuntime` begins with a `_Py_DebugOffsets` (CPython Include/internal/pycore_debug_offsets.h), which describes frames,
code objects and strings. Of executors it says nothing: their offsets are in `versions`, and what is read there is
checked before it is believed.
"""

import os
import struct
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.arch.known import ARCHITECTURES
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.errors import NotPython, UnreadableMemory, UnsupportedVersion
from jitunwind.jits.cpython.versions import VERSIONS, ExecutorLayout, Version, in_words
from jitunwind.memory import Memory

COOKIE = b"xdebugpy"
_NO_PYTHON_HINT = f"name a process of CPython {in_words('or')}, on {' or '.join(ARCHITECTURES)}"
_UNKNOWN_HINT = (
    f"jitunwind knows the JIT of CPython {in_words('and')}; bt shows the native frames of any process"
)

_MUTEXES = 2
"""Before an interpreter's executors are those of its GIL (struct _gil_runtime_state, Include/internal/pycore_gil.h)."""


def version_on(number: tuple[int, int], arch: Architecture) -> Version | None:
    """The record of a version (major, minor), with the offsets of an architecture: they are farther where mutexes are
    larger than x86_64's. None for a version that is not known."""
    version = VERSIONS.get(number)
    farther = _MUTEXES * (arch.linux.mutex_size - X86_64.linux.mutex_size)
    if version is None or not farther:
        return version
    of = version.executor
    return version._replace(
        executor=of._replace(
            lists=tuple(offset + farther for offset in of.lists),
            singles=tuple(offset + farther for offset in of.singles),
            array=None if of.array is None else of.array + farther,
            array_count=None if of.array_count is None else of.array_count + farther,
            jit_switch=of.jit_switch + farther,
        )
    )


class Layout(NamedTuple):
    """One process's CPython: its version, where its runtime is, and the offsets to read it with.

    `offsets["code_object.filename"]` is `_Py_DebugOffsets.code_object.filename`, in bytes; `record` has what those
    leave out.
    """

    runtime: int
    version: tuple[int, int, int]
    offsets: dict[str, int]
    record: Version

    @property
    def executor(self) -> ExecutorLayout:
        return self.record.executor

    @property
    def version_text(self) -> str:
        return ".".join(str(part) for part in self.version)


def read_layout(memory: Memory) -> Layout:
    """The layout of the CPython in `memory`.

    NotPython where there is no `_PyRuntime` or it is not one; UnsupportedVersion for other minor versions,
    free-threaded builds and implausible offsets.
    """
    runtime = memory.symbol("_PyRuntime") or find_runtime(memory)
    if not runtime:
        raise NotPython("nothing that it has loaded is a CPython's runtime (_PyRuntime)", _NO_PYTHON_HINT)
    try:
        cookie, hexversion, free_threaded = struct.unpack("<8sQQ", memory.checked_read(runtime, 24))
    except UnreadableMemory:
        raise NotPython("_PyRuntime cannot be read", _NO_PYTHON_HINT) from None
    if cookie != COOKIE:
        raise UnsupportedVersion(
            f"{_older(memory)} is not known here, only {in_words('and')} are", _UNKNOWN_HINT
        )
    version = _version(hexversion)
    text = ".".join(str(part) for part in version)
    record = version_on(version[:2], memory.architecture)
    if record is None:
        raise UnsupportedVersion(
            f"CPython {text} is not known here, only {in_words('and')} are", _UNKNOWN_HINT
        )
    if free_threaded:
        raise UnsupportedVersion(f"this CPython {text} is free-threaded, and has no JIT", _UNKNOWN_HINT)
    names = _names(record.debug_offsets)
    try:
        values = memory.words(runtime + 24, len(names))
    except UnreadableMemory:
        raise NotPython("_PyRuntime is cut short", _NO_PYTHON_HINT) from None
    offsets = dict(zip(names, values, strict=True))
    if any(offset > _LARGEST_OFFSET for offset in offsets.values()):
        raise UnsupportedVersion(f"the debug offsets of this CPython {text} are implausible", _UNKNOWN_HINT)
    return Layout(runtime, version, offsets, record)


def find_runtime(memory: Memory) -> int | None:
    """The address of `_PyRuntime` in a program whose symbols are gone: by the cookie that it begins with, in
    the data of the program (Linux maps it below all libraries) and of what has python in its name."""
    files = [mapping for mapping in memory.mappings() if mapping.path.startswith("/")]
    left = _MOST_SEARCHED
    for mapping in files:
        likely = mapping.path == files[0].path or "python" in os.path.basename(mapping.path)
        if mapping.executable or not likely:
            continue
        for start in range(mapping.start, mapping.end, _SEARCHED_AT_ONCE):
            size = min(mapping.end - start, _SEARCHED_AT_ONCE)
            left -= size
            if left < 0:
                return None
            try:
                data = memory.checked_read(start, size)
            except UnreadableMemory:
                continue
            at = -1
            while (at := data.find(COOKIE, at + 1)) != -1:
                if at % _RUNTIME_ALIGNMENT == 0 and _is_runtime(memory, start + at):
                    return start + at
    return None


_MOST_SEARCHED = 1 << 26
_SEARCHED_AT_ONCE = 1 << 20
_RUNTIME_ALIGNMENT = 8


def _is_runtime(memory: Memory, address: int) -> bool:
    """Whether a version of CPython 3 follows the cookie, and sizes that runtime and interpreter can have."""
    try:
        hexversion, _, runtime_size = memory.words(address + len(COOKIE), 3)
    except UnreadableMemory:
        return False
    return hexversion >> 24 == 3 and 0 < runtime_size <= _LARGEST_OFFSET


def _version(hexversion: int) -> tuple[int, int, int]:
    """PY_VERSION_HEX (Include/patchlevel.h)."""
    return (hexversion >> 24 & 0xFF, hexversion >> 16 & 0xFF, hexversion >> 8 & 0xFF)


def _older(memory: Memory) -> str:
    """What to call a CPython without debug offsets; since 3.11 it exports its version."""
    try:
        address = memory.symbol("Py_Version")
        if address:
            return f"CPython {'.'.join(map(str, _version(memory.word(address))))}"
    except UnreadableMemory:
        pass
    return "a CPython before 3.11"


_LARGEST_OFFSET = 1 << 24


def _names(fields: str) -> list[str]:
    names = []
    group = ""
    for word in fields.split():
        if word.endswith(":"):
            group = word[:-1]
        else:
            names.append(f"{group}.{word}")
    return names
