"""What an install brings: the agent, the file that JITUNWIND=1 needs, the header; and what goes without a compiler."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE, ROOT, VERSIONS, Done, interpreter, plain_environment

CHECKOUT = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "src")
START = "jitunwind.pth"

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def environment(**others: str) -> dict[str, str]:
    """Without a variable of jitunwind's or of Python's but those that are named."""
    before = plain_environment()
    clean = {name: value for name, value in before.items() if not name.startswith(("PYTHON", "JITUNWIND"))}
    return clean | others


def run(*command: object, **others: str) -> Done:
    return subprocess.run(
        [str(word) for word in command],
        env=environment(**others),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )


def pip(*arguments: object, **others: str) -> Done:
    done = run(sys.executable, "-m", "pip", *arguments, **others)
    if done.returncode:
        pytest.skip(f"pip cannot build it here: {done.stderr.strip()[-300:]}")
    return done


def checkout(folder: Path) -> Path:
    """A copy, as builds leave files behind; without what others have built."""
    copy = folder / "checkout"
    copy.mkdir()
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in CHECKOUT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=leave_out)
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "-q", "--no-deps", "-w", folder / "made", checkout(folder), JITUNWIND_STRICT="1")
    (made,) = (folder / "made").iterdir()
    return made


@pytest.fixture(scope="session")
def wheel_without_compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    said = pip("wheel", "-v", "--no-deps", "-w", folder / "made", checkout(folder), CC=str(folder / "none"))
    assert "agent.so was not built, so jitunwind will not publish JIT code" in said.stdout + said.stderr
    (made,) = (folder / "made").iterdir()
    return made


def site_packages(python: str, folder: Path, *wheels: Path) -> tuple[Path, Path]:
    """A virtual environment of `python`, with the wheels installed: its interpreter, its folder for packages."""
    assert run(python, "-m", "venv", "--without-pip", folder).returncode == 0
    (packages,) = folder.glob("lib/python*/site-packages")
    for each in wheels:
        with zipfile.ZipFile(each) as archive:
            archive.extractall(packages)
    os.symlink(Path(sysconfig.get_path("platlib")) / "iced_x86", packages / "iced_x86")
    return folder / "bin/python", packages


@needs_compiler
def test_one_wheel_for_every_python_of_the_architecture(wheel: Path) -> None:
    assert wheel.name.endswith(f"-py3-none-linux_{os.uname().machine}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        start = archive.read(START)
    assert start == (ROOT / "src" / START).read_bytes()
    agent = {
        name for name in names if name.startswith("jitunwind/agent/") and not name.endswith((".py", ".pyi"))
    }
    assert agent == {
        f"jitunwind/agent/{name}" for name in ("agent.so", "descriptor.so", "jitunwind.h", "jitunwind.pc")
    }
    assert "jitunwind/startup/hook/sitecustomize.py" in names


@needs_compiler
def test_the_shared_objects_know_nothing_of_python(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for name in ("agent.so", "descriptor.so"):
        needed = run("readelf", "-dW", tmp_path / "jitunwind/agent" / name).stdout
        symbols = run("readelf", "--dyn-syms", "-W", tmp_path / "jitunwind/agent" / name).stdout
        assert "Dynamic section" in needed
        assert "python" not in needed
        undefined = [line.split()[-1] for line in symbols.splitlines() if " UND " in line]
        strong = [name for name in undefined if name.startswith(("Py", "_Py"))]
        weak = [line.split()[-1] for line in symbols.splitlines() if " WEAK " in line and " UND " in line]
        assert set(strong) <= set(weak)


@pytest.mark.live
@pytest.mark.one_version("without shared objects one wheel is as another")
def test_without_a_compiler_all_but_publishing_works(wheel_without_compiler: Path, tmp_path: Path) -> None:
    python, packages = site_packages(interpreter("3.14"), tmp_path, wheel_without_compiler)
    assert not list(packages.glob("**/agent/*.so"))
    for name in ("click", "elftools"):
        os.symlink(Path(sysconfig.get_path("purelib")) / name, packages / name)
    assert run(python, "-m", "jitunwind", "--version").returncode == 0
    for arguments in (["run", "-c", "1"], ["enable", os.getpid()], ["agent", "--libs"]):
        done = run(python, "-m", "jitunwind", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "agent.so is not there" in done.stderr
        assert "install a C compiler" in done.stderr
    # a program goes on, and says so in one line
    done = run(python, "-c", "print('here')", JITUNWIND="1", PYTHON_JIT="1")
    assert (done.returncode, done.stdout) == (0, "here\n")
    assert done.stderr.startswith("jitunwind: JIT code is not published: ")
    assert "install a C compiler" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="session", params=VERSIONS)
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment that has jitunwind."""
    return site_packages(interpreter(request.param), tmp_path_factory.mktemp("venv"), wheel)[0]


@needs_compiler
@pytest.mark.parametrize(
    ("variables", "options", "is_on"),
    [
        ({}, [], False),
        ({"JITUNWIND": ""}, [], False),
        ({"JITUNWIND": "0"}, [], False),
        ({"JITUNWIND": "1"}, [], True),
        ({"JITUNWIND": "1"}, ["-E"], False),
        ({"JITUNWIND": "1"}, ["-I"], False),
        ({"JITUNWIND": "1"}, ["-S"], False),
        ({"JITUNWIND": "1"}, ["-s", "-P"], True),
    ],
    ids=str,
)
def test_the_variable_and_pythons_options(
    variables: dict[str, str], options: list[str], is_on: bool, installed: Path
) -> None:
    ask = "import sys; print('jitunwind.agent.library' in sys.modules)"
    done = run(installed, *options, "-c", ask, PYTHON_JIT="1", **variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{is_on}\n", "")


@needs_compiler
def test_nothing_is_imported_without_the_variable(installed: Path) -> None:
    ask = "import sys; print([name for name in sys.modules if 'jitunwind' in name or 'iced' in name])"
    assert run(installed, "-c", ask).stdout == "[]\n"


@needs_compiler
def test_children_of_run_go_on_publishing(installed: Path) -> None:
    child = "import sys; print('jitunwind.agent.library' in sys.modules)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    start = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from jitunwind.cli import main; main()"
    done = run(sys.executable, "-I", "-c", start, "run", "--python", installed, "-c", parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@needs_compiler
def test_an_editable_install_has_it_all_too(tmp_path: Path) -> None:
    copy = checkout(tmp_path)
    assert run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv").returncode == 0
    python = tmp_path / "venv/bin/python"
    pip("--python", python, "install", "-q", "--no-deps", "-e", copy, JITUNWIND_STRICT="1")
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    assert (packages / START).read_bytes() == (ROOT / "src" / START).read_bytes()
    assert {path.name for path in (copy / "src/jitunwind/agent").glob("*.so")} == {
        "agent.so",
        "descriptor.so",
    }


@needs_compiler
@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="no pkg-config")
def test_a_c_program_is_linked_with_the_agent(tmp_path: Path) -> None:
    start = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from jitunwind.cli import main; main()"
    told = run(sys.executable, "-I", "-c", start, "agent", "--cflags", "--libs")
    assert (told.returncode, told.stderr) == (0, "")
    source = tmp_path / "jit.c"
    source.write_text(
        "#include <jitunwind.h>\n#include <stdio.h>\n"
        'int main(void) { return printf("%d\\n", (void *)jitunwind_publish != 0) < 0; }\n'
    )
    made = run("cc", "-Werror", source, "-o", tmp_path / "jit", *told.stdout.split())
    assert (made.returncode, made.stderr) == (0, "")
    assert run(tmp_path / "jit").stdout == "1\n"
    place = run(sys.executable, "-I", "-c", start, "agent", "--pkgconfig").stdout.strip()
    asked = run("pkg-config", "--cflags", "--libs", "jitunwind", PKG_CONFIG_PATH=place)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert shlex.split(asked.stdout) == told.stdout.split()
    made = run("cc", "-Werror", source, "-o", tmp_path / "by_pkg_config", *shlex.split(asked.stdout))
    assert (made.returncode, made.stderr) == (0, "")
    assert run(tmp_path / "by_pkg_config").stdout == "1\n"
    version = run("pkg-config", "--modversion", "jitunwind", PKG_CONFIG_PATH=place).stdout.strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version == project["version"]
