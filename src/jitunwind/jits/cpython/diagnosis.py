"""What can be told of a CPython and its JIT, each with the evidence for it: what `jitunwind doctor` prints."""

from contextlib import suppress
from typing import NamedTuple

from jitunwind.errors import NotPython, UnreadableMemory, UnsupportedVersion
from jitunwind.jits.cpython.discovery import Located, located
from jitunwind.jits.cpython.executors import Executors, find_executors, interpreters
from jitunwind.jits.cpython.layout import Layout, described, is_debug_build
from jitunwind.jits.cpython.objects import Objects
from jitunwind.jits.cpython.versions import OLDEST
from jitunwind.jits.ranges import code_ranges
from jitunwind.memory import Memory
from jitunwind.wording import counted

_OFF, _ON = b"\0", b"\1"


class Finding(NamedTuple):
    """One thing that was looked at: its name, what was found, how, and what to do about it ("": nothing)."""

    name: str
    value: str
    evidence: str
    advice: str = ""


def diagnose(memory: Memory) -> list[Finding]:
    """Of the process or core behind `memory`. Never raises for damaged memory."""
    try:
        layout = described(memory)
    except (NotPython, UnsupportedVersion) as error:
        oldest = ".".join(map(str, OLDEST))
        advice = f"{oldest} is the oldest CPython whose JIT jitunwind knows"
        return [Finding("CPython", "none that is known", str(error), advice)]
    found = located(memory, layout)
    executors = find_executors(memory, Objects(memory, found.layout), found.layout)
    return [
        _version(layout),
        _build(memory),
        _switch(memory, found, executors),
        _executors(found, executors),
        _code(memory),
    ]


def _version(layout: Layout) -> Finding:
    evidence = f"_Py_DebugOffsets at {layout.runtime:#x}"
    if layout.is_guess:
        evidence += "; no record of this version, the newest one is the first guess"
    return Finding("CPython", layout.version_text, evidence)


def _build(memory: Memory) -> Finding:
    is_debug = is_debug_build(memory)
    libraries = [m.path for m in memory.mappings() if m.executable and "/libpython" in m.path]
    kind = "with assertions (pydebug)" if is_debug else "release"
    evidence = f"the symbol _Py_NegativeRefcount is {'there' if is_debug else 'not there'}"
    return Finding("build", f"{kind}, {'libpython is shared' if libraries else 'one executable'}", evidence)


def _switch(memory: Memory, found: Located, executors: Executors) -> Finding:
    """Whether the JIT is on. A flag at an offset that was not checked is no evidence that it is off."""
    layout, flags = found.layout, set[bytes]()
    with suppress(UnreadableMemory):
        for interpreter in interpreters(memory, layout):
            flags.add(memory.checked_read(interpreter + layout.executor.jit_switch, 1))
    where = f"the interpreter's flag at +{layout.executor.jit_switch:#x}"
    if _ON in flags or executors.by_start:
        return Finding("JIT", "on", where if _ON in flags else "there are executors with machine code")
    if flags == {_OFF}:
        checked = "" if found.is_checked else ", an offset that nothing confirms"
        return Finding(
            "JIT", "off, or not on yet", where + checked, "PYTHON_JIT=1 turns it on in a build that has it"
        )
    return Finding("JIT", "not known", f"{where} is no flag", "send this output to jitunwind's developers")


def _executors(found: Located, executors: Executors) -> Finding:
    count = counted(len(executors.by_start), "executor")
    advice = "; ".join(executors.warnings[:1])
    return Finding("executors", f"{count} with machine code", found.evidence, advice)


def _code(memory: Memory) -> Finding:
    """Memory that is executable and of no file: JIT code of CPython's or of another JIT."""
    if not memory.knows_anonymous:
        return Finding("machine code", "not known", "this memory does not tell what is mapped")
    sizes = [mapping.end - mapping.start for mapping in code_ranges(memory)]
    value = f"{sum(sizes):,} bytes in {counted(len(sizes), 'mapping')}"
    return Finding("machine code", value, "executable memory that belongs to no file")
