"""A processor in an emulator (unicorn), and its memory as a `Memory`: code and a stack, and everything else made up
when it is touched. The audit's emulator runs JIT code on it, one instruction at a time."""

import ctypes
from typing import Any, NamedTuple

from unicorn import (
    UC_ERR_MAP,
    UC_ERR_READ_UNMAPPED,
    UC_ERR_WRITE_UNMAPPED,
    UC_HOOK_MEM_READ_UNMAPPED,
    UC_HOOK_MEM_WRITE_UNMAPPED,
    UC_PROT_EXEC,
    UC_PROT_READ,
    Uc,
    UcError,
)
from unicorn.unicorn_py3.unicorn import uclib

from jitunwind.arch import Architecture
from jitunwind.arch.emulation import Emulated
from jitunwind.errors import JitunwindError, UnreadableMemory
from jitunwind.memory import Mapping, Memory

PAGE = 4096
MOST_PAGES = 1 << 10
"""Pages made up for one region, at most; one of CPython's touches some fifteen."""
STACK_SIZE = 1 << 16
_FILLER = (0x5D00_0000_0100).to_bytes(8, "little")
"""What memory that is made up holds: addresses of such memory."""
NOT_THERE = "it uses an address at which no memory can be made up"
_NO_MEMORY = (UC_ERR_MAP, UC_ERR_READ_UNMAPPED, UC_ERR_WRITE_UNMAPPED)
_IN_USE = 1 << 14
"""Bytes at the stack's top that belong to a saved state, and that a callee overwrites where they are free."""


class Saved(NamedTuple):
    """The state of the processor and of the stack."""

    context: Any
    stack: bytes


class EmulatedMemory(Memory):
    """A processor of `arch`, which unicorn knows as `emulated`, with an empty stack below `stack_top`."""

    def __init__(self, arch: Architecture, emulated: Emulated, stack_top: int) -> None:
        self._architecture = arch
        self._uc = Uc(emulated.architecture, emulated.mode)
        if emulated.model is not None:
            self._uc.ctl_set_cpu_model(emulated.model)
        self._ids = emulated.registers
        self._pages: set[int] = set()
        """All but the stack's."""
        self._made_up = 0
        self.stack_top = stack_top
        self._uc.mem_map(stack_top - STACK_SIZE, STACK_SIZE)
        self._uc.hook_add(UC_HOOK_MEM_READ_UNMAPPED | UC_HOOK_MEM_WRITE_UNMAPPED, self._make_up)
        # unicorn's own way to read many registers takes 100 µs, this one 1.
        count = len(self._ids)
        self._values = (ctypes.c_uint64 * count)()
        first = ctypes.addressof(self._values)
        ids = (ctypes.c_int * count)(*self._ids)
        places = (ctypes.c_void_p * count)(*(first + 8 * index for index in range(count)))
        self._batch = (self._uc._uch, ids, places, count)

    def clear(self) -> None:
        """Forget all but the stack: another region's turn."""
        for page in self._pages:
            self._uc.mem_unmap(page, PAGE)
        self._pages.clear()
        self._made_up = 0

    def load(self, address: int, code: bytes) -> None:
        """Lay down code that can be read and run, and not be written. JitunwindError where there is no place."""
        try:
            self._lay(address, code)
        except UcError as error:
            raise JitunwindError(
                f"the emulator has no place for code at {address:#x}: {error}",
                "report it, with the output of jitunwind doctor",
            ) from None

    def _lay(self, address: int, code: bytes) -> None:
        for page in range(address & -PAGE, address + len(code), PAGE):
            if page not in self._pages:
                self._pages.add(page)
                self._uc.mem_map(page, PAGE, UC_PROT_READ | UC_PROT_EXEC)
        self._uc.mem_write(address, code)

    def _make_up(self, uc: Uc, access: int, address: int, size: int, value: int, data: object) -> bool:
        """Map what an instruction touches; False, and it fails, where that is too much."""
        for page in {address & -PAGE, address + size - 1 & -PAGE}:
            if page not in self._pages:
                self._made_up += 1
                if self._made_up > MOST_PAGES:
                    return False
                self._pages.add(page)
                uc.mem_map(page, PAGE)
                uc.mem_write(page, _FILLER * (PAGE // len(_FILLER)))
        return True

    @property
    def registers(self) -> list[int]:
        """By DWARF number, the program counter last."""
        uclib.uc_reg_read_batch(*self._batch)
        return self._values[:]

    def set_register(self, number: int, value: int) -> None:
        self._uc.reg_write(self._ids[number], value)

    def run(self, pc: int, until: int) -> str:
        """Run from `pc` until control comes to `until`; gives the reason why that failed, if it did."""
        try:
            self._uc.ctl_remove_cache(until, until + 1)
            self._uc.emu_start(pc, until)
        except UcError as error:
            return NOT_THERE if error.errno in _NO_MEMORY else str(error)
        return ""

    def save(self) -> Saved:
        return Saved(self._uc.context_save(), self.read(self.stack_top - _IN_USE, _IN_USE))

    def restore(self, saved: Saved) -> None:
        self._uc.context_restore(saved.context)
        self._uc.mem_write(self.stack_top - _IN_USE, saved.stack)

    def spoil_below(self, sp: int) -> None:
        """Overwrite what a callee may: nothing of what was there before may pass for a saved register."""
        start = self.stack_top - _IN_USE
        self._uc.mem_write(start, (_FILLER * (_IN_USE // len(_FILLER)))[: max(sp - start, 0)])

    def write_word(self, address: int, value: int) -> None:
        self._uc.mem_write(address, value.to_bytes(8, "little"))

    @property
    def architecture(self) -> Architecture:
        return self._architecture

    def read(self, address: int, size: int) -> bytes:
        try:
            return bytes(self._uc.mem_read(address, size))
        except UcError:
            raise UnreadableMemory(address, size) from None

    def mappings(self) -> list[Mapping]:
        return []

    def symbol(self, name: str) -> int | None:
        return None
