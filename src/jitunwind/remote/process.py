"""A process behind a stub of GDB's remote protocol: its memory, mappings and registers, and running its threads.

It need be neither of this machine's architecture nor on this machine; the files that it has mapped are looked for
here, under their own names. `audit.remote` steps it.
"""

import struct
from collections.abc import Callable
from functools import cached_property

from jitunwind.arch import Architecture
from jitunwind.arch.known import ARCHITECTURES, of_bfd_name
from jitunwind.errors import RemoteFailed, UnreadableMemory
from jitunwind.memory import Mapping
from jitunwind.memory.maps import parse_maps
from jitunwind.memory.process import LoadedFiles
from jitunwind.remote.protocol import Ended, Register, Stopped, Stub, from_hex, stop_of, thread_number
from jitunwind.remote.requested import Requester

_BLOCK = 512
"""Small reads are made of aligned blocks of so many bytes, which are kept until the process runs again."""
_LARGE = 1 << 16
SIGTRAP = 5
"""GDB's number of it, and the system's."""
AT_BASE, AT_ENTRY = 7, 9


class RemoteProcess(LoadedFiles):
    """The process behind `stub`, which stands still when this is made and whenever it is asked something.

    `program`: the file of its executable on this machine; None: the one that it names itself.
    RemoteFailed for stubs that cannot be worked with.
    """

    def __init__(self, stub: Stub, program: str | None = None) -> None:
        self.stub, self._named = stub, program
        target = stub.target()
        arch = of_bfd_name(target.architecture)
        if arch is None:
            known = " and ".join(each.bfd_name for each in ARCHITECTURES.values())
            raise RemoteFailed(
                f"the stub's program is of the architecture {target.architecture or '?'}",
                f"known are {known}",
            )
        self._architecture = arch
        self._by_name = {register.name: register for register in target.registers}
        try:
            self._places = [self._by_name[name] for name in arch.register_names[: arch.program_counter + 1]]
        except KeyError as error:
            raise RemoteFailed(f"the stub does not describe the register {error}") from None
        whole = max(place.start + place.size for place in self._places)
        self._unpack = _unpacker(self._places, whole)
        self._blocks: dict[int, bytes] = {}
        self._texts: dict[tuple[int, int], bytes] = {}
        """Large pieces of code that files have: reading one takes seconds."""
        self._mappings: list[Mapping] | None = None
        """As long as the process has not run."""
        self._raw = b""
        self._thread_of_registers = ""
        self.is_running = False
        self.withheld = {SIGTRAP}
        """Signals that are for us, and not for the process."""
        self.signals: dict[str, int] = {}
        """By thread: what is to be delivered when it goes on."""
        self.breakpoints: set[int] = set()
        first = stop_of(stub.ask(b"?"))
        if not isinstance(first, Stopped):
            raise RemoteFailed("the stub has no running program")
        self.thread = first.thread or self._only_thread()
        """The one that has stopped last, as the stub writes it."""
        self._requester = Requester(self)

    def _only_thread(self) -> str:
        reply = self.stub.ask(b"qC")
        return reply[2:].decode("ascii", "replace") if reply.startswith(b"QC") else ""

    @property
    def architecture(self) -> Architecture:
        return self._architecture

    # Memory

    def read(self, address: int, size: int) -> bytes:
        if self.is_running or self.stub.is_closed:
            raise UnreadableMemory(address, size)
        block = address & -_BLOCK
        if address + size > block + _BLOCK or size == _BLOCK:
            return self._read(address, size)
        data = self._blocks.get(block)
        if data is None:
            data = self.stub.read(block, _BLOCK)
            if len(data) < _BLOCK:
                return self._read(address, size)
            self._blocks[block] = data
        return data[address - block : address - block + size]

    def _read(self, address: int, size: int) -> bytes:
        data = self._texts.get((address, size)) or self.stub.read(address, size)
        if len(data) < size:
            raise UnreadableMemory(address, size)
        if size >= _LARGE and self._is_text(address, size):
            self._texts[address, size] = data
        return data

    def _is_text(self, address: int, size: int) -> bool:
        """Whether it is code of a file, which nobody changes."""
        return any(
            each.executable and each.path and each.start <= address and address + size <= each.end
            for each in self.mappings()
        )

    def write(self, address: int, data: bytes) -> None:
        """UnreadableMemory where there is no memory."""
        self._blocks.clear()
        if not self.stub.write(address, data):
            raise UnreadableMemory(address, len(data))

    def mappings(self) -> list[Mapping]:
        """From /proc, which the stub reads where it can, and else the process itself."""
        if self._mappings is None:
            self._mappings = self._read_mappings()
        return self._mappings

    def _read_mappings(self) -> list[Mapping]:
        text = self.stub.file(self._maps_path) if self._stub_reads_files else None
        if text is None:
            text = self._requester.file("/proc/self/maps")
        found = parse_maps(text.decode("utf-8", "replace"))
        if self._named is not None and (own := self._own_file(found)):
            found = [each._replace(path=self._named) if each.path == own else each for each in found]
        return found

    @cached_property
    def _stub_reads_files(self) -> bool:
        return self.stub.file(self._maps_path) is not None

    @property
    def _maps_path(self) -> str:
        process = self.thread.partition(".")[0]
        return (
            f"/proc/{thread_number(process) if process.startswith('p') else thread_number(self.thread)}/maps"
        )

    @cached_property
    def auxiliary(self) -> dict[int, int]:
        """The auxiliary vector (getauxval(3)); empty where the stub does not have it."""
        data = self.stub.transfer(b"auxv") or b""
        return dict(struct.iter_unpack("<QQ", data[: len(data) & ~15]))

    def _own_file(self, mappings: list[Mapping]) -> str:
        entry = self.auxiliary.get(AT_ENTRY, 0)
        within = (each.path for each in mappings if each.start <= entry < each.end)
        return next(within, next((each.path for each in mappings if each.path.startswith("/")), ""))

    def program(self) -> str:
        if self._named is not None:
            return self._named
        said = self.stub.transfer(b"exec-file")
        return said.decode("utf-8", "surrogateescape") if said else self._own_file(self.mappings())

    def renew(self) -> None:
        super().renew()
        self.__dict__.pop("auxiliary", None)
        self._texts.clear()

    # Registers

    def registers(self, thread: str) -> list[int]:
        """By DWARF number, the program counter last."""
        return list(self._unpack(self._raw_of(thread)))

    def _raw_of(self, thread: str) -> bytes:
        """All that a `g` packet has."""
        if thread != self._thread_of_registers or not self._raw:
            self._select(thread)
            reply = self.stub.ask(b"g")
            raw = b"" if len(reply) % 2 else from_hex(reply)
            if len(raw) < max(place.start + place.size for place in self._places):
                raise RemoteFailed("the stub does not give the registers")
            self._raw, self._thread_of_registers = raw, thread
        return self._raw

    def _select(self, thread: str) -> None:
        if thread and thread != self._thread_of_registers:
            self.stub.ask(b"Hg" + thread.encode())

    def changed(self, thread: str, values: dict[str, int]) -> bytes:
        """What a `g` packet would have, if registers (by name) held those values."""
        raw = bytearray(self._raw_of(thread))
        for name, value in values.items():
            place = self._by_name[name]
            raw[place.start : place.start + place.size] = value.to_bytes(place.size, "little")
        return bytes(raw)

    def set_all(self, thread: str, raw: bytes) -> None:
        """Give a thread the registers that a `g` packet has."""
        self._select(thread)
        if self.stub.ask(b"G" + raw.hex().encode()) != b"OK":
            raise RemoteFailed("the stub does not set registers")
        self._raw, self._thread_of_registers = raw, thread

    # Running

    def insert(self, address: int) -> None:
        """Put a breakpoint at `address`. UnreadableMemory where that cannot be."""
        if address not in self.breakpoints:
            if not self.stub.insert(address, len(self._architecture.breakpoint)):
                raise UnreadableMemory(address, len(self._architecture.breakpoint))
            self.breakpoints.add(address)

    def remove(self, address: int) -> None:
        if address in self.breakpoints:
            self.breakpoints.discard(address)
            self.stub.remove(address, len(self._architecture.breakpoint))

    def resume(self, thread: str, step: bool = False, signal: int = 0, others: bool = False) -> None:
        """Have a thread run, alone or with the others, with that signal, unless it is one of `withheld`. No thread:
        all of them."""
        self._blocks.clear()
        self._mappings = None
        self._raw = b""
        action = b"s" if step else b"c"
        is_delivered = signal and signal not in self.withheld
        if is_delivered:
            action = b"%s%02x" % (action.upper(), signal)
        if thread and (is_delivered or not others):
            action += b":" + thread.encode() + (b";c" if others else b"")
        self.stub.send(b"vCont;" + action)
        self.is_running = True

    def wait(self, seconds: float | None) -> Stopped | Ended | None:
        """Until it stops or ends; None when `seconds` have passed."""
        while True:
            reply = self.stub.receive(seconds)
            if reply is None:
                return None
            said = stop_of(reply)
            if said is not None:
                self.is_running = False
                if isinstance(said, Stopped):
                    said = said._replace(thread=said.thread or self.thread)
                    self.thread = said.thread
                return said


def _unpacker(places: list[Register], size: int) -> Callable[[bytes], tuple[int, ...]]:
    """From the contents of a `g` packet to registers. Those that are asked for are of 64 bits, as a rule in a row."""
    if any(place.size != 8 for place in places):
        raise RemoteFailed("the stub's registers are not those of a 64-bit processor")
    starts = [place.start for place in places]
    if starts == list(range(starts[0], starts[0] + 8 * len(starts), 8)):
        row = struct.Struct(f"<{len(starts)}Q")
        return lambda raw: row.unpack_from(raw, starts[0])
    return lambda raw: tuple(int.from_bytes(raw[at : at + 8], "little") for at in starts)
