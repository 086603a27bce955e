"""Within GDB: at each stop in `ask`, the frames as program.c prints them, into the file that $answers names."""

import os

import gdb


def number(value):
    """A register's value, "-" where GDB has none."""
    try:
        return hex(int(value) & (1 << 64) - 1)
    except gdb.error:  # "value has been optimized out", "<not saved>"
        return "-"


def frames(answers):
    frame = gdb.newest_frame().older()  # the function that has called ask
    for _ in range(12):
        if frame is None:
            return
        sp, rbx = (number(frame.read_register(name)) for name in ("rsp", "rbx"))
        print(f"frame {frame.pc():#x} {sp} {rbx}", file=answers)
        reason = frame.unwind_stop_reason()
        older = frame.older()
        if older is None:
            # 1 is the outermost frame's, 0 is where GDB decides by other means (main, an entry point).
            by_itself = reason in (gdb.FRAME_UNWIND_NO_REASON, gdb.FRAME_UNWIND_OUTERMOST)
            print(f"ended {0 if by_itself else reason}", file=answers)
        frame = older


with open(os.environ["ANSWERS"], "w", buffering=1) as answers:
    gdb.execute("set breakpoint pending off")
    gdb.Breakpoint("ask")
    gdb.execute("run")
    case = int(os.environ["FIRST"])
    while gdb.selected_inferior().pid:
        print(f"case {case}", file=answers)
        try:
            frames(answers)
        except (gdb.error, ValueError) as error:
            print(f"error {error}", file=answers)
        case += 1
        gdb.execute("continue")
