"""Reading a live process in small pieces that lie side by side."""

import ctypes
import mmap
import os
import random

import pytest

from jitunwind.errors import UnreadableMemory
from jitunwind.memory.process import LiveProcess

SIZE = 3 * (1 << 16)


def test_gathered_pieces_are_those_that_are_read_one_by_one() -> None:
    data = random.Random(1).randbytes(SIZE)
    with mmap.mmap(-1, SIZE) as memory, LiveProcess(os.getpid()) as process:
        memory.write(data)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        dice = random.Random(2)
        pieces = [(at, dice.randrange(SIZE - at)) for at in (dice.randrange(SIZE) for _ in range(200))]
        with process.gathered():
            for at, size in [*pieces, (0, SIZE), (SIZE - 1, 1)]:
                assert process.checked_read(start + at, size) == data[at : at + size]


def test_what_cannot_be_read_cannot_be_gathered() -> None:
    """GIVEN pages that nobody may read, between others, THEN those others can be read up to them."""
    pages = 48
    with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory, LiveProcess(os.getpid()) as process:
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        hole, size = start + 20 * mmap.PAGESIZE, mmap.PAGESIZE
        libc = ctypes.CDLL(None)
        assert libc.munmap(ctypes.c_void_p(hole), ctypes.c_size_t(size)) == 0
        try:
            with process.gathered():
                for page in range(pages):
                    at = start + page * mmap.PAGESIZE
                    if at == hole:
                        with pytest.raises(UnreadableMemory):
                            process.checked_read(at, 8)
                    else:
                        assert process.checked_read(at, mmap.PAGESIZE) == bytes(mmap.PAGESIZE)
                with pytest.raises(UnreadableMemory):
                    process.checked_read(hole - 8, 16)
        finally:
            fixed = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap(ctypes.c_void_p(hole), ctypes.c_size_t(size), 3, fixed, -1, ctypes.c_long(0))
