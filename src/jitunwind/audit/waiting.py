"""What an audit waits for while no JIT code has been stepped, and whether it waits in vain.

In come the process, which stands still, and what is known of its JIT code; out comes a sentence for people. The
stepper asks after some seconds, and the report says the same where nothing was judged.
"""

import struct
import time
from collections.abc import Container
from dataclasses import dataclass, field

from jitunwind.audit.steppable import Steppable
from jitunwind.errors import JitOff, JitunwindError, NothingToAudit, UnreadableMemory, UnsupportedVersion
from jitunwind.jits.known import Jits
from jitunwind.jits.optional import EntersByCall, Switched
from jitunwind.rows import WORD

WAIT_SECONDS = 3.0
"""So long nobody is told anything; and so long a program has to become another one, in which JIT code may run."""
NOT_ENTERED = "there is JIT code, and nothing has entered it since the start"
_MOST_OF_STACK = 1 << 20
"""Bytes of a stack that are looked through for a return to a shim."""


@dataclass
class Waiting:
    """Why no JIT code has been stepped, as far as that is known."""

    next_look: float = field(default_factory=lambda: time.monotonic() + WAIT_SECONDS)
    """By time.monotonic(): when to find out why."""
    problem: JitunwindError | None = None
    """Why JIT code cannot be looked for."""
    running: list[int] = field(default_factory=list)
    """Threads that were in JIT code at the start."""
    is_in_vain: bool = False
    hint: str = NothingToAudit.hint
    """What a person can do about it."""
    _why: str = ""

    @property
    def is_known(self) -> bool:
        """Whether anybody has looked."""
        return bool(self._why)

    @property
    def why(self) -> str:
        return self._why or (str(self.problem) if self.problem is not None else "no JIT code came up")

    def look(self, tracee: Steppable, jits: Jits | None, entered: Container[int]) -> None:
        """Find out why, now. `entered`: threads that have entered JIT code since the start."""
        self.next_look = time.monotonic() + WAIT_SECONDS
        self._why = self._found(tracee, jits, entered)

    def _found(self, tracee: Steppable, jits: Jits | None, entered: Container[int]) -> str:
        self.is_in_vain, self.hint = False, NothingToAudit.hint
        if jits is None:
            return str(self.problem)
        if jits.problem is not None and not jits.has_code():
            self.is_in_vain = isinstance(jits.problem, UnsupportedVersion)
            return str(jits.problem)
        if off := why_off(jits):
            self.is_in_vain, self.hint = True, JitOff.hint
            return off
        if not jits.has_code():
            return f"no JIT code yet: {jits.why_no_code()}"
        now = set(threads_in_jit_code(tracee, jits)) if self.running else set()
        stayed = [tid for tid in self.running if tid in now and tid not in entered]
        if not stayed:
            return NOT_ENTERED
        self.hint = "audit --emulate judges its code, and steps nothing"
        threads = (
            f"thread {stayed[0]} has"
            if len(stayed) == 1
            else f"threads {', '.join(map(str, stayed))} have each"
        )
        return f"{threads} been in one activation since the start; JIT code is judged from its next entry on"


def why_off(jits: Jits) -> str:
    """Why there is no JIT code, and will be none; empty where there may be some."""
    switched = jits.telling(Switched)
    return switched.off if switched is not None and switched.is_on() is False and not jits.has_code() else ""


def threads_in_jit_code(tracee: Steppable, jits: Jits) -> list[int]:
    """The threads of a process that stands still whose stacks have JIT code on them."""
    return [tid for tid in tracee.threads() if _is_in_jit_code(tracee.registers(tid), jits)]


def _is_in_jit_code(registers: list[int], jits: Jits) -> bool:
    """By the program counter; else by a return to a gate, which its call of JIT code alone puts on a stack."""
    if not jits.has_code():
        return False
    if jits.find(registers[-1]) is not None:
        return True
    entering = jits.telling(EntersByCall)
    if entering is None:
        return False
    sp = registers[jits.architecture.stack_pointer]
    end = next((each.end for each in jits.memory.mappings() if each.start <= sp < each.end), sp)
    size = min(end - sp, _MOST_OF_STACK) // WORD
    try:
        words = struct.unpack(f"<{size}Q", jits.memory.read(sp, size * WORD))
    except UnreadableMemory:
        return False
    return any(entering.returns_to_gate(word) for word in words)
