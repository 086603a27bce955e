"""Where things are inside one process's CPython: its own debug offsets, and the record of its version for what those
leave out.

`_PyRuntime` begins with a `_Py_DebugOffsets` (CPython Include/internal/pycore_debug_offsets.h), which describes frames,
code objects and strings. Of executors it says nothing: their offsets are in `versions`, and what is read there is
checked before it is believed.
"""

import os
import struct
from collections.abc import Sequence
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
    return version._replace(executor=version.executor.moved(in_interpreter=farther))


class Layout(NamedTuple):
    """One process's CPython: its version, where its runtime is, and the offsets to read it with.

    `offsets["code_object.filename"]` is `_Py_DebugOffsets.code_object.filename`, in bytes; `record` has what those
    leave out.
    """

    runtime: int
    version: tuple[int, int, int]
    offsets: dict[str, int]
    record: Version
    is_guess: bool = False
    """The version is newer than all that are known: the record is the newest one's."""
    prerelease: str = ""
    """Such as "a1", of a version in development."""

    @property
    def executor(self) -> ExecutorLayout:
        return self.record.executor

    @property
    def version_text(self) -> str:
        return ".".join(str(part) for part in self.version) + self.prerelease

    @property
    def warning(self) -> str:
        """What a user should know of this CPython; "" of a version that is known."""
        known = f"CPython {self.version_text} is not known here: its executors were found by their structure"
        return known if self.is_guess else ""


def described(memory: Memory) -> Layout:
    """What the CPython in `memory` says of itself, and the record of its version. The record's offsets of executors are
    not checked: `discovery.read_layout` does that. A version newer than all that are known gets the newest record, and
    `is_guess`.

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
        raise unknown_version(_older(memory))
    version = _version(hexversion)
    text = f"CPython {'.'.join(map(str, version))}{_prerelease(hexversion)}"
    newest = max(VERSIONS)
    is_guess = version[:2] > newest
    record = version_on(newest if is_guess else version[:2], memory.architecture)
    if record is None:
        raise unknown_version(text)
    if free_threaded:
        raise UnsupportedVersion(
            f"this {text} is free-threaded: its JIT, if it has one, is not known here", _UNKNOWN_HINT
        )
    if is_debug_build(memory):
        record = record._replace(executor=record.executor.moved(in_interpreter=_FARTHER_IN_DEBUG_BUILDS))
    for lacking in ((), record.later_without) if is_guess else ((),):
        offsets = _debug_offsets(memory, runtime, record, lacking)
        if offsets is not None:
            return Layout(runtime, version, offsets, record, is_guess, _prerelease(hexversion))
    if is_guess:
        raise unknown_version(text)
    raise UnsupportedVersion(f"the debug offsets of this {text} are implausible", _UNKNOWN_HINT)


def is_debug_build(memory: Memory) -> bool:
    """Whether the CPython was built with assertions (configure --with-pydebug)."""
    return memory.symbol(_DEBUG_BUILD) is not None


_DEBUG_BUILD = "_Py_NegativeRefcount"
"""A function that builds with Py_REF_DEBUG have, as --with-pydebug makes them (Include/refcount.h)."""
_FARTHER_IN_DEBUG_BUILDS = 16
"""Bytes; measured on 3.14.10 and 3.15.2 of Debian."""


def unknown_version(text: str) -> UnsupportedVersion:
    """That of a CPython called `text`."""
    return UnsupportedVersion(f"{text} is not known here, only {in_words('and')} are", _UNKNOWN_HINT)


def _debug_offsets(
    memory: Memory, runtime: int, record: Version, lacking: Sequence[str]
) -> dict[str, int] | None:
    """Those of the process, by name; None where they make no sense: a structure has all its fields within its size."""
    names = [name for name in _names(record.debug_offsets) if name not in lacking]
    try:
        values = memory.words(runtime + 24, len(names))
    except UnreadableMemory:
        raise NotPython("_PyRuntime is cut short", _NO_PYTHON_HINT) from None
    offsets = dict(zip(names, values, strict=True))
    for name, offset in offsets.items():
        group, _, field = name.partition(".")
        size = _LARGEST_OFFSET if field.endswith("size") else offsets.get(f"{group}.size", _LARGEST_OFFSET)
        if offset > size:
            return None
    return offsets


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


def _prerelease(hexversion: int) -> str:
    """The release level and serial number in PY_VERSION_HEX: "a1", or "" of a final release."""
    level = {0xA: "a", 0xB: "b", 0xC: "rc"}.get(hexversion >> 4 & 15)
    return f"{level}{hexversion & 15}" if level else ""


def _older(memory: Memory) -> str:
    """What to call a CPython without debug offsets; since 3.11 it exports its version."""
    try:
        address = memory.symbol("Py_Version")
        version = _version(memory.word(address)) if address else (0, 0, 0)
        if version[0] == _MAJOR and version[1] <= _LAST_MINOR_WITHOUT_OFFSETS:
            return f"CPython {'.'.join(map(str, version))}"
        if address:
            return "a CPython that does not tell its version"
    except UnreadableMemory:
        pass
    return "a CPython before 3.11"


_LARGEST_OFFSET = 1 << 24
_MAJOR, _LAST_MINOR_WITHOUT_OFFSETS = 3, 12


def _names(fields: str) -> list[str]:
    names = []
    group = ""
    for word in fields.split():
        if word.endswith(":"):
            group = word[:-1]
        else:
            names.append(f"{group}.{word}")
    return names
