"""What is to be published of this process's JIT code: the same look that is taken from outside, and its own memory."""

from collections.abc import Iterator
from typing import NamedTuple

from jitunwind.agent import agent
from jitunwind.agent.library import Published
from jitunwind.arch.known import decoder
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
from jitunwind.publishing.merged import PastGate
from jitunwind.recover.table import flow_of
from jitunwind.rows import Row, SavedAt, UnwindTable

_INTERPRETER = "_PyEval_EvalFrameDefault"
_LONGEST_PROLOGUE = 64


class Described(NamedTuple):
    """What the agent publishes of one executor's code, and the executor's address."""

    executor: int
    region: Published


class Describer:
    """Of one process; the child of a fork needs another one. `has_jitdump`: perf gets tables of its own, which lead
    past shims (publishing/merged.py). NotPython, UnsupportedVersion."""

    def __init__(self, has_jitdump: bool = False) -> None:
        self._memory = OwnProcess()
        self._layout = read_layout(self._memory)
        self._frames = CfiCache(self._memory.architecture, self._past_shim if has_jitdump else None)
        self._gate: PastGate | None = None
        self._regions: Regions | None = None
        """Those that are being described."""
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
        regions = self._regions = Newcomers(self._memory, self._layout, some, self._parents)
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
        entry, frames = shim[0] if shim else None, self._frames.of(code)
        lines = lines_of_piece(code, body, regions.lines(code))
        return described(body, frames.eh_frame, lines, entry, frames.for_perf)

    def _interpreters_frame_pointer(self, shim: Row) -> int | None:
        """How far the frame pointer is above the stack pointer where `_PyEval_EvalFrameDefault` calls a shim, which has
        that row; None, where that is not needed, as the shim saves it, or not known, as its prologue sets none."""
        arch, address = self._memory.architecture, agent.address(_INTERPRETER)
        if isinstance(shim.rule(arch.frame_pointer), SavedAt) or not address:
            return None
        prologue = self._memory.read(address, _LONGEST_PROLOGUE)
        entries = {0: arch.at_entry(arch.platform)}
        frames = []
        for _, state in sorted(flow_of(arch, prologue, decoder(arch), entries).states.items()):
            pointer, stack = (state.registers.get(each) for each in (arch.frame_pointer, arch.stack_pointer))
            if isinstance(pointer, int) and isinstance(stack, int):
                frames.append(pointer - stack)
        return max(frames, default=None)

    def _past_shim(self, code: Code, table: UnwindTable) -> UnwindTable | None:
        """The table for perf. All shims of a process save the same at the same places."""
        if self._gate is None and self._regions is not None:
            row = self._regions.gate_row(code, table)
            if row is not None:
                arch, convention = self._memory.architecture, self._regions.stencils.CONVENTION
                self._gate = PastGate(arch, row, convention, self._interpreters_frame_pointer(row))
        return self._gate.table(table, code.gate_size) if self._gate is not None else None
