"""The agent, loaded into this process: its functions, with Python's types.

Their contracts are in `jitunwind.h`, and in `events.c` for those that only `follow` calls.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jitunwind.agent.built import AGENT, check
from jitunwind.agent.native import (
    U64,
    Array,
    Byte,
    FunctionWithoutGil,
    Int,
    Library,
    Object,
    Pointer,
    addressof,
    bytes_in_c,
)
from jitunwind.errors import AgentFailed, AgentMissing

GDB, LIBGCC, LIBUNWIND = 1, 2, 4
CODE_CAME, CODE_GOES = 1, 2


class Published(NamedTuple):
    """What is published of one region: the fields of struct jitunwind_region, but for rows."""

    start: int
    size: int
    name: bytes
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


_MOST_EVENTS = 4096
_REASONS = {
    22: "a region or its table makes no sense",  # EINVAL
    17: "one of the regions overlaps what is published already",  # EEXIST
    12: "there is no memory left",  # ENOMEM
    95: "there is no such unwinder in this process",  # ENOTSUP
}


class Agent:
    """The agent of this process. Its functions may be called from any thread."""

    def __init__(self, path: str) -> None:
        try:
            library = Library(path)
        except OSError as error:
            raise AgentMissing(f"the agent cannot be loaded: {error}") from None
        self._c = library.function  # with the GIL held, which the debuggers' list is changed under
        self._pause = library.function("jitunwind_pause", FunctionWithoutGil)
        self._events = (U64 * (3 * _MOST_EVENTS))()
        self._attendant: Callable[[], None] | None = None

    def publish(self, regions: Sequence[Published], consumers: int) -> list[int]:
        """Publish `regions`, all or none, to the consumers (GDB | LIBGCC | LIBUNWIND); a handle for each.

        AgentFailed, if the agent refuses.
        """
        count = len(regions)
        handles = (U64 * count)()
        structs, kept = _structs(regions)
        _check(self._c("jitunwind_publish")(structs, U64(count), Int(consumers), handles))
        del kept
        return list(handles)

    def replace(
        self,
        regions: Sequence[Published],
        consumers: int,
        executors: Sequence[tuple[int, int]],
        code_at: int,
        registration_at: int,
    ) -> None:
        """`publish` in the place of what CPython 3.15 has published itself of `executors`: (address, start of the
        code) of each. The offsets are those of their fields jit_code and jit_registration."""
        count, executor_count = len(regions), len(executors)
        pairs = (U64 * (2 * executor_count))(*(word for pair in executors for word in pair))
        structs, kept = _structs(regions)
        error = self._c("jitunwind_replace")(
            structs,
            U64(count),
            Int(consumers),
            pairs,
            U64(executor_count),
            U64(code_at),
            U64(registration_at),
        )
        del kept
        _check(error)

    def knows(self, start: int) -> bool:
        """Whether a region that is published holds the address."""
        return bool(self._c("jitunwind_knows")(U64(start)))

    def withdraw_range(self, start: int, size: int) -> None:
        """Withdraw all regions that lie in part in those `size` bytes, whoever has published them."""
        self._c("jitunwind_withdraw_range")(U64(start), U64(size))

    def withdraw(self, handles: Sequence[int]) -> None:
        """Withdraw what was published; a handle must not be used again."""
        structs = (U64 * len(handles))(*handles)
        self._c("jitunwind_withdraw")(structs, U64(len(handles)))

    def statistics(self) -> Statistics:
        """What is published now."""
        figures = (U64 * 3)()
        self._c("jitunwind_statistics")(figures)
        return Statistics(*figures)

    def follow(self, function: str) -> bool:
        """Have calls of mprotect and munmap noted, of the object that has that function. Whether it makes any."""
        inside = Library().address(function)
        return inside is not None and bool(self._c("jitunwind_follow")(U64(inside)))

    def attend(self, attendant: Callable[[], None] | None) -> None:
        """Have `attendant` called, in a thread of its own, soon after code has come or gone; None: not any more.

        To be called while paused. What `attendant` raises goes to sys.unraisablehook.
        """
        argument = Pointer(None) if attendant is None else Object(attendant)
        if not self._c("jitunwind_attend_python")(argument):
            raise AgentFailed("this process has no CPython")
        self._attendant = attendant  # which C refers to

    def pause(self) -> None:
        """Call the attendant no more; its thread has ended when this returns."""
        self._pause()

    def resume(self, now: bool) -> None:
        """Go on calling the attendant; `now`: soon, even where there are no events."""
        self._c("jitunwind_resume")(Int(now))

    def is_paused(self) -> bool:
        """Whether the attendant should return soon."""
        return bool(self._c("jitunwind_is_paused")())

    def take(self) -> list[Event]:
        """The events that have come, the oldest first, some thousand at most."""
        count = self._c("jitunwind_take")(self._events, U64(_MOST_EVENTS))
        words = iter(self._events[: 3 * count])
        return [Event(*event) for event in zip(words, words, words, strict=True)]

    def lost(self) -> bool:
        """Whether code has come of which no event tells."""
        return bool(self._c("jitunwind_lost")())

    def remember(self, start: int) -> None:
        """Have code at `start`, which was there before anybody followed, withdrawn when it is unmapped."""
        self._c("jitunwind_remember")(U64(start))

    def unmap(self, start: int, size: int) -> None:
        """Withdraw what is published in that memory, and unmap it."""
        self._c("jitunwind_unmap")(U64(start), U64(size))


def _structs(regions: Sequence[Published]) -> tuple[Array[U64], Array[Byte]]:
    """An array of struct jitunwind_region, and the memory that it points to."""
    data = b"".join(
        part
        for each in regions
        for part in (each.name + b"\0", each.eh_frame, each.debug_info, each.debug_abbrev, each.debug_line)
    )
    kept = bytes_in_c(data)
    at = addressof(kept)
    words: list[int] = []
    for each in regions:
        places = []
        for part in (each.name + b"\0", each.eh_frame, each.debug_info, each.debug_abbrev, each.debug_line):
            places.append(at)
            at += len(part)
        name, frames, info, abbrev, line = places
        words += (each.start, each.size, name, 0, 0, frames, len(each.eh_frame))
        words += (info, len(each.debug_info), each.stmt_list_at)
        words += (abbrev, len(each.debug_abbrev), line, len(each.debug_line))
    return (U64 * len(words))(*words), kept


def _check(error: int) -> None:
    if error:
        raise AgentFailed(_REASONS.get(error) or os.strerror(error))


_agent: Agent | None = None


def agent() -> Agent:
    """The agent of this process. AgentMissing, if it was not built."""
    global _agent
    if _agent is None:
        check()
        _agent = Agent(AGENT)
    return _agent


def statistics() -> Statistics:
    """What is published in this process now. AgentMissing."""
    return agent().statistics()
