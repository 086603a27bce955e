"""docs/explain.png and docs/explain-phone.png: the page that `jitunwind explain` writes of tools/hot.py on 3.15,
taken by a headless Chromium; `make picture` runs it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from browser import NoBrowserError, Page, address, page

ROOT = Path(__file__).parents[1]
VERSION = "3.15"
PICTURES = {"explain.png": (1280, 1080, "light"), "explain-phone.png": (390, 960, "dark")}


def interpreter() -> str:
    command = [sys.executable, str(ROOT / "tools/interpreters.py"), VERSION, "--debug-symbols"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


def explain(folder: Path) -> Path:
    """The page of a process that runs tools/hot.py in JIT code."""
    program, report = folder / "hot.py", folder / "report.html"
    program.write_bytes((ROOT / "tools/hot.py").read_bytes())
    with subprocess.Popen(
        [interpreter(), str(program)],
        env={**os.environ, "PYTHON_JIT": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise SystemExit("picture: tools/hot.py did not get ready")
            command = [sys.executable, "-m", "jitunwind", "explain", str(process.pid), "-o", str(report)]
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
        report = explain(Path(folder))
        try:
            with page() as browser:
                for name, (width, height, theme) in PICTURES.items():
                    take(browser, report, name, width, height, theme)
        except NoBrowserError as error:
            print(f"picture: error: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
