"""Micro-ops of real executors: held against the interpreter's own account, its symbols and its machine code."""

import json
import os
import re
import signal
import subprocess
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitunwind.arch.effects import Control
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.listing import listing
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.elf.inspect import ElfFile
from jitunwind.errors import CorruptState
from jitunwind.jits import Code
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.regions import Regions
from jitunwind.jits.cpython.uops import MicroOp, MicroOps
from jitunwind.jits.known import Jits
from jitunwind.jits.optional import Traced
from jitunwind.memory.process import LiveProcess
from jitunwind.recover.table import NOT_REACHED, recover
from jitunwind.rows import WORD, Row, Unknown
from tests.support.live import VERSIONS, Interpreter, interpreter, running
from tests.support.processes import Program, WritableProcess, run, status, wait_until

PROGRAMS = ("calls", "exceptions", "generators", "side_exits", "strings")


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Interpreter:
    return interpreter(request.param)


@pytest.fixture(scope="module", params=PROGRAMS)
def process(request: pytest.FixtureRequest, python: Interpreter) -> Iterator[LiveProcess]:
    with running(python, request.param) as program, LiveProcess(program.pid) as memory:
        os.kill(
            program.pid, signal.SIGSTOP
        )  # an executor that is freed while it is looked at has no trace any more
        wait_until(lambda: status(program.pid)["State"][0] == "T", f"{program.pid} to stand still")
        yield memory


def all_of(memory: LiveProcess) -> tuple[MicroOps, list[Code]]:
    regions = Regions(memory, read_layout(memory))
    found = [code for start in regions.starts if (code := regions.find(start)) is not None]
    assert found
    return MicroOps(regions), found


def test_every_micro_op_has_its_own_machine_code(process: LiveProcess) -> None:
    micro_ops, regions = all_of(process)
    stores = 0
    for region in regions:
        trace = micro_ops.trace(region)
        offsets = micro_ops.offsets(region, trace)
        assert not isinstance(offsets, Unknown), f"{region.start:#x}: {offsets}"
        assert offsets[0] == region.gate_size
        for each, start, end in zip(trace, offsets, offsets[1:], strict=False):
            shown = list(listing(region.data, region.start, start, end))
            assert all(line.text != "(bad)" for line in shown), f"{each.name} at {start:#x}: {shown}"
            assert sum(line.size for line in shown) == end - start
            if re.fullmatch(r"_SET_IP(_r\d+)?", each.name):
                stores += 1
                assert each.operand.to_bytes(8, "little") in region.data[start:end], f"{each} at {start:#x}"
    assert stores


def test_every_micro_op_has_a_name(process: LiveProcess) -> None:
    micro_ops, regions = all_of(process)
    for region in regions:
        for each in micro_ops.trace(region):
            assert re.fullmatch(r"_[A-Z0-9_]+(_r\d\d)?", each.name), each


def test_a_set_ip_stores_the_instruction_that_it_was_made_from(process: LiveProcess) -> None:
    micro_ops, regions = all_of(process)
    seen = 0
    for region in regions:
        trace = micro_ops.trace(region)
        for each, place in zip(trace, micro_ops.places(region, trace), strict=True):
            if each.sets_instruction:
                assert place is not None
                assert place.code.bytecode + place.offset == each.operand
                assert place.offset == 2 * (each.target or 0), each
                seen += 1
    assert seen


def test_a_trace_begins_at_its_first_place(process: LiveProcess) -> None:
    """Told quickly for a list, and with all other places."""
    micro_ops, regions = all_of(process)
    known = 0
    for region in regions:
        places = micro_ops.places(region, micro_ops.trace(region))
        begin = micro_ops.begin(region)
        assert begin == next(filter(None, places), None), f"{region.start:#x}"
        known += begin is not None
    assert known


def test_code_is_in_its_entrys_state_wherever_a_micro_op_begins(process: LiveProcess) -> None:
    jits = Jits(process)
    boundaries = 0
    for code in filter(None, map(jits.find, jits.starts)):
        table = jits.recovered(code, decode)
        for start in starts_of(jits, code):
            row = table.at(start)
            assert row in (code.entries[-1][1], NOT_REACHED), f"{code.start:#x}+{start:#x}: {row}"
            boundaries += isinstance(row, Row)
    assert boundaries > 10


def test_paths_that_disagree_cost_the_micro_op_in_which_they_meet(process: LiveProcess) -> None:
    """GIVEN a branch into another micro-op, where the stack is deeper, THEN nothing beyond that is unknown."""
    jits = Jits(process)
    codes = sorted(filter(None, map(jits.find, jits.starts)), key=lambda code: code.size)
    disagreed = 0
    for code in codes[-2:]:
        starts, table = [*starts_of(jits, code), code.size], jits.recovered(code, decode)
        steps, instructions = decode(code.data, code.gate_size, ())
        branches = [step for step in steps if step.control is Control.BRANCH and step.next - step.offset == 6]
        deeper = [at for at in instructions if isinstance(row := table.at(at), Row) and row.cfa.offset > WORD]
        for branch, target in zip(branches[:3], reversed(deeper), strict=False):
            data = bytearray(code.data)
            data[branch.next - 4 : branch.next] = (target - branch.next).to_bytes(4, "little", signed=True)
            forced = code._replace(data=bytes(data))
            whole = recover(X86_64, forced.data, decode, dict(forced.entries))
            cut = jits.recovered(forced, decode)
            lost = [at for at in instructions if is_disagreed(cut.at(at))]
            if not any(is_disagreed(whole.at(at)) for at in instructions):
                continue
            disagreed += 1
            end = starts[bisect_right(starts, target)]
            assert all(target <= at < end for at in lost), (
                f"+{target:#x} to +{end:#x}: {list(map(hex, lost))}"
            )
    print(f"{disagreed} branches made paths disagree")


def starts_of(jits: Jits, code: Code) -> list[int]:
    traced = jits.telling(Traced)
    assert traced is not None
    steps = traced.steps(code)
    assert not isinstance(steps, Unknown), steps
    return [step.start for step in steps]


def is_disagreed(row: Row | Unknown) -> bool:
    return isinstance(row, Unknown) and row != NOT_REACHED


class Counting(LiveProcess):
    """A process, with its traces as a build with --enable-pystats has them: 8 bytes more behind each entry. `traces`
    has these by where the executors have the pointers to theirs, which are made to lead elsewhere."""

    traces: dict[int, bytes]

    def checked_read(self, address: int, size: int) -> bytes:
        if address >= _ELSEWHERE:
            return self.traces[address - _ELSEWHERE][:size]
        data = bytearray(super().checked_read(address, size))
        for pointer in self.traces:
            at = pointer - address
            if 0 <= at <= size - 8:
                data[at : at + 8] = (_ELSEWHERE + pointer).to_bytes(8, "little")
        return bytes(data)


_ELSEWHERE = 1 << 56


def test_traces_of_builds_that_count_are_read(process: LiveProcess) -> None:
    micro_ops, regions = all_of(process)
    regions.sort(key=micro_ops.count, reverse=True)  # a trace of one entry does not tell the size
    layout = read_layout(process)
    size, plain = layout.record.micro_op.instruction.size, [micro_ops.trace(region) for region in regions]
    with Counting(process.pid) as memory:
        memory.traces = {}
        for region, trace in zip(regions, plain, strict=True):
            pointer = region.owner + layout.executor.trace
            data = process.checked_read(process.word(pointer), size * len(trace))
            entries = [data[at : at + size] for at in range(0, len(data), size)]
            memory.traces[pointer] = b"".join(entry + (1 << 40).to_bytes(8, "little") for entry in entries)
        assert all(memory.word(pointer) > _ELSEWHERE for pointer in memory.traces)
        counting = MicroOps(Regions(memory, layout))
        assert [counting.trace(region) for region in regions] == plain


def test_the_arrays_are_those_that_the_debug_symbols_name(python: Interpreter) -> None:
    debug = ElfFile(Path(python.python)).debug_file()
    assert debug is not None
    said = subprocess.run(["readelf", "-sW", debug], capture_output=True, text=True, check=True).stdout
    symbols = re.findall(r"^ *\d+: ([0-9a-f]+) .* (_PyOpcode_uop_name|stencil_groups)$", said, re.MULTILINE)
    named = {name: int(address, 16) for address, name in symbols}
    with running(python, "calls") as program, LiveProcess(program.pid) as memory:
        micro_ops, _ = all_of(memory)
        found = {"_PyOpcode_uop_name": micro_ops.name_array, "stencil_groups": micro_ops.stencil_array}
    assert found == named  # Debian's interpreters are not moved when they are loaded


OWN_ACCOUNT = """
import _opcode, json
def work():
    total = 0
    for i in range(20000):
        total += i & 7
    return total
for _ in range(5):
    work()
found = []
for offset in range(0, len(work.__code__.co_code), 2):
    try:
        executor = _opcode.get_executor(work.__code__, offset)
    except (ValueError, RuntimeError):
        continue
    if executor is not None and executor.get_jit_code():
        found.append([list(micro_op[:2]) for micro_op in executor])
print(json.dumps(found), flush=True)
print("ready", flush=True)
input()
"""


def test_traces_are_as_the_interpreter_itself_tells_them(python: Interpreter, tmp_path: Path) -> None:
    script = tmp_path / "own_account.py"
    script.write_text(OWN_ACCOUNT)
    with subprocess.Popen(
        [python.python, str(script)],
        env=python.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        own = json.loads(process.stdout.readline())
        assert process.stdout.readline() == "ready\n"
        with LiveProcess(process.pid) as memory:
            micro_ops, regions = all_of(memory)
            ours = [
                [[re.sub(r"_r\d\d$", "", each.name), each.oparg] for each in micro_ops.trace(region)]
                for region in regions
            ]
        process.kill()
    assert own
    for trace in own:
        assert trace in ours


@pytest.fixture
def damaged(python: Interpreter) -> Iterator[tuple[Program, WritableProcess]]:
    with run(python.minor, "loop.py") as program, WritableProcess(program.pid) as memory:
        yield program.warm(), memory
        memory.repair()


def test_damaged_executors_are_refused_with_a_reason(damaged: tuple[Program, WritableProcess]) -> None:
    _, memory = damaged
    micro_ops, regions = all_of(memory)
    region = regions[0]
    of = read_layout(memory).executor
    trace = micro_ops.trace(region)
    # a trace that is another's
    swapped = list(trace)
    swapped[1:] = reversed(swapped[1:])
    assert isinstance(micro_ops.offsets(region, swapped), Unknown)
    endless = [*trace, *[MicroOp(0x7FFF, "?", 0, None, 0)] * 10]
    assert isinstance(micro_ops.offsets(region, endless), Unknown)
    # a count that cannot be
    memory.write(region.owner + of.code_size, b"\xff\xff\xff\xff")
    with pytest.raises(CorruptState, match="claims 4294967295 micro-ops"):
        micro_ops.trace(region)


def test_one_damaged_trace_does_not_hide_the_others_sizes(python: Interpreter) -> None:
    with running(python, "side_exits") as program, WritableProcess(program.pid) as memory:
        os.kill(program.pid, signal.SIGSTOP)
        micro_ops, regions = all_of(memory)
        right = micro_ops.stencil_array
        longest = max(regions, key=lambda region: len(micro_ops.trace(region)))
        trace = memory.word(longest.owner + read_layout(memory).executor.trace)
        memory.write(trace + 24, (0x7FFF).to_bytes(2, "little"))
        micro_ops, _ = all_of(memory)
        assert micro_ops.stencil_array == right
        assert micro_ops.offsets(longest, micro_ops.trace(longest)) == Unknown(
            "the machine code is not that of the executor's trace"
        )


def test_an_interpreter_without_the_arrays_gives_numbers(damaged: tuple[Program, WritableProcess]) -> None:
    _, memory = damaged
    micro_ops, regions = all_of(memory)
    micro_ops._data = []  # as if the interpreter's file could not be read
    trace = micro_ops.trace(regions[0])
    assert trace[0].name == f"uop {trace[0].opcode}"
    assert micro_ops.offsets(regions[0], trace) == Unknown(
        "the sizes of stencils are not to be found in this interpreter"
    )
