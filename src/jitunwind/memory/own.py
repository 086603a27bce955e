"""This very process, read as others are: what is not there is an error, not a crash."""

import ctypes
import errno
import os
from pathlib import Path

from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.maps import parse_maps


class _Extent(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class OwnProcess(Memory):
    """The process that this code runs in. The child of a fork needs another one.

    Reading does not let go of the GIL: a thread that does so for each word would wait for it each time, for as long
    as the interpreter lets others run.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._program = ctypes.PyDLL(None, use_errno=True)
        self._copy = self._program.process_vm_readv
        self._copy.restype = ctypes.c_ssize_t

    def read(self, address: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        to, place = _Extent(ctypes.addressof(buffer), size), _Extent(address, size)
        done = self._copy(self._pid, ctypes.byref(to), 1, ctypes.byref(place), 1, 0)
        if done == size:
            return buffer.raw
        if done < 0 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):  # a sandbox does not have it
            return _read_file(address, size)
        raise UnreadableMemory(address, size)

    def mappings(self) -> list[Mapping]:
        return parse_maps(Path("/proc/self/maps").read_text(errors="replace"))

    def symbol(self, name: str) -> int | None:
        try:
            return ctypes.addressof(ctypes.c_char.in_dll(self._program, name))
        except ValueError:
            return None


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
