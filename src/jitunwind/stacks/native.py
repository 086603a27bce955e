"""The rules for a program counter in native code: from the unwind table of the image that it lies in.

`Rules` are what `walk` applies. Where there is no unwind information, the code that signal handlers return to is known
by its bytes, and everything else is unwound by the frame pointer, which may be wrong: such rules are not `exact`.
"""

from bisect import bisect_right
from contextlib import suppress
from typing import NamedTuple

from jitunwind.arch.known import module
from jitunwind.dwarf.decode import (
    Fde,
    FrameRule,
    FrameState,
    States,
    eh_frame,
    fde_at,
    state_at,
    states_of,
)
from jitunwind.errors import MalformedFrames, UnreadableMemory
from jitunwind.memory import Memory
from jitunwind.rows import SAME_VALUE, CfaRule, Row, SavedAt
from jitunwind.stacks.fileframes import FileFrames
from jitunwind.stacks.images import Image, Images

_LARGEST_FRAMES = 1 << 28
"""Bytes of an .eh_frame without an index that are read."""


class Rules(NamedTuple):
    """How to come from a frame to its caller. `is_signal`: the caller is what a signal has interrupted, so that its
    program counter is where it goes on, and not behind a call. `is_exact`: not guessed."""

    state: FrameState
    is_signal: bool = False
    is_exact: bool = True


class NoRules(NamedTuple):
    """Why there are none."""

    reason: str


def rules_of_row(row: Row) -> Rules:
    """Those of a recovered row."""
    return Rules(FrameState(row.cfa, row.rules, row.signed))


class _Function(NamedTuple):
    """With all its states; `end`: the address behind it."""

    end: int
    states: States
    is_signal: bool


class NativeRules:
    """The rules for the native code of one process."""

    def __init__(self, memory: Memory, images: Images, file_frames: FileFrames) -> None:
        self._memory = memory
        self._images = images
        self._file_frames = file_frames
        self._arch = memory.architecture
        self._signals = module(self._arch, "state")
        self._linear: dict[int, list[Fde]] = {}
        self._met: set[int] = set()
        """Where functions begin of which one program counter has been asked for."""
        self._starts: list[int] = []
        self._functions: list[_Function] = []
        """Those of which more than one was: by rising start, which `_starts` has."""

    def at(self, pc: int, is_exact: bool) -> Rules | NoRules:
        """The rules at `pc`; `is_exact`: the frame is at `pc`, rather than at the call before it."""
        place = pc if is_exact else pc - 1
        image = self._images.at(place)
        found: Rules | NoRules | None = None
        if image is not None:
            try:
                found = self._by_table(image, place)
            except MalformedFrames as error:
                found = NoRules(f"the unwind information of {image.path} is damaged: {error}")
            except UnreadableMemory as error:
                found = NoRules(f"the unwind information of {image.path} is not to be had: {error}")
        if isinstance(found, Rules):
            return found
        found = self._of_sigreturn(pc) or found
        if found is None and is_exact and not self._is_code(pc):
            found = self._of_jump_to_nowhere()
        return found or self._by_frame_pointer()

    def function_start(self, address: int) -> int | None:
        """Where the function begins that `address` lies in, by the unwind table of its image; None, where that does
        not tell."""
        image = self._images.at(address)
        try:
            fde = self._fde(image, address) if image is not None else None
        except (MalformedFrames, UnreadableMemory):
            return None
        return fde.start if fde is not None and fde.start <= address < fde.start + fde.size else None

    def problem_at(self, pc: int) -> str:
        """Why the image at `pc` has no unwind information; empty where it has some, or there is no image."""
        image = self._images.at(pc)
        return image.problem if image is not None else ""

    def _is_code(self, pc: int) -> bool:
        return any(each.start <= pc < each.end and each.executable for each in self._memory.mappings())

    def _of_jump_to_nowhere(self) -> Rules:
        """Where no code is, nothing has been executed: all is as at a function's first instruction, if it was a call
        that led there."""
        row = self._arch.at_entry(self._arch.platform)
        return Rules(FrameState(row.cfa, row.rules), is_exact=False)

    def _by_table(self, image: Image, place: int) -> Rules | None:
        index = bisect_right(self._starts, place) - 1
        if index >= 0 and place < (known := self._functions[index]).end:
            return Rules(known.states.at(place - self._starts[index]), is_signal=known.is_signal)
        fde, bias = self._fde(image, place), 0
        if fde is None or not fde.start <= place < fde.start + fde.size:
            found = self._file_frames.at(place)
            if found is None:
                return None
            fde, bias = found
        self._meet(fde, fde.start + bias)
        state = state_at(fde, self._arch.same_value_by_default, place - bias - fde.start)
        return Rules(state, is_signal=fde.cie.signal_frame)

    def _meet(self, fde: Fde, start: int) -> None:
        """A program counter of it is asked for. A second time all are decoded: there will be more."""
        if start not in self._met:
            self._met.add(start)
            return
        with suppress(MalformedFrames):  # perhaps behind what is asked for
            states = states_of(fde, self._arch.same_value_by_default)
            index = bisect_right(self._starts, start)
            self._starts.insert(index, start)
            self._functions.insert(index, _Function(start + fde.size, states, fde.cie.signal_frame))

    def _fde(self, image: Image, place: int) -> Fde | None:
        index = image.frame_index
        if index is None:
            return None
        if index.has_table:
            address = index.fde_of(place)
            return None if address is None else fde_at(self._some, address)
        if image.base not in self._linear:
            self._linear[image.base] = self._all(image, index.frames)
        return next((fde for fde in self._linear[image.base] if 0 <= place - fde.start < fde.size), None)

    def _all(self, image: Image, address: int) -> list[Fde]:
        """The FDEs of an .eh_frame without an index; it ends with its mapping."""
        end = next((m.end for m in self._memory.mappings() if m.start <= address < m.end), address)
        data = self._memory.checked_read(address, min(end - address, _LARGEST_FRAMES))
        return list(_until_malformed(data, address))

    def _some(self, address: int, size: int) -> bytes:
        """Up to `size` bytes: fewer at the end of a mapping."""
        try:
            return self._memory.checked_read(address, size)
        except UnreadableMemory:
            return self._memory.checked_read(address, min(size, -address % 4096 or 4096))

    def _of_sigreturn(self, pc: int) -> Rules | None:
        """For what a signal handler returns to: some C libraries, kernels and emulators have no table for it."""
        code = self._signals.SIGRETURN
        try:
            if self._memory.checked_read(pc, len(code)) != code:
                return None
        except UnreadableMemory:
            return None
        arch, saved = self._arch, self._signals.INTERRUPTED
        rules = [(register, SavedAt(offset)) for register, offset in saved.items()]
        rules = [each for each in rules if each[0] != arch.stack_pointer]
        state = FrameState(CfaRule(arch.stack_pointer, 0), tuple(sorted(rules)))
        return Rules(state._replace(rules=(*state.rules, _stack_pointer(arch.stack_pointer, saved))), True)

    def _by_frame_pointer(self) -> Rules:
        """As code compiled with -fno-omit-frame-pointer keeps it: the caller's frame pointer and the return address
        stand where it points to."""
        arch = self._arch
        rules: dict[int, FrameRule] = dict.fromkeys(arch.callee_saved, SAME_VALUE)
        rules |= {arch.frame_pointer: SavedAt(-16), arch.return_address: SavedAt(-8)}
        state = FrameState(CfaRule(arch.frame_pointer, 16), tuple(sorted(rules.items())))
        return Rules(state, is_exact=False)


def _stack_pointer(register: int, saved: dict[int, int]) -> tuple[int, SavedAt]:
    return register, SavedAt(saved[register])


def _until_malformed(data: bytes, address: int) -> "list[Fde]":
    found: list[Fde] = []
    with suppress(MalformedFrames):  # of what is behind the section
        found.extend(eh_frame(data, address))
    return found
