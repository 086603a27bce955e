"""The machines that tests run programs on: this one, and AArch64 by qemu's emulation where this is another."""

import platform
import shutil
from dataclasses import dataclass

import pytest

from jitunwind.arch import Architecture
from jitunwind.arch.aarch64.registers import AARCH64
from jitunwind.arch.known import ARCHITECTURES
from tests.support import markers

QEMU = ("qemu-aarch64", "-cpu", "max,pauth=off")
"""GDB 13 loses a stack at the first signed return address."""


@dataclass(frozen=True)
class Machine:
    """Where programs of `arch` are compiled and run. `tools`: what names of compilers and binutils begin with."""

    arch: Architecture
    tools: str = ""
    emulator: tuple[str, ...] = ()
    """The words before a program's path."""
    sysroot: str = ""
    """Where it has its libraries, if that is not the root."""
    gdb: str = "gdb"

    def __str__(self) -> str:
        return self.arch.name

    @property
    def is_emulated(self) -> bool:
        return bool(self.emulator)

    @property
    def linking(self) -> list[str]:
        """The compiler's options for programs that find their libraries here."""
        libraries = f"{self.sysroot}/lib"
        options = (
            f"-Wl,--dynamic-linker={libraries}/ld-linux-aarch64.so.1,--disable-new-dtags,-rpath,{libraries}"
        )
        return [options] if self.sysroot else []

    def compiler(self, name: str = "gcc") -> str:
        """gcc or g++."""
        return self.tools + name

    def needed(self, *others: str) -> "Machine":
        """This; the test is skipped where a tool of it is missing: the compiler, the emulator, `others` by the names
        of their attributes."""
        if self.is_emulated:
            markers.demand("aarch64")
        for tool in (self.compiler(), *self.emulator[:1], *(getattr(self, name) for name in others)):
            if shutil.which(tool) is None:
                pytest.skip(f"no {tool}: `make setup` says what to install")
        return self


HERE = Machine(ARCHITECTURES[platform.machine()])
EMULATED = Machine(AARCH64, "aarch64-linux-gnu-", QEMU, "/usr/aarch64-linux-gnu", "gdb-multiarch")
ARM = HERE if HERE.arch is AARCH64 else EMULATED
MACHINES = (HERE,) if ARM is HERE else (HERE, ARM)
