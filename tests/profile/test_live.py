"""`jitunwind record --live` on a terminal: the table is redrawn, and the terminal is as before afterwards."""

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.live import Interpreter, running
from tests.support.processes import PATIENCE, command, plain_environment

SHARES = Path(__file__).parent / "programs/known_shares.py"
ALTERNATE, BACK = "\x1b[?1049h", "\x1b[?1049l"


def read_until(terminal: int, is_enough: Callable[[str], bool]) -> str:
    """What a program writes to its terminal; until that is enough, or it closes it."""
    said, deadline = "", time.monotonic() + PATIENCE
    while not is_enough(said):
        assert time.monotonic() < deadline, said
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # Linux: the other end is closed
            break
        said += data.decode(errors="replace")
    return said


def test_the_table_is_redrawn_until_interrupted(python: Interpreter) -> None:
    with running(python, SHARES, "loops") as started:
        own, theirs = pty.openpty()
        process = subprocess.Popen(
            command("record", "--live", "-r", "500", started.pid),
            env=plain_environment() | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        try:
            shown = read_until(own, lambda said: "fifth" in said and said.count("\x1b[H\x1b[J") >= 2)
            assert shown.count(ALTERNATE) == 1
            assert "so far" in shown
            assert BACK not in shown
            process.send_signal(signal.SIGINT)
            left = read_until(own, lambda said: False)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
            os.close(own)
    assert left.count(BACK) == 1
    table = left.partition(BACK)[2]  # it stays
    assert re.search(r"JIT code \d+\.\d %", table)
    for function in ("half", "third", "fifth"):
        assert function in table
