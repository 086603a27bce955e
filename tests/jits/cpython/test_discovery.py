"""Executors of builds whose offsets are not those of the table: found by structure, or not claimed to be found."""

import random
import struct

import pytest

from jitunwind.jits.cpython.discovery import located
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.versions import NAMES, VERSIONS, ExecutorLayout, Version
from jitunwind.memory import Mapping
from jitunwind.rows import WORD
from tests.support.fake_memory import FakeMemory

RUNTIME, TYPES, INTERPRETER, HEAP, CODE = 0x10000, 0x20000, 0x30000, 0x40000, 0x7F0000000000
INTERPRETER_SIZE, HEAP_SIZE, CODE_SIZE = 0x2000, 0x8000, 0x40000
NEARER = 220_000
"""Bytes by which the table's offsets in the interpreter are shortened, so that images are small."""
EXECUTOR_SIZE = 0x200
TYPE_NAMES = ("uop_executor", "code", "dict", "function")
OFFSETS = {
    "runtime_state.interpreters_head": 8,
    "interpreter_state.next": 16,
    "interpreter_state.size": INTERPRETER_SIZE,
    "pyobject.ob_type": 8,
    "type_object.tp_name": 24,
}
IMAGES = 100
"""For each version."""


def shortened(version: Version) -> ExecutorLayout:
    return version.executor.moved(in_interpreter=-NEARER)


class Image:
    """A process with executors that lie as `of` says, among other objects and noise."""

    def __init__(self, of: ExecutorLayout, chance: random.Random, executors: int) -> None:
        self.of, self.chance = of, chance
        self.heap, self.interpreter = bytearray(HEAP_SIZE), bytearray(INTERPRETER_SIZE)
        self.types = bytearray(0x1000)
        for index, name in enumerate(TYPE_NAMES):
            struct.pack_into("<Q", self.types, 0x100 * index + 24, TYPES + 0x800 + 32 * index)
            self.types[0x800 + 32 * index : 0x800 + 32 * index + len(name)] = name.encode()
        self.next = 0
        self.noise = [self.object(chance.choice(TYPE_NAMES[1:]), 64) for _ in range(20)]
        self.executors = [self.object("uop_executor", EXECUTOR_SIZE) for _ in range(executors)]
        self.array = self.room(WORD * max(executors, 1))
        for index, executor in enumerate(self.executors):
            self._fill(index, executor)
        for offset in range(32, INTERPRETER_SIZE, WORD):
            if chance.random() < 0.1:
                self.set(INTERPRETER + offset, chance.choice([*self.noise, chance.randrange(1 << 40)]))
        self._root()

    def room(self, size: int) -> int:
        self.next += size
        return HEAP + self.next - size

    def object(self, kind: str, size: int) -> int:
        address = self.room(size)
        self.set(address, 1)
        self.set(address + 8, TYPES + 0x100 * TYPE_NAMES.index(kind))
        return address

    def set(self, address: int, value: int) -> None:
        start, data = (INTERPRETER, self.interpreter) if address < HEAP else (HEAP, self.heap)
        struct.pack_into("<Q", data, address - start, value)

    def word(self, address: int) -> int:
        start, data = (INTERPRETER, self.interpreter) if address < HEAP else (HEAP, self.heap)
        return int(struct.unpack_from("<Q", data, address - start)[0])

    def _fill(self, index: int, executor: int) -> None:
        of, others = self.of, self.executors
        self.set(executor + of.jit_code, CODE + 0x1000 * index)
        self.set(executor + of.jit_size, 0x1000)
        code = next((each for each in self.noise if self._is(each, "code")), 0)
        self.set(executor + of.code, code if self.chance.random() < 0.7 else 0)
        self.set(executor + of.link_next, others[index + 1] if index + 1 < len(others) else 0)
        self.set(executor + of.link_next + WORD, others[index - 1] if index else 0)
        struct.pack_into("<I", self.heap, executor - HEAP + of.exit_count, 2)
        for exit_ in range(2):
            self.set(executor + of.exits + 16 * exit_ + 8, self.chance.choice([0, *others]))

    def _is(self, address: int, kind: str) -> bool:
        return self.word(address + 8) == TYPES + 0x100 * TYPE_NAMES.index(kind)

    def _root(self) -> None:
        of, first = self.of, self.executors[0] if self.executors else 0
        for offset in (*of.lists, *of.singles):
            self.set(INTERPRETER + offset, 0)
        if of.array is None or of.array_count is None:
            self.set(INTERPRETER + of.lists[0], first)
        else:
            for index, executor in enumerate(self.executors):
                self.set(self.array + WORD * index, executor)
            self.set(INTERPRETER + of.array, self.array if first else 0)
            self.set(INTERPRETER + of.array_count, len(self.executors))
        self.set(INTERPRETER + of.jit_switch, 1)
        self.set(INTERPRETER + 16, 0)

    def memory(self) -> FakeMemory:
        blocks = {
            RUNTIME: struct.pack("<2Q", 0, INTERPRETER),
            TYPES: bytes(self.types),
            INTERPRETER: bytes(self.interpreter),
            HEAP: bytes(self.heap),
        }
        mapped = [Mapping(start, start + len(data), False, "") for start, data in blocks.items()]
        return FakeMemory(blocks, {}, [*mapped, Mapping(CODE, CODE + CODE_SIZE, True, "")])


def layout_of(version: Version) -> Layout:
    return Layout(RUNTIME, (*version.number, 0), OFFSETS, version._replace(executor=shortened(version)))


each_version = pytest.mark.parametrize("version", VERSIONS.values(), ids=NAMES)


@each_version
def test_moved_offsets_are_found_or_said_not_to_be(version: Version) -> None:
    found = 0
    for seed in range(IMAGES):
        chance = random.Random(seed)
        of = shortened(version).moved(8 * chance.randrange(-100, 400), 8 * chance.randrange(0, 8))
        image = Image(of, chance, executors=chance.randrange(0, 9))

        told = located(image.memory(), layout_of(version))

        assert told.is_checked == bool(image.executors), (seed, told.evidence)
        if told.is_checked:
            assert told.layout.executor == of, (seed, told.evidence)
            found += 1
    assert found > IMAGES // 2


@each_version
def test_a_known_build_is_checked_and_not_searched(version: Version) -> None:
    image = Image(shortened(version), random.Random(1), executors=5)
    memory = image.memory()
    told = located(memory, layout_of(version))
    assert told.is_checked
    assert told.layout == layout_of(version)
    assert memory.reads < 100


@each_version
def test_nothing_false_comes_of_garbage(version: Version) -> None:
    """GIVEN images that are damaged everywhere, THEN what is claimed to be executors is executors."""
    for seed in range(IMAGES):
        chance = random.Random(seed)
        image = Image(shortened(version).moved(64), chance, executors=4)
        for data in (image.interpreter, image.heap):
            for _ in range(chance.randrange(200)):
                at = chance.randrange(len(data) // WORD) * WORD
                struct.pack_into(
                    "<Q", data, at, chance.choice([0, 1, 1 << 63, chance.randrange(1 << 64), HEAP + at])
                )

        told = located(image.memory(), layout_of(version))

        if told.is_checked:
            of = told.layout.executor
            roots = [image.word(INTERPRETER + offset) for offset in (*of.lists, *of.singles)]
            if of.array is not None:
                roots.append(image.word(image.word(INTERPRETER + of.array)))
            assert set(roots) - {0} <= set(image.executors), (seed, told.evidence)
