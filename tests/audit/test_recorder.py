"""Code that records itself, against the kernel's single step: the same states, and the same results."""

import os
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from jitunwind.arch.x86_64.record import BELOW, REGISTERS, WORDS
from jitunwind.audit.ptrace import Tracee
from jitunwind.audit.recorder import MOST_AT_ONCE, Recorder

SOURCE = Path(__file__).parents[1] / "support/recorded.c"
RSP = 7
State = tuple[int, ...]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("recorded") / "program"
    command = ["gcc", "-O1", "-no-pie", "-fno-pie", "-o", str(built), str(SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    return built


def symbols(program: Path) -> dict[str, int]:
    with program.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}


def states(program: Path, most: int, records: bool) -> tuple[list[State], str, int]:
    """Run both calls of `work`; the state before each of its instructions, what the program prints, and how
    many of the states were recorded by the code itself."""
    known = symbols(program)
    start, size = known["work"], known["work_end"] - known["work"]
    read, write = os.pipe()
    # The same addresses each time, or the states could not be compared.
    tracee = Tracee.start(["setarch", "-R", str(program)], os.environ, write)
    recorder = Recorder(tracee)
    found: list[State] = []
    recorded = 0
    try:
        tracee.go_on()
        stop = tracee.wait(None)
        assert stop is not None
        assert stop.exec
        for _ in range(2):
            tracee.insert(start)
            tracee.go_on()
            stop = tracee.wait(None)
            assert stop is not None
            assert stop.breakpoint == start
            tracee.remove(start)
            tid, registers = stop.tid, tracee.registers(stop.tid)
            back = tracee.memory.word(registers[RSP])
            while registers[-1] != back:
                made = recorder.copy_of(tid, start, tracee.memory.read(start, size)) if records else None
                if made is not None and registers[-1] in made.entries:
                    new = recorder.run(tid, start, made, registers[-1], most)
                    recorded += len(new)
                else:
                    new = [(*registers, *tracee.memory.words(registers[RSP] - BELOW, WORDS))]
                found += new
                assert tracee.registers(tid) == list(new[-1][:REGISTERS])
                tracee.step(tid)
                registers = tracee.registers(tid)
        tracee.go_on()
        assert tracee.wait(None) is None
    finally:
        tracee.let_go()
        os.close(write)
    with os.fdopen(read) as said:
        return found, said.read(), recorded


@pytest.mark.parametrize("most", [1, 2, 7, MOST_AT_ONCE])
def test_code_that_records_itself_has_the_states_of_single_steps(program: Path, most: int) -> None:
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    stepped, said_stepped, none = states(program, most, records=False)
    assert len(stepped) > 2 * MOST_AT_ONCE
    assert (said_stepped, none) == (said, 0)
    new, said_recorded, recorded = states(program, most, records=True)
    assert said_recorded == said
    assert recorded == len(new)
    assert len(new) == len(stepped)
    for one, other in zip(new, stepped, strict=True):
        assert shared(one) == shared(other)


def shared(state: State) -> tuple[int, ...]:
    """What two runs have in common: the registers, and the words that `work` and its caller have pushed. Above
    lie random numbers of the C library's, below what may once have been below the red zone."""
    frame = REGISTERS + BELOW // 8
    return (*state[:REGISTERS], *state[frame : frame + 3])
