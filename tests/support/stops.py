"""Runs in GDB, attached to sampled.py: at the end of each of COUNT samples, writes the stack of the thread that was
interrupted to the file INTO, from the interrupted frame on, a line of JSON for each. GATE is the pipe that the program
waits at.
"""

import json
import os

import gdb

COUNT, INTO, GATE = (globals()[name] for name in ("COUNT", "INTO", "GATE"))
X86_64 = {"kept": ("rbx", "rbp", "r12", "r13", "r14", "r15"), "argument": "edi"}
AARCH64 = {"kept": ("x19", "x20", "x21", "x22", "x23", "x24"), "argument": "w0"}


def value(frame, register):
    """None where that frame has it no more."""
    try:
        found = frame.read_register(register)
        return None if found.is_optimized_out else int(found) & (1 << 64) - 1
    except gdb.error:
        return None


def stack(registers):
    """Program counters and registers, from the frame on that the signal interrupted."""
    frame = gdb.newest_frame()
    while frame.type() != gdb.SIGTRAMP_FRAME:
        frame = frame.older()
    pcs, kept = [], []
    while (frame := frame.older()) is not None:
        if frame.type() != gdb.INLINE_FRAME:
            pcs.append(frame.pc())
            kept.append([value(frame, register) for register in registers])
    return pcs, kept


gdb.execute("set pagination off")
gdb.execute("handle SIGPROF nostop noprint pass")
gdb.execute("break *sampled")
here = AARCH64 if "aarch64" in gdb.selected_inferior().architecture().name() else X86_64
gate = os.open(GATE, os.O_RDWR)
os.write(gate, b"!")
with open(INTO, "w") as into:
    number = 0
    while number + 1 < COUNT:
        gdb.execute("continue", to_string=True)
        number = value(gdb.newest_frame(), here["argument"])
        pcs, kept = stack(here["kept"])
        print(json.dumps({"number": number, "pcs": pcs, "kept": kept}), file=into, flush=True)
gdb.execute("delete")
gdb.execute("detach")
