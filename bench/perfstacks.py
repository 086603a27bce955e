"""What perf sees of real programs by a jitdump: ten of pyperformance's, with both perfs.

    python bench/perfstacks.py PYPERFORMANCE [--into docs/profiling.md] [--versions …] [--programs …] [--seconds S]

PYPERFORMANCE is a folder with pyperf and pyperformance in it (`make audit` fetches them). A program works for about
--seconds, as `jitunwind run --perf jitdump` starts it. Counted are, from the first sample with JIT code to the last:
samples with JIT code that has no name; stacks with JIT code that do not reach `_start`; and stacks that perf loses in C
before it comes to any JIT code, as it does with the JIT off, too: where a function is about to return, or a thread is
made, and elsewhere.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from publishing import PROGRAMS
from recording import Bench
from support import ROOT, VERSIONS, generated_by, interpreter, put_into

sys.path.insert(0, str(ROOT))  # the tests' support is not installed

from tests.support import perf

SECONDS = 3.0
STACK = "dwarf,32768"
"""As `jitunwind record --perf` has it copied: pyperf calls a program from many frames."""
SHOWN_FRAMES = 4


def judged(python: str, version: str, program: str, folder: Path, seconds: float) -> perf.Judged:
    """What that perf sees of it."""
    with TemporaryDirectory() as place:
        bench = Bench(python, folder, Path(place))
        loops = bench.loops(program, seconds)
        run = [sys.executable, "-m", "jitunwind", "run", "--perf", "jitdump", "--python", python]
        words = [*run, *bench.words(program, loops)]
        samples = perf.recorded(
            version, words, Path(place), STACK, bench.environment, injects=True, says_when=False
        )
    return perf.judged(samples, Path(python).name)


def rows(minor: str, version: str, folder: Path, programs: Sequence[str], seconds: float) -> Iterator[str]:
    """Of the page's table."""
    for program in programs:
        found = judged(interpreter(minor), version, program, folder, seconds)
        cut = [each for each in found.samples if not each.is_whole]
        usual = [each for each in found.cut_in_c if each.is_at_return or each.is_at_clone]
        other = [each for each in found.cut_in_c if each not in usual]
        for each in (*cut, *found.unnamed, *other):
            print(program, ", ".join(frame.symbol for frame in each.frames[:SHOWN_FRAMES]), file=sys.stderr)
        counts = [len(each) for each in (found.all, found.samples, found.unnamed, cut, usual, other)]
        yield f"| {minor} | {version} | {program} | {' | '.join(f'{each:,}' for each in counts)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="PYPERFORMANCE")
    parser.add_argument("--into", type=Path, metavar="PAGE")
    parser.add_argument("--versions", nargs="+", default=VERSIONS)
    parser.add_argument("--programs", nargs="+", default=PROGRAMS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    options = parser.parse_args()
    heads = (
        "CPython",
        "perf",
        "",
        "samples",
        "with JIT code",
        "unnamed",
        "cut, with JIT code",
        "cut in C, at a return",
        "cut in C, elsewhere",
    )
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for minor in options.versions:
        for version in perf.PERFS:
            for row in rows(minor, version, options.folder.resolve(), options.programs, options.seconds):
                lines.append(row)
                print(row, flush=True)
    if options.into:
        put_into(
            options.into, f"{generated_by('bench/perfstacks.py')}\n\n" + "\n".join(lines) + "\n", "perfstacks"
        )


if __name__ == "__main__":
    main()
