"""tools/debuggers.py where nothing can be fetched."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.processes import PATIENCE, ROOT
from tools import debuggers


def test_what_cannot_be_fetched_is_named_and_what_is_there_stays(tmp_path: Path) -> None:
    there = tmp_path / "cache" / debuggers.GDB_FOLDER
    there.mkdir(parents=True)
    (there / ".complete").touch()
    (tmp_path / "bin").mkdir()
    done = subprocess.run(
        [sys.executable, ROOT / "tools/debuggers.py"],
        env=os.environ
        | {"PATH": str(tmp_path / "bin"), "JITUNWIND_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (1, "")
    for name in debuggers.PACKAGES:
        assert f"debuggers: {name} cannot be fetched: this machine has no apt-get" in done.stderr
        assert not (tmp_path / "cache" / name / ".complete").exists()
    assert debuggers.GDB_FOLDER not in done.stderr
    assert (there / ".complete").exists()
    assert "Traceback" not in done.stderr
