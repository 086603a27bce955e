"""What can be told of a CPython and its JIT, each with the evidence for it: what `jitunwind doctor` prints."""

from typing import NamedTuple

from jitunwind.errors import NotPython, UnsupportedVersion
from jitunwind.jits.cpython.discovery import Located, located
from jitunwind.jits.cpython.jit import CPythonJit
from jitunwind.jits.cpython.layout import Layout, described, is_debug_build
from jitunwind.jits.cpython.regions import Regions
from jitunwind.jits.ranges import code_ranges
from jitunwind.memory import Memory
from jitunwind.wording import counted


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
        unknown = Finding("CPython", "none that is known", str(error), str(error.hint))
        return [unknown, _code(memory)] if isinstance(error, UnsupportedVersion) else [unknown]
    found = located(memory, layout)
    regions = CPythonJit(memory, layout=found.layout).regions
    return [
        _version(layout),
        _build(memory),
        _switch(regions, found),
        _executors(regions, found),
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


def _switch(regions: Regions, found: Located) -> Finding:
    """Whether the JIT is on. A flag at an offset that was not checked is no evidence that it is off."""
    is_on = regions.jit_is_on()
    where = f"the interpreter's flag at +{found.layout.executor.jit_switch:#x}"
    if is_on or regions.executors.by_start:
        return Finding("JIT", "on", where if is_on else "there are executors with machine code")
    if is_on is False:
        checked = "" if found.is_checked else ", an offset that nothing confirms"
        return Finding(
            "JIT", "off, or not on yet", where + checked, "PYTHON_JIT=1 turns it on in a build that has it"
        )
    return Finding(
        "JIT",
        "not known",
        f"{where} is no flag, or the interpreter is starting",
        "send this output to jitunwind's developers",
    )


def _executors(regions: Regions, found: Located) -> Finding:
    """Those in the interpreters' lists; and code of others, which may still run (`explain` shows it, too)."""
    listed = regions.executors.by_start
    others = sum(start not in listed for start in regions.starts)
    more = f", and code of {others} that no list has" if others else ""
    value = f"{counted(len(listed), 'executor')} with machine code{more}"
    return Finding("executors", value, found.evidence, "; ".join(regions.executors.warnings[:1]))


def _code(memory: Memory) -> Finding:
    """Memory that is executable and of no file: JIT code of CPython's or of another JIT."""
    if not memory.knows_anonymous:
        return Finding("machine code", "not known", "this memory does not tell what is mapped")
    sizes = [mapping.end - mapping.start for mapping in code_ranges(memory)]
    value = f"{sum(sizes):,} bytes in {counted(len(sizes), 'mapping')}"
    return Finding("machine code", value, "executable memory that belongs to no file")
