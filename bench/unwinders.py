"""What unwinders inside a process find in stacks with JIT code, with publishing and without: the table of
docs/unwinders.md.

    python bench/unwinders.py [--into docs/unwinders.md] [--samples N]

Each cell is made by a run of the code that the tests run, too: tests/support/unwinders.py and tests/support/samples.py.
"""

import argparse
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from support import ROOT, VERSIONS, generated_by, put_into

sys.path.insert(0, str(ROOT))

from tests.support.live import Interpreter, frames_in, interpreter
from tests.support.samples import WALKERS, Sampling, Verdicts, sampled
from tests.support.unwinders import (
    KEPT,
    Interrupted,
    Walk,
    dumped,
    interrupted_anywhere,
    thrown_anywhere,
    unwound,
    walked,
)

NAMES = {
    "backtrace": "`backtrace()`",
    "stacktrace": "`std::stacktrace`",
    "libunwind": "libunwind, `unw_step`",
    "unw_backtrace": "libunwind, `unw_backtrace`",
    "libdw": "libdw, `dwfl_getthread_frames`",
    "unwind": "`_Unwind_Backtrace`",
    "llvm": "LLVM's libunwind, `unw_step`",
}
SAMPLED = ("attributes", "exceptions", "generators", "recursion")
FUNCTIONS, CHILDREN = 20, 60

Cell = Callable[[Interpreter, Path, bool], str]


def walk(found: Walk) -> str:
    """What a walk has of the right frames."""
    if found.pcs == found.right:
        return "whole"
    names = {frame.pc: frame.name for frame in frames_in(found.said)}
    missing = [names.get(pc, "?") for pc in found.right if pc not in found.pcs]
    wrong = len([pc for pc in found.pcs if pc not in found.right])
    if len(found.pcs) <= 1:
        return "cut at the first JIT frame"
    if found.right[-1] in found.pcs and not wrong:
        return f"all but {', '.join(f'`{name}`' for name in missing)}"
    return f"{len(missing)} of {len(found.right)} frames missing, {wrong} made up"


def at_a_call(name: str) -> Cell:
    return lambda python, folder, published: walk(walked(python, folder, name, published))


def c_stack(python: Interpreter, folder: Path, published: bool) -> str:
    """Without the innermost JIT frame: at the dump it is at another call than where GDB sees it."""
    found = dumped(python, folder, published)
    return walk(Walk(found.pcs[1:], found.symbols[1:], found.right[1:], found.note, found.said))


def registers(values: list[int]) -> str:
    return f"{sum(found == kept for found, kept in zip(values, KEPT, strict=True))} of 6 registers right"


def ending(status: int) -> str:
    if not status:
        return "ends well"
    return f"the process dies by {signal.Signals(-status).name if status < 0 else status}"


def exception(python: Interpreter, folder: Path, published: bool) -> str:
    done, notes = unwound(python, folder, "hold", published)
    if "terminate called" in done.stderr:
        return "`std::terminate`"
    return f"caught, {registers(notes['caught'])}" if "caught" in notes else ending(done.returncode)


def cancellation(python: Interpreter, folder: Path, published: bool) -> str:
    _, notes = unwound(python, folder, "cancel", published)
    if "unwound" not in notes:
        return "no destructor and no cleanup handler runs"
    return f"both run, {registers(notes['unwound'])}"


def exceptions(python: Interpreter, folder: Path, published: bool) -> str:
    status, found = thrown_anywhere(python, folder, FUNCTIONS, published)
    if status:
        return ending(status)
    places = len({pc for _, pc in found if pc})
    return f"{sum(is_right for is_right, _ in found)} of {len(found)}" + (
        f", from {places} places in JIT code" if places else ""
    )


def interrupted(how: str, is_right: Callable[[Interrupted], bool]) -> Cell:
    def cell(python: Interpreter, folder: Path, published: bool) -> str:
        found = [
            each for each in interrupted_anywhere(python, folder, how, CHILDREN, published) if each.is_judged
        ]
        return f"{sum(map(is_right, found))} of {len(found)}"

    return cell


def cleaned(each: Interrupted) -> bool:
    return each.text.startswith(f"unwound {' '.join(map(hex, KEPT))}\ncleaned\njoined")


def sampling(walker: str, how: Sampling) -> Cell:
    def cell(python: Interpreter, folder: Path, published: bool) -> str:
        found = sum(
            (sampled(python, folder, walker, program, how, published).judged() for program in SAMPLED),
            Verdicts(),
        )
        late = f"; {found.late} not judged" if found.late else ""
        judged = found.through_jit_code
        return f"{judged - found.wrong.total()} of {judged} ({found.in_jit_code} begin in it{late})"

    return cell


def rows(samples: int) -> list[tuple[str, Cell]]:
    how = Sampling(samples)
    return [
        *((NAMES[name], at_a_call(name)) for name in ("backtrace",)),
        ("`faulthandler.dump_c_stack()`", c_stack),
        *((NAMES[name], at_a_call(name)) for name in ("stacktrace", "libunwind", "unw_backtrace", "libdw")),
        ("C++ exception, caught above JIT code", exception),
        (f"exceptions from {FUNCTIONS} functions, caught with 6 of 6 registers", exceptions),
        ("`pthread_cancel` below JIT code", cancellation),
        ("threads cancelled in JIT code, cleaned up with 6 of 6 registers", interrupted("cancel", cleaned)),
        (
            "processes killed, their C stack dumped to `_start`",
            interrupted("fault", lambda each: "_start+" in each.text),
        ),
        *((f"sampled through JIT code, whole: {NAMES[name]}", sampling(name, how)) for name in WALKERS),
    ]


def versions(pythons: list[Interpreter]) -> str:
    asked = [["gcc", "--version"], ["dpkg-query", "-Wf", "${Package} ${Version}\n", "libunwind8", "libdw1"]]
    said = [subprocess.run(each, capture_output=True, text=True).stdout.strip() for each in asked]
    compiler, *libraries = said[0].splitlines()[:1] + said[1].splitlines()
    ran = [
        subprocess.run([each.python, "--version"], capture_output=True, text=True).stdout.strip()
        for each in pythons
    ]
    return f"Run were {', '.join([*ran, compiler, *libraries])}, and LLVM 19's libunwind."


def made(cell: Cell, python: Interpreter, published: bool) -> str:
    with TemporaryDirectory() as folder:
        return cell(python, Path(folder), published)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--into", type=Path, metavar="PAGE")
    parser.add_argument("--samples", type=int, default=250, help="of each program")
    parser.add_argument("--at-once", type=int, default=2, help="processes")
    options = parser.parse_args()
    pythons = [interpreter(version) for version in VERSIONS]
    columns = [(python, published) for python in pythons for published in (False, True)]
    heads = [f"{python.minor}, published" if published else python.minor for python, published in columns]
    lines = [f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    with ThreadPoolExecutor(options.at_once) as pool:
        made_rows = [
            (name, [pool.submit(made, cell, python, published) for python, published in columns])
            for name, cell in rows(options.samples)
        ]
        for name, cells in made_rows:
            lines.append(f"| {name} | {' | '.join(cell.result() for cell in cells)} |")
            print(lines[-1], flush=True)
    if options.into:
        by = generated_by(shlex.join(["bench/unwinders.py", *sys.argv[1:]]))
        put_into(options.into, f"{by} {versions(pythons)}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
