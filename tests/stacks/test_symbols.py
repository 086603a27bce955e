"""Names of native code: GDB, the witness, has the same for every address that is tried."""

import lzma
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from jitunwind.elf.headers import SHF_ALLOC, SHF_EXECINSTR, Headers
from jitunwind.elf.symbols import dynamic_table
from jitunwind.errors import NotElf
from jitunwind.stacks.demangling import demangled, without_parameters
from jitunwind.stacks.separate import opened_elf
from jitunwind.stacks.symbols import FileSymbols
from tests.support.processes import interpreter

SOURCE = r"""
#include <stdlib.h>
#include <unistd.h>
__attribute__((noinline)) static int hidden(int a) { return a * 3 + getpid(); }
__attribute__((noinline)) int shown(int a) { return hidden(a) + rand(); }
int also_shown(int) __attribute__((alias("shown"), weak));
static int own_alias(int) __attribute__((alias("hidden"), used));
__asm__(".text\n.globl bare\nbare: nop\n nop\nlabel: nop\n.Lunseen: nop\n ret\n"
        ".globl outer\n.type outer,@function\nouter: nop\n.globl inner\n.type inner,@function\ninner: nop\n"
        ".size inner, 1\n nop\n nop\n ret\n.size outer, . - outer\n nop\n nop\n");
int main(void) { return shown(getppid()) + also_shown(1); }
"""
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("gcc", "objcopy", "gdb"))), reason="no gcc, objcopy or gdb"
)
Named = Callable[[int], str | None]


def run(*arguments: object) -> None:
    subprocess.run([str(each) for each in arguments], check=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with all its symbols."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "x.c").write_text(SOURCE)
    run(
        "gcc",
        "-O1",
        "-o",
        folder / "whole",
        folder / "x.c",
        "-Wl,--build-id=0xabcdef0123456789abcdef0123456789",
    )
    return folder / "whole"


def stripped(built: Path, folder: Path) -> Path:
    run("objcopy", "--strip-all", built, folder / "bare")
    return folder / "bare"


def with_mini_debug_info(built: Path, folder: Path) -> Path:
    run("objcopy", "--strip-debug", "--keep-file-symbols", built, folder / "symbols")
    (folder / "packed").write_bytes(lzma.compress((folder / "symbols").read_bytes()))
    bare = stripped(built, folder)
    run("objcopy", "--add-section", f".gnu_debugdata={folder / 'packed'}", bare)
    return bare


def with_debug_file(place: str) -> Callable[[Path, Path], Path]:
    """Its symbols apart: at `place`, in the form of a path below the folder."""

    def make(built: Path, folder: Path) -> Path:
        bare = stripped(built, folder)
        debug = folder / place.format(folder=str(folder))
        debug.parent.mkdir(parents=True, exist_ok=True)
        run("objcopy", "--only-keep-debug", built, debug)
        if "build-id" not in place:
            run("objcopy", f"--add-gnu-debuglink={debug}", bare)
        return bare

    return make


FORMS = {
    "whole": lambda built, folder: Path(shutil.copy(built, folder / "copy")),
    "stripped": stripped,
    "MiniDebugInfo": with_mini_debug_info,
    "build-id": with_debug_file("debug/.build-id/ab/cdef0123456789abcdef0123456789.debug"),
    "debuglink beside": with_debug_file("bare.debug"),
    "debuglink in .debug": with_debug_file(".debug/bare.debug"),
    "debuglink in a folder": with_debug_file("debug{folder}/bare.debug"),
}


def ours(path: Path, folders: Sequence[str]) -> Named:
    headers = opened_elf(str(path))
    assert headers is not None
    symbols = FileSymbols(headers, str(path), folders)

    def name(address: int) -> str | None:
        found = symbols.at(address)
        return None if found is None else f"{found.function}+{found.offset}".removesuffix("+0")

    return name


def gdbs(path: Path, folder: str, addresses: Sequence[int]) -> list[str | None]:
    """What GDB calls those addresses of the file, from symbol tables alone."""
    script = path.parent / "ask.py"
    script.write_text("".join(f"gdb.execute('p/a {address:#x}')\n" for address in addresses))
    settings = [
        f"set debug-file-directory {folder}",
        "set debuginfod enabled off",
        "set print demangle off",  # else GDB takes some names for Ada's
        "set print asm-demangle on",
    ]
    early = [part for line in settings for part in ("-iex", line)]
    command = ["gdb", "-nx", "-batch", "-readnever", *early, str(path), "-ex", "set max-symbolic-offset -1"]
    done = subprocess.run([*command, "-x", str(script)], capture_output=True, text=True, check=True)
    lines = re.findall(r"^\$\d+ = 0x[0-9a-f]+(?: <(.*)>)?$", done.stdout, re.MULTILINE)
    assert len(lines) == len(addresses), done.stdout + done.stderr
    return [line or None for line in lines]


def code_of(path: Path) -> list[int]:
    """Every address of the code of a small file, some of a large one's."""
    headers = opened_elf(str(path))
    assert headers is not None
    sections = [each for each in headers.sections if each.flags & SHF_ALLOC and each.flags & SHF_EXECINSTR]
    found = [address for each in sections for address in range(each.address, each.address + each.size)]
    return found if len(found) < 2000 else sorted(random.Random(7).sample(found, 2000))


APPENDED = re.compile(r"(\.(cold|part|isra|constprop|lto_priv)(\.\d+)?)+(?=\+|$)")
"""What compilers append to names. With DWARF, which GDB is not to read here, it prints names without it."""


def same(path: Path, folder: str, has_dwarf: bool = False) -> None:
    addresses = code_of(path)
    name = ours(path, [folder])
    answers = gdbs(path, folder, addresses)
    if has_dwarf:
        answers = [answer and APPENDED.sub("", answer) for answer in answers]
    different = [
        (hex(address), name(address), gdb)
        for address, gdb in zip(addresses, answers, strict=True)
        if name(address) != gdb
    ]
    assert not different, different[:20]
    assert any(answers)


@needs_tools
@pytest.mark.parametrize("form", FORMS)
def test_names_are_those_of_gdb(form: str, built: Path, tmp_path: Path) -> None:
    path = FORMS[form](built, tmp_path)
    same(path, str(tmp_path / "debug"))
    symbols = FileSymbols(Headers(path.read_bytes()), str(path), [str(tmp_path / "debug")])
    whole = FileSymbols(Headers(built.read_bytes()), str(built), [])
    hidden = next(address for address in code_of(built) if (whole.at(address) or ("",))[0] == "own_alias")
    found = symbols.at(hidden)
    assert (found is None) == (form == "stripped")


@needs_tools
def test_without_a_build_id_the_checksum_in_the_link_decides(built: Path, tmp_path: Path) -> None:
    anonymous = tmp_path / "anonymous"
    run("objcopy", "--remove-section", ".note.gnu.build-id", built, anonymous)
    path = with_debug_file("bare.debug")(anonymous, tmp_path)
    hidden = next(address for address in code_of(built) if ours(built, [])(address) == "own_alias")
    assert ours(path, [])(hidden) == "own_alias"
    same(path, "")
    debug = tmp_path / "bare.debug"
    debug.write_bytes(debug.read_bytes() + b"\0")
    assert ours(path, [])(hidden) is None


@needs_tools
@pytest.mark.parametrize("version", ["3.14", "3.15"])
@pytest.mark.parametrize("what", ["interpreter", "libc.so.6", "ld-linux"])
def test_names_in_large_files_are_those_of_gdb(version: str, what: str, tmp_path: Path) -> None:
    python = Path(interpreter(version))
    folder = python.parents[1] / "lib/debug"
    path = python
    if what != "interpreter":
        path = next(iter((python.parents[1] / "lib").glob(f"*-linux-gnu/{what}*")), python)
    copy = tmp_path / path.name
    copy.symlink_to(path)
    same(copy, str(folder) if folder.is_dir() else "", has_dwarf=True)


def test_the_loaders_view_of_a_file_has_its_exports(built: Path) -> None:
    data = bytearray(built.read_bytes())
    data[40:48] = bytes(8)  # e_shoff
    data[60:64] = bytes(4)  # e_shnum, e_shstrndx
    headers = Headers(data)
    assert headers.sections == []
    table = dynamic_table(headers, 0)
    assert table is not None
    assert "main" not in {symbol.name for symbol in table.named()}
    assert len(table) > 3


def test_damage_is_survived(built: Path) -> None:
    chance, data = random.Random(5), built.read_bytes()
    answers = 0
    for _ in range(400):
        spoiled = bytearray(data[: chance.choice([len(data), chance.randrange(len(data))])])
        for _ in range(chance.randint(1, 30)):
            at = chance.choice(
                [chance.randrange(min(1024, len(spoiled) or 1)), chance.randrange(len(spoiled) or 1)]
            )
            if spoiled:
                spoiled[at] = chance.choice([0, 0xFF, chance.randrange(256)])
        try:
            symbols = FileSymbols(Headers(spoiled), "/nonexistent", [])
        except NotElf:
            continue
        for address in (0, 0x1040, 0x1139, 0x1150, 1 << 63, (1 << 64) - 1):
            answers += symbols.at(address) is not None
    assert answers


@pytest.mark.parametrize(
    ("symbol", "with_parameters", "without"),
    [
        ("_ZN3foo3barEi", "foo::bar(int)", "foo::bar"),
        ("_ZNK1AclEPFviE", "A::operator()(void (*)(int)) const", "A::operator()"),
        (
            "_ZN4core3fmt9Formatter3pad17h0123456789abcdefE",
            "core::fmt::Formatter::pad",
            "core::fmt::Formatter::pad",
        ),
        (
            "_ZN60_$LT$alloc..string..String$u20$as$u20$core..fmt..Display$GT$3fmt17h0123456789abcdefE",
            *["<alloc::string::String as core::fmt::Display>::fmt"] * 2,
        ),
        ("_Znonsense", "_Znonsense", "_Znonsense"),
        ("plain", "plain", "plain"),
    ],
)
def test_names_are_demangled(symbol: str, with_parameters: str, without: str) -> None:
    if demangled("_Z1fv", True) == "_Z1fv":
        pytest.skip("no libstdc++")
    assert demangled(symbol, True) == with_parameters
    assert demangled(symbol, False) == without


def test_a_name_without_parameters_stays() -> None:
    assert without_parameters("operator") == "operator"
    assert without_parameters(")(") == ")("
