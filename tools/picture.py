"""The pictures of pages in docs/, taken by a headless Chromium; `make picture` runs it.

explain.png and explain-phone.png show the page that `jitunwind explain` writes of tools/hot.py on 3.15, record.png the
one that `jitunwind record` writes of tools/orders.py.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from browser import NoBrowserError, Page, address, page

ROOT = Path(__file__).parents[1]
VERSION = "3.15"
EXPLAINED = {"explain.png": (1280, 1080, "light"), "explain-phone.png": (390, 960, "dark")}
RECORDED = {"record.png": (1280, 660, "light")}


def interpreter() -> str:
    command = [sys.executable, str(ROOT / "tools/interpreters.py"), VERSION, "--debug-symbols"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


def page_of(folder: Path, program: str, *verb: str) -> Path:
    """The page that a verb writes of a process that runs one of tools/*.py in JIT code."""
    script, report = folder / program, folder / f"{verb[0]}.html"
    script.write_bytes((ROOT / "tools" / program).read_bytes())
    path = f"{Path(interpreter()).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        [f"python{VERSION}", program],
        cwd=folder,
        env={**os.environ, "PYTHON_JIT": "1", "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise SystemExit(f"picture: tools/{program} did not get ready")
            command = [sys.executable, "-m", "jitunwind", *verb, "-o", str(report), str(process.pid)]
            subprocess.run(command, check=True)
        finally:
            process.kill()
    return report


def take(browser: Page, report: Path, name: str, width: int, height: int, theme: str) -> None:
    browser.resize(width, height)
    browser.open(address(report, f"theme={theme}"))
    if width < 600:  # what stands above the code fills a phone
        browser.evaluate("document.querySelector('h2').scrollIntoView()")
    (ROOT / "docs" / name).write_bytes(browser.picture())
    print(f"docs/{name}")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="jit") as folder:
        explained = page_of(Path(folder), "hot.py", "explain")
        recorded = page_of(Path(folder), "orders.py", "record", "-d", "10")
        try:
            with page() as browser:
                for report, pictures in ((explained, EXPLAINED), (recorded, RECORDED)):
                    for name, (width, height, theme) in pictures.items():
                        take(browser, report, name, width, height, theme)
        except NoBrowserError as error:
            print(f"picture: error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
