"""docs/adding-a-jit.md is true: its tables name what there is, and its example is a JIT that works."""

import re
from pathlib import Path
from typing import Any

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import RBX, X86_64
from jitunwind.jits import Jit, codes_of, optional
from jitunwind.memory import Mapping, Memory
from jitunwind.recover.table import recover
from jitunwind.rows import Row, SavedAt
from tests.support.fake_memory import FakeMemory, words

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adding-a-jit.md").read_text()
CODE, TABLE, NAME = 0x7F00_0000_1000, 0x60_0000, 0x60_1000
FUNCTION = bytes.fromhex("53 31c0 5b c3")  # push %rbx; xor %eax,%eax; pop %rbx; ret


def process() -> FakeMemory:
    """One with a function of the toy JIT's, and a second entry of the table that leads nowhere."""
    table = words(2, CODE, len(FUNCTION), NAME, 0x1234, 1 << 63, NAME)
    blocks = {CODE: FUNCTION, TABLE: table, NAME: b"toy::f\0".ljust(256)}
    return FakeMemory(blocks, {"toy_jit": TABLE}, [Mapping(CODE, CODE + 0x1000, True, "")])


def toy(memory: Memory) -> Any:
    """The JIT of the page's example."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    return names["ToyJit"](memory)


def first_column(heading: str) -> list[str]:
    table = PAGE.partition(heading)[2].partition("\n\n")[0]
    return [row.split("`")[1] for row in table.splitlines()[2:]]


def members(protocol: type) -> list[str]:
    """In the order of the class."""
    return [name for name in vars(protocol) if not name.startswith("_")]


def test_the_table_has_each_member_of_the_protocol() -> None:
    assert first_column("| member | what it tells |") == members(Jit)


def test_the_table_has_each_optional_protocol() -> None:
    there = [name for name, each in vars(optional).items() if getattr(each, "_is_runtime_protocol", False)]
    assert first_column("| protocol | who asks, and for what |") == there


def test_the_example_has_each_member() -> None:
    assert not [name for name in members(Jit) if not hasattr(toy(process()), name)]


def test_the_examples_code_is_named_and_its_rows_are_right() -> None:
    jit = toy(process())
    (code,) = codes_of(jit)
    assert [piece.name for piece in jit.pieces(code)] == ["toy::f"]
    assert jit.is_current()
    assert not jit.warnings
    table = recover(X86_64, code.data, decode, dict(code.entries))
    row = table.at(1)
    assert isinstance(row, Row)
    assert (row.cfa.offset, row.rule(RBX)) == (16, SavedAt(-16))


def test_a_damaged_process_gives_a_warning() -> None:
    damaged = process()
    damaged.blocks[TABLE] = words(9, 0, 0, 0)
    jit = toy(damaged)
    assert codes_of(jit) == []
    assert jit.warnings


def test_the_files_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`((?:jits|tests|src)/[\w/.]+)`", PAGE))
    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "src/jitunwind" / name).exists(), name


def test_the_page_is_short() -> None:
    assert len(PAGE.split()) <= 1500
