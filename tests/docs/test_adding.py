"""The pages on adding a CPython version and an architecture: they name files that are there, and what is missing is
noticed, as they say."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from jitunwind.arch import Architecture
from jitunwind.arch.known import ARCHITECTURES, MODULES
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.jits.cpython import versions
from jitunwind.jits.cpython.versions.record import ExecutorLayout, MicroOpLayout, StrLayout, Version

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src/jitunwind"
VERSION_PAGE = "docs/adding-a-cpython-version.md"
ARCHITECTURE_PAGE = "docs/adding-an-architecture.md"
MOST_WORDS = 1000
NEW = ("py316.py",)
"""What a page has its reader make."""
VERSION_MODULES = SOURCES / "jits/cpython/versions"
NEWEST = VERSION_MODULES / f"py{''.join(map(str, max(versions.VERSIONS)))}.py"
FIELDS = re.findall(r"^ +(\w+)=[^(\n]*,$", NEWEST.read_text(), re.MULTILINE)
"""Those of the newest record that stand in a line of their own."""


def named(page: str) -> Iterator[Path]:
    """The files of the project that a page names in backticks; those without a folder stand beside the one before."""
    folder = ROOT
    text = (ROOT / page).read_text().replace("ARCH/", "{ARCH}/").replace("ARCH.py", "{ARCH}.py")
    for name in re.findall(r"`([\w{}./-]+\.(?:py|c|h|md))`", text):
        is_ours = re.match(r"(src|tests|tools|docs)/", name) or name.isupper() or "/" not in name
        if name in NEW or not is_ours or ("/" not in name and name.endswith(".h") and name != "arch.h"):
            continue
        for arch in ARCHITECTURES if "{ARCH}" in name else ("",):
            path = ROOT / name.format(ARCH=arch)
            if "/" in name:
                folder = path.parent
            yield path if "/" in name or path.exists() else folder / name


@pytest.mark.parametrize("page", [VERSION_PAGE, ARCHITECTURE_PAGE])
def test_a_page_is_short_and_names_files_that_are_there(page: str) -> None:
    paths = list(named(page))
    assert len(paths) > 10
    assert [str(path) for path in paths if not path.exists()] == []
    assert len((ROOT / page).read_text().split()) < MOST_WORDS
    assert page in (ROOT / "CONTRIBUTING.md").read_text()


def listed(folder: Path) -> list[str]:
    """What `versions/__init__.py` has to list of a folder: the modules with a record."""
    return sorted(path.stem for path in folder.glob("py*.py"))


def test_each_module_of_a_version_is_listed(tmp_path: Path) -> None:
    known = sorted(f"py{major}{minor}" for major, minor in versions.VERSIONS)
    assert listed(VERSION_MODULES) == known
    dummy = shutil.copytree(VERSION_MODULES, tmp_path / "versions")
    shutil.copy(NEWEST, dummy / "py316.py")
    assert listed(dummy) == [*known, "py316"]


def test_the_makefile_has_the_same_versions() -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    done = subprocess.run(["make", "-pnq", "help"], cwd=ROOT, capture_output=True, text=True)
    (found,) = re.findall(r"^VERSIONS := (.*)$", done.stdout, re.MULTILINE)
    assert "$" not in found
    assert tuple(found.split()) == versions.NAMES


def of_record(text: str) -> Version:
    """The record that the text of such a module makes."""
    names: dict[str, Any] = {}
    exec(text, names)
    version: Version = names["VERSION"]
    return version


@pytest.mark.parametrize("field", FIELDS)
def test_a_record_without_a_field_is_refused(field: str) -> None:
    """GIVEN a dummy: the newest record, which calls itself 3.16 and lacks a field."""
    text = NEWEST.read_text().replace(f"number={max(versions.VERSIONS)}", "number=(3, 16)")
    assert of_record(text).number == (3, 16)
    lacking = re.sub(rf"^ +{field}=.*\n", "", text, count=1, flags=re.MULTILINE)
    with pytest.raises(TypeError, match=f"missing .*'{field}'"):
        of_record(lacking)


@pytest.mark.parametrize("version", versions.VERSIONS.values(), ids=versions.NAMES)
def test_every_field_of_a_record_is_set(version: Version) -> None:
    parts = {
        Version: version,
        ExecutorLayout: version.executor,
        StrLayout: version.string,
        MicroOpLayout: version.micro_op,
    }
    for kind, part in parts.items():
        for field, hint in get_type_hints(kind).items():
            value = getattr(part, field)
            assert value is not None or "None" in str(hint), field
            assert value != "", field
    assert version.frame_registers.keys() == ARCHITECTURES.keys()
    assert re.findall(r"^\| `(\w+)`", (ROOT / VERSION_PAGE).read_text(), re.MULTILINE) == [
        field for field in Version._fields if field != "number"
    ]


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Of each module: its path in the package, and its syntax."""
    for path in SOURCES.rglob("*.py"):
        yield str(path.relative_to(SOURCES)), ast.parse(path.read_text())


def texts(tree: ast.Module) -> Iterator[str]:
    """Those that are no docstrings."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def numbers(tree: ast.Module) -> Iterator[tuple[Any, ...]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple) and all(isinstance(part, ast.Constant) for part in node.elts):
            yield ast.literal_eval(node)


def test_no_version_stands_anywhere_else() -> None:
    """GIVEN the modules outside versions/, THEN none has a text such as "3.14" or a tuple such as (3, 14)."""
    found = []
    for path, tree in trees():
        if path.startswith("jits/cpython/versions/"):
            continue
        found += [(path, text) for text in texts(tree) if re.search(r"(?<![\w.])3\.1[3-9]\b", text)]
        found += [(path, each) for each in numbers(tree) if each[:2] in versions.VERSIONS]
    assert found == []


OF_ONE_ARCHITECTURE = ("arch/", "jits/cpython/stencils/", "jits/cpython/versions/")


def test_no_architecture_stands_anywhere_else() -> None:
    """GIVEN the modules outside the packages of architectures, THEN none has the name of one, and only those import
    from one that the page lists as being there for one only."""
    importing, naming = set(), []
    for path, tree in trees():
        if path.startswith(OF_ONE_ARCHITECTURE):
            continue
        naming += [(path, text) for text in texts(tree) if text in ARCHITECTURES]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and re.match(
                rf"jitunwind\.arch\.({'|'.join(ARCHITECTURES)})\b", node.module or ""
            ):
                importing.add(path)
    assert naming == []
    page = (
        (ROOT / ARCHITECTURE_PAGE).read_text().partition("for one architecture only")[2].partition("## 6")[0]
    )
    assert importing <= set(re.findall(r"`src/jitunwind/(\S+\.py)`", page))


def lacking(package: Path) -> list[str]:
    """The modules that each architecture has, and this one does not."""
    return [name for name in MODULES if not (package / f"{name}.py").exists()]


def test_each_architecture_has_modules_of_the_same_names(tmp_path: Path) -> None:
    for name in ARCHITECTURES:
        assert lacking(SOURCES / "arch" / name) == []
        assert (SOURCES / f"jits/cpython/stencils/{name}.py").exists()
    table = (ROOT / ARCHITECTURE_PAGE).read_text().partition("## 2")[2].partition("## 3")[0]
    assert sorted(re.findall(r"\| `src/jitunwind/arch/ARCH/(\w+)\.py`", table)) == sorted(MODULES)
    packages = {path.name for path in (SOURCES / "arch").iterdir() if (path / "__init__.py").exists()}
    assert packages == ARCHITECTURES.keys()
    dummy = shutil.copytree(SOURCES / "arch/aarch64", tmp_path / "riscv64")
    (dummy / "relocations.py").unlink()
    assert lacking(dummy) == ["relocations"]


@pytest.mark.parametrize("field", Architecture._fields)
def test_an_architecture_without_a_fact_is_refused(field: str) -> None:
    facts = X86_64._asdict()
    del facts[field]
    with pytest.raises(TypeError, match=f"missing .*'{field}'"):
        Architecture(**facts)


def test_c_of_an_unknown_architecture_does_not_compile() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    undefined = [
        "-D_ELF_H",
        *(f"-U__{name}__" for name in ARCHITECTURES),
    ]  # libc's headers ask for the machine, too
    command = ["gcc", "-fsyntax-only", "-xc", SOURCES / "agent/arch.h"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    done = subprocess.run([*command, *undefined], capture_output=True, text=True)
    assert "unknown architecture" in done.stderr
    assert done.returncode == 1
    others = [
        path for path in SOURCES.rglob("*.[ch]") if re.search(r"__(x86_64|aarch64)__", path.read_text())
    ]
    assert others == [SOURCES / "agent/arch.h"]
