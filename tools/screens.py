"""docs/screens.md and the pictures in docs/screens/: what bt, audit, check and explain show on terminals of 60, 80 and
140 columns and on explain's page, dark and light. `make screens` runs it.

Each verb runs once for each width, on a pseudo-terminal that has it, on a process that runs tools/hot.py in JIT code.
Rich turns what the verb wrote into pictures; a headless Chromium takes those of the page.
"""

import contextlib
import fcntl
import io
import os
import platform
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from browser import NoBrowserError, Page, address, page
from jitunwind.jits.cpython.versions import NAMES as VERSIONS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/screens"
WIDTHS = (60, 80, 140)
MOST_LINES = 38
PATIENCE = 120
WINDOWS = {"narrow": (390, 844), "wide": (1280, 900)}


def colours(*digits: str) -> TerminalTheme:
    """Ground, text, and black, red, green, yellow, blue, magenta, cyan, white, in hexadecimal digits."""
    ground, text, *others = ((int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in digits)
    return TerminalTheme(ground, text, others)


LIGHT = "ffffff 24292f 24292f b3201a 116329 7a4b00 0b58a8 8250df 1b7c83 6e7781"
DARK = "15181d e4e7eb 484f58 ff7b72 3fb950 d29922 58a6ff bc8cff 39c5cf b1bac4"
THEMES = {"light": colours(*LIGHT.split()), "dark": colours(*DARK.split())}

SVG = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px "DejaVu Sans Mono", Menlo, Consolas, monospace; }}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Screen(NamedTuple):
    """What one command shows; `{pid}` in it is a process that runs the Python of that version."""

    name: str
    title: str
    version: str
    arguments: tuple[str, ...]
    about: str


SCREENS = (
    Screen("bt", "bt", "3.15", ("bt", "{pid}"), "The stack of a process, through its JIT code."),
    Screen(
        "bt-3.14",
        "bt, of CPython 3.14",
        "3.14",
        ("bt", "{pid}"),
        "Each executor of 3.14 has a shim of its own.",
    ),
    Screen(
        "audit",
        "audit",
        "3.15",
        ("audit", "--steps", "300", "{pid}"),
        "What CPython 3.15 itself publishes, held against what happens when a program runs.",
    ),
    Screen(
        "check",
        "check",
        "",
        ("check", "{libz}"),
        "The unwind tables of a compiler, checked without running anything.",
    ),
    Screen("explain", "explain: the list", "3.15", ("explain", "{pid}"), "All regions of JIT code."),
    Screen(
        "explain-region",
        "explain: a region",
        "3.15",
        ("explain", "{pid}", "--region", "weigh"),
        "One region: Python, micro-ops, machine code, and the unwind rows.",
    ),
    Screen(
        "explain-3.14",
        "explain: a region, of CPython 3.14",
        "3.14",
        ("explain", "{pid}", "--region", "weigh"),
        "With its shim.",
    ),
)


def interpreter(version: str) -> str:
    command = [sys.executable, str(ROOT / "tools/interpreters.py"), version, "--debug-symbols"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]


@contextlib.contextmanager
def running(folder: Path, version: str) -> Iterator[int]:
    """A process that runs tools/hot.py in JIT code, as somebody would start it."""
    python = interpreter(version)
    with subprocess.Popen(
        [f"python{version}", "hot.py"],
        executable=python,
        cwd=folder,
        env={**os.environ, "PYTHON_JIT": "1", "PATH": f"{Path(python).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise SystemExit("screens: tools/hot.py did not get ready")
            yield process.pid
        finally:
            process.kill()


def shown(arguments: Sequence[str], columns: int) -> str:
    """What a terminal with so many columns gets, with its colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    unwanted = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "JITUNWIND_GDB")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    process = subprocess.Popen(
        [sys.executable, "-m", "jitunwind", *arguments],
        env=environment | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    data = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while part := os.read(ours, 1 << 16):
            data += part
    os.close(ours)
    process.wait(PATIENCE)
    text = data.decode(errors="replace").replace("\r\n", "\n")
    return re.sub(r"[^\n]*\r(\x1b\[2?K)?", "", text)  # what was drawn over is not seen


def picture(text: str, columns: int, title: str, theme: str, name: str) -> str:
    """An SVG of a terminal: its lines are broken where a terminal breaks them, in the middle of words."""
    console = Console(
        record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    lines: list[Text] = []
    for line in text.rstrip("\n").split("\n"):
        made = Text.from_ansi(line)
        lines += made.divide(range(columns, len(made), columns)) if len(made) > columns else [made]
    left = len(lines) - MOST_LINES
    for made in lines[:MOST_LINES] if left > 1 else lines:
        console.print(made, no_wrap=True, overflow="ignore", crop=False)
    if left > 1:
        console.print(Text(f"… and {left:,} lines more", style="dim"))
    drawn = console.export_svg(
        title=title, theme=THEMES[theme], code_format=SVG, unique_id=name.replace(".", "_")
    )
    return drawn.replace("rgba(255,255,255,0.35)", "#8c959f")  # the frame: it has to be seen on white, too


def terminals(folder: Path) -> Iterator[str]:
    """The pictures of the verbs; gives the lines of the page about them."""
    home = str(Path.home())
    with running(folder, "3.14") as old, running(folder, "3.15") as new:
        for screen in SCREENS:
            words = {"pid": str(old if screen.version == "3.14" else new), "libz": libz()}
            arguments = [word.format(**words) for word in screen.arguments]
            title = " ".join(["jitunwind", *(os.path.basename(word) for word in arguments)])
            yield f"\n## {screen.title}\n\n{screen.about} `{title.replace(words['pid'], 'PID')}`\n"
            for columns in WIDTHS:
                begin = time.monotonic()
                text = shown(arguments, columns).replace(home, "~")
                for theme in THEMES:
                    name = f"{screen.name}-{columns}-{theme}"
                    svg = picture(text, columns, title, theme, name)
                    (FOLDER / f"{name}.svg").write_text(svg)
                print(
                    f"docs/screens/{screen.name}-{columns}-*.svg  {time.monotonic() - begin:.1f} s",
                    flush=True,
                )
                yield _shown(f"{screen.name}, {columns} columns", screen.name, str(columns), "svg")
        report = folder / "report.html"
        command = [sys.executable, "-m", "jitunwind", "explain", str(new), "-o", str(report)]
        subprocess.run(command, check=True)
    with page() as browser:
        yield "\n## explain's page\n\nThe HTML page that `jitunwind explain PID -o report.html` writes.\n"
        for window, (width, height) in WINDOWS.items():
            for theme in THEMES:
                take(browser, report, f"page-{window}-{theme}.png", width, height, theme)
            yield _shown(f"the page in a {window} window", "page", window, "png")


def _shown(about: str, name: str, what: str, kind: str) -> str:
    return "".join(f"![{about}, {theme}](screens/{name}-{what}-{theme}.{kind})\n" for theme in THEMES)


def take(browser: Page, report: Path, name: str, width: int, height: int, theme: str) -> None:
    browser.resize(width, height)
    browser.open(address(report, f"theme={theme}"))
    (FOLDER / name).write_bytes(browser.picture())
    print(f"docs/screens/{name}", flush=True)


def libz() -> str:
    """The path of a small library that every Python has loaded, or its like."""
    import zlib

    maps = Path("/proc/self/maps").read_text()
    found = re.search(r"\S+/libz\.so\S*", maps)
    return found[0] if found else str(zlib.__file__)


def about() -> str:
    patches = []
    for each in VERSIONS:
        command = [interpreter(each), "-c", "import platform; print(platform.python_version())"]
        patches.append(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    gdb = subprocess.run(
        ["gdb", "--version"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()[0]
    return (
        "# Screens\n\n"
        "What the verbs show, at 60, 80 and 140 columns, light and dark; `make screens` takes these pictures anew, of\n"
        f"processes that run [tools/hot.py](../tools/hot.py). jitunwind {version('jitunwind')}, CPython "
        f"{' and '.join(patches)},\n{gdb}, {platform.system()} {platform.machine()}, {date.today().isoformat()}.\n"
    )


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.*"):
        old.unlink()
    try:
        with tempfile.TemporaryDirectory(prefix="jit") as folder:
            (Path(folder) / "hot.py").write_bytes((ROOT / "tools/hot.py").read_bytes())
            text = about() + "\n".join(terminals(Path(folder)))
    except NoBrowserError as error:
        print(f"screens: error: {error}", file=sys.stderr)
        return 2
    (ROOT / "docs/screens.md").write_text(re.sub(r"\n{3,}", "\n\n", text))
    print("docs/screens.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
