"""Each form of a recording, as a reader of its own sees it: written by its specification, not by our writer."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from jitunwind.errors import BadRecording
from jitunwind.profile import collapsed, gecko, pprof, speedscope
from jitunwind.profile.forms import FORMS, form_of
from jitunwind.profile.labels import frame_of, label
from jitunwind.profile.recording import Kind, Recording
from jitunwind.profile.tree import Tree
from tests.profile.made import (
    COLD,
    HOT,
    HOT_ELSEWHERE,
    MAIN,
    MODULE,
    STACKS,
    WEIGHT,
    large,
    recording,
)

BOTH = 2 * WEIGHT + 2
"""The weight of all samples of `recording`."""


# --- collapsed stacks


def test_collapsed_stacks_are_lines_of_frames_and_a_weight() -> None:
    lines = collapsed.write(recording(), False).splitlines()
    assert lines[0] == "main;<module> (hot.py);hot (hot.py)_[j] 16"
    assert len(lines) == 5
    for line in lines:
        stack, _, weight = line.rpartition(" ")
        assert weight.isdigit()
        assert stack.isprintable()
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == BOTH
    assert lines[1].count(";") == 2  # no semicolon of a name's own
    assert "pkg/__init__.py" in lines[1]
    assert sorted(lines)[0] == "main 2"


def test_lines_are_told_apart_where_wanted() -> None:
    assert "main;<module> (hot.py:9);hot (hot.py:4)_[j] 6" in collapsed.write(recording(), True).splitlines()


@pytest.mark.parametrize("with_lines", [True, False])
def test_collapsed_stacks_are_read_back(with_lines: bool) -> None:
    text = collapsed.write(recording(), with_lines)
    again = collapsed.read(text, "a file")
    assert collapsed.write(again, with_lines) == text
    assert again.weight == BOTH
    assert {frame.kind for frame in again.frames} == set(Kind) - {Kind.WAITING}


@pytest.mark.parametrize("frame", [MAIN, MODULE, HOT, COLD])
def test_a_label_tells_kind_file_and_line(frame: Any) -> None:
    found = frame_of(label(frame, with_line=True))
    assert (found.kind, found.line) == (frame.kind, frame.line)


@pytest.mark.parametrize("text", ["", "\n\n", "main", "main -1", "main x", "main 99999999999999", " 5"])
def test_what_is_no_collapsed_stack_is_an_error(text: str) -> None:
    with pytest.raises(BadRecording):
        collapsed.read(text, "a file")


# --- speedscope (file-format-spec.ts of its package)


def test_speedscope_has_a_profile_of_each_thread() -> None:
    document = json.loads(speedscope.write(recording(), False))
    assert document["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    frames = document["shared"]["frames"]
    assert all(set(frame) <= {"name", "file", "line", "col"} and frame["name"] for frame in frames)
    assert len(document["profiles"]) == 2
    for profile in document["profiles"]:
        assert profile["type"] == "sampled"
        assert profile["unit"] == "seconds"
        assert len(profile["samples"]) == len(profile["weights"])
        assert all(0 <= index < len(frames) for stack in profile["samples"] for index in stack)
        assert profile["endValue"] - profile["startValue"] == pytest.approx(sum(profile["weights"]))
    first = document["profiles"][0]
    stacks = Counter(tuple(frames[index]["name"] for index in stack) for stack in first["samples"])
    assert stacks["main", "<module>", "hot [JIT]"] == 8
    assert sum(first["weights"]) == pytest.approx(WEIGHT * 0.01)
    assert frames[2]["file"] == "/tmp/hot.py"
    with_lines = json.loads(speedscope.write(recording(), True))["shared"]["frames"]
    assert {frame.get("line") for frame in with_lines if frame["name"] == "hot [JIT]"} == {3, 4}


# --- gecko (the Firefox Profiler's docs-developer/gecko-profile-format.md)


def rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    """A table with a schema, as one mapping a row."""
    return [{name: row[at] for name, at in table["schema"].items() if at < len(row)} for row in table["data"]]


def test_gecko_has_the_tables_that_the_profiler_reads() -> None:
    document = json.loads(gecko.write(recording(), False))
    meta = document["meta"]
    for name in ("version", "startTime", "interval", "processType", "product", "stackwalk", "categories"):
        assert name in meta, name
    assert meta["interval"] == 10
    assert document["libs"] == document["processes"] == []
    first, second = document["threads"]
    assert (first["tid"], first["pid"], first["name"]) == (4711, 4711, "python")
    strings, frames, stacks = first["stringTable"], rows(first["frameTable"]), rows(first["stackTable"])
    for each in frames:
        assert 0 <= each["location"] < len(strings)
        assert 0 <= each["category"] < len(meta["categories"])
    assert all(each["prefix"] is None or each["prefix"] < index for index, each in enumerate(stacks))
    found: Counter[tuple[str, ...]] = Counter()
    times = [sample["time"] for sample in rows(first["samples"])]
    assert times == sorted(times)
    for sample in rows(first["samples"]):
        names, at = [], sample["stack"]
        while at is not None:
            names.append(strings[frames[stacks[at]["frame"]]["location"]])
            at = stacks[at]["prefix"]
        found[tuple(reversed(names))] += 1
    assert found["main (in /usr/bin/python3.15)", "<module> (in /tmp/hot.py)", "hot (in /tmp/hot.py)"] == 8
    jit = [each for each in frames if each["implementation"] is not None]
    assert {(strings[each["implementation"]], each["line"]) for each in jit} == {("jit", 3), ("jit", 4)}
    assert len(second["samples"]["data"]) == WEIGHT + 2


# --- pprof (proto/profile.proto of google/pprof), decoded by the rules of the encoding alone


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            assert key & 7 == 2, "of a profile all is a varint or has a length"
            size = varint()
            yield key >> 3, data[at : at + size]
            at += size
    assert at == len(data)


def message(data: bytes) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for number, value in fields(data):
        found.setdefault(number, []).append(value)
    return found


def packed(data: bytes) -> list[int]:
    """Varints, one behind the other."""
    found, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value)
            value = shift = 0
    return found


def test_pprof_is_a_profile_of_two_values() -> None:
    profile = message(gzip.decompress(pprof.write(recording(), False)))
    strings = [text.decode() for text in profile[6]]
    assert strings[0] == ""
    types = [message(each) for each in profile[1]]
    assert [(strings[each[1][0]], strings[each[2][0]]) for each in types] == [
        ("samples", "count"),
        ("cpu", "nanoseconds"),
    ]
    functions = {each[1][0]: each for each in map(message, profile[5])}
    mappings = {each[1][0]: strings[each[5][0]] for each in map(message, profile[3])}
    locations = {each[1][0]: each for each in map(message, profile[4])}
    assert 0 not in {*functions, *mappings, *locations}

    def name(location: int) -> tuple[str, int, str]:
        of = locations[location]
        line = message(of[4][0])
        function = functions[line[1][0]]
        return strings[function[2][0]], line.get(2, [0])[0], mappings[of[2][0]]

    found: Counter[tuple[tuple[str, int, str], ...]] = Counter()
    labels: Counter[tuple[str, str | int]] = Counter()
    for sample in map(message, profile[2]):
        count, nanoseconds = packed(sample[2][0])
        assert nanoseconds == count * 10_000_000
        found[tuple(name(each) for each in reversed(packed(sample[1][0])))] += count
        for each in map(message, sample[3]):
            labels[strings[each[1][0]], strings[each[2][0]] if 2 in each else each[3][0]] += count
    python = "/usr/bin/python3.15"
    assert found[("main", 0, python), ("<module>", 9, "[python]"), ("hot", 3, "[jit]")] == 10
    assert found.total() == BOTH
    assert labels["thread_id", 4711] == WEIGHT
    assert labels["kind", "jit"] == 16
    assert profile[12] == [10_000_000]
    assert profile[10] == [400_000_000]


# --- what several have


def test_the_end_of_a_name_says_the_form() -> None:
    assert {name: form_of(f"/tmp/a{form.suffix}") for name, form in FORMS.items()} == FORMS
    assert form_of("a.json") is None


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_an_empty_recording_can_be_written(form: Any) -> None:
    assert form.write(Recording(recording().origin), False) is not None


def test_frames_that_become_equal_are_one() -> None:
    made = recording()
    translated = made.translated([(frame._replace(line=None),) for frame in made.frames])
    assert len(translated.frames) == len(made.frames) - 1
    assert translated.weight == made.weight == BOTH
    assert sorted(translated.weights().values()) == [2, 2, 4, 8, 16]


def test_the_tree_has_each_weight_once() -> None:
    made = recording()
    tree = Tree([made], with_lines=False)
    assert sum(tree.own[0]) == BOTH
    assert tree.depths[0] == 0
    assert len(tree.depths) == 1 + len({frames[:n] for frames, _ in _by_name() for n in range(1, 9)})


def _by_name() -> list[tuple[tuple[Any, ...], int]]:
    one = {HOT_ELSEWHERE: HOT._replace(line=None), HOT: HOT._replace(line=None)}
    return [(tuple(one.get(frame, frame) for frame in frames), weight) for frames, weight in STACKS]


def test_what_is_too_much_for_a_page_is_folded_into_its_callers() -> None:
    made = large(20_000)
    whole, folded = Tree([made], with_lines=False), Tree([made], with_lines=False, most=2000)
    assert folded.folded == len(whole.depths) - len(folded.depths)
    assert len(folded.depths) == 2000
    assert sum(folded.own[0]) == sum(whole.own[0]) == 20_000
    equal = Recording(recording().origin)
    for tid in range(50):
        stack = equal.stack((equal.frame(MAIN), equal.frame(HOT._replace(name=f"f{tid}"))))
        equal.add(0.0, equal.thread(tid, "worker"), stack)
    tree = Tree([equal], with_lines=False, most=20)
    assert len(tree.depths) == 20
    assert sum(weight for _, _, weight in tree.threads) == sum(tree.own[0]) == 50
