"""Regions of a damaged process: what cannot be told has a reason in its place, and the rest is shown."""

from collections.abc import Iterator

import click
import pytest

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.explain.model import Explained, Explainer, summary_of
from jitunwind.explain.sources import Sources
from jitunwind.explain.subjects import OfProcess
from jitunwind.explain.text import region_lines
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.known import Jits
from jitunwind.tables.sources import Published
from tests.support.processes import PROGRAMS, VERSIONS, WritableProcess, run

pytestmark = pytest.mark.live


@pytest.fixture(params=VERSIONS)
def memory(request: pytest.FixtureRequest) -> Iterator[WritableProcess]:
    with run(request.param, "loop.py") as program, WritableProcess(program.warm().pid) as found:
        yield found


def explained(memory: WritableProcess) -> Explained:
    explainer = Explainer(OfProcess(Jits(memory)), [Published(X86_64, memory)], Sources(0))
    return explainer.explain(explainer.listed()[0])


def test_without_a_trace_a_region_is_shown_by_python_lines(memory: WritableProcess) -> None:
    whole = explained(memory)
    memory.write(whole.listed.code.owner + read_layout(memory).executor.code_size, b"\xff\xff\xff\xff")
    cut = explained(memory)
    assert whole.why == ""
    assert "claims 4294967295 micro-ops" in cut.why
    assert not any(block.is_micro_op for block in cut.blocks)
    files = {block.source.file for block in cut.blocks if block.source is not None}
    assert files == {str(PROGRAMS / "loop.py"), str(PROGRAMS / "waiting.py")}
    known = {each.offset: (each.text, each.answer.row) for each in whole.instructions if each.answer.row}
    assert {each.offset: (each.text, each.answer.row) for each in cut.instructions} == known
    assert [block.start for block in cut.blocks[1:]] == [block.end for block in cut.blocks[:-1]]
    assert "micro-ops are not told apart" in click.unstyle(
        "\n".join(region_lines(cut, summary_of(X86_64, [cut], ["published"])))
    )


def test_a_trace_that_is_not_there_is_a_reason(memory: WritableProcess) -> None:
    whole = explained(memory)
    memory.write_word(whole.listed.code.owner + read_layout(memory).executor.trace, 1 << 63)
    assert "cannot read" in explained(memory).why
