"""Lines and inlined functions of native code: GDB, the witness, tells the same of calls."""

import json
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import capstone
import pytest

from jitunwind.elf.headers import Headers
from jitunwind.elf.symbols import tables_of
from jitunwind.errors import NoLineReader
from jitunwind.stacks import cache, debuginfod, lines
from jitunwind.stacks.cache import Cache
from jitunwind.stacks.lines import FileLines
from jitunwind.stacks.separate import debug_file, opened_elf
from jitunwind.stacks.symbols import FileSymbols
from tests.support.processes import interpreter

SOURCE = r"""
#include <unistd.h>
#include <stdlib.h>
static inline __attribute__((always_inline)) int inner(int a) { return getpid() + a; }
static inline __attribute__((always_inline)) int outer(int a) {
    return inner(a)
        + rand();
}
__attribute__((noinline)) int function(int a) { return outer(a) * getppid(); }
int main(int argc, char **argv) { return function(argc); }
"""
BUILD_ID = "abcdef0123456789abcdef0123456789"
pytest.importorskip("symbolic")
needs_tools = pytest.mark.skipif(
    not all(map(shutil.which, ("gcc", "objcopy", "gdb"))), reason="no gcc, objcopy or gdb"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with DWARF."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "x.c").write_text(SOURCE)
    command = ["gcc", "-g", "-O1", "-o", folder / "program", folder / "x.c", f"-Wl,--build-id=0x{BUILD_ID}"]
    subprocess.run(list(map(str, command)), check=True)
    return folder / "program"


@pytest.fixture(scope="module")
def apart(built: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The program without DWARF, and its debug file, which nothing finds by itself."""
    folder = tmp_path_factory.mktemp("apart")
    bare, debug = folder / "bare", folder / "debug"
    subprocess.run(["objcopy", "--strip-all", built, bare], check=True)
    subprocess.run(["objcopy", "--only-keep-debug", built, debug], check=True)
    return bare, debug


def headers_of(path: Path) -> Headers:
    headers = opened_elf(str(path))
    assert headers is not None
    return headers


def calls_of(headers: Headers, names: re.Pattern[str], most: int) -> list[int]:
    """The last byte of each call in the functions so called: what a return address less one is."""
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    found = []
    for symbol in tables_of(headers)[0].named():
        if names.fullmatch(symbol.name) and symbol.size:
            code = bytes(headers.at_address(symbol.address, symbol.size))
            for address, size, mnemonic, _ in decoder.disasm_lite(code, symbol.address):
                if mnemonic == "call":
                    found.append(address + size - 1)
    return sorted(random.Random(3).sample(found, min(most, len(found))))


def gdbs(path: Path, folder: str, addresses: Sequence[int]) -> list[tuple[list[str], str, int]]:
    """What GDB tells of each: the functions, innermost first; the file's name; the line."""
    script, answer = path.parent / "ask.py", path.parent / "answer"
    script.write_text(
        f"import gdb, json\nfound = []\nfor address in {list(addresses)!r}:\n"
        "    block, names = gdb.block_for_pc(address), []\n"
        "    while block is not None and not block.is_static and not block.is_global:\n"
        "        if block.function:\n            names.append(block.function.name)\n"
        "        block = block.superblock\n"
        "    place = gdb.find_pc_line(address)\n"
        "    found.append([names, place.symtab.filename if place.symtab else '', place.line])\n"
        f"open({str(answer)!r}, 'w').write(json.dumps(found))\n"
    )
    setting = f"set debug-file-directory {folder}"
    subprocess.run(["gdb", "-nx", "-batch", "-iex", setting, str(path), "-x", str(script)], check=True)
    return [(names, os.path.basename(file), line) for names, file, line in json.loads(answer.read_text())]


def compared(path: Path, folder: str, addresses: Sequence[int], place: Path) -> float:
    """The share of addresses of which GDB tells the same; the functions have to be the same throughout."""
    found = FileLines(FileSymbols(headers_of(path), str(path), [folder]), place)
    same = 0
    for address, (names, file, line) in zip(addresses, gdbs(path, folder, addresses), strict=True):
        ours = found.at(address)
        assert [each.function for each in ours] == names, f"{address:#x}: {ours}"
        same += (os.path.basename(ours[0].file), ours[0].line) == (file, line)
    return same / len(addresses)


@needs_tools
def test_lines_and_inlined_functions_are_those_of_gdb(built: Path, tmp_path: Path) -> None:
    headers = headers_of(built)
    calls = calls_of(headers, re.compile("function|main"), 100)
    assert compared(built, "", calls, tmp_path) == 1
    chains = [FileLines(FileSymbols(headers, str(built), []), tmp_path).at(call) for call in calls]
    assert ["inner", "outer", "function"] in [[each.function for each in chain] for chain in chains]


@needs_tools
@pytest.mark.parametrize("version", ["3.14", "3.15"])
def test_lines_of_cpython_are_those_of_gdb(version: str, tmp_path: Path) -> None:
    python = Path(interpreter(version))
    folder = python.parents[1] / "lib/debug"
    if debug_file(headers_of(python), str(python), [str(folder)]) is None:
        pytest.skip("no debug symbols")
    link = tmp_path / python.name
    link.symlink_to(python)
    calls = calls_of(headers_of(python), re.compile("PyNumber_[A-F].*"), 60)
    assert compared(link, str(folder), calls, tmp_path) > 0.9  # GDB may name a macro's line


def test_a_table_is_made_once(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = headers_of(built)
    (call, *_) = calls_of(headers, re.compile("function"), 1)
    first = FileLines(FileSymbols(headers, str(built), []), tmp_path).at(call)
    assert first
    (kept,) = tmp_path.glob("lines-*/*")
    written = kept.stat().st_mtime_ns
    assert FileLines(FileSymbols(headers, str(built), []), tmp_path).at(call) == first
    assert kept.stat().st_mtime_ns == written
    # WHEN it is damaged
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    assert FileLines(FileSymbols(headers, str(built), []), tmp_path).at(call) == first
    assert kept.read_bytes() != data
    # WHEN nothing can be kept
    assert FileLines(FileSymbols(headers, str(built), []), Path("/proc/nowhere")).at(call) == first


def test_without_dwarf_there_are_no_lines(apart: tuple[Path, Path], tmp_path: Path) -> None:
    bare, _ = apart
    headers = headers_of(bare)
    assert FileLines(FileSymbols(headers, str(bare), []), tmp_path).at(headers.entry) == []


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "find_spec", lambda name: None)
    with pytest.raises(NoLineReader) as caught:
        lines.check_available()
    assert "pip install 'symbolic" in caught.value.hint


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[1:], lambda data: b"x" * 9]
)
def test_a_damaged_entry_counts_as_none(damage: object, tmp_path: Path) -> None:
    kept = Cache("kind", tmp_path)
    assert kept.get("abcd") is None
    path = kept.put("abcd", b"content")
    assert path is not None
    assert kept.get("abcd") == path
    assert path.read_bytes().startswith(b"content")
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    assert kept.get("abcd") is None
    assert kept.put("../evil", b"") is None


def test_many_writers_leave_one_whole_entry(tmp_path: Path) -> None:
    kept, content = Cache("kind", tmp_path), [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=kept.put, args=("abcd", each)) for each in content]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    path = kept.get("abcd")
    assert path is not None
    assert path.read_bytes()[:100_000] in content
    assert [entry.name for entry in path.parent.iterdir()] == ["abcd"]


def test_the_oldest_entries_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MOST_BYTES", 2500)
    kept = Cache("kind", tmp_path)
    for number, build_id in enumerate(("aaaa", "bbbb", "cccc")):
        path = kept.put(build_id, bytes(1000))
        assert path is not None
        os.utime(path, (number, number))
    kept.put("dddd", bytes(1000))
    found = [build_id for build_id in ("aaaa", "bbbb", "cccc", "dddd") if kept.get(build_id)]
    assert found == ["cccc", "dddd"]


# --- debuginfod


@pytest.fixture
def server(apart: tuple[Path, Path]) -> Iterator[tuple[str, list[str]]]:
    """A debuginfod's URL, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            is_known = self.path == f"/buildid/{BUILD_ID}/debuginfo"
            self.send_response(200 if is_known else 404)
            self.end_headers()
            if is_known:
                self.wfile.write(apart[1].read_bytes())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()
        thread.join()


@needs_tools
def test_debuginfod_is_asked_only_if_named_and_once(
    server: tuple[str, list[str]],
    apart: tuple[Path, Path],
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, asked = server
    bare, _ = apart
    monkeypatch.setenv(debuginfod.URLS, f"{url}/ file:///nowhere http://127.0.0.1:1")
    monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(tmp_path / "kept"))
    (call, *_) = calls_of(headers_of(built), re.compile("function"), 1)
    assert FileSymbols(headers_of(bare), str(bare), []).at(call) is None
    assert asked == []
    for _ in range(2):
        symbols = FileSymbols(headers_of(bare), str(bare), [], servers=debuginfod.servers())
        found = symbols.at(call)
        assert found is not None
        assert found.function == "function"
        assert FileLines(symbols, tmp_path).at(call)[-1].function == "function"
    assert asked == [f"/buildid/{BUILD_ID}/debuginfo"]
    assert debuginfod.debug_file("ab" * 16, debuginfod.servers()) is None
