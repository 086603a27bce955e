"""Unwind tables of executors as they are published: recovered once where CPython compiles a loop again and again.

3.14 does so where it drops code that it takes for cold: the machine code is the same then, but for the constants in
it, which say nothing to an unwinder.
"""

import re
from typing import NamedTuple

from jitunwind.arch import Architecture
from jitunwind.arch.known import decoder
from jitunwind.cpython.regions import JitCode
from jitunwind.dwarf.encode import moved
from jitunwind.publishing.described import frames_of
from jitunwind.recover.table import recover

_MOST = 512
_CONSTANTS = {"x86_64": re.compile(rb"([\x48\x49][\xb8-\xbf]).{8}", re.DOTALL)}
"""`movabs`: constants that are bytes of their own (AMD64 manual, volume 3, MOV). On AArch64 they are parts of
instructions."""


class _Known(NamedTuple):
    """The frames of an executor's code, at `start`; whether the constants left out are known to be
    instructions' own, and no bytes of others that look so."""

    start: int
    frames: bytes
    is_sure: bool


class Frames:
    """The `.eh_frame` bytes of executors."""

    def __init__(self, arch: Architecture) -> None:
        self._arch = arch
        self._decode = decoder(arch)
        self._constants = _CONSTANTS.get(arch.name)
        self._sizes: set[int] = set()
        self._known: dict[tuple[int, int, int], _Known] = {}

    def of(self, code: JitCode) -> bytes:
        """Those of all its code, to lie anywhere."""
        key = self._key(code)
        if key is None:
            return self._recovered(code)
        known = self._known.get(key)
        if known is not None and not known.is_sure:
            known = known._replace(is_sure=True) if self._has_only_constants(code) else None
        if known is None:
            known = _Known(code.start, self._recovered(code), False)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = known
        return moved(known.frames, code.start - known.start)

    def _key(self, code: JitCode) -> tuple[int, int, int] | None:
        """What is the same in all such code; None, where none of its size has been met."""
        size = len(code.code.rstrip(b"\0"))
        if self._constants is None or size not in self._sizes:
            self._sizes.add(size)
            return None
        rest = b"".join(self._constants.split(code.code))
        return code.shim_size, len(rest), hash(rest)

    def _has_only_constants(self, code: JitCode) -> bool:
        """Whether all that `_key` leaves out are constants of instructions, or lies behind the last of them. Then so
        it is in all code of that key: byte by byte the same is decoded there."""
        starts: set[int] = set()
        for entry, convention in code.entries(self._arch).items():
            starts.update(self._decode(code.code, entry, convention.kept)[1])
        end = max(starts)
        places = (match.start() for match in self._constants.finditer(code.code)) if self._constants else ()
        return all(place in starts or place > end for place in places)

    def _recovered(self, code: JitCode) -> bytes:
        table = recover(self._arch, code.code, self._decode, code.entries(self._arch))
        return frames_of(self._arch, code.start, table)
