"""The recoverer's independent witness: recovered tables against what compilers wrote in `.eh_frame`.

    python bench/witness.py FILE... [--into PAGE] [--floor SHARE]

Judges every instruction of every function of these files, as `jitunwind check` does, and writes the figures
between the marks of PAGE. Exits with 1 where a file's share of agreement is below `--floor`.
"""

import argparse
import os
import sys
from pathlib import Path

from support import checked, generated_by, put_into

from jitunwind.check.report import as_markdown


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="write the figures between the marks of PAGE"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--floor", type=float, default=0.0, help="the least share of agreement, 0 to 1")
    options = parser.parse_args()
    results = []
    for path in options.files:
        print(path, file=sys.stderr)
        results.append(checked(path, options.jobs))
    figures = f"{generated_by('bench/witness.py')}\n\n{as_markdown(results)}"
    if options.into is not None:
        put_into(options.into, figures)
    print(figures)
    return int(any(result.share < options.floor for result in results))


if __name__ == "__main__":
    sys.exit(main())
