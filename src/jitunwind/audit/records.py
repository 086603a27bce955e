"""The state of a thread before one instruction, as the audit keeps and judges it."""

from collections.abc import Sequence

from jitunwind.arch import Architecture
from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Memory
from jitunwind.rows import SavedAt

Record = tuple[int, ...]
"""The registers by DWARF number, the program counter last; then `WORDS` words of the stack, from the red zone's end
on, unless they could not be read."""
WORDS = 56


def record_of(arch: Architecture, registers: Sequence[int], memory: Memory) -> Record:
    """The state of a thread that stands at an instruction."""
    try:
        return (*registers, *memory.words(registers[arch.stack_pointer] - arch.red_zone, WORDS))
    except UnreadableMemory:
        return tuple(registers)


def judged_registers(arch: Architecture) -> tuple[int, ...]:
    """The callee-saved registers that are judged: those that are part of a thread's state."""
    return tuple(register for register in arch.callee_saved if register <= arch.program_counter)


def not_judged(arch: Architecture) -> tuple[str, ...]:
    """The names of the others: AArch64's d8 to d15."""
    others = set(arch.callee_saved) - set(judged_registers(arch))
    return tuple(arch.register_names[register] for register in sorted(others))


def back_from_call(arch: Architecture, registers: Sequence[int], memory: Memory) -> tuple[int, int]:
    """Of a thread at a function's first instruction: where the function returns to, and with which stack pointer.
    UnreadableMemory."""
    cfa = registers[arch.stack_pointer] + arch.cfa_at_entry_offset
    kept = arch.entry_return
    if isinstance(kept, SavedAt):
        return memory.word(cfa + kept.offset), cfa
    return registers[arch.return_address], cfa
