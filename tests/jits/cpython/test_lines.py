"""Lines of machine code: from the bytes alone, and against the frame's own instruction pointer."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from jitunwind.jits.cpython import versions
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.lines import line_rows
from jitunwind.jits.cpython.objects import CodeObject, Objects
from jitunwind.jits.cpython.regions import Regions
from jitunwind.jits.cpython.stencils.x86_64 import stores
from jitunwind.memory.process import LiveProcess
from jitunwind.region import Line
from tests.support.fake_memory import FakeMemory
from tests.support.processes import VERSIONS, WARM_CHAIN, Program, jitunwind, run

OFFSETS = {"interpreter_frame.instr_ptr": 0x38, "code_object.co_code_adaptive": 0xD0, "pyobject.ob_type": 8}
BYTECODE = 0x7000
NO_COLUMNS = 0x80 | 13 << 3  # a location entry of one code unit; a signed varint follows: the lines to go on


def function(name: str, bytecode: int, first_line: int, units: int) -> CodeObject:
    """One whose every bytecode instruction is on a line of its own."""
    table = bytes([NO_COLUMNS, 0]) + bytes([NO_COLUMNS, 2]) * (units - 1)
    return CodeObject(bytecode - 0xD0, bytecode, 2 * units, name, f"{name}.py", first_line, table)


class Known(Objects):
    """Objects that know code objects by heart."""

    def __init__(self, layout: Layout, *codes: CodeObject) -> None:
        super().__init__(FakeMemory(), layout)
        self.codes = codes

    def code_of_instruction(self, instruction: int) -> CodeObject | None:
        return next((code for code in self.codes if code.holds(instruction)), None)


def store(version: tuple[int, int], address: int) -> bytes:
    """movabs $address,%rax; mov %rax,0x38(%r12), on 3.15 (%r13)."""
    to_frame = b"\x49\x89\x44\x24\x38" if version == (3, 14) else b"\x49\x89\x45\x38"
    return b"\x48\xb8" + struct.pack("<Q", address) + to_frame


@pytest.mark.parametrize("numbers", [(3, 14), (3, 15)])
def test_a_line_holds_from_the_store_of_the_instruction_pointer_to_the_next(numbers: tuple[int, int]) -> None:
    layout = Layout(0, (*numbers, 0), OFFSETS, versions.VERSIONS[numbers])
    caller, callee = function("f", BYTECODE, 10, 8), function("g", BYTECODE + 0x1000, 50, 8)
    objects = Known(layout, caller, callee)
    parts = [store(numbers, address) for address in (BYTECODE, BYTECODE + 4, BYTECODE + 0x1002, BYTECODE + 4)]
    gap = b"\x90" * 5
    code = gap + gap.join(parts) + gap

    rows = line_rows(sorted(stores(code, 0, layout)), objects, caller)

    ends = [len(gap) + sum(len(each) for each in parts[: i + 1]) + i * len(gap) for i in range(4)]
    assert rows == [
        Line(0, "f.py", 10),  # what stands before the first store counts to it
        Line(ends[1], "f.py", 12),
        Line(ends[2], "g.py", 51),  # an inlined callee
        Line(ends[3], "f.py", 12),
    ]


@pytest.mark.parametrize("numbers", [(3, 14), (3, 15)])
def test_stores_of_what_is_no_bytecode_count_for_nothing(numbers: tuple[int, int]) -> None:
    layout = Layout(0, (*numbers, 0), OFFSETS, versions.VERSIONS[numbers])
    code = store(numbers, 0xDEAD) + store(numbers, (1 << 64) - 1) + b"\x90"
    assert line_rows(stores(code, 0, layout), Known(layout), None) == []
    assert line_rows(stores(b"", 0, layout), Known(layout), None) == []


@pytest.fixture(scope="module", params=VERSIONS)
def chain(request: pytest.FixtureRequest) -> Iterator[Program]:
    with run(request.param, "chain.py") as program:
        yield program.warm(WARM_CHAIN)


def test_the_code_and_the_frame_say_the_same_line(chain: Program) -> None:
    done = jitunwind("bt", chain.pid, "--json")
    frames: list[dict[str, Any]] = json.loads(done.stdout)["threads"][0]["frames"]
    jit = [frame for frame in frames if frame["kind"] == "jit"]
    assert len(jit) == 2
    with LiveProcess(chain.pid) as memory:
        regions = Regions(memory, read_layout(memory))
        for frame in jit:
            before = int(frame["pc"], 16) - 1  # the call
            found = regions.find(before)
            assert found is not None
            rows = regions.lines(found)
            row = next(row for row in reversed(rows) if row.offset <= before - found.start)
            assert (row.filename, row.line) == (frame["file"], frame["line"])
