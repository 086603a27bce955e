"""Where things are inside CPython: its own debug offsets, and a table for what those leave out.

`_PyRuntime` begins with a `_Py_DebugOffsets` (CPython Include/internal/pycore_debug_offsets.h), which
describes frames, code objects and strings. Of executors it says nothing: their offsets are compiled from
the headers of each version (Py_BUILD_CORE) and checked before they are believed.
"""

import os
import struct
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.errors import NotPython, UnreadableMemory, UnsupportedVersion
from jitunwind.memory import Memory

COOKIE = b"xdebugpy"

_INTERPRETER = """
    runtime_state: size finalizing interpreters_head
    interpreter_state: size id next threads_head threads_main gc imports_modules sysdict builtins ceval_gil
        gil_runtime_state gil_runtime_state_enabled gil_runtime_state_locked gil_runtime_state_holder
        code_object_generation tlbc_generation
"""
_FRAMES_AND_CODE = """
    interpreter_frame: size previous executable instr_ptr localsplus owner stackpointer tlbc_index
    code_object: size filename name qualname linetable firstlineno argcount localsplusnames localspluskinds
        co_code_adaptive co_tlbc
    pyobject: size ob_type
"""
_CONTAINERS = """
    tuple_object: size ob_item ob_size
    list_object: size ob_item ob_size
    set_object: size used table mask
    dict_object: size ma_keys ma_values
    float_object: size ob_fval
    long_object: size lv_tag ob_digit
    bytes_object: size ob_size ob_sval
    unicode_object: size state length asciiobject_size
"""

_FIELDS = {
    (3, 14): f"""
        {_INTERPRETER}
        thread_state: size prev next interp current_frame thread_id native_thread_id datastack_chunk status
        {_FRAMES_AND_CODE}
        type_object: size tp_name tp_repr tp_flags
        {_CONTAINERS}
    """,
    (3, 15): f"""
        {_INTERPRETER}
        thread_state: size prev next interp current_frame base_frame last_profiled_frame
            last_profiled_frame_seq thread_id native_thread_id datastack_chunk status holds_gil gil_requested
            current_exception exc_state
        err_stackitem: exc_value
        {_FRAMES_AND_CODE}
        type_object: size tp_name tp_repr tp_flags tp_basicsize tp_dictoffset
        heap_type_object: size ht_cached_keys
        {_CONTAINERS}
    """,
}
"""`_Py_DebugOffsets` in order, from the version number on, as far as it is used: one 64-bit word each."""


class ExecutorLayout(NamedTuple):
    """Offsets of one minor version's executors and of the interpreter's ways to them.

    `lists`: offsets in the interpreter of heads of linked lists of executors; `singles`: of pointers to one;
    `array` and `array_count`: of a pointer to an array of them and its length, where the version has one.
    """

    lists: tuple[int, ...]
    singles: tuple[int, ...]
    array: int | None
    array_count: int | None
    link_next: int
    code: int
    jit_size: int
    jit_code: int
    registration: int | None
    """Of what the version itself has published of it (_PyJitCodeRegistration, 3.15)."""
    trace: int
    code_size: int
    exits: int
    exit_count: int
    warm: int | None
    """Of the flag that the body's first instructions set by its absolute address (3.14)."""
    jit_switch: int
    """Of the interpreter's flag that says whether its JIT is on; in every build, with a JIT or without."""
    shim_in_region: bool
    """Each executor's machine code begins with a shim of its own (3.14)."""
    current: int
    """In a thread's state: of the executor that it runs (PyThreadState.current_executor)."""
    stencil_group: int
    """Bytes of a StencilGroup (jit_stencils.h, which CPython's Tools/jit writes)."""


EXIT_SIZE = 16
EXIT_EXECUTOR = 8

EXECUTORS = {
    (3, 14): ExecutorLayout(
        lists=(223192, 223200),
        singles=(),
        array=None,
        array_count=None,
        link_next=72,
        code=88,
        jit_size=104,
        jit_code=112,
        registration=None,
        trace=24,
        code_size=100,
        exits=128,
        exit_count=96,
        warm=35,
        jit_switch=223184,
        shim_in_region=True,
        current=272,
        stencil_group=40,
    ),
    (3, 15): ExecutorLayout(
        lists=(223464,),
        singles=(223472, 223480),
        array=223440,
        array_count=223448,
        link_next=48,
        code=64,
        jit_size=80,
        jit_code=88,
        registration=96,
        trace=24,
        code_size=76,
        exits=104,
        exit_count=72,
        warm=None,
        jit_switch=223408,
        shim_in_region=False,
        current=304,
        stencil_group=88,
    ),
}
"""By (major, minor), on x86_64; from 3.14.10 and 3.15.2. A build with other offsets is found out by `executors`."""
_FARTHER = {"x86_64": 0, "aarch64": 16}
"""Bytes that an interpreter's executors lie farther back than on x86_64: before them are the two mutexes of its
GIL, which are 48 bytes each in AArch64's glibc (pthread_mutex_t), instead of 40."""


def executor_layout(version: tuple[int, int], arch: Architecture) -> ExecutorLayout | None:
    """That of a version (major, minor) on an architecture; None for those that are not known."""
    of = EXECUTORS.get(version)
    if of is None:
        return None
    farther = _FARTHER[arch.name]
    return of._replace(
        lists=tuple(offset + farther for offset in of.lists),
        singles=tuple(offset + farther for offset in of.singles),
        array=None if of.array is None else of.array + farther,
        array_count=None if of.array_count is None else of.array_count + farther,
        jit_switch=of.jit_switch + farther,
    )


class Layout(NamedTuple):
    """One process's CPython: its version, where its runtime is, and the offsets to read it with.

    `offsets["code_object.filename"]` is `_Py_DebugOffsets.code_object.filename`, in bytes.
    """

    runtime: int
    version: tuple[int, int, int]
    offsets: dict[str, int]
    executor: ExecutorLayout

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
        raise NotPython("nothing that it has loaded is a CPython's runtime (_PyRuntime)")
    try:
        cookie, hexversion, free_threaded = struct.unpack("<8sQQ", memory.checked_read(runtime, 24))
    except UnreadableMemory:
        raise NotPython("_PyRuntime cannot be read") from None
    if cookie != COOKIE:
        raise UnsupportedVersion(f"{_older(memory)} is not known here, only 3.14 and 3.15 are")
    version = _version(hexversion)
    text = ".".join(str(part) for part in version)
    executor = executor_layout(version[:2], memory.architecture)
    if executor is None:
        raise UnsupportedVersion(f"CPython {text} is not known here, only 3.14 and 3.15 are")
    if free_threaded:
        raise UnsupportedVersion(f"this CPython {text} is free-threaded, and has no JIT")
    names = _names(_FIELDS[version[:2]])
    try:
        values = memory.words(runtime + 24, len(names))
    except UnreadableMemory:
        raise NotPython("_PyRuntime is cut short") from None
    offsets = dict(zip(names, values, strict=True))
    if any(offset > _LARGEST_OFFSET for offset in offsets.values()):
        raise UnsupportedVersion(f"the debug offsets of this CPython {text} are implausible")
    return Layout(runtime, version, offsets, executor)


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
