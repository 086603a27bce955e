"""`jitunwind audit` against the same work done with GDB's `stepi`, on the same process.

    python bench/stepping.py

The same work: after each instruction of JIT code the caller's CFA, return address and callee-saved registers,
compared with what was recorded at the call. In GDB the plugin gives them, and tests/support/stepper.py compares.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from support import ROOT, VERSIONS, running_program

from jitunwind.gdbplugin.launch import find_gdb

JITUNWIND = str(Path(sys.executable).with_name("jitunwind"))
PROGRAM = ROOT / "tests/live/programs/attributes.py"
"""It enters JIT code again and again, without which there is no ground truth."""
STEPS, STEPS_IN_GDB = 300_000, 1000


def audited(pid: int, *options: str) -> float:
    """Instructions a second."""
    command = [JITUNWIND, "audit", "--json", "--table", "recovered", *options, str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    return float(report["counts"]["instructions"] / report["seconds"])


def stepped_in_gdb(pid: int, version: str) -> float:
    """Instructions a second."""
    with tempfile.NamedTemporaryFile() as output:
        config = {
            "output": output.name,
            "shim_in_region": version == "3.14",
            "budget": STEPS_IN_GDB,
            "patience": 250,
            "seconds": 300,
            "seed": 1,
        }
        script = ROOT / "tests/support/stepper.py"
        run = f"python import runpy; runpy.run_path({str(script)!r}, {{'CONFIG': {config!r}}})"
        command = [JITUNWIND, "gdb", "-nx", "-batch", "-p", str(pid), "-ex", run]
        subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=True)
        report = json.loads(Path(output.name).read_text())
    return float((report["body"] + report["shim"]) / report["seconds"])


def main() -> None:
    find_gdb()
    for version in VERSIONS:
        with running_program(version, PROGRAM) as pid:
            ours = audited(pid, "--steps", str(STEPS))
            single = audited(pid, "--steps", str(STEPS // 10), "--single-step")
            gdb = stepped_in_gdb(pid, version)
        print(
            f"CPython {version}: audit {ours:,.0f} instructions/s (aim: 30,000), with --single-step {single:,.0f}; "
            f"GDB {gdb:,.0f}; ratio {ours / gdb:,.0f} (aim: 50)",
            flush=True,
        )


if __name__ == "__main__":
    main()
