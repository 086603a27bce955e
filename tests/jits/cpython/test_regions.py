"""Where an executor's machine code ends: behind it may be another JIT's."""

import os
import signal
from collections.abc import Iterator

import pytest

from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.executors import interpreters
from jitunwind.jits.cpython.regions import Regions
from jitunwind.recover.table import NOT_REACHED
from jitunwind.tables.sources import Recovered
from tests.support.live import VERSIONS, Interpreter, decode, interpreter, running
from tests.support.processes import WritableProcess

pytestmark = pytest.mark.live


def stopped(python: Interpreter) -> Iterator[WritableProcess]:
    with running(python, "side_exits") as program, WritableProcess(program.pid) as memory:
        os.kill(program.pid, signal.SIGSTOP)
        yield memory


SLOT = b"\xff\x15"
"""`call *slot(%rip)`."""


@pytest.fixture(params=VERSIONS)
def memory(request: pytest.FixtureRequest) -> Iterator[WritableProcess]:
    yield from stopped(interpreter(request.param))


@pytest.fixture
def of_3_14() -> Iterator[WritableProcess]:
    yield from stopped(interpreter("3.14"))


def test_code_ends_where_its_executor_says(memory: WritableProcess) -> None:
    regions = Regions(memory, read_layout(memory))
    assert regions.executors.by_start
    for start, executor in regions.executors.by_start.items():
        code = regions.find(start)
        assert code is not None
        assert code.size == executor.jit_size
        behind = regions.find(code.end)
        assert behind is None or behind.start == code.end


@pytest.mark.live
@pytest.mark.one_version("3.15 has no shims by which code is found")
def test_3_14s_code_in_no_list_has_the_size_of_the_executor_that_it_names(of_3_14: WritableProcess) -> None:
    layout = read_layout(of_3_14)
    listed = Regions(of_3_14, layout)
    sizes = {code.start: code.size for code in map(listed.find, listed.starts) if code is not None}
    for interpreter_state in interpreters(of_3_14, layout):
        for head in layout.executor.lists:
            of_3_14.write_word(interpreter_state + head, 0)
    bare = Regions(of_3_14, layout)
    assert not bare.executors.by_start
    assert {code.start: code.size for code in map(bare.find, bare.starts) if code is not None} == sizes


@pytest.mark.live
@pytest.mark.one_version("3.15 has no shims by which code is found")
def test_3_14s_code_of_no_executor_ends_where_control_does(of_3_14: WritableProcess) -> None:
    """Or behind the last slot by which it calls."""
    layout = read_layout(of_3_14)
    listed = Regions(of_3_14, layout)
    codes = [code for code in map(listed.find, listed.starts) if code is not None]
    for executor in listed.executors.by_start.values():
        of_3_14.write_word(executor.address + layout.offsets["pyobject.ob_type"], 0)
    bare = Regions(of_3_14, layout)
    assert not bare.executors.by_start
    table_of = Recovered(bare.arch, decode).of
    for code in codes:
        found = bare.find(code.start)
        assert found is not None
        assert found.owner == 0
        assert found.data == code.data[: found.size]
        rows = (
            [row for _, _, row in table_of(code).part(found.size, code.size).spans()]
            if found.size < code.size
            else []
        )
        assert all(row == NOT_REACHED for row in rows)
        reach = max(end for _, end, row in table_of(found).spans() if row != NOT_REACHED)
        assert found.size == reach or SLOT in found.data[:reach]
        assert bare.find(found.end) is None
