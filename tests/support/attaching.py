"""Runs in GDB: again and again it attaches to PID, writes the report of the plugin's `stack` to the file INTO, a line
of JSON, and detaches. It waits for a byte from the pipe GATE before, and writes one to the pipe DONE afterwards.
"""

import json
import os

import gdb

from jitunwind.gdbplugin import stack

PID, GATE, DONE, INTO = (globals()[name] for name in ("PID", "GATE", "DONE", "INTO"))

gate, done = os.open(GATE, os.O_RDWR), os.open(DONE, os.O_RDWR)
os.write(done, b".")
while os.read(gate, 1) == b".":
    gdb.execute(f"attach {PID}", to_string=True)
    report = stack.report(None, True)
    with open(INTO, "w") as file:
        json.dump(report, file)
    gdb.execute("detach", to_string=True)
    os.write(done, b".")
