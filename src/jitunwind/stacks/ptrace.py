"""ptrace(2), as the C library has it, and the numbers of what is asked of it (<sys/ptrace.h>, <linux/ptrace.h>)."""

import ctypes

DETACH, GETREGSET, SEIZE, INTERRUPT = 17, 0x4204, 0x4206, 0x4207
NT_PRSTATUS = 1
EVENT_STOP = 128
WALL = 0x40000000
"""__WALL, of waitpid(2): threads, too."""
LARGEST_REGISTERS = 1024
"""Bytes that hold the note NT_PRSTATUS of every architecture."""

libc = ctypes.CDLL(None, use_errno=True)
ptrace = libc.ptrace
ptrace.restype = ctypes.c_long
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
