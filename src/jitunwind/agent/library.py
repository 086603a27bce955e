"""The agent, loaded into this process, with Python's types.

It is a module (module.c), of CPython's stable ABI: ctypes imports `threading` on 3.14, and has libffi keep a file
open, both of which a program would see.
"""

import os
from collections.abc import Iterator, Sequence
from struct import pack, unpack
from typing import NamedTuple

from jitunwind.agent.built import check
from jitunwind.errors import AgentFailed, AgentMissing

GDB, LIBGCC, LIBUNWIND = 1, 2, 4
CODE_CAME, CODE_GOES = 1, 2


class Published(NamedTuple):
    """What is published of one region: the fields of struct jitunwind_region, but for rows."""

    start: int
    size: int
    name: bytes
    entry_name: bytes
    entry_size: int
    eh_frame: bytes
    debug_info: bytes
    stmt_list_at: int
    debug_abbrev: bytes
    debug_line: bytes


class Event(NamedTuple):
    """`size` bytes at `start` have become executable (CODE_CAME) or are to be unmapped (CODE_GOES)."""

    kind: int
    start: int
    size: int


class Statistics(NamedTuple):
    """What is published in this process: regions, the symbol files that hold them, and the bytes held for both."""

    regions: int
    files: int
    bytes: int


_REASONS = {
    22: "a region or its table makes no sense",  # EINVAL
    17: "one of the regions overlaps what is published already",  # EEXIST
    12: "there is no memory left",  # ENOMEM
    95: "there is no such unwinder in this process",  # ENOTSUP
}


class Agent:
    """The agent of this process. Its functions may be called from any thread; they hold the GIL."""

    def __init__(self) -> None:
        check()
        try:
            from jitunwind.agent import agent
        except ImportError as error:
            raise AgentMissing(f"the agent cannot be loaded: {error}") from None
        self._c = agent
        self.follow = agent.follow
        """(function) Have calls of mprotect and munmap noted, of the object that has it. Whether it makes any."""
        self.attend = agent.attend
        """(attendant) Have it called, in a thread of its own, soon after code has come or gone; None: not any more.
        To be called while paused. What it raises goes to sys.unraisablehook."""
        self.pause = agent.pause
        """Call the attendant no more; its thread has ended when this returns."""
        self.resume = agent.resume
        """(now) Go on calling the attendant; `now`: soon, even where there are no events."""
        self.is_paused = agent.is_paused
        """Whether the attendant should return soon."""
        self.lost = agent.lost
        """Whether code has come of which no event tells."""
        self.remember = agent.remember
        """(start) Have code there, which came before anybody followed, withdrawn when it is unmapped."""
        self.unmap = agent.unmap
        """(start, size) Withdraw what is published in that memory, and unmap it."""
        self.knows = agent.knows
        """(address) Whether a region that is published holds it."""
        self.withdraw_range = agent.withdraw_range
        """(start, size) Withdraw all regions that lie there in part, whoever has published them."""
        self.in_main_interpreter = agent.in_main_interpreter
        """Whether this is no subinterpreter."""

    def publish(self, regions: Sequence[Published], consumers: int) -> list[int]:
        """Publish `regions`, all or none, to the consumers (GDB | LIBGCC | LIBUNWIND); a handle for each.

        AgentFailed, if the agent refuses.
        """
        return self._publish(regions, consumers, b"", (0, 0))

    def replace(
        self,
        regions: Sequence[Published],
        consumers: int,
        executors: Sequence[tuple[int, int]],
        offsets: tuple[int, int],
    ) -> None:
        """`publish` in the place of what CPython 3.15 has published itself of `executors`: (address, start of the
        code) of each. `offsets` are those of their fields jit_code and jit_registration."""
        words = [word for executor in executors for word in executor]
        self._publish(regions, consumers, pack(f"={len(words)}Q", *words), offsets)

    def _publish(
        self, regions: Sequence[Published], consumers: int, executors: bytes, offsets: tuple[int, int]
    ) -> list[int]:
        words: list[int] = []
        data = bytearray()
        for each in regions:
            parts = (
                each.name + b"\0",
                each.entry_name + b"\0",
                each.eh_frame,
                each.debug_info,
                each.debug_abbrev,
                each.debug_line,
            )
            places = []
            for part in parts:
                places.append(len(data))
                data += part
            name, entry, frames, info, abbrev, line = places
            words += (each.start, each.size, name, entry, each.entry_size)
            words += (0, 0, frames, len(each.eh_frame))
            words += (info, len(each.debug_info), each.stmt_list_at)
            words += (abbrev, len(each.debug_abbrev), line, len(each.debug_line))
        structs = pack(f"={len(words)}Q", *words)
        answer = self._c.publish(structs, bytes(data), consumers, executors, *offsets)
        if isinstance(answer, int):
            raise AgentFailed(_REASONS.get(answer) or os.strerror(answer))
        return list(unpack(f"={len(answer) // 8}Q", answer))

    def withdraw(self, handles: Sequence[int]) -> None:
        """Withdraw what was published; a handle must not be used again."""
        self._c.withdraw(pack(f"={len(handles)}Q", *handles))

    def statistics(self) -> Statistics:
        """What is published now."""
        return Statistics(*self._c.statistics())

    def take(self) -> Iterator[Event]:
        """The events that have come, the oldest first."""
        while (event := self._c.take()) is not None:
            yield Event(*event)


_agent: Agent | None = None


def agent() -> Agent:
    """The agent of this process. AgentMissing, if it was not built."""
    global _agent
    if _agent is None:
        _agent = Agent()
    return _agent


def statistics() -> Statistics:
    """What is published in this process now. AgentMissing."""
    return agent().statistics()
