"""Recovered tables that have been `.eh_frame` on the way are judged as they are: `jitunwind audit --table FILE`,
and what a process has left in a jitdump."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jitunwind.arch.machine import Machine
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.elf.image import unwind_file
from jitunwind.rows import CfaRule, Row, UnwindTable
from jitunwind.tables.sources import NOTHING_IN_FILE
from tests.support.jitdump import HEADER, load
from tests.support.live import Interpreter, recovered_tables, running

STEPS = 2000
LIMIT = 120
SECTION = 0x1000_0000


def audit(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "jitunwind", "audit", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode in (0, 1), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def audit_of(
    python: Interpreter, path: Path, change: Callable[[UnwindTable], UnwindTable]
) -> tuple[dict[str, Any], set[int]]:
    """What the audit says of a file with each region's table, changed; and where regions ran that are not in it."""
    with running(python, "loops") as started:
        tables = recovered_tables(started.pid)
        path.write_bytes(
            unwind_file(Machine.X86_64, X86_64, [(start, change(table)) for start, table in tables], SECTION)
        )
        report = audit("--table", path, "--steps", STEPS, started.pid)
    ran = {int(region["start"], 16) for region in report["regions"]}
    return report, ran - {start for start, _ in tables}


def moved(table: UnwindTable) -> UnwindTable:
    """Each CFA off by a word."""
    rows = [
        row._replace(cfa=CfaRule(row.cfa.register, row.cfa.offset + 8)) if isinstance(row, Row) else row
        for row in table.rows
    ]
    return table._replace(rows=rows)


def test_what_was_recovered_is_exact_when_read_back(python: Interpreter, tmp_path: Path) -> None:
    report, new = audit_of(python, tmp_path / "regions.elf", lambda table: table)
    (found,) = report["tables"].values()
    assert found["instructions"] == STEPS
    assert found["wrong"] == 0, report["examples"]
    assert not found["unknown"] or new, found["reasons"]  # a process that runs on may make new regions
    assert found["exact"] >= STEPS / 2, found["reasons"]
    assert set(found["reasons"]) <= {NOTHING_IN_FILE.reason}


def test_a_file_that_is_off_by_a_word_is_found_out(python: Interpreter, tmp_path: Path) -> None:
    report, _ = audit_of(python, tmp_path / "regions.elf", moved)
    (found,) = report["tables"].values()
    assert found["exact"] == 0
    assert found["wrong"] > 0


@pytest.mark.parametrize("change", [lambda table: table, moved], ids=["as recovered", "off by a word"])
def test_what_a_process_has_left_in_a_jitdump(
    python: Interpreter, tmp_path: Path, change: Callable[[UnwindTable], UnwindTable]
) -> None:
    """What is registered with GDB goes before: so it is on 3.15."""
    path = tmp_path / "jit-1234.dump"
    path.write_bytes(HEADER)
    with running(python, "jitdump", str(path)) as started:
        with path.open("ab") as file:
            for index, (start, table) in enumerate(recovered_tables(started.pid)):
                file.write(load(X86_64, start, change(table), index))
        published = audit("--table", "published", "--steps", STEPS, started.pid)["tables"]["published"]
    if python.minor == "3.14" and change is not moved:
        assert published["exact"] == STEPS
    else:
        assert published["wrong"] >= 0.99 * STEPS
