"""The agent, loaded into this process: its functions, with Python's types.

Their contracts are in `jitunwind.h`, and in `events.c` for those that only `follow` calls.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jitunwind.errors import AgentFailed, AgentMissing

FOLDER = Path(__file__).parent
"""Where agent.so, descriptor.so and jitunwind.h are."""
GDB, LIBGCC, LIBUNWIND = 1, 2, 4
CODE_CAME, CODE_GOES = 1, 2


class RegionStruct(ctypes.Structure):
    """struct jitunwind_region."""

    _fields_ = (
        ("start", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("rows", ctypes.c_void_p),
        ("row_count", ctypes.c_size_t),
        ("eh_frame", ctypes.c_char_p),
        ("eh_frame_size", ctypes.c_size_t),
        ("debug_info", ctypes.c_char_p),
        ("debug_info_size", ctypes.c_size_t),
        ("stmt_list_at", ctypes.c_size_t),
        ("debug_abbrev", ctypes.c_char_p),
        ("debug_abbrev_size", ctypes.c_size_t),
        ("debug_line", ctypes.c_char_p),
        ("debug_line_size", ctypes.c_size_t),
    )


class _EventStruct(ctypes.Structure):
    """struct jitunwind_event."""

    _fields_ = (("kind", ctypes.c_uint64), ("start", ctypes.c_uint64), ("size", ctypes.c_uint64))


class _StatisticsStruct(ctypes.Structure):
    """struct jitunwind_statistics."""

    _fields_ = (("regions", ctypes.c_uint64), ("files", ctypes.c_uint64), ("bytes", ctypes.c_uint64))


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

    def __init__(self, path: Path) -> None:
        try:
            self._c = ctypes.PyDLL(str(path))  # holds the GIL, which the debuggers' list is changed under
            self._without_gil = ctypes.CDLL(str(path))
        except OSError as error:
            raise AgentMissing(f"the agent cannot be loaded: {error}") from None
        self._c.jitunwind_take.restype = ctypes.c_size_t
        self._events = (_EventStruct * _MOST_EVENTS)()
        self._attendant: object = None

    def publish(self, regions: Sequence[RegionStruct], consumers: int) -> list[int]:
        """Publish `regions`, all or none, to the consumers (GDB | LIBGCC | LIBUNWIND); a handle for each.

        AgentFailed, if the agent refuses.
        """
        count = len(regions)
        handles = (ctypes.c_void_p * count)()
        structs = (RegionStruct * count)(*regions)
        _check(self._c.jitunwind_publish(structs, ctypes.c_size_t(count), consumers, handles))
        return [handle or 0 for handle in handles]

    def replace(
        self,
        regions: Sequence[RegionStruct],
        consumers: int,
        executors: Sequence[tuple[int, int]],
        code_at: int,
        registration_at: int,
    ) -> None:
        """`publish` in the place of what CPython 3.15 has published itself of `executors`: (address, start of the
        code) of each. The offsets are those of their fields jit_code and jit_registration."""
        count, executor_count = len(regions), len(executors)
        pairs = (ctypes.c_uint64 * (2 * executor_count))(*(word for pair in executors for word in pair))
        error = self._c.jitunwind_replace(
            (RegionStruct * count)(*regions),
            ctypes.c_size_t(count),
            consumers,
            pairs,
            ctypes.c_size_t(executor_count),
            ctypes.c_size_t(code_at),
            ctypes.c_size_t(registration_at),
        )
        _check(error)

    def knows(self, start: int) -> bool:
        """Whether a region that is published holds the address."""
        return bool(self._c.jitunwind_knows(ctypes.c_uint64(start)))

    def withdraw_range(self, start: int, size: int) -> None:
        """Withdraw all regions that lie in part in those `size` bytes, whoever has published them."""
        self._c.jitunwind_withdraw_range(ctypes.c_uint64(start), ctypes.c_uint64(size))

    def withdraw(self, handles: Sequence[int]) -> None:
        """Withdraw what was published; a handle must not be used again."""
        structs = (ctypes.c_void_p * len(handles))(*handles)
        self._c.jitunwind_withdraw(structs, ctypes.c_size_t(len(handles)))

    def statistics(self) -> Statistics:
        """What is published now."""
        struct = _StatisticsStruct()
        self._c.jitunwind_statistics(ctypes.byref(struct))
        return Statistics(struct.regions, struct.files, struct.bytes)

    def follow(self, inside: int) -> bool:
        """Have calls of mprotect and munmap noted, of the object that `inside` lies in. Whether it makes any."""
        return bool(self._c.jitunwind_follow(ctypes.c_uint64(inside)))

    def attend(self, attendant: Callable[[], None] | None) -> None:
        """Have `attendant` called, in a thread of its own, soon after code has come or gone; None: not any more.

        To be called while paused. What `attendant` raises is lost.
        """
        self._attendant = ctypes.CFUNCTYPE(None)(attendant) if attendant else None
        self._c.jitunwind_attend(self._attendant)

    def pause(self) -> None:
        """Call the attendant no more; its thread has ended when this returns."""
        self._without_gil.jitunwind_pause()

    def resume(self, now: bool) -> None:
        """Go on calling the attendant; `now`: soon, even where there are no events."""
        self._c.jitunwind_resume(int(now))

    def is_paused(self) -> bool:
        """Whether the attendant should return soon."""
        return bool(self._c.jitunwind_is_paused())

    def take(self) -> list[Event]:
        """The events that have come, the oldest first, some thousand at most."""
        count = self._c.jitunwind_take(self._events, ctypes.c_size_t(_MOST_EVENTS))
        return [Event(each.kind, each.start, each.size) for each in self._events[:count]]

    def lost(self) -> bool:
        """Whether code has come of which no event tells."""
        return bool(self._c.jitunwind_lost())

    def remember(self, start: int) -> None:
        """Have code at `start`, which was there before anybody followed, withdrawn when it is unmapped."""
        self._c.jitunwind_remember(ctypes.c_uint64(start))

    def unmap(self, start: int, size: int) -> None:
        """Withdraw what is published in that memory, and unmap it."""
        self._c.jitunwind_unmap(ctypes.c_uint64(start), ctypes.c_uint64(size))


def _check(error: int) -> None:
    if error:
        raise AgentFailed(_REASONS.get(error) or os.strerror(error))


@cache
def agent() -> Agent:
    """The agent of this process. AgentMissing, if it was not built."""
    path = FOLDER / "agent.so"
    if not path.exists():
        raise AgentMissing(f"there is no {path.name} in {path.parent}")
    return Agent(path)


def statistics() -> Statistics:
    """What is published in this process now. AgentMissing."""
    return agent().statistics()
