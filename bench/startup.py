"""What jitunwind.pth costs each start of a Python that jitunwind is installed for, where JITUNWIND is not set.

Started Pythons measure the processor time in which `site` reads the file and executes its line: the first time, with
the codec that is imported for the first .pth file, and once more, as where other .pth files came before. Whole starts,
with the file and without, differ by less than they vary.
"""

import os
import statistics
import subprocess

from support import ROOT, VERSIONS, interpreter

STARTS = 100
READ = """
import os, site, sys, time
for _ in range(2):
    began = time.process_time()
    site.addpackage(sys.argv[1], "jitunwind.pth", set())
    print(time.process_time() - began)
"""


def main() -> None:
    unset = ("JITUNWIND", "PYTHONDONTWRITEBYTECODE")
    variables = {name: value for name, value in os.environ.items() if name not in unset}
    for version in VERSIONS:
        command = [interpreter(version), "-S", "-c", READ, str(ROOT / "src")]
        said = [subprocess.check_output(command, env=variables, text=True).split() for _ in range(STARTS)]
        only, further = (1000 * statistics.median(map(float, each)) for each in zip(*said, strict=True))
        print(
            f"CPython {version}: jitunwind.pth takes {only:.2f} ms where it is the only .pth file, "
            f"{further:.2f} ms where there are others (medians of {STARTS} starts)"
        )


if __name__ == "__main__":
    main()
