"""This very process, read as others are: what is not there is an error, not a crash."""

import ctypes
import os
from pathlib import Path

from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.maps import parse_maps


class OwnProcess(Memory):
    """The process that this code runs in. The child of a fork needs another one."""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/mem", os.O_RDONLY)
        self._program = ctypes.CDLL(None)

    def close(self) -> None:
        os.close(self._file)

    def read(self, address: int, size: int) -> bytes:
        try:
            data = os.pread(self._file, size, address)
        except (OSError, OverflowError):
            raise UnreadableMemory(address, size) from None
        if len(data) != size:
            raise UnreadableMemory(address, size)
        return data

    def mappings(self) -> list[Mapping]:
        return parse_maps(Path("/proc/self/maps").read_text(errors="replace"))

    def symbol(self, name: str) -> int | None:
        try:
            return ctypes.addressof(ctypes.c_char.in_dll(self._program, name))
        except ValueError:
            return None
