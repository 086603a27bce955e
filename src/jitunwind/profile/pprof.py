"""pprof's profile, a gzipped protocol buffer (https://github.com/google/pprof/blob/main/proto/profile.proto).

Each sample has two values, a count and nanoseconds; its labels are the thread and what its innermost frame is of.
Encoding: https://protobuf.dev/programming-guides/encoding/.
"""

import gzip
from collections import Counter
from collections.abc import Iterable

from jitunwind.profile.recording import Frame, Kind, Recording

_NANOSECONDS = 1_000_000_000
_MASK = (1 << 64) - 1
_UNMAPPED = {
    Kind.PYTHON: "[python]",
    Kind.JIT: "[jit]",
    Kind.KERNEL: "[kernel.kallsyms]",
    Kind.NATIVE: "[native]",
    Kind.WAITING: "[waiting]",
}
"""What the "mapping" of a frame is called that is of no file."""


def write(recording: Recording, with_lines: bool) -> bytes:
    """The whole file. Lines are there in any case."""
    return gzip.compress(_Profile(recording).encoded(), mtime=0)


class _Profile:
    """Numbers of fields are those of profile.proto."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._mappings: dict[str, int] = {}
        self._tables: list[bytes] = []

    def encoded(self) -> bytes:
        origin = self._recording.origin
        period = round(origin.period * _NANOSECONDS)
        samples, cpu = self._value_type("samples", "count"), self._value_type("cpu", "nanoseconds")
        for number, frame in enumerate(self._recording.frames, 1):
            self._tables.append(_message(4, self._location(number, frame)))
        rows = [_message(2, each) for each in self._samples(period)]
        head = [_message(1, samples), _message(1, cpu)]
        comment = self._string(f"{origin.by}: {origin.command}")
        tail = [
            _number(9, round(origin.began * _NANOSECONDS)),
            _number(10, round(origin.seconds * _NANOSECONDS)),
            _message(11, cpu),
            _number(12, period),
            _number(13, comment),
            _number(14, self._string("cpu")),
        ]
        strings = [_message(6, text.encode("utf-8", "replace")) for text in self._strings]
        return b"".join([*head, *rows, *self._tables, *strings, *tail])

    def _samples(self, period: int) -> Iterable[bytes]:
        counts: Counter[tuple[int, int]] = Counter()
        for sample in self._recording.samples():
            counts[sample.stack, sample.thread] += sample.weight
        for (stack, thread), weight in counts.items():
            frames = self._recording.stacks[stack]
            of = self._recording.threads[thread]
            kind = self._recording.frames[frames[-1]].kind if frames else "unknown"
            labels = [
                _number(1, self._string("thread_id")) + _number(3, of.tid),
                _number(1, self._string("thread")) + _number(2, self._string(of.name)),
                _number(1, self._string("kind")) + _number(2, self._string(str(kind))),
            ]
            leaf_first = b"".join(_varint(frame + 1) for frame in reversed(frames))
            values = _varint(weight) + _varint(weight * period)
            yield b"".join(
                [_message(1, leaf_first), _message(2, values), *(_message(3, each) for each in labels)]
            )

    def _location(self, number: int, frame: Frame) -> bytes:
        line = _number(1, self._function(frame)) + _number(2, frame.line or 0)
        return _number(1, number) + _number(2, self._mapping(frame)) + _message(4, line)

    def _function(self, frame: Frame) -> int:
        key = (frame.name, frame.file or "")
        if key not in self._functions:
            number = self._functions[key] = len(self._functions) + 1
            name, file = self._string(key[0]), self._string(key[1])
            body = _number(1, number) + _number(2, name) + _number(3, name) + _number(4, file)
            self._tables.append(_message(5, body))
        return self._functions[key]

    def _mapping(self, frame: Frame) -> int:
        path = frame.module or _UNMAPPED[frame.kind]
        if path not in self._mappings:
            number = self._mappings[path] = len(self._mappings) + 1
            known = b"".join(_number(field, 1) for field in (7, 8, 9))  # has functions, file names, lines
            self._tables.append(_message(3, _number(1, number) + _number(5, self._string(path)) + known))
        return self._mappings[path]

    def _value_type(self, kind: str, unit: str) -> bytes:
        return _number(1, self._string(kind)) + _number(2, self._string(unit))

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))


def _varint(value: int) -> bytes:
    """A negative number is that of 64 bits in two's complement."""
    value &= _MASK
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(field: int, value: int) -> bytes:
    """A field of wire type 0; none where it is 0, which is what a missing one means."""
    return _varint(field << 3) + _varint(value) if value else b""


def _message(field: int, body: bytes) -> bytes:
    """A field of wire type 2."""
    return _varint(field << 3 | 2) + _varint(len(body)) + body
