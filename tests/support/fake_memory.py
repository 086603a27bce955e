"""A process's memory made of bytes that a test lays down."""

import struct
from dataclasses import dataclass, field

from jitunwind.arch import Architecture
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory


@dataclass
class FakeMemory(Memory):
    """`blocks`: address to bytes; `symbols`: name to address; `mapped`: what `mappings` says."""

    blocks: dict[int, bytes] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)
    mapped: list[Mapping] = field(default_factory=list)
    reads: int = 0

    @property
    def architecture(self) -> Architecture:
        return X86_64

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        for start, data in self.blocks.items():
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        raise UnreadableMemory(address, size)

    def mappings(self) -> list[Mapping]:
        return self.mapped

    def symbol(self, name: str) -> int | None:
        return self.symbols.get(name)


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)
