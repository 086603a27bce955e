"""Objects of another process: strings and code objects of real interpreters, and memory that is garbage."""

import contextlib
import json
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from jitunwind.errors import CorruptState, JitunwindError, NotPython, UnreadableMemory, UnsupportedVersion
from jitunwind.jits.cpython import objects
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.objects import CODE_UNIT, CodeObject, Objects
from jitunwind.jits.cpython.versions import py314
from jitunwind.memory import Mapping
from jitunwind.memory.process import LiveProcess
from tests.support.fake_memory import FakeMemory, words
from tests.support.processes import VERSIONS, Program, interpreter

STRINGS = ["", "ascii", "caf\xe9", "日本", "\U0001f40d snake", "x" * 5000, "ÿ" * 300]

DUMP = """
import json, os, sys, sysconfig, types
def walk(code):
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from walk(const)
root = sysconfig.get_path("stdlib")
for name in sys.argv[1:]:
    with open(os.path.join(root, name), encoding="utf-8") as file:
        module = compile(file.read(), name, "exec")
    for code in walk(module):
        print(json.dumps([code.co_qualname, code.co_firstlineno, len(code.co_code),
                          code.co_linetable.hex(), list(code.co_lines())]))
"""
MODULES = [
    *["argparse.py", "ast.py", "typing.py", "inspect.py", "dataclasses.py", "tarfile.py", "_pydecimal.py"],
    *["asyncio/tasks.py", "unittest/mock.py", "subprocess.py", "contextlib.py", "turtle.py"],
]


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    return interpreter(request.param)


def test_lines_are_those_that_cpython_says(python: str) -> None:
    dump = subprocess.run([python, "-c", DUMP, *MODULES], capture_output=True, text=True, check=True)
    units = codes = 0
    for text in dump.stdout.splitlines():
        name, first_line, size, table, lines = json.loads(text)
        code = CodeObject(0, 0x1000, size, name, "file.py", first_line, bytes.fromhex(table))
        for start, end, line in lines:
            for offset in range(start, end, CODE_UNIT):
                assert code.line_at(0x1000 + offset) == line, f"{name} at {offset}"
                units += 1
        codes += 1
        assert code.line_at(0x1000 - CODE_UNIT) is None
        assert code.line_at(0x1000 + size) is None
    assert codes > 1500
    assert units > 100_000


ADDRESSES = """
import json, sys
strings = json.loads(sys.argv[1])
def function(a, b):
    return a + b
class Class:
    def method(self):
        pass
codes = [function.__code__, Class.method.__code__]
print(json.dumps([
    [id(text) for text in strings],
    [[id(c), c.co_qualname, c.co_filename, c.co_firstlineno, len(c.co_code)] for c in codes],
    id(strings),
]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def live(python: str) -> Iterator[tuple[Objects, Any]]:
    """The objects of an interpreter, and what it says of them itself."""
    with Program([python, "-c", ADDRESSES, json.dumps(STRINGS)], jit=None) as program:
        assert program.process.stdout is not None
        said = json.loads(program.process.stdout.readline())
        with LiveProcess(program.pid) as memory:
            yield Objects(memory, read_layout(memory)), said


def test_strings_of_every_kind(live: tuple[Objects, Any]) -> None:
    objects, (strings, _, _) = live
    assert [objects.text(address) for address in strings] == STRINGS


def test_types(live: tuple[Objects, Any]) -> None:
    objects, (strings, codes, a_list) = live
    assert objects.type_name(strings[1]) == "str"
    assert objects.type_name(codes[0][0]) == "code"
    assert objects.type_name(a_list) == "list"


def test_code_objects(live: tuple[Objects, Any]) -> None:
    objects, (_, codes, _) = live
    for address, qualname, filename, first_line, size in codes:
        code = objects.code(address)
        assert code is not None
        assert (code.qualname, code.filename) == (qualname, filename)
        assert (code.first_line, code.bytecode_size) == (first_line, size)
        assert code.name == f"py::{qualname}:{filename}"
        assert code.line_at(code.bytecode) in (first_line, None)


def test_the_code_object_of_an_instruction(live: tuple[Objects, Any]) -> None:
    objects, (_, codes, _) = live
    for address, qualname, *_ in codes:
        size = codes[0][4]
        fresh = Objects(objects._memory, objects._layout)  # one that knows no code object yet
        begins = address + objects._layout.offsets["code_object.co_code_adaptive"]
        found = fresh.code_of_instruction(begins + min(size, codes[1][4]) - CODE_UNIT)
        assert found is not None
        assert found.qualname == qualname


def test_what_is_no_str_or_code(live: tuple[Objects, Any]) -> None:
    objects, (strings, codes, a_list) = live
    with pytest.raises(CorruptState):
        objects.text(a_list)
    assert objects.code(strings[0]) is None
    for address in (0, 1, 8, 0x10, (1 << 64) - 8, 1 << 63, codes[0][0] + 1):
        assert objects.code(address) is None
        with pytest.raises(JitunwindError):
            objects.text(address)


# --- garbage

OFFSETS = {
    "pyobject.ob_type": 8,
    "type_object.tp_name": 24,
    "unicode_object.length": 16,
    "unicode_object.state": 32,
    "unicode_object.asciiobject_size": 40,
    "bytes_object.ob_size": 16,
    "bytes_object.ob_sval": 32,
    "code_object.linetable": 136,
    "code_object.firstlineno": 68,
    "code_object.filename": 112,
    "code_object.qualname": 128,
    "code_object.co_code_adaptive": 208,
}
LAYOUT = Layout(0, (3, 14, 0), OFFSETS, py314.VERSION)
STR, CODE = 0x1000, 0x2000


def memory_with(objects: bytes) -> FakeMemory:
    """Types called str and code, and `objects` at 0x10000."""
    types = bytes(24) + words(STR + 32) + b"str\0" + bytes(60)
    code = bytes(24) + words(CODE + 32) + b"code\0" + bytes(60)
    return FakeMemory({STR: types, CODE: code, 0x10000: objects})


def a_str(length: int, state: int, data: bytes = b"") -> bytes:
    return words(1, STR, length, 0) + state.to_bytes(8, "little") + data


@pytest.mark.parametrize(
    ("length", "state"),
    [(1 << 62, 0b1100100), (3, 0), (3, 0b0001100), (3, 0b0011100), (100, 0b1100100)],
    ids=["absurd length", "kind 0", "kind 3", "kind 7", "beyond what is mapped"],
)
def test_damaged_strings_are_named_errors(length: int, state: int) -> None:
    objects = Objects(memory_with(a_str(length, state, b"abc")), LAYOUT)
    with pytest.raises((CorruptState, UnreadableMemory)):
        objects.text(0x10000)


def test_garbage_never_raises_anything_else() -> None:
    chance = random.Random(14)
    for _ in range(1500):
        values = [
            chance.choice(
                [STR, CODE, 0x10000, 0x10040, 0, 1, (1 << 64) - 1, 1 << 63, chance.randrange(1 << 20)]
            )
            for _ in range(64)
        ]
        objects = Objects(memory_with(words(*values)), LAYOUT)
        for address in (0x10000, 0x10008, 0x100F8):
            objects.code(address)
            objects.code_of_instruction(address + 250)
            with contextlib.suppress(CorruptState, UnreadableMemory):
                objects.text(address)


def test_garbage_line_tables_end() -> None:
    chance = random.Random(15)
    for _ in range(2000):
        table = chance.randbytes(chance.randrange(40))
        code = CodeObject(0, 0, 64, "f", "f.py", 1, table)
        for offset in range(0, 64, CODE_UNIT):
            assert isinstance(code.line_at(offset), int | None)


# --- the runtime

RUNTIME = 0x50000
A_FILE = [Mapping(RUNTIME, RUNTIME + 0x2000, False, "/usr/bin/python3.14")]


def runtime(
    cookie: bytes = b"xdebugpy", version: int = 0x030E0AF0, free_threaded: int = 0, offset: int = 8
) -> bytes:
    offsets = words(*[offset] * 600)
    return cookie + words(version, free_threaded) + offsets


def test_the_runtime_is_found_without_symbols() -> None:
    memory = FakeMemory(
        {RUNTIME: bytes(0x100) + runtime() + bytes(0x2000 - 0x100 - len(runtime()))}, {}, A_FILE
    )
    assert read_layout(memory).runtime == RUNTIME + 0x100


@pytest.mark.parametrize(
    "data",
    [
        bytes(0x104) + runtime(),  # not aligned
        runtime(version=0x020707F0),
        b"xdebugpy",
        bytes(0x2000),
    ],
    ids=["unaligned", "Python 2", "the cookie alone", "nothing"],
)
def test_what_is_no_runtime_is_not_found(data: bytes) -> None:
    memory = FakeMemory({RUNTIME: data.ljust(0x2000, b"\0")}, {}, A_FILE)
    with pytest.raises(NotPython):
        read_layout(memory)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (runtime(version=0x031000A1), "CPython 3.16.0a1 is not known here"),
        (runtime(version=0x030D0CF0), "CPython 3.13.12 is not known here"),
        (runtime(version=0x031000A1, offset=1 << 30), "CPython 3.16.0a1 is not known here"),
        (runtime(offset=1 << 30), "the debug offsets of this CPython 3.14.10 are implausible"),
        (runtime(free_threaded=1), "is free-threaded: its JIT, if it has one, is not known here"),
        (runtime(cookie=b"nonsense"), "a CPython before 3.11 is not known here"),
    ],
)
def test_other_versions_are_named(data: bytes, said: str) -> None:
    memory = FakeMemory({RUNTIME: data}, {"_PyRuntime": RUNTIME})
    with pytest.raises(UnsupportedVersion, match=said):
        read_layout(memory)


def test_a_line_table_is_read_once_for_all_lines(monkeypatch):
    read = []
    entries = objects._entries
    monkeypatch.setattr(objects, "_entries", lambda *table: read.append(table) or entries(*table))
    code = CodeObject(0, 0x1000, 64, "f", "f.py", 1, bytes.fromhex("d0d8d0d8d0d8d0d8"))
    assert len([code.line_at(0x1000 + at) for at in range(0, 64, CODE_UNIT)]) == 32
    assert len(read) == 1
