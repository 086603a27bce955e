"""`jitunwind audit --table FILE`: recovered tables that have been `.eh_frame` on the way are judged as they are."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.audit.tables import NOTHING_IN_FILE
from jitunwind.elf.image import unwind_file
from jitunwind.elf.machine import Machine
from jitunwind.rows import CfaRule, Row, UnwindTable
from tests.support.live import Interpreter, recovered_tables, running

STEPS = 2000
LIMIT = 120
SECTION = 0x1000_0000


def audit_of(
    python: Interpreter, path: Path, change: Callable[[UnwindTable], UnwindTable]
) -> tuple[dict[str, Any], set[int]]:
    """What the audit says of a file with each region's table, changed; and where regions ran that are not in it."""
    with running(python, "loops") as started:
        tables = recovered_tables(started.pid)
        path.write_bytes(
            unwind_file(Machine.X86_64, X86_64, [(start, change(table)) for start, table in tables], SECTION)
        )
        command = [sys.executable, "-m", "jitunwind", "audit", "--json", "--table", path]
        command += ["--steps", str(STEPS), str(started.pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    ran = {int(region["start"], 16) for region in report["regions"]}
    return report, ran - {start for start, _ in tables}


def test_what_was_recovered_is_exact_when_read_back(python: Interpreter, tmp_path: Path) -> None:
    report, new = audit_of(python, tmp_path / "regions.elf", lambda table: table)
    (found,) = report["tables"].values()
    assert found["instructions"] == STEPS
    assert found["wrong"] == 0, report["examples"]
    assert not found["unknown"] or new, found["reasons"]  # a process that runs on may make new regions
    assert found["exact"] >= STEPS / 2, found["reasons"]
    assert set(found["reasons"]) <= {NOTHING_IN_FILE.reason}


def test_a_file_that_is_off_by_a_word_is_found_out(python: Interpreter, tmp_path: Path) -> None:
    def moved(table: UnwindTable) -> UnwindTable:
        rows = [
            replace(row, cfa=CfaRule(row.cfa.register, row.cfa.offset + 8)) if isinstance(row, Row) else row
            for row in table.rows
        ]
        return replace(table, rows=rows)

    report, _ = audit_of(python, tmp_path / "regions.elf", moved)
    (found,) = report["tables"].values()
    assert found["exact"] == 0
    assert found["wrong"] > 0
