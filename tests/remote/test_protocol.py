"""The client of GDB's remote protocol against stubs that follow a script: torn, damaged, silent and dying ones."""

import re
import socket
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from jitunwind.errors import NoStub, RemoteFailed, UnreadableMemory
from jitunwind.memory import Mapping
from jitunwind.remote.process import RemoteProcess
from jitunwind.remote.protocol import Ended, Stopped, Stub, packet, stop_of, unpacked
from tests.support.scripted_stub import Answer, Scripted, talking

PATIENCE = 20.0


def answering(reply: Callable[[bytes], list[bytes]]) -> Answer:
    """The usual for what a connection begins with, and `reply` for everything else."""
    usual = Scripted()
    return lambda request: usual(request) if request.startswith(b"qSupported") else reply(request)


@given(some.binary(max_size=300))
def test_what_is_sent_can_be_read_back(data: bytes) -> None:
    whole = packet(data)
    assert re.fullmatch(rb"\$[^#$]*#[0-9a-f]{2}", whole)
    assert unpacked(whole[1:-3]) == data


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"0* ", b"0000"),
        (b'0*"ab', b"000000ab"),
        (b"a}\x03b", b"a#b"),
        (b"}\x0a* ", b"****"),
        (b"*", b"*"),
        (b"}", b"}"),
    ],
)
def test_repetitions_and_escapes_are_undone(raw: bytes, data: bytes) -> None:
    assert unpacked(raw) == data


@given(some.binary(max_size=300))
def test_nothing_that_a_stub_sends_is_too_much(raw: bytes) -> None:
    assert len(unpacked(raw)) <= 100 * len(raw) * len(raw) + 1


def test_a_reply_that_repeats_for_ever_is_refused() -> None:
    with pytest.raises(RemoteFailed, match="without an end"):
        unpacked(b"0" + b"*\xff" * 10_000)


def test_replies_may_come_in_pieces() -> None:
    def reply(request: bytes) -> list[bytes]:
        whole = packet(b"you said " + request)
        return [whole[at : at + 1] for at in range(len(whole))]

    with talking(answering(reply)) as connection:
        stub = Stub(connection, PATIENCE)
        assert stub.ask(b"one") == b"you said one"
        assert stub.ask(b"two}#$*") == b"you said two}#$*"


def test_a_reply_with_the_wrong_checksum_is_asked_for_again() -> None:
    with talking(answering(lambda request: [b"$spoilt#00", packet(b"whole")])) as connection:
        assert Stub(connection, PATIENCE).ask(b"x") == b"whole"


def test_replies_that_never_arrive_whole_are_given_up() -> None:
    with (
        talking(answering(lambda request: [b"$spoilt#00", b"$spoilt#zz"])) as connection,
        pytest.raises(RemoteFailed, match="do not arrive whole"),
    ):
        Stub(connection, PATIENCE).ask(b"x")


def test_a_request_that_did_not_arrive_is_sent_again() -> None:
    log: list[bytes] = []

    def reply(request: bytes) -> list[bytes]:
        log.append(request)
        return [b"-"] if len(log) == 1 else [packet(b"now")]

    with talking(answering(reply)) as connection:
        assert Stub(connection, PATIENCE).ask(b"x") == b"now"
    assert log == [b"x", b"x"]


def test_without_acknowledgements_a_wrong_checksum_is_an_error() -> None:
    usual = Scripted()

    def answer(request: bytes) -> list[bytes]:
        if request.startswith(b"qSupported"):
            return [packet(b"PacketSize=4000;QStartNoAckMode+")]
        if request == b"QStartNoAckMode":
            return [packet(b"OK")]
        return [b"$spoilt#00"] if request == b"bad" else usual(request)

    with talking(answer, acknowledge=False) as connection:
        stub = Stub(connection, PATIENCE)
        assert stub.most == 0x4000
        assert stub.ask(b"?") == b"T05thread:p01.0a;"
        with pytest.raises(RemoteFailed, match="checksum"):
            stub.ask(b"bad")


def test_notifications_are_passed_over() -> None:
    with talking(answering(lambda request: [b"%Stop:T05#00", packet(b"reply")])) as connection:
        assert Stub(connection, PATIENCE).ask(b"x") == b"reply"


def test_a_stub_that_dies_is_told_apart_from_one_that_is_silent() -> None:
    with (
        talking(answering(lambda request: [])) as connection,
        pytest.raises(RemoteFailed, match="closed the connection"),
    ):
        Stub(connection, PATIENCE).ask(b"x")
    with talking(answering(lambda request: [b"$never ends"])) as connection:
        stub = Stub(connection, PATIENCE)
        stub._patience = 0.05
        with pytest.raises(RemoteFailed, match=r"did not answer 'x' in 0\.05 seconds"):
            stub.ask(b"x")


def test_a_packet_without_an_end_is_refused() -> None:
    with (
        talking(answering(lambda request: [b"$", *[b"a" * (1 << 16)] * 20])) as connection,
        pytest.raises(RemoteFailed, match="without an end"),
    ):
        Stub(connection, PATIENCE).ask(b"x")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"T05thread:p01.5dda;", Stopped(5, "p01.5dda")),
        (b"T05swbreak:;20:00ff;thread:1f;core:1;", Stopped(5, "1f")),
        (b"S0b", Stopped(11, "")),
        (b"W00", Ended(0, 0)),
        (b"W2a;process:1", Ended(42, 0)),
        (b"X0b;process:1", Ended(0, 11)),
        (b"O68690a", None),
    ],
)
def test_stop_replies(reply: bytes, said: object) -> None:
    assert stop_of(reply) == said


@pytest.mark.parametrize("reply", [b"", b"E01", b"OK", b"Wxx", b"T", b"Tzz", b"N"])
def test_what_is_no_stop_reply(reply: bytes) -> None:
    with pytest.raises(RemoteFailed):
        stop_of(reply)


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        with pytest.raises(NoStub, match="no stub answers at localhost:"):
            Stub.connect(f"localhost:{free.getsockname()[1]}")
    for address in ("localhost", "host:", ":99999", ":-1", "a:b"):
        with pytest.raises(NoStub, match="no HOST:PORT"):
            Stub.connect(address)
    with pytest.raises(NoStub, match="no stub answers at /nonexistent/stub"):
        Stub.connect("/nonexistent/stub")


def test_a_stub_on_a_port() -> None:
    with socket.create_server(("localhost", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while b"#" not in connection.recv(4096):
                    pass
                connection.sendall(b"+" + packet(b"PacketSize=800"))
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        stub = Stub.connect(f":{server.getsockname()[1]}", PATIENCE)
        assert stub.most == 0x800
        stub.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def process_of(scripted: Scripted, connection: socket.socket) -> RemoteProcess:
    return RemoteProcess(Stub(connection, PATIENCE))


def test_memory_is_read_in_as_many_packets_as_that_takes() -> None:
    scripted = Scripted()
    scripted.memory[0x1000] = bytes(range(256)) * 16
    with talking(scripted) as connection:
        process = process_of(scripted, connection)
        assert process.read(0x1003, 3000) == scripted.memory[0x1000][3:3003]
        assert len([request for request in scripted.log if request.startswith(b"m")]) == 6
        assert process.word(0x1008) == 0x0F0E0D0C0B0A0908
        before = len(scripted.log)
        assert process.word(0x1010) == 0x1716151413121110
        assert len(scripted.log) == before, "what was read is kept"
        assert process.read(0x1FFF, 1) == b"\xff"
        for address, size in ((0x1FFF, 2), (0x3000, 8), (0x1000, 5000), (0, 8)):
            with pytest.raises(UnreadableMemory):
                process.checked_read(address, size)


def test_registers_stand_where_the_description_puts_them() -> None:
    scripted = Scripted()
    with talking(scripted) as connection:
        process = process_of(scripted, connection)
        assert process.architecture.name == "aarch64"
        assert process.registers("p01.0a") == list(range(33))
        raw = process.changed("p01.0a", {"pc": 0x1234, "cpsr": 0})
        process.set_all("p01.0a", raw)
        assert process.registers("p01.0a") == [*range(32), 0x1234]
        assert scripted.log[-1] == b"G" + raw.hex().encode()
        assert raw.endswith(bytes(4))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (b"target.xml", None, "does not describe its target"),
        (b"core.xml", None, "there is no core.xml"),
        (b"target.xml", b"<target><architecture>aarch64</architecture>", "target.xml is damaged"),
        (
            b"target.xml",
            b"<target><architecture>aarch64</architecture></target>",
            "does not describe its regist",
        ),
        (b"target.xml", b'<target><reg name="r0" bitsize="x"/></target>', "makes no sense"),
        (b"target.xml", b'<target><reg name="r0" bitsize="32"/></target>', r"architecture \?"),
        (b"target.xml", b'<target><xi:include href="target.xml"/></target>', "does not describe its target"),
        (
            b"target.xml",
            b'<!DOCTYPE t [<!ENTITY a "b">]><target>&a;</target>',
            "does not describe its target",
        ),
        (b"core.xml", b'<feature><reg name="x0" bitsize="64"/></feature>', "the register 'x1'"),
    ],
)
def test_descriptions_that_cannot_be_used(name: bytes, text: bytes | None, message: str) -> None:
    scripted = Scripted()
    if text is None:
        del scripted.features[name]
    else:
        scripted.features[name] = text
    with talking(scripted) as connection, pytest.raises(RemoteFailed, match=message):
        process_of(scripted, connection)


def test_a_stub_without_a_program() -> None:
    with (
        talking(Scripted({b"?": [b"W00"]})) as connection,
        pytest.raises(RemoteFailed, match="no running program"),
    ):
        process_of(Scripted(), connection)


MAPS = b"""400000-500000 r-xp 00000000 fe:00 1 /usr/bin/python3.15
7f0000-7f1000 r-xp 00000000 00:00 0
"""


def test_mappings_are_read_by_the_stub_where_it_reads_files() -> None:
    scripted = Scripted(
        {
            b"vFile:open:%s,0,0" % b"/proc/1/maps".hex().encode(): [b"F5"],
            b"vFile:pread:5,3e0,0": [b"F%x;" % len(MAPS) + MAPS],
            b"vFile:pread:5,3e0,%x" % len(MAPS): [b"F0;"],
            b"vFile:close:5": [b"F0"],
        }
    )
    with talking(scripted) as connection:
        process = process_of(scripted, connection)
        found = [
            Mapping(0x400000, 0x500000, True, "/usr/bin/python3.15"),
            Mapping(0x7F0000, 0x7F1000, True, ""),
        ]
        assert process.mappings() == found
        before = len(scripted.log)
        assert process.mappings() == found
        assert len(scripted.log) == before, "they are kept until the process runs"


def test_mappings_that_nobody_can_read_are_an_error() -> None:
    with talking(Scripted()) as connection, pytest.raises(RemoteFailed, match=r"no stack|no instruction"):
        process_of(Scripted(), connection).mappings()
