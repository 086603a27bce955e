"""Recovered tables of real JIT regions, encoded: four readers of `.eh_frame` find the rows that went in."""

from pathlib import Path

import pytest

from jitunwind.arch.machine import Machine
from jitunwind.arch.x86_64.registers import RBX, X86_64
from jitunwind.elf.image import unwind_file
from jitunwind.rows import UNDEFINED, Row
from tests.support.live import (
    OUTERMOST,
    Frame,
    Interpreter,
    frames_in,
    gdb_command,
    interpreter,
    recovered_tables,
    run_gdb,
    running,
)
from tests.support.witnesses import WITNESSES, differences

SECTION = 0x1000_0000


@pytest.mark.parametrize("program", ["side_exits", "exceptions", "threads", "generators", "recursion"])
def test_each_reader_finds_the_rows_of_every_region(
    python: Interpreter, program: str, tmp_path: Path
) -> None:
    with running(python, program) as started:
        tables = recovered_tables(started.pid)
    path = tmp_path / "regions.elf"
    path.write_bytes(unwind_file(Machine.X86_64, X86_64, tables, SECTION))
    rows = sum(isinstance(row, Row) for _, table in tables for row in table.rows)
    print(f"{python.minor} {program}: {len(tables)} regions, {rows} rows")
    assert rows >= 20
    for witness in WITNESSES:
        assert not differences(witness, path, tables)


@pytest.mark.live
@pytest.mark.one_version("3.15 publishes the chain itself")
def test_plain_gdb_unwinds_by_such_a_file(tmp_path: Path) -> None:
    """GIVEN 3.14, which publishes nothing, WHEN GDB stops inside a body, THEN it needs the file to get out."""
    python = interpreter("3.14")
    with running(python, "loops") as started:
        tables = recovered_tables(started.pid)
        path = tmp_path / "regions.elf"
        path.write_bytes(unwind_file(Machine.X86_64, X86_64, tables, SECTION))
        stops = [
            f"tbreak *{start + offset:#x}"
            for start, table in tables
            for offset, row in zip(table.offsets, table.rows, strict=True)
            if isinstance(row, Row) and row.rule(RBX) == UNDEFINED and row.cfa.offset > 8
        ]

        def stack(*load: str) -> list[Frame]:
            commands = [*load, *stops, "continue", "bt"]
            arguments = [word for command in commands for word in ("-ex", command)]
            return frames_in(run_gdb(gdb_command(python, "-p", str(started.pid), *arguments, plugin=False)))

        lost, found = stack(), stack(f"add-symbol-file {path} -o 0")
    assert [frame.name for frame in found[:3]] == [
        "??",
        "??",
        "_PyEval_EvalFrameDefault",
    ]  # body, shim, caller
    assert found[-1].name in OUTERMOST
    assert "_PyEval_EvalFrameDefault" not in [frame.name for frame in lost[:3]]
