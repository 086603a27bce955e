"""Prints, as its last line, what it has unpacked of Debian's packages: a JSON object with the folder (`root`) and the
version of each package.

In come a suite such as sid and names of packages; they come with all that they depend on, through the machine's apt
(private state, signatures checked), into a private folder. Nothing of the system is changed, and none of the packages'
scripts is run. tools/interpreters.py makes its interpreters by what is here; tests that ask libraries and tools of
another Debian run this file.

In the environment, JITUNWIND_CACHE names the private folder (else $XDG_CACHE_HOME/jitunwind or ~/.cache/jitunwind). It
exits with 2 if it cannot, and says on stderr what to do.
"""

import argparse
import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

DEBIAN_NAMES = {"amd64": "amd64", "x86_64": "amd64", "arm64": "arm64", "aarch64": "arm64"}
PACKAGES = "packages.json"  # written last: a tree without it is a half-finished one

# After the machine's own Acquire settings, which say how to reach its mirror. The rest of
# its settings stays out: hooks (APT::Update::Post-Invoke) would change the system, and
# pins the choice.
APT_CONFIG = """
Dir::State "FOLDER/state";
Dir::State::status "FOLDER/status";
Dir::Cache "FOLDER/cache";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "FOLDER/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "ARCH";
APT::Architectures { "ARCH"; };
APT::Sandbox::User "root";  // the user _apt could not enter the folder
APT::Update::Error-Mode "any";
Acquire::Check-Valid-Until "false";  // the mirror may be frozen; signatures still count
"""


class CannotError(Exception):
    """Why what was asked for cannot be had, in one line that says what to do."""


def say(message: str) -> None:
    print(f"{Path(sys.argv[0]).stem}: {message}", file=sys.stderr, flush=True)


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Returns its stdout; raises CannotError with its complaint if it fails."""
    env = {**os.environ, "LC_ALL": "C", **environment}
    done = subprocess.run(command, check=False, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines(), "no message"]
        errors = [line for line in lines if line.startswith(("E: ", "ERROR: "))]
        complaint = errors[0] if errors else lines[-2:][0]
        raise CannotError(f"{Path(command[0]).name} failed: {complaint}")
    return done.stdout


# --- apt


def debian_mirror() -> str:
    """The URI of the machine's own Debian archive."""
    release = platform.freedesktop_os_release()
    suites = {"stable", "testing", "unstable", "sid"}
    if release.get("ID") == "debian":
        suites.add(release.get("VERSION_CODENAME", "sid"))
    columns = "$(REPO_URI) $(COMPONENT) $(RELEASE) $(LABEL)"
    # Before any `apt-get update` there is no information but the sources' own, no label.
    for option in ("--release-info", "--no-release-info"):
        command = ("apt-get", "indextargets", option, "--format", columns)
        for line in run(*command, "Created-By: Packages").splitlines():
            uri, component, suite, label = line.split(" ", 3)
            unlabelled = label == "$(LABEL)" and suite in suites
            if component == "main" and (label == "Debian" or unlabelled):
                return uri
    raise CannotError("apt knows no Debian archive here")


def configure_apt(folder: Path, arch: str, suite: str = "sid") -> Path:
    """An apt.conf with which apt-get knows `suite`, and nothing of this machine's packages."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise CannotError("this machine has no apt-get to fetch Debian's packages with")
    keyrings = sorted(Path("/usr/share/keyrings").glob("debian-archive-keyring.[gp]*"))
    if not keyrings:
        raise CannotError("Debian's keys are missing: install debian-archive-keyring")
    source = f"deb [signed-by={keyrings[0]}] {debian_mirror()} {suite} main\n"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(source)
    settings = run("apt-config", "dump").splitlines(keepends=True)
    acquire = "".join(line for line in settings if line.startswith("Acquire::"))
    ours = APT_CONFIG.replace("FOLDER", str(folder)).replace("ARCH", arch)
    (folder / "apt.conf").write_text(acquire + ours)
    return folder / "apt.conf"


AptGet = Callable[..., str]


def apt_get_in(folder: Path, config: Path) -> AptGet:
    """apt-get by such an apt.conf; what it downloads comes into `folder`."""

    def apt_get(*arguments: str) -> str:
        return run("apt-get", *arguments, cwd=folder, APT_CONFIG=str(config))

    return apt_get


def needed_by(apt_get: AptGet, *names: str) -> list[str]:
    """Those packages, and all that they depend on."""
    plan = apt_get("install", "-s", "--no-install-recommends", *names)
    return re.findall(r"^Inst (\S+)", plan, re.MULTILINE)


def unpack(package: Path, tree: Path, part: str = ".") -> None:
    """Unpacks that part of a package, and runs none of its scripts."""
    source = ["dpkg-deb", "--fsys-tarfile", str(package)]
    tar = ["tar", "--extract", "--no-same-owner", f"--directory={tree}", part]
    with subprocess.Popen(source, stdout=subprocess.PIPE) as archive:
        done = subprocess.run(tar, check=False, stdin=archive.stdout)
    if archive.returncode or done.returncode:
        raise CannotError(f"{package.name} cannot be unpacked (is the disk full?)")


# --- the private folder


def private_folder() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    own = os.environ.get("JITUNWIND_CACHE") or Path(caches, "jitunwind")
    return Path(own).resolve()


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Keeps other runs out of the private folder."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder for what is being made; not even a killed run's outlives the next run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- the command


def fill(root: Path, suite: str, arch: str, names: list[str], cache: Path) -> None:
    """Unpacks `names`, with all that they depend on, into `root`."""
    with scratch(cache / "unpacking") as making:
        tree, packages = making / "tree", making / "packages"
        tree.mkdir()
        packages.mkdir()
        apt_get = apt_get_in(packages, configure_apt(making / "apt", arch, suite))
        say(f"asking the mirror what Debian {suite} has")
        apt_get("update")
        wanted = needed_by(apt_get, *names)
        say(f"downloading {len(wanted)} packages")
        apt_get("download", *wanted)
        versions = {}
        for package in sorted(packages.glob("*.deb")):
            unpack(package, tree)
            name, version, _ = package.stem.split("_")
            versions[name] = unquote(version)
        (tree / PACKAGES).write_text(json.dumps(versions))
        root.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(root, ignore_errors=True)
        tree.rename(root)


def unpacked(suite: str, arch: str, names: list[str]) -> Path:
    """The folder with those packages, filled if need be."""
    cache = private_folder()
    root = cache / "packages" / f"{suite}-{arch}" / "+".join(sorted(names))
    if not (root / PACKAGES).exists():
        with alone(cache):
            if not (root / PACKAGES).exists():
                fill(root, suite, arch, names, cache)
    return root


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Unpacks Debian's packages into a private folder")
    parser.add_argument("suite", help="such as sid")
    parser.add_argument("packages", nargs="+", metavar="PACKAGE")
    parser.add_argument("--arch", default=platform.machine(), choices=DEBIAN_NAMES)
    given = parser.parse_args(arguments)
    try:
        root = unpacked(given.suite, DEBIAN_NAMES[given.arch], given.packages)
    except (CannotError, OSError) as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    print(json.dumps({"root": str(root), "versions": json.loads((root / PACKAGES).read_text())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
