"""AArch64 as unicorn knows it: the numbers of its processor and registers. `audit/emulator.py` asks."""

from unicorn import UC_ARCH_ARM64, UC_MODE_ARM, arm64_const

from jitunwind.arch.aarch64.registers import NAMES, PC
from jitunwind.arch.emulation import Emulated

EMULATED = Emulated(
    UC_ARCH_ARM64,
    UC_MODE_ARM,
    tuple(getattr(arm64_const, f"UC_ARM64_REG_{name.upper()}") for name in NAMES[: PC + 1]),
    arm64_const.UC_CPU_ARM64_MAX,  # the usual one has no atomics
)
