"""`jitunwind check` over the machine's own shared libraries: docs/check.md.

    python bench/libraries.py [--most-bytes N] [--into PAGE] [FOLDER...]

Every x86_64 shared library under the folders (those of the system and of this Python, unless said otherwise) of
at most N bytes is checked once, however many copies and links there are.
"""

import argparse
import hashlib
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from support import checked, generated_by, put_into

from jitunwind.check.files import Result
from jitunwind.check.report import Checked, Unusable, per_second, verdicts
from jitunwind.errors import JitunwindError

FOLDERS = (Path("/usr/lib"), Path("/lib"), Path("/usr/local/lib"), Path("/opt"), Path(sys.prefix))
MOST_BYTES = 5_000_000
SLOWEST = 5
_ELF_X86_64 = (b"\x7fELF\x02\x01", b"\x3e\x00")
"""How a file begins (gABI: magic number, 64-bit, little-endian), and e_machine at offset 18."""


def libraries(folders: Iterable[Path], most: int) -> Iterator[Path]:
    """The libraries, each content once."""
    seen: set[bytes] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*.so*")):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > most:
                continue
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            is_library = content[:6] == _ELF_X86_64[0] and content[18:20] == _ELF_X86_64[1]
            if is_library and digest not in seen:
                seen.add(digest)
                yield path


def by_class(results: Sequence[Result]) -> list[str]:
    """Each class of disagreement, with the files in which it is."""
    lines = [
        "| wrong | instructions | files | in which, and at how many instructions |",
        "| --- | --: | --: | --- |",
    ]
    total = sum((Counter(result.wrong) for result in results), Counter[str]())
    for about, count in total.most_common():
        files = [(r.wrong[about], Path(r.file).name) for r in results if about in r.wrong]
        said = ", ".join(f"{name} {number:,}" for number, name in sorted(files, key=lambda f: (-f[0], f[1])))
        lines.append(f"| {about} | {count:,} | {len(files)} | {said} |")
    return lines


def processor_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def markdown(found: Checked, processor: float, most: int, left_out: int) -> str:
    """The generated part of docs/check.md; `processor`: seconds."""
    results = found.results
    exact = sum(result.exact for result in results)
    instructions = sum(result.instructions for result in results)
    wrong = [result for result in results if result.wrong]
    slow = sorted(results, key=lambda result: -result.seconds)[:SLOWEST]
    lines = [
        generated_by("bench/libraries.py", os.cpu_count()),
        "",
        "| | |",
        "| --- | --: |",
        f"| libraries of at most {most:,} bytes, each content once | {len(results) + len(found.unusable):,} |",
        f"| larger ones, left out | {left_out:,} |",
        f"| of them not usable (below) | {len(found.unusable):,} |",
        f"| FDEs | {found.fdes:,} |",
        f"| instructions | {instructions:,} |",
        f"| exact | {exact:,} |",
        f"| wrong | {found.wrong.total():,} |",
        f"| unknown | {found.unknown.total():,} |",
        f"| padding between blocks | {sum(result.padding for result in results):,} |",
        f"| libraries in which something is wrong | {len(wrong):,} |",
        f"| functions in which something is wrong | {sum(r.wrong_functions for r in results):,} |",
        f"| seconds | {found.seconds:,.0f} |",
        f"| FDEs per second | {per_second(found.fdes, found.seconds):,} |",
        f"| seconds of processor time | {processor:,.0f} |",
        f"| FDEs per second of processor time | {per_second(found.fdes, processor):,} |",
        f"| instructions per second of processor time | {per_second(instructions, processor):,} |",
        "",
        *by_class(results),
        "",
        *verdicts({}, dict(found.unknown.most_common())),
        "",
        "The slowest: "
        + ", ".join(f"{Path(r.file).name} ({r.fdes:,} FDEs) {r.seconds:.1f} s" for r in slow)
        + f". The slowest function took {max(r.slowest_function for r in results):.1f} s.",
    ]
    if found.unusable:
        lines += ["", "Not usable:", "", *(f"- {each.message}" for each in found.unusable)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", default=FOLDERS)
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="write the figures between the marks of PAGE"
    )
    parser.add_argument("--most-bytes", type=int, default=MOST_BYTES)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    paths = list(libraries(options.folders, options.most_bytes))
    left_out = sum(1 for _ in libraries(options.folders, sys.maxsize)) - len(paths)
    found = Checked()
    began = time.monotonic()
    for number, path in enumerate(paths, 1):
        try:
            found.results.append(checked(path, options.jobs))
        except (JitunwindError, OSError) as problem:
            found.unusable.append(Unusable(path.name, str(problem).replace(str(path), path.name), ""))
        print(f"{number}/{len(paths)} {path}", file=sys.stderr)
    found.seconds = time.monotonic() - began
    figures = markdown(found, processor_seconds(), options.most_bytes, left_out)
    if options.into is not None:
        put_into(options.into, figures)
    print(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
