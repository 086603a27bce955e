"""A stub of GDB's remote protocol that follows a script: at the other end of a socket, in a thread of its own."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jitunwind.remote.protocol import packet, unpacked

Answer = Callable[[bytes], list[bytes]]
"""Gets a request; gives what the stub writes, piece by piece: packets, or less, or worse."""

AARCH64_XML = (
    b'<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target><architecture>aarch64</architecture>'
    b'<xi:include href="core.xml"/></target>'
)
CORE_XML = b"".join(
    (
        b'<feature name="org.gnu.gdb.aarch64.core">',
        *(b'<reg name="x%d" bitsize="64"/>' % number for number in range(31)),
        b'<reg name="sp" bitsize="64" type="data_ptr"/><reg name="pc" bitsize="64" type="code_ptr"/>',
        b'<reg name="cpsr" bitsize="32"/></feature>',
    )
)


class Scripted:
    """What a stub of an AArch64 program answers; `said` are replies by request, each a list used one after another,
    the last for ever. `log` has all requests."""

    def __init__(self, said: dict[bytes, list[bytes]] | None = None) -> None:
        self.said = {
            b"?": [b"T05thread:p01.0a;"],
            b"vCont?": [b"vCont;c;C;s;S"],
            b"g": [
                b"".join(number.to_bytes(8, "little") for number in range(33)).hex().encode() + b"00000060"
            ],
            **(said or {}),
        }
        self.features = {b"target.xml": AARCH64_XML, b"core.xml": CORE_XML}
        self.memory: dict[int, bytes] = {}
        self.log: list[bytes] = []

    def __call__(self, request: bytes) -> list[bytes]:
        self.log.append(request)
        return [packet(self.reply(request))]

    def reply(self, request: bytes) -> bytes:
        if request in self.said:
            replies = self.said[request]
            return replies.pop(0) if len(replies) > 1 else replies[0]
        if request.startswith(b"qSupported"):
            return b"PacketSize=400;qXfer:features:read+;multiprocess+"
        if request.startswith(b"qXfer:features:read:"):
            _, _, _, name, extent = request.split(b":")
            at, size = (int(part, 16) for part in extent.split(b","))
            text = self.features.get(name)
            if text is None:
                return b"E00"
            return (b"m" if at + size < len(text) else b"l") + text[at : at + size]
        if request.startswith(b"m"):
            address, size = (int(part, 16) for part in request[1:].split(b","))
            return self.read(address, size).hex().encode() or b"E14"
        if request[:2] in (b"Hg", b"Z0", b"z0") or request[:1] in b"GD":
            return b"OK"
        return b""

    def read(self, address: int, size: int) -> bytes:
        for start, data in self.memory.items():
            if start <= address < start + len(data):
                return data[address - start : address - start + size]
        return b""


@contextmanager
def talking(answer: Answer, acknowledge: bool = True) -> Iterator[socket.socket]:
    """Our end of a connection to a stub that answers so."""
    ours, its = socket.socketpair()
    thread = threading.Thread(target=_serve, args=(its, answer, acknowledge), daemon=True)
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(10)
        assert not thread.is_alive()


def _serve(connection: socket.socket, answer: Answer, acknowledge: bool) -> None:
    data = b""
    last: list[bytes] = []
    with connection:
        while True:
            try:
                more = connection.recv(4096)
            except OSError:
                return
            if not more:
                return
            data += more
            while data:
                if data[:1] == b"-":
                    data = data[1:]
                    _write(connection, last[1:] or last)
                elif data[:1] == b"$" and b"#" in data and len(data) >= data.index(b"#") + 3:
                    end = data.index(b"#")
                    request, data = unpacked(data[1:end]), data[end + 3 :]
                    last = answer(request)
                    if not last:
                        return  # it has closed the connection
                    _write(connection, [b"+", *last] if acknowledge else last)
                elif data[:1] == b"$":
                    break
                else:
                    data = data[1:]


def _write(connection: socket.socket, parts: list[bytes]) -> None:
    try:
        for part in parts:
            connection.sendall(part)
    except OSError:
        pass  # the other side has given up
