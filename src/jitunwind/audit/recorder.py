"""JIT code that records itself: many instructions' states for the price of one stop.

In comes a stopped thread inside a region; out come the states before each instruction that it runs from there.
A copy of the region's code, put into the process, writes them down (`arch.x86_64.record`); the thread is moved
into it, and back to the region where the copy ends: at calls, returns and jumps elsewhere. The stepper uses this
where it can, and the kernel's single step elsewhere.
"""

from itertools import pairwise

from jitunwind.arch.x86_64.record import (
    BELOW,
    BREAKPOINT,
    CONTROL,
    FLAGS,
    LARGEST_COPY,
    RECORD,
    REGISTERS,
    WORDS,
    Copy,
    copy,
    routine,
)
from jitunwind.arch.x86_64.registers import RSP, X86_64
from jitunwind.audit import records
from jitunwind.audit.ptrace import Tracee

MOST_AT_ONCE = 1792
"""Records of one run: 1 MiB."""
_CALLS = X86_64.linux.calls
_READ_WRITE_EXEC = 7
_PRIVATE_ANONYMOUS_NORESERVE_NOREPLACE = 0x02 | 0x20 | 0x4000 | 0x100000
_PAGE = 4096
_NEAR = 1 << 30
"""How far the copies lie from the code, at most."""
_ROUTINE = 64
_BUFFER = _PAGE
_COPIES = _BUFFER + MOST_AT_ONCE * RECORD.size // _PAGE * _PAGE + _PAGE
_SIZE = _COPIES + LARGEST_COPY
assert CONTROL.size <= _ROUTINE
assert (X86_64.red_zone, records.WORDS) == (BELOW, WORDS), "records are of one form, whoever makes them"


class Recorder:
    """The copies in one process. They lie in one mapping: the control block, the routine, records, copies."""

    most_at_once = MOST_AT_ONCE

    def __init__(self, tracee: Tracee) -> None:
        self._tracee = tracee
        self.forget()

    def forget(self) -> None:
        """The process runs another program."""
        self._area = 0
        self._free = _COPIES
        self._full = 0
        self._copies: dict[int, tuple[bytes, Copy | None]] = {}
        self._is_refused = False

    @property
    def is_set_up(self) -> bool:
        """Whether there are copies: they are put near to the first code that was asked for."""
        return bool(self._area)

    def copy_of(self, tid: int, start: int, code: bytes) -> Copy | None:
        """The copy of the code that lies at `start`; None where there can be none. `tid` is a stopped thread."""
        known = self._copies.get(start)
        if known is None or (known[0] is not code and known[0] != code):
            known = self._copies[start] = (code, self._make(tid, start, code))
        return known[1]

    def _make(self, tid: int, start: int, code: bytes) -> Copy | None:
        if not self._area and not self._is_refused:
            self._set_up(tid, start)
        if not self._area:
            return None
        made = copy(code, start, self._area + self._free, self._area + _ROUTINE)
        if self._free + len(made.code) > _SIZE:
            self._copies.clear()
            self._free = _COPIES
            made = copy(code, start, self._area + self._free, self._area + _ROUTINE)
            if self._free + len(made.code) > _SIZE:
                return None
        self._tracee.write(self._area + self._free, made.code)
        self._free += len(made.code)
        return made

    def _set_up(self, tid: int, near: int) -> None:
        """Map the area into the process, where nothing is."""
        self._is_refused = True
        place = self._gap(near)
        if not place:
            return
        try:
            area = self._tracee.system_call(
                *(tid, _CALLS.mmap, place, _SIZE, _READ_WRITE_EXEC, _PRIVATE_ANONYMOUS_NORESERVE_NOREPLACE),
                *((1 << 64) - 1, 0),
            )
        except OSError:
            return
        if area != place:
            return
        code = routine(area + _ROUTINE, area)
        self._tracee.write(area + _ROUTINE, code)
        self._full = area + _ROUTINE + code.index(BREAKPOINT)
        self._area = area

    def _gap(self, near: int) -> int:
        """A free place in reach of `near`, far from what is there; 0: there is none."""
        mappings = self._tracee.memory.mappings()
        gaps = [(one.end + _PAGE, other.start - _PAGE) for one, other in pairwise(mappings)]
        below = [max(low, near - _NEAR) for low, high in reversed(gaps) if high <= near]
        above = [min(high, near + _NEAR) - _SIZE for low, high in gaps if low >= near]
        for place in (*below, *above):
            start = place // _PAGE * _PAGE
            fits = any(low <= start and start + _SIZE <= high for low, high in gaps)
            if fits and abs(start - near) <= _NEAR:
                return start
        return 0

    def release(self) -> None:
        """Take the area out of the process again, all threads of which stand still."""
        if self._area and (tid := self._tracee.any_stopped):
            self._tracee.system_call(tid, _CALLS.munmap, self._area, _SIZE)
            self.forget()

    def run(self, tid: int, start: int, made: Copy, pc: int, most: int) -> list[tuple[int, ...]]:
        """Run a thread that stands at `pc`, one of the entries to the copy of what lies at `start`, for at most
        `most` instructions.

        The states before each instruction are returned, as `RECORD` has them; the thread stands at the last one
        of them then, in the region itself. An empty list: it has ended.
        """
        area, tracee = self._area, self._tracee
        buffer = area + _BUFFER
        limit = buffer + min(most, MOST_AT_ONCE) * RECORD.size
        tracee.write(area, CONTROL.pack(buffer, limit, start))
        tracee.set_pc(tid, made.entries[pc])
        if tracee.run(tid) is None:
            return []
        registers = tracee.registers(tid)
        memory = tracee.memory
        records = list(RECORD.iter_unpack(memory.read(buffer, memory.word(area) - buffer)))
        at = registers[-1] - 1
        if at in made.exits:
            tracee.set_pc(tid, made.exits[at])
        elif at == self._full:
            tracee.set_registers(tid, records[-1][:REGISTERS], memory.word(registers[RSP] + FLAGS))
        else:
            tracee.set_pc(tid, made.places[registers[-1]])  # an instruction of the region's has failed
        return records
