"""The agent, loaded into this process, with Python's types.

It is a module (module.c), of CPython's stable ABI: ctypes imports `threading` on 3.14, and has libffi keep a file
open, both of which a program would see.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from struct import pack, unpack
from typing import NamedTuple

from jitunwind.agent.built import check
from jitunwind.errors import AgentFailed, AgentMissing
from jitunwind.region import Line

GDB, LIBGCC, LIBUNWIND, JITDUMP, PERF_MAP = "gdb", "libgcc", "libunwind", "jitdump", "perf_map"
"""Names of consumers (consumer.h)."""
CODE_CAME, CODE_GOES = 1, 2
_WORDS_OF_LINE = 3
"""In struct jitunwind_line."""


class Published(NamedTuple):
    """What is published of one region: the fields of struct jitunwind_region, but for rows; `lines` count from behind
    the entry."""

    start: int
    size: int
    name: str
    entry_name: str
    entry_size: int
    eh_frame: bytes
    lines: Sequence[Line]
    perf_eh_frame: bytes = b""


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


_NOT_THERE = 95  # ENOTSUP
_REASONS = {
    22: "a region or its table makes no sense",  # EINVAL
    17: "one of the regions overlaps what is published already",  # EEXIST
    12: "there is no memory left",  # ENOMEM
    _NOT_THERE: "there is no such unwinder in this process",  # or problem() says more
}


class Agent:
    """The agent of this process. Its functions may be called from any thread; they hold the GIL."""

    def __init__(self) -> None:
        check()
        try:
            from jitunwind.agent import agent
        except ImportError as error:
            raise AgentMissing(f"the agent cannot be loaded: {error}") from None
        except SystemError:  # see `MODULE` in python.h
            raise AgentFailed(
                "this program exports no functions of Python's, so it can load no extension module",
                "link it with -rdynamic; bt, explain and audit work without",
            ) from None
        self._c = agent
        self.consumers = dict(agent.consumer_bits())
        """By the name of a consumer: its bit in jitunwind.h."""
        self.follow = agent.follow
        """(function) Have calls of mprotect and munmap noted, of the object that has it. Whether it makes any."""
        self.set_worker = agent.set_worker
        """(function) Have it called, in a thread of its own, soon after code has come or gone; None: not any more.
        To be called while paused. What it raises goes to sys.unraisablehook."""
        self.pause = agent.pause
        """Call the worker no more; its thread has ended when this returns."""
        self.resume = agent.resume
        """(now) Go on calling the worker; `now`: soon, even where there are no events."""
        self.call = agent.call
        """Call the worker soon, even where there are no events."""
        self.events = agent.events
        """How many events have not been taken."""
        self.is_paused = agent.is_paused
        """Whether the worker should return soon."""
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

    def publish(self, regions: Sequence[Published], consumers: Collection[str]) -> list[int]:
        """Publish `regions`, all or none, to the consumers of these names; a handle for each.

        KeyError for a name that is none. AgentFailed, if the agent refuses.
        """
        return self._publish(regions, consumers, b"", (0, 0, 0, 0))

    def replace(
        self,
        regions: Sequence[Published],
        consumers: Collection[str],
        executors: Sequence[tuple[int, int]],
        offsets: tuple[int, int, int, int],
    ) -> None:
        """`publish` in the place of what CPython 3.15 has published itself of `executors`: (address, start of the
        code) of each. `offsets` are the fields of struct executor_layout (agent.h)."""
        words = [word for executor in executors for word in executor]
        self._publish(regions, consumers, pack(f"={len(words)}Q", *words), offsets)

    def tell(self, regions: Sequence[Published], consumers: Collection[str]) -> None:
        """Tell further consumers of regions that are published. As `publish`."""
        structs, lines, data, bits = self._structs(regions, consumers)
        error = self._c.tell(structs, lines, data, bits)
        if error:
            raise self._failure(error, bits)

    def _publish(
        self,
        regions: Sequence[Published],
        consumers: Collection[str],
        executors: bytes,
        offsets: tuple[int, int, int, int],
    ) -> list[int]:
        structs, lines, data, bits = self._structs(regions, consumers)
        answer = self._c.publish(structs, lines, data, bits, executors, *offsets)
        if isinstance(answer, int):
            raise self._failure(answer, bits)
        return list(unpack(f"={len(answer) // 8}Q", answer))

    def _structs(
        self, regions: Sequence[Published], consumers: Collection[str]
    ) -> tuple[bytes, bytes, bytes, int]:
        """What module.c takes: structs of regions and of their lines, what they point to, and bits."""
        words: list[int] = []
        line_words: list[int] = []
        data = bytearray()
        places: dict[str, int] = {}

        def place(text: str) -> int:
            if text not in places:
                places[text] = len(data)
                data.extend(text.encode("utf-8", "surrogateescape").replace(b"\0", b"?") + b"\0")
            return places[text]

        for each in regions:
            words += (each.start, each.size, place(each.name), place(each.entry_name), each.entry_size)
            words += (0, 0, len(data), len(each.eh_frame), len(line_words) // _WORDS_OF_LINE, len(each.lines))
            data += each.eh_frame
            words += (len(data), len(each.perf_eh_frame))
            data += each.perf_eh_frame
            for offset, filename, line in each.lines:
                line_words += (each.entry_size + offset, place(filename), line)
        bits = sum(self.consumers[name] for name in set(consumers))
        structs, lines = (pack(f"={len(each)}Q", *each) for each in (words, line_words))
        return structs, lines, bytes(data), bits

    def _failure(self, error: int, bits: int) -> AgentFailed:
        problem = self._c.problem(bits) if error == _NOT_THERE else None
        return AgentFailed(problem or _REASONS.get(error) or os.strerror(error))

    def problem(self, consumers: Collection[str]) -> str | None:
        """Why nothing, or nothing more, is written to the file of one of these consumers; None: it is written."""
        return self._c.problem(sum(self.consumers[name] for name in set(consumers)))

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


def loaded_agent() -> Agent:
    """The agent of this process. AgentMissing, if it was not built."""
    global _agent
    if _agent is None:
        _agent = Agent()
    return _agent


def statistics() -> Statistics:
    """What is published in this process now. AgentMissing."""
    return loaded_agent().statistics()
