"""The architectures there are, by their names, and what is known of one only when it is asked for.

The host and the process that is looked at need not be of the same architecture: who reads a process asks its
`Memory`, who reads a file its header.
"""

import os
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import cast

from jitunwind.arch import Architecture
from jitunwind.arch.aarch64.registers import AARCH64
from jitunwind.arch.effects import Decoder
from jitunwind.arch.relocations import Relocations
from jitunwind.arch.x86_64.registers import X86_64

ARCHITECTURES = {arch.name: arch for arch in (X86_64, AARCH64)}
MODULES = ("compiled", "effects", "emulation", "linux", "listing", "registers", "relocations", "switches")
"""What each package `arch.ARCH` has. Others are for its own use (docs/adding-an-architecture.md)."""


def of_bfd_name(name: str) -> Architecture | None:
    """That which GDB calls so; None, if it is not known."""
    return next((arch for arch in ARCHITECTURES.values() if arch.bfd_name == name), None)


def of_machine(machine: int) -> Architecture | None:
    """That of an ELF file whose `e_machine` is this; None, if it is not known."""
    return next((arch for arch in ARCHITECTURES.values() if arch.elf_machine == machine), None)


@cache
def native() -> Architecture:
    """That of this very process. KeyError on a machine of another one."""
    return ARCHITECTURES[os.uname().machine]


def module(arch: Architecture, name: str) -> ModuleType:
    """`arch.ARCH.NAME`. ImportError where a package is missing that it needs."""
    return _module(arch.name, name)


@cache
def _module(arch: str, name: str) -> ModuleType:
    """Recovery asks for each region: import_module would run Python, in programs that publish, too."""
    return import_module(f"jitunwind.arch.{arch}.{name}")


def relocations_of(arch: Architecture) -> Relocations:
    """`arch.ARCH.relocations`."""
    return cast(Relocations, module(arch, "relocations"))


def decoder(arch: Architecture) -> Decoder:
    """`arch.ARCH.effects.decode`. ImportError likewise."""
    decode: Decoder = module(arch, "effects").decode
    return decode
