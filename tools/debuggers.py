"""Fetches the debuggers and unwinders that tests compare with the machine's own: GDB 18, LLDB 19, LLVM's libunwind,
musl, the unwinders of Debian sid, and numba and greenlet for the Pythons with a JIT.

`make debuggers` runs it before the tests, which only look for what is here. All of it goes into the private folder:
$JITUNWIND_CACHE, or ~/.cache/jitunwind. GDB comes from PyPI, the others from Debian. What is there already is left as
it is. It exits with 1 if one of them cannot be had, and says why; tests that need that one are skipped, and fail in CI.
"""

import os
import platform
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = {
    "lldb-19": ("lldb-19", "liblldb-19", "libllvm19", "libclang-cpp19"),
    "libunwind-19": ("libunwind-19",),
    "musl": ("musl", "musl-dev"),
}
"""By folder. They are unpacked and not installed: Debian does not install LLVM's libunwind beside nongnu libunwind's
headers, musl-dev depends on a compiler, and LLDB on packages that it does not need here, which a mirror may lack."""
OF_SID = ("libunwind8", "libdw1t64", "llvm-libunwind1", "linux-perf")
WITH_DEPENDENCIES = (
    ("sid", OF_SID, platform.machine()),
    ("sid", ("libgcc-s1",), "aarch64"),
    ("bookworm", ("libunwind-14",), platform.machine()),
    ("bookworm", ("libunwind-19",), platform.machine()),
)
"""A suite of Debian, packages and an architecture, for tools/debian_packages.py."""
WHEELS_FOR = ("3.14", "3.15")
GDB_FOLDER, GDB = "gdb-for-pwndbg", "gdb-for-pwndbg>=18.1"
_COMPLETE = ".complete"  # written last: a folder without it is a half-finished one


class CannotError(Exception):
    """Why one of them cannot be had."""


def cache_folder() -> Path:
    """The private folder for all that is fetched."""
    return Path(os.environ.get("JITUNWIND_CACHE") or Path.home() / ".cache/jitunwind")


def folder_of(name: str) -> Path | None:
    """What was fetched under that name; None if it was not, or not wholly."""
    folder = cache_folder() / name
    return folder if (folder / _COMPLETE).exists() else None


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise CannotError(f"{Path(command[0]).name} failed: {(done.stderr or done.stdout).strip()[-300:]}")


def _fetch_gdb(folder: Path) -> None:
    venv.create(folder, with_pip=True)
    _run(folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", GDB)


def _fetch_packages(folder: Path) -> None:
    folder.mkdir(parents=True)
    if shutil.which("apt-get") is None:
        raise CannotError("this machine has no apt-get to fetch Debian's packages with")
    download = ("apt-get", "download", *PACKAGES[folder.name])
    try:
        _run(*download, cwd=folder)
    except CannotError:  # without a list of packages, or with an old one
        _run("apt-get", "update")
        _run(*download, cwd=folder)
    for package in folder.glob("*.deb"):
        _run("dpkg-deb", "-x", package, folder)
        package.unlink()


def numba_folder(minor: str) -> str:
    """The folder of numba for that version of CPython: another JIT beside its own."""
    return f"numba-{minor}"


def greenlet_folder(minor: str) -> str:
    """The folder of greenlet for that version of CPython: it keeps several stacks in the place of one."""
    return f"greenlet-{minor}"


def _fetch_wheels(name: str, minor: str) -> Callable[[Path], None]:
    def fetch(folder: Path) -> None:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        wheels = ("--only-binary", ":all:", "--ignore-requires-python", "--python-version", minor)
        _run(*pip, *wheels, "--target", folder, name)

    return fetch


def _fetch(name: str, fetch: Callable[[Path], None]) -> bool:
    """Whether it is there now."""
    if folder_of(name) is not None:
        return True
    folder = cache_folder() / name
    shutil.rmtree(folder, ignore_errors=True)
    print(f"debuggers: fetching {name} into {folder}", file=sys.stderr)
    try:
        fetch(folder)
    except CannotError as error:
        print(f"debuggers: {name} cannot be fetched: {error}", file=sys.stderr)
        return False
    (folder / _COMPLETE).touch()
    return True


def _fetch_with_dependencies(suite: str, packages: Sequence[str], arch: str) -> bool:
    script = Path(__file__).with_name("debian_packages.py")
    command: list[str | Path] = [sys.executable, script, suite, *packages, "--arch", arch]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 0


def main() -> int:
    found = [_fetch(GDB_FOLDER, _fetch_gdb), *(_fetch(name, _fetch_packages) for name in PACKAGES)]
    for minor in WHEELS_FOR:
        found.append(_fetch(numba_folder(minor), _fetch_wheels("numba", minor)))
        found.append(_fetch(greenlet_folder(minor), _fetch_wheels("greenlet", minor)))
    found += [_fetch_with_dependencies(*each) for each in WITH_DEPENDENCIES]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
