"""x86_64 as unicorn knows it: the numbers of its processor and registers. `audit/emulator.py` asks."""

from unicorn import UC_ARCH_X86, UC_MODE_64, x86_const

from jitunwind.arch.emulation import Emulated
from jitunwind.arch.x86_64.registers import NAMES

EMULATED = Emulated(
    UC_ARCH_X86, UC_MODE_64, tuple(getattr(x86_const, f"UC_X86_REG_{name.upper()}") for name in NAMES)
)
