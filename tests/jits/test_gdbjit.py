"""Code registered through GDB's JIT interface: found, named, and never believed without a look at it."""

import random

import pytest

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.dwarf.lines import Function
from jitunwind.elf.image import symbol_file
from jitunwind.jits import codes_of
from jitunwind.jits.gdbjit import GdbJit
from jitunwind.jits.mangled import plain_name
from jitunwind.jits.registered import DESCRIPTOR
from jitunwind.memory import Mapping
from jitunwind.region import Line
from tests.support.fake_memory import FakeMemory, words

CODE, DESCRIBED, FIRST, SECOND, IMAGES = 0x7F00_0000_0000, 0x1000, 0x2000, 0x3000, 0x10_0000
LINES = [Line(0, "/src/f.x", 7), Line(4, "/src/f.x", 8)]
ONE = symbol_file(X86_64.elf_machine, [Function("f", CODE, 16, LINES), Function("g", CODE + 16, 8, [])])
TWO = symbol_file(X86_64.elf_machine, [Function("py::h:/tmp/h.py", CODE + 64, 16, [])])


def process(*images: bytes, last: int = 0) -> FakeMemory:
    """One that has registered these; the last entry leads to `last`."""
    memory = FakeMemory(symbols={DESCRIPTOR: DESCRIBED}, mapped=[Mapping(CODE, CODE + 4096, True, "")])
    entries = [FIRST + 0x1000 * index for index in range(len(images))]
    memory.blocks[CODE] = bytes(4096)
    memory.blocks[DESCRIBED] = words(1, 0, entries[0] if entries else 0)
    for index, (entry, image) in enumerate(zip(entries, images, strict=True)):
        following = entries[index + 1] if index + 1 < len(entries) else last
        memory.blocks[entry] = words(following, 0, IMAGES + (index << 20), len(image))
        memory.blocks[IMAGES + (index << 20)] = image
    return memory


def names(jit: GdbJit) -> list[str]:
    return [piece.name for code in codes_of(jit) for piece in jit.pieces(code)]


def test_functions_have_names_lines_and_the_platforms_entry() -> None:
    jit = GdbJit(process(ONE, TWO))
    assert names(jit) == ["f", "g", "py::h:/tmp/h.py"]
    code = jit.find(CODE + 9)
    assert code is not None
    assert (code.start, code.size, list(jit.lines(code))) == (CODE, 16, LINES)
    assert code.entries == ((0, X86_64.at_entry(X86_64.platform)),)
    assert jit.find(CODE + 24) is None


def test_what_another_jit_describes_better_is_left_out() -> None:
    assert names(GdbJit(process(ONE, TWO), others=("py::",))) == ["f", "g"]


def test_an_object_that_was_replaced_in_its_place_is_noticed() -> None:
    memory = process(ONE)
    jit = GdbJit(memory)
    assert names(jit) == ["f", "g"]
    assert jit.is_current()
    memory.blocks[IMAGES] = ONE.replace(b"\0f\0", b"\0e\0")
    assert not jit.is_current()


def test_an_entry_that_has_come_is_noticed() -> None:
    memory = process(ONE)
    jit = GdbJit(memory)
    assert names(jit)
    memory.blocks |= {each: data for each, data in process(ONE, TWO).blocks.items() if each != CODE}
    assert not jit.is_current()


@pytest.mark.parametrize("last", [FIRST, 0x4141_4141, (1 << 64) - 8], ids=["cycle", "wild", "top"])
def test_a_damaged_list_gives_what_there_is_before(last: int) -> None:
    assert names(GdbJit(process(ONE, last=last))) == ["f", "g"]


def test_an_absurd_size_is_a_warning() -> None:
    memory = process(ONE, TWO)
    memory.blocks[FIRST] = words(SECOND, 0, IMAGES, 1 << 62)
    jit = GdbJit(memory)
    assert names(jit) == ["py::h:/tmp/h.py"]
    assert "cannot be read" in jit.warnings[0]


def test_functions_outside_of_executable_memory_are_none() -> None:
    elsewhere = symbol_file(
        X86_64.elf_machine, [Function("f", CODE + 4090, 16, []), Function("g", 64, 8, [])]
    )
    assert names(GdbJit(process(elsewhere))) == []


def test_damaged_objects_raise_nothing() -> None:
    chance = random.Random(5)
    found = 0
    for _ in range(2000):
        spoiled = bytearray(ONE)
        for _ in range(chance.randint(1, 4)):
            spoiled[chance.randrange(len(spoiled))] = chance.choice([0, 0x7F, 0xFF, chance.randrange(256)])
        jit = GdbJit(process(bytes(spoiled)))
        for code in codes_of(jit):
            jit.lines(code)
            found += 1
    assert found, "none was good enough to be read"


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        (
            "_ZN8__main__5outerB2v1B54c8tJTC_2fWwGaMLSgd6CjA4xXKR0tsqKIYSQsqDQwVMEsTAA_3d_3dEx",
            "__main__::outer",
        ),
        ("cfunc._ZN8__main__5innerE", "cfunc.__main__::inner"),
        ("_ZN7cpython8__main__1fB2v1Exdd", "cpython::__main__::f"),
        ("_ZN3foo3barIiEEvv", "foo::bar"),
        ("main", "main"),
        ("_ZN99short", "_ZN99short"),
        ("_ZN", "_ZN"),
        ("_ZNK3foo3barEv", "_ZNK3foo3barEv"),
    ],
)
def test_names_are_those_that_people_write(symbol: str, name: str) -> None:
    assert plain_name(symbol) == name
