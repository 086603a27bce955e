"""This very process, read as others are: what is not there is an error, not a crash."""

import errno
import os

from jitunwind.agent.native import (
    U64,
    Int,
    Library,
    SizeFunction,
    addressof,
    buffer,
    byref,
    get_errno,
)
from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.maps import parse_maps


class OwnProcess(Memory):
    """The process that this code runs in. The child of a fork needs another one.

    Reading does not let go of the GIL: a thread that does so for each word would wait for it each time, for as long
    as the interpreter lets others run.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._program = Library()
        self._copy = self._program.function("process_vm_readv", SizeFunction)

    def read(self, address: int, size: int) -> bytes:
        into = buffer(size)
        to, place = (U64 * 2)(addressof(into), size), (U64 * 2)(address, size)  # struct iovec
        done = self._copy(Int(self._pid), byref(to), U64(1), byref(place), U64(1), U64(0))
        if done == size:
            return bytes(into)
        if done < 0 and get_errno() in (errno.EPERM, errno.ENOSYS):  # a sandbox does not have it
            return _read_file(address, size)
        raise UnreadableMemory(address, size)

    def mappings(self) -> list[Mapping]:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            return parse_maps(file.read())

    def symbol(self, name: str) -> int | None:
        return self._program.address(name)


def _read_file(address: int, size: int) -> bytes:
    try:
        with open("/proc/self/mem", "rb", buffering=0) as file:
            file.seek(address)
            data = file.read(size)
    except (OSError, OverflowError, ValueError):
        raise UnreadableMemory(address, size) from None
    if len(data) != size:
        raise UnreadableMemory(address, size)
    return data
