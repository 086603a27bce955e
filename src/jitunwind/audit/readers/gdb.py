"""GDB: its own DWARF unwinder, asked as it is used.

GDB is connected to a stub, which is here: a process with the registers and the stack of a record, and with nothing
else. So there is no process to harm, and code of another architecture is no different. What GDB is to do is told to
the script `gdb_walks.py` inside it.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jitunwind.arch import Architecture
from jitunwind.audit.readers import Outcome, Reader, Table
from jitunwind.audit.readers.guarded import Guarded
from jitunwind.audit.readers.recorded import Recorded, is_inside
from jitunwind.audit.records import Record, judged_registers
from jitunwind.elf.image import frames_file
from jitunwind.errors import GdbMissing, NoReader, ReaderFailed
from jitunwind.gdbplugin.launch import find_gdb, why_unfit
from jitunwind.rows import WORD, Unknown

SCRIPT = Path(__file__).with_name("gdb_walks.py")
_PACKET = b"qJitunwind:"
"""By which the script answers: gdb_walks.PACKET."""
_REPLIES = {
    b"?": b"S05",
    b"qSupported": b"PacketSize=10000;QStartNoAckMode+",
    b"QStartNoAckMode": b"OK",
    b"qAttached": b"1",
    b"qC": b"QC1",
    b"qfThreadInfo": b"m1",
    b"qsThreadInfo": b"l",
    b"H": b"OK",
    b"T": b"OK",
    b"D": b"OK",
}
"""To packets that begin so. GDB manual, "GDB Remote Serial Protocol"; an empty reply: not supported."""
_SETTINGS = (
    "set remotetimeout 1000000",
    "set auto-load no",
    "set sysroot /nonexistent",
    "set debuginfod enabled off",
    "set confirm off",
    "set backtrace past-main on",
    "set backtrace past-entry on",
    "set osabi GNU/Linux",
)
_HINT = (
    "install GDB 13 or later (apt-get install gdb; gdb-multiarch for another machine's code), "
    "or name one in the environment variable JITUNWIND_GDB"
)
_PATIENCE = 60.0
"""Seconds that GDB may take to start, and for one command."""
_LOOK = 0.2
"""Seconds between looks at whether it is there still while it starts."""
_ANYWHERE = 0x1000
"""Where a table lies that may lie anywhere: no code is there."""
_MEMORY = re.compile(rb"m([0-9a-f]+),([0-9a-f]+)")


class Gdb:
    """A `Reader`."""

    def __init__(self, name: str, arch: Architecture) -> None:
        self.name, self._arch = name, arch
        try:
            gdb = find_gdb(arch=arch)
        except GdbMissing as error:
            raise NoReader(str(error), _HINT) from None
        unfit = why_unfit(gdb)
        if unfit is not None:
            raise NoReader(unfit, _HINT)
        self._recorded = Recorded(arch)
        self._files: dict[Table, Path] = {}
        self._made = 0
        self._inside: Sequence[tuple[int, int]] = ()
        self._received = b""
        self._acknowledges = True
        with contextlib.ExitStack() as opened:
            self._folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="jitunwind-")))
            self._connect(gdb, opened)
            self.version = str(self._answer())
            self._opened = opened.pop_all()

    def _connect(self, gdb: str, opened: contextlib.ExitStack) -> None:
        path = str(self._folder / "stub")
        listening = opened.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(path)
        listening.listen(1)
        listening.settimeout(_LOOK)
        settings = (*_SETTINGS, f"set architecture {self._arch.bfd_name}")
        commands = [part for line in settings for part in ("-iex", line)]
        output = opened.enter_context((self._folder / "output").open("w+b"))
        # In a session of its own: an interrupt from the terminal is for the audit.
        helper = subprocess.Popen(
            [gdb, "-nx", "-q", "-batch", *commands, "-ex", f"target remote {path}", "-x", str(SCRIPT)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        opened.callback(helper.wait)
        opened.callback(helper.kill)
        self._socket = self._accepted(listening, helper)
        opened.callback(self._socket.close)
        self._socket.settimeout(_PATIENCE)

    def _accepted(self, listening: socket.socket, helper: "subprocess.Popen[bytes]") -> socket.socket:
        for _ in range(int(_PATIENCE / _LOOK)):
            try:
                return listening.accept()[0]
            except TimeoutError:
                if helper.poll() is not None:
                    raise self._failure("has ended") from None
        raise self._failure(f"has not connected in {_PATIENCE:.0f} s")

    def close(self) -> None:
        self._opened.close()

    def _failure(self, what: str) -> ReaderFailed:
        said = (self._folder / "output").read_text(errors="replace").strip().splitlines()
        return ReaderFailed(f"GDB {what}" + (f": {said[-1]}" if said else ""))

    # Commands to the script

    def _do(self, what: str, **more: Any) -> Any:
        """Have the script do something; its answer. ReaderFailed."""
        self._send(json.dumps({"do": what, **more}).encode().hex().encode())
        return self._answer()

    def _answer(self) -> Any:
        """The script's next one; until then GDB gets what it asks for."""
        while True:
            packet = self._packet()
            if packet.startswith(_PACKET):
                answer = json.loads(bytes.fromhex(packet[len(_PACKET) :].decode()))
                if "failed" in answer:
                    raise ReaderFailed(f"GDB says: {answer['failed']}")
                return answer["is"]
            self._send(self._reply(packet))

    # The stub

    def _packet(self) -> bytes:
        while True:
            begin, end = self._received.find(b"$"), self._received.find(b"#")
            if 0 <= begin < end <= len(self._received) - 3:
                packet = self._received[begin + 1 : end]
                self._received = self._received[end + 3 :]
                if self._acknowledges:
                    self._socket.sendall(b"+")
                return packet
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                raise self._failure(f"has not answered in {_PATIENCE:.0f} s") from None
            except OSError:
                more = b""
            if not more:
                raise self._failure("has ended")
            self._received += more

    def _send(self, reply: bytes) -> None:
        try:
            self._socket.sendall(b"$%s#%02x" % (reply, sum(reply) & 0xFF))
        except OSError:
            raise self._failure("has ended") from None

    def _reply(self, packet: bytes) -> bytes:
        if packet == b"g":
            registers = self._recorded.registers or (0,) * (self._arch.program_counter + 1)
            order = self._arch.packet_order
            return b"".join(registers[number].to_bytes(WORD, "little") for number in order).hex().encode()
        wanted = _MEMORY.fullmatch(packet)
        if wanted is not None:
            data = self._memory(int(wanted[1], 16), int(wanted[2], 16))
            return b"E01" if data is None else data.hex().encode()
        if packet == b"QStartNoAckMode":
            self._acknowledges = False
        return next((reply for name, reply in _REPLIES.items() if packet.startswith(name)), b"")

    def _memory(self, address: int, size: int) -> bytes | None:
        """The stack; and zeros for code, which there has to be: GDB looks for no table of AArch64 code that it cannot
        read. Nor for one of a return or of a signal's trampoline, which it knows by their bytes: zeros are neither."""
        if is_inside(self._inside, address) and is_inside(self._inside, address + size - 1):
            return bytes(size)
        return self._recorded.read(address, size)

    # Tables

    def tell(self, tables: Sequence[Table], inside: Sequence[tuple[int, int]]) -> None:
        wanted = dict.fromkeys(tables)
        for table in self._files.keys() - wanted.keys():
            path = self._files.pop(table)
            self._do("execute", line=f"remove-symbol-file {path}")
            os.unlink(path)
        for table in wanted:
            if table not in self._files:
                self._files[table] = self._add(table)
        self._inside = inside
        names = [self._arch.register_names[number] for number in self._wanted()]
        self._do("inside", ranges=list(inside), registers=names)

    def _add(self, table: Table) -> Path:
        self._made += 1
        path = self._folder / f"table-{self._made}.elf"
        codes = [(start, size) for start, size, _ in table.fdes]
        path.write_bytes(frames_file(self._arch.elf_machine, codes, table.data, table.address or _ANYWHERE))
        self._do("execute", line=f"add-symbol-file {path} -o 0")
        return path

    def _wanted(self) -> tuple[int, ...]:
        return (self._arch.stack_pointer, *judged_registers(self._arch))

    # States

    def ask(
        self, records: Sequence[Record], back: int, memory: Sequence[tuple[int, bytes]]
    ) -> list[Outcome | Unknown]:
        return [self._ask(record, memory) for record in records]

    def _ask(self, record: Record, memory: Sequence[tuple[int, bytes]]) -> Outcome | Unknown:
        self._recorded.turn_to(record, memory)
        answer = self._do("walk")
        if isinstance(answer, str):
            return Unknown(f"{self.name} stops in JIT code: {answer}")
        pc, cfa, *registers = answer
        return Outcome(cfa, pc, tuple(registers))


def open_reader(name: str, arch: Architecture) -> Reader:
    return Guarded(lambda: Gdb(name, arch))
