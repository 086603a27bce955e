"""This very process, read as others are: what is not there is an error, not a crash."""

from jitunwind.agent import agent
from jitunwind.arch import Architecture
from jitunwind.arch.known import native
from jitunwind.errors import UnreadableMemory
from jitunwind.memory import Mapping, Memory
from jitunwind.memory.maps import parse_maps


class OwnProcess(Memory):
    """The process that this code runs in, read by the agent, which has to be there.

    Reading does not let go of the GIL: a thread that does so for each word would wait for it each time, for as long
    as the interpreter lets others run.
    """

    @property
    def architecture(self) -> Architecture:
        return native()

    def read(self, address: int, size: int) -> bytes:
        data = agent.read(address, size)
        if data is None:
            raise UnreadableMemory(address, size)
        return data

    def mappings(self) -> list[Mapping]:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            return parse_maps(file.read())

    def symbol(self, name: str) -> int | None:
        return agent.address(name) or None
