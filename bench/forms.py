"""Writes src/jitunwind/arch/x86_64/known_forms.py: the forms of instructions that CPython's JIT code has.

    python bench/forms.py PYPERFORMANCE [--versions …] [--programs …] [--seconds N]

PYPERFORMANCE is a folder with pyperf and pyperformance in it. Each program runs for some seconds with the JIT on and
leaves the machine code of its executors. So do the benchmarks' own programs. That is recovered with no form known, and
all that had to be asked of iced-x86 is written down. Forms that the file has already stay in it.
"""

import argparse
import pickle
import tempfile
from collections.abc import Collection, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from publishing import ENOUGH, bench_of
from support import ROOT, VERSIONS, running_program

from jitunwind.arch.effects import Decoded, Effects
from jitunwind.arch.x86_64 import form, forms, semantics
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.known_forms import EFFECTS, FORMS
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.jits import codes_of
from jitunwind.jits.known import Jits
from jitunwind.memory.process import LiveProcess
from jitunwind.recover.table import recover
from jitunwind.rows import Row

PAGE = ROOT / "src/jitunwind/arch/x86_64/known_forms.py"
PROGRAMS = (
    *(
        "async_generators",
        "chaos",
        "comprehensions",
        "deepcopy",
        "deltablue",
        "fannkuch",
        "float",
        "go",
        "hexiom",
    ),
    *(
        "mdp",
        "meteor_contest",
        "nbody",
        "nqueens",
        "pprint",
        "pyflate",
        "raytrace",
        "regex_compile",
        "richards",
    ),
    *("spectral_norm", "telco"),
)
OWN = (
    ("many.py", "10", "100"),
    ("stops_deep.py", "100"),
    ("stops_threads.py", "3"),
    ("regions.py", "3", "3"),
)
LEAVES_CODE = """
import atexit, os, pickle
import jitunwind
from jitunwind.jits.cpython.inside.cfi_cache import CfiCache
told = []
of = CfiCache.of
def noted(self, code):
    told.append((code.data, dict(code.entries)))
    return of(self, code)
CfiCache.of = noted
jitunwind.enable()
def leave():
    with open(os.environ["PUBLISHING_TOLD"], "wb") as file:
        pickle.dump(told, file)
atexit.register(leave)
"""
"""Publishing, which leaves the machine code of each executor that it has described, and the rows where it is
entered. Some executors are gone long before the end."""
HEADER = '''"""Forms of instructions in CPython's JIT code, and what whole instructions do: known without iced-x86.

Written by `make forms`, from the code of pyperformance's programs on CPython {versions}, asked of iced-x86 {iced}. A
test asks iced-x86 once more.
"""

from typing import Any

FORMS: dict[bytes, Any] = {{
    # By the bytes that tell a form: the fields of a `Form`, without those at their defaults; (): more bytes tell.
{forms}}}
EFFECTS: dict[tuple[int, ...], dict[bytes, tuple[Any, ...]]] = {{
    # By the registers followed, and whole instructions: their effects, each by its name and fields.
{effects}}}
'''


def learnt(codes: Iterable[tuple[bytes, dict[int, Row]]]) -> list[forms.Forms]:
    """What is known once these have been recovered: machine code, and the rows where it is entered."""
    every: dict[frozenset[int], forms.Forms] = {}

    def decoded(code: bytes, offset: int, followed: Collection[int]) -> Decoded:
        key = frozenset(followed)
        every[key] = forms.forms_of(key)
        return decode(code, offset, followed)

    for code, entries in codes:
        recover(X86_64, code, decoded, entries)
    return list(every.values())


def fields_of(key: bytes) -> tuple[object, ...]:
    """As it is written: without what is as by default at the end."""
    told, found = semantics.form_at(key.ljust(form.LONGEST, b"\0"), 0)
    if told > len(key):
        return ()
    fields = list(found)
    while len(fields) > 1 and fields[-1] == form.Form(0)[len(fields) - 1]:
        fields.pop()
    return tuple(fields)


def written(effects: Effects) -> tuple[tuple[object, ...], ...]:
    return tuple((type(effect).__name__, *effect) for effect in effects)


def page(every: list[forms.Forms], versions: Sequence[str]) -> str:
    keys = {*FORMS, *(key for each in every for key in each.lengths)}
    effects = {followed: dict(known) for followed, known in EFFECTS.items()}
    for each in every:
        known = effects.setdefault(tuple(sorted(each.tracked)), {})
        known.update((key, written(each.effects[place])) for key, place in each.places.items())
    return HEADER.format(
        versions=" and ".join(versions),
        iced=version("iced-x86"),
        forms="".join(f"    {key!r}: {fields_of(key)},\n" for key in sorted(keys)),
        effects="".join(map(_by_followed, sorted(effects.items()))),
    )


def _by_followed(known: tuple[tuple[int, ...], dict[bytes, tuple[object, ...]]]) -> str:
    lines = [f"        {instruction!r}: {known[1][instruction]},\n" for instruction in sorted(known[1])]
    return f"    {known[0]}: {{\n{''.join(lines)}    }},\n"


def code_of(version: str, program: str, *arguments: str) -> list[tuple[bytes, dict[int, Row]]]:
    """That of one of the benchmarks' programs while it runs."""
    with running_program(version, ROOT / "bench" / program, *arguments) as pid, LiveProcess(pid) as memory:
        found = [(code.data, dict(code.entries)) for code in codes_of(Jits(memory))]
    print(f"{version} {program}: {len(found)} executors", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--programs", nargs="*", default=PROGRAMS)
    parser.add_argument("--seconds", type=float, default=ENOUGH, help="how long each program runs")
    arguments = parser.parse_args()
    codes = []
    for each in arguments.versions:
        codes += [code for program in OWN for code in code_of(each, *program)]
        if not arguments.programs:
            continue
        with bench_of(each, arguments.folder.resolve(), "") as bench, tempfile.TemporaryDirectory() as place:
            leaving = bench.telling(Path(place), LEAVES_CODE)
            for program in arguments.programs:
                bench.run(program, bench.loops(program, arguments.seconds), leaving)
                found = pickle.loads(Path(leaving["PUBLISHING_TOLD"]).read_bytes())
                print(f"{each} {program}: {len(found)} executors", flush=True)
                codes += found
    PAGE.write_text(page(learnt(codes), VERSIONS))


if __name__ == "__main__":
    main()
