"""Runs inside GDB, for `audit.readers.gdb`: walks stacks when it is told to, and says what GDB makes of them.

Commands and answers travel as packets of GDB's own connection: an answer is a packet that GDB sends, and the stub's
reply to it is the next command. Nothing of jitunwind is imported here, and no unwinder but GDB's own is at work.
"""

import json
from bisect import bisect_right
from typing import Any

import gdb

PACKET = b"qJitunwind:"
MOST_FRAMES = 64
FORGET = "maintenance flush dcache", "maintenance flush register-cache"
"""GDB then asks the stub for the stack and the registers, and finds all frames anew."""


class Walks:
    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.names: list[str] = []

    def obey(self, command: dict[str, Any]) -> Any:
        """Do what a command says; what to answer."""
        if command["do"] == "walk":
            try:
                return self.walk()
            except gdb.error as error:
                return str(error)
        if command["do"] == "inside":
            self.starts = [start for start, _ in command["ranges"]]
            self.ends = [end for _, end in command["ranges"]]
            self.names = command["registers"]
        else:
            gdb.execute(command["line"], to_string=True)
        return None

    def is_inside(self, address: int) -> bool:
        at = bisect_right(self.starts, address) - 1
        return at >= 0 and address < self.ends[at]

    def walk(self) -> list[int | None] | str:
        """The pc and the registers of the first frame outside; why there is none."""
        for line in FORGET:
            gdb.execute(line, to_string=True)
        frame = gdb.newest_frame()
        for _ in range(MOST_FRAMES):
            older = frame.older()
            if older is None:
                return str(gdb.frame_stop_reason_string(frame.unwind_stop_reason()))
            frame = older
            if not self.is_inside(frame.pc() - 1):
                break
        return [frame.pc(), *(value_of(frame, name) for name in self.names)]


def value_of(frame: gdb.Frame, name: str) -> int | None:
    """None for what GDB calls <not saved>, <optimized out> or <unavailable>."""
    try:
        return int(frame.read_register(name)) & (1 << 64) - 1
    except gdb.error:
        return None


def serve() -> None:
    """Until the other side has gone."""
    connection = gdb.selected_inferior().connection
    walks, answer = Walks(), {"is": gdb.VERSION}
    while True:
        command = connection.send_packet(PACKET + json.dumps(answer).encode().hex().encode())
        try:
            answer = {"is": walks.obey(json.loads(bytes.fromhex(command.decode())))}
        except gdb.error as error:
            answer = {"failed": str(error)}


serve()
