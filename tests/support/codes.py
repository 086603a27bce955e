"""JIT code made by hand, entered as CPython's is."""

from jitunwind.arch import Architecture
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.jits import Code
from jitunwind.jits.cpython import stencils
from jitunwind.rows import Row


def body_entry(arch: Architecture) -> Row:
    """What holds at the first instruction of a body."""
    return arch.at_entry(stencils.of(arch).CONVENTION)


def cpython_code(
    start: int, data: bytes, gate_size: int = 0, owner: int = 0, arch: Architecture = X86_64
) -> Code:
    """An executor's code, with a shim of `gate_size` bytes."""
    entries = ((0, arch.at_entry(arch.platform)), (gate_size, body_entry(arch)))
    return Code(start, data, entries if gate_size else entries[1:], gate_size, owner)
