"""What is to be published of this process's JIT code: the same look that is taken from outside, and its own memory."""

from collections.abc import Iterator
from typing import NamedTuple

from jitunwind.agent.library import Published
from jitunwind.errors import UnreadableMemory
from jitunwind.jits import Code, lines_of_piece
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.executors import Executor
from jitunwind.jits.cpython.inside.cfi_cache import CfiCache
from jitunwind.jits.cpython.inside.memory import OwnProcess
from jitunwind.jits.cpython.inside.uncompiled import keep_uncompiled
from jitunwind.jits.cpython.newcomers import Newcomers
from jitunwind.jits.cpython.regions import Regions
from jitunwind.jits.cpython.versions import Registration
from jitunwind.publishing.described import described


class Described(NamedTuple):
    """What the agent publishes of one executor's code, and the executor's address."""

    executor: int
    region: Published


class Describer:
    """Of one process; the child of a fork needs another one. NotPython, UnsupportedVersion."""

    def __init__(self) -> None:
        self._memory = OwnProcess()
        self._frames = CfiCache(self._memory.architecture)
        self._layout = read_layout(self._memory)
        self._parents: dict[int, Executor] = {}

    @property
    def own_registration(self) -> tuple[int, Registration] | None:
        """Where executors of this version have the start of their code, and what CPython itself has published of
        it; None, if it publishes nothing."""
        of = self._layout.executor
        return None if of.registration is None else (of.jit_code, of.registration)

    def everything(self) -> list[tuple[int, int]]:
        """Start and size of all executors' code."""
        regions = Regions(self._memory, self._layout)
        found = (regions.find(start) for start in regions.starts)
        return [(code.start, code.size) for code in found if code is not None]

    def described(self, some: list[tuple[int, int]]) -> Iterator[tuple[int, Described | Exception]]:
        """Of each of `some` (start and size of its code), by its start, what is to be published, or why nothing."""
        keep_uncompiled(self._layout.offsets["code_object.co_code_adaptive"], self._layout.record.decisions)
        regions = Newcomers(self._memory, self._layout, some, self._parents)
        for start, size in some:
            try:
                code = regions.find(start)
                if code is None:
                    raise UnreadableMemory(start, size)
                yield start, Described(code.owner, self._published(regions, code))
            except Exception as error:  # one that cannot be described must not keep others waiting
                yield start, error

    def _published(self, regions: Regions, code: Code) -> Published:
        """The shim, where the code has one of its own, and the body in one."""
        *shim, body = regions.parts(code)
        return described(body, self._frames.of(code), lines_of_piece(code, body, regions.lines(code)), *shim)
