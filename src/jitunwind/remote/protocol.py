"""GDB's remote serial protocol, spoken to a stub: qemu-user's (-g), gdbserver's, or any other.

In come requests, out go replies; what a stub sends is never trusted: packets, replies and waits are bounded. GDB
manual, appendix "GDB Remote Serial Protocol". `remote.process` reads memory by it, `audit.remote` steps.
"""

import re
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

from jitunwind.errors import NoStub, RemoteFailed

PATIENCE = 30.0
"""Seconds in which a stub has to answer, but for what runs the program."""
MOST_IN_PACKET = 1 << 20
MOST_REPEATS = 8
"""Times that one packet may be sent anew for its checksum, by either side."""
MOST_TRANSFERRED = 1 << 24
_INTERRUPT = b"\x03"
_ESCAPE, _ESCAPED = 0x7D, 0x20
_REPEAT = 0x2A
_SPECIAL = re.compile(rb"[#$}*]")
_LEAST_PACKET = 400
"""What every stub takes, in bytes: the registers of a small machine."""
_OURS = b"qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+;xmlRegisters=i386"
_STOP = re.compile(rb"[TS]([0-9a-fA-F]{2})(.*)", re.DOTALL)
_INCLUDE = b"xi:include"
"""XML Inclusions, whose name space not every stub declares."""
_MOST_FILES = 32


class Register(NamedTuple):
    """One register as the stub numbers it: its bytes [start, start + size) in a `g` packet."""

    name: str
    number: int
    start: int
    size: int


class Target(NamedTuple):
    """A target description: the architecture's BFD name, and the registers by rising number."""

    architecture: str
    registers: list[Register]


class Stopped(NamedTuple):
    """A stop reply: the signal by GDB's number, and the thread as the stub writes it (empty: it does not say)."""

    signal: int
    thread: str


class Ended(NamedTuple):
    """The program has ended: with an exit status, or by a signal (0: by none)."""

    status: int
    signal: int


class Stub:
    """One connection. RemoteFailed for whatever breaks it; a reply that is an error (`E01`) is the asker's affair."""

    def __init__(self, connection: socket.socket, patience: float = PATIENCE) -> None:
        self._socket, self._patience = connection, patience
        self._received = b""
        self.acknowledges = True
        """Whether each packet is acknowledged. A stub that wants this takes whatever else comes for a packet that was
        lost: it cannot be interrupted."""
        self._to_acknowledge = b""
        """Sent along with the next request: one system call fewer."""
        self._sent = b""
        self._repeats = 0
        self.features: dict[bytes, bytes] = {}
        self.most = _LEAST_PACKET
        """Bytes of a packet that the stub takes."""
        self._begin()

    @classmethod
    def connect(cls, address: str, patience: float = PATIENCE) -> "Stub":
        """To HOST:PORT, :PORT, or the path of a socket. NoStub where nobody answers there."""
        host, _, port = address.rpartition(":")
        is_path = "/" in address
        if not is_path and not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
            raise NoStub(f"{address} is no HOST:PORT, and no path of a socket", "for example localhost:1234")
        try:
            if is_path:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.connect(address)
            else:
                connection = socket.create_connection((host or "localhost", int(port)), patience)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise NoStub(f"no stub answers at {address}: {error.strerror or error}") from None
        connection.settimeout(None)
        try:
            return cls(connection, patience)
        except RemoteFailed:
            connection.close()
            raise

    def close(self) -> None:
        self._socket.close()

    @property
    def is_closed(self) -> bool:
        return self._socket.fileno() < 0

    def _begin(self) -> None:
        for feature in self.ask(_OURS).split(b";"):
            name, _, value = feature.partition(b"=")
            self.features[name] = value
        size = self.features.get(b"PacketSize", b"")
        if re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
            self.most = min(max(int(size, 16), _LEAST_PACKET), MOST_IN_PACKET)
        if b"QStartNoAckMode+" in self.features and self.ask(b"QStartNoAckMode") == b"OK":
            self._flush()
            self.acknowledges = False

    # Packets

    def ask(self, request: bytes) -> bytes:
        """Send a request, and wait for its reply; an empty one says that the stub does not know it."""
        self.send(request)
        reply = self.receive(self._patience)
        if reply is None:
            raise RemoteFailed(f"the stub did not answer {_shown(request)} in {self._patience:g} seconds")
        return reply

    def send(self, request: bytes) -> None:
        self._sent = packet(request)
        self._repeats = 0
        self._write(self._to_acknowledge + self._sent)
        self._to_acknowledge = b""

    def interrupt(self) -> None:
        """Ask a running program to stop; not all stubs listen, and those with `acknowledges` must not be asked."""
        self._flush()
        self._write(_INTERRUPT)

    def _flush(self) -> None:
        if self._to_acknowledge:
            self._write(self._to_acknowledge)
            self._to_acknowledge = b""

    def _write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise RemoteFailed(f"the connection to the stub is broken: {error.strerror or error}") from None

    def receive(self, seconds: float | None) -> bytes | None:
        """The contents of the next packet; None when `seconds` have passed."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            found = self._next()
            if found is not None:
                return found
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return None
            self._flush()
            try:
                self._socket.settimeout(left)
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as error:
                raise RemoteFailed(
                    f"the connection to the stub is broken: {error.strerror or error}"
                ) from None
            if not more:
                raise RemoteFailed("the stub has closed the connection")
            self._received += more

    def _next(self) -> bytes | None:
        """A packet out of what has been received, if it is whole; acknowledgements are dealt with on the way."""
        while self._received:
            first = self._received[:1]
            if first in b"$%":
                end = self._received.find(b"#")
                if end < 0 and len(self._received) > MOST_IN_PACKET:
                    raise RemoteFailed("the stub sends a packet without an end")
                if end < 0 or len(self._received) < end + 3:
                    return None
                raw, check = self._received[1:end], self._received[end + 1 : end + 3]
                self._received = self._received[end + 3 :]
                if first == b"%":  # a notification, which nobody has asked for
                    continue
                if not _is_sum(raw, check):
                    self._ask_again()
                    continue
                if self.acknowledges:
                    self._to_acknowledge = b"+"
                return unpacked(raw)
            if first == b"-" and self.acknowledges:
                self._count_repeat()
                self._write(self._sent)
            self._received = self._received[1:]
        return None

    def _ask_again(self) -> None:
        if not self.acknowledges:
            raise RemoteFailed("a packet of the stub has the wrong checksum")
        self._count_repeat()
        self._write(b"-")

    def _count_repeat(self) -> None:
        self._repeats += 1
        if self._repeats > MOST_REPEATS:
            raise RemoteFailed("packets between the stub and here do not arrive whole")

    # Requests

    def read(self, address: int, size: int) -> bytes:
        """Up to `size` bytes at `address`: fewer, or none, where they are not all there."""
        parts = []
        at, end = address, address + size
        while at < end:
            now = min(end - at, (self.most - 4) // 2)
            reply = self.ask(b"m%x,%x" % (at, now))
            data = from_hex(reply) if not _is_error(reply) else b""
            parts.append(data[:now])
            if len(data) < now:
                break
            at += now
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> bool:
        """Whether the bytes could be written."""
        most = (self.most - 64) // 2
        return all(
            self.ask(b"M%x,%x:%s" % (address + at, len(part := data[at : at + most]), part.hex().encode()))
            == b"OK"
            for at in range(0, len(data), most)
        )

    def transfer(self, kind: bytes, annex: bytes = b"") -> bytes | None:
        """What the stub has of that kind (qXfer:KIND:read); None where it has none."""
        if b"qXfer:%s:read+" % kind not in self.features:
            return None
        parts: list[bytes] = []
        at = 0
        while at < MOST_TRANSFERRED:
            reply = self.ask(b"qXfer:%s:read:%s:%x,%x" % (kind, annex, at, self.most - 16))
            if reply[:1] not in (b"m", b"l"):
                return None
            parts.append(reply[1:])
            at += len(reply) - 1
            if reply[:1] == b"l":
                return b"".join(parts)
            if len(reply) == 1:
                break
        raise RemoteFailed(f"the stub's {kind.decode()} has no end")

    def insert(self, address: int, size: int) -> bool:
        """A breakpoint; whether it could be put there. `size`: its kind, in bytes."""
        return self.ask(b"Z0,%x,%x" % (address, size)) == b"OK"

    def remove(self, address: int, size: int) -> bool:
        return self.ask(b"z0,%x,%x" % (address, size)) == b"OK"

    def file(self, path: str) -> bytes | None:
        """A file that the stub reads (vFile); None where it does not, or cannot."""
        opened = self.ask(b"vFile:open:%s,0,0" % path.encode().hex().encode())
        descriptor = _of_file(opened)
        if descriptor is None:
            return None
        parts: list[bytes] = []
        size = 0
        while size < MOST_TRANSFERRED:
            result, _, data = self.ask(
                b"vFile:pread:%x,%x,%x" % (descriptor, self.most - 32, size)
            ).partition(b";")
            got = _of_file(result)
            if got is None or got > len(data):
                parts = []
                break
            if not got:
                break
            parts.append(data[:got])
            size += got
        self.ask(b"vFile:close:%x" % descriptor)
        return b"".join(parts) or None

    def target(self) -> Target:
        """What the stub describes: its architecture and registers (GDB manual, "Target Descriptions").

        RemoteFailed where it describes nothing, or what makes no sense.
        """
        architecture, registers, at, number = "", list[Register](), 0, 0
        for element in self._described("target.xml", [0]):
            if element.tag == "architecture":
                architecture = (element.text or "").strip()
            elif element.tag == "reg":
                try:
                    size = int(element.attrib["bitsize"]) // 8
                    number = int(element.get("regnum", number))
                except (KeyError, ValueError):
                    raise RemoteFailed("the stub's target description makes no sense") from None
                registers.append(Register(element.get("name", ""), number, 0, size))
                number += 1
        registers.sort(key=lambda register: register.number)
        placed = []
        for register in registers:
            placed.append(register._replace(start=at))
            at += register.size
        if not placed:
            raise RemoteFailed("the stub does not describe its registers", "take a newer stub")
        return Target(architecture, placed)

    def _described(self, name: str, files: list[int]) -> Iterator[ElementTree.Element]:
        files[0] += 1
        text = self.transfer(b"features", name.encode()) if files[0] <= _MOST_FILES else None
        if text is None or b"<!ENTITY" in text:
            raise RemoteFailed(
                f"the stub does not describe its target: there is no {name}", "take a newer stub"
            )
        try:
            root = ElementTree.fromstring(text.replace(_INCLUDE, b"include"))
        except ElementTree.ParseError as error:
            raise RemoteFailed(f"the stub's {name} is damaged: {error}") from None
        for element in root.iter():
            if element.tag == "include":
                yield from self._described(element.get("href", ""), files)
            else:
                yield element


def stop_of(reply: bytes) -> Stopped | Ended | None:
    """What a reply to `?` or `vCont` says; None for what is to be waited on (the program's output, for one).

    RemoteFailed for an error.
    """
    kind = reply[:1]
    if kind in (b"W", b"X"):
        number = _number(reply[1:].partition(b";")[0])
        return Ended(number, 0) if kind == b"W" else Ended(0, number)
    if kind == b"O" and reply != b"OK":
        return None
    found = _STOP.fullmatch(reply)
    if found is None:
        raise RemoteFailed(f"the stub cannot run the program: it says {_shown(reply)}")
    fields = dict(field.partition(b":")[::2] for field in found[2].split(b";"))
    return Stopped(int(found[1], 16), fields.get(b"thread", b"").decode("ascii", "replace"))


def packet(data: bytes) -> bytes:
    """Framed, with what has a meaning escaped."""
    raw = _SPECIAL.sub(lambda found: bytes((_ESCAPE, found[0][0] ^ _ESCAPED)), data)
    return b"$%s#%02x" % (raw, sum(raw) & 0xFF)


def unpacked(raw: bytes) -> bytes:
    """The contents of a packet: escapes and repetitions undone."""
    if b"}" not in raw and b"*" not in raw:
        return raw
    out = bytearray()
    at = 0
    while at < len(raw):
        byte = raw[at]
        if byte == _ESCAPE and at + 1 < len(raw):
            out.append(raw[at + 1] ^ _ESCAPED)
            at += 2
        elif byte == _REPEAT and out and at + 1 < len(raw):
            out += out[-1:] * (raw[at + 1] - 29)
            at += 2
        else:
            out.append(byte)
            at += 1
        if len(out) > MOST_IN_PACKET:
            raise RemoteFailed("the stub sends a packet without an end")
    return bytes(out)


def from_hex(text: bytes) -> bytes:
    """RemoteFailed for what is no hexadecimal number of bytes."""
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        raise RemoteFailed(f"the stub answers {_shown(text)} where bytes were asked for") from None


def thread_number(thread: str) -> int:
    """That of a thread as stubs write it: `pPID.TID` or `TID`, in hexadecimal; 0: it is none."""
    try:
        return int(thread.rpartition(".")[2].removeprefix("p"), 16)
    except ValueError:
        return 0


def _is_sum(raw: bytes, check: bytes) -> bool:
    try:
        return int(check, 16) == sum(raw) & 0xFF
    except ValueError:
        return False


def _is_error(reply: bytes) -> bool:
    return not reply or (reply[:1] == b"E" and len(reply) % 2 == 1)


def _of_file(reply: bytes) -> int | None:
    """The result of a vFile request; None for an error."""
    found = re.match(rb"F([0-9a-fA-F]{1,8})(?:;|$)", reply)
    return int(found[1], 16) if found is not None else None


def _number(text: bytes) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise RemoteFailed(f"the stub says {_shown(text)} where a number belongs") from None


def _shown(data: bytes) -> str:
    return repr(data[:60].decode("ascii", "backslashreplace"))
