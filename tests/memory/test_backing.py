"""The file behind a mapping: the one that the process has, though it was deleted, replaced, or is in a container."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jitunwind.elf.headers import PT_INTERP, PT_NOTE, Headers
from jitunwind.errors import BadCore, NotPython, UnreadableMemory
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.memory.backing import FIRST_BYTES, BackingFile, LiveFiles, OpenFile, exported
from jitunwind.memory.core import holds_stacks, program_here, program_of
from jitunwind.memory.corefile import CoreFile
from jitunwind.memory.maps import FileMapping, parse_file_mappings
from jitunwind.memory.process import LiveProcess
from jitunwind.stacks.symbols import Symbols
from tests.support.live import numba_for
from tests.support.processes import PROGRAMS, VERSIONS, Program, interpreter

Start = Callable[[Path, Path], Program]
WAITS = "import sys; print(flush=True); sys.stdin.read()"


def environment(python: Path) -> dict[str, str]:
    """For a copy of `python` that lies elsewhere."""
    return {"PYTHONHOME": str(python.parents[1]), "LD_LIBRARY_PATH": str(python.parents[1] / "lib")}


def copied(python: Path, folder: Path) -> Program:
    copy = folder / python.name
    shutil.copy(python, copy)
    return Program([copy, PROGRAMS / "loop.py"], environment=environment(python))


def deleted(python: Path, folder: Path) -> Program:
    program = copied(python, folder).warm()
    (folder / python.name).unlink()
    return program


def replaced(python: Path, folder: Path) -> Program:
    program = deleted(python, folder)
    shutil.copy(shutil.which("true") or sys.executable, folder / python.name)
    return program


def in_memory(python: Path, folder: Path) -> Program:
    """Executed from a file without a path (memfd_create(2))."""
    start = (
        "import os, sys; file = os.memfd_create('python'); os.write(file, open(sys.argv[1], 'rb').read());"
        "os.execv(f'/proc/self/fd/{file}', ['python', *sys.argv[2:]])"
    )
    arguments = [sys.executable, "-I", "-c", start, python, PROGRAMS / "loop.py"]
    return Program(arguments, environment=environment(python))


def by_loader(python: Path, folder: Path) -> Program:
    """Started through the dynamic loader, as bundlers do."""
    headers = Headers(python.read_bytes())
    (segment,) = (each for each in headers.segments if each.kind == PT_INTERP)
    loader = bytes(headers.data[segment.offset :][: segment.stored]).rstrip(b"\0").decode()
    return Program([loader, python, PROGRAMS / "loop.py"], environment=environment(python))


def below_another_root(python: Path, folder: Path) -> Program:
    """In a mount namespace in which another file has the interpreter's path."""
    other = folder / "other"
    shutil.copy(python, other)
    other.chmod(0o755)
    path = folder / python.name
    shutil.copy(shutil.which("true") or sys.executable, path)
    script = 'mount --bind "$1" "$2" && exec "$2" "$3"'
    arguments = ["unshare", "--mount", "sh", "-c", script, "sh", other, path, PROGRAMS / "loop.py"]
    return Program(arguments, environment=environment(python))


STARTS: list[Start] = [copied, deleted, replaced, in_memory, by_loader, below_another_root]


def can_unshare() -> bool:
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


def code_of_python(files: LiveFiles, build_id: str) -> BackingFile:
    (found,) = (file for file in files.files() if file.build_id == build_id)
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.__name__)
def test_the_file_is_the_one_that_is_mapped(start: Start, version: str, tmp_path: Path) -> None:
    if start is below_another_root and not can_unshare():
        pytest.skip("no mount namespaces for this user")
    python = Path(interpreter(version))
    true_headers = Headers(python.read_bytes())
    with start(python, tmp_path) as program:
        program.warm()
        with LiveProcess(program.pid) as memory:
            file = code_of_python(memory.files, true_headers.build_id)
            assert file.place is not None
            assert bytes(file.data) == python.read_bytes()
            assert memory.files.warnings == []
            # THEN everything that reads CPython from outside works, too
            address = memory.symbol("Py_BytesMain")
            assert address == exported(true_headers, file.bias)["Py_BytesMain"]
            assert read_layout(memory).version[:2] == tuple(map(int, version.split(".")))
            name = Symbols(memory.files, []).name_at(address + 1)
            assert name == ("Py_BytesMain", 1)
        assert program.goes_on()


class _WithoutFiles(LiveFiles):
    """As for a user who may open none of them."""

    def _candidates(self, mapping: FileMapping) -> Iterator[OpenFile]:
        return iter(())


@pytest.mark.parametrize("version", VERSIONS)
def test_without_the_file_the_memory_of_the_process_has_what_is_mapped(version: str) -> None:
    python = Path(interpreter(version))
    true_headers = Headers(python.read_bytes())
    with Program([python, PROGRAMS / "loop.py"]) as program:
        program.warm()
        with LiveProcess(program.pid) as memory:
            files = _WithoutFiles(program.pid, memory)
            file = code_of_python(files, true_headers.build_id)
            assert file.place is None
            assert exported(file.headers, file.bias) == exported(true_headers, file.bias)
            (warning,) = (each for each in files.warnings if str(python.resolve()) in each)
            assert f"(build-id {true_headers.build_id}) is known from the process's memory alone" in warning


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_a_file_without_a_build_id_is_believed_by_its_first_page(tmp_path: Path) -> None:
    source, program = tmp_path / "x.c", tmp_path / "program"
    source.write_text("#include <unistd.h>\nint main(void) { char c; return read(0, &c, 1); }\n")
    subprocess.run(["gcc", "-Wl,--build-id=none", "-o", program, source], check=True)
    same, other = tmp_path / "same", tmp_path / "other"
    shutil.copy(program, same)
    source.write_text("int main(int a, char **b) { return 7 + a; } int f(void) { return 1; }\n")
    subprocess.run(["gcc", "-Wl,--build-id=none", "-o", other, source], check=True)

    class Found(LiveFiles):
        """As where inodes tell nothing: on some overlay file systems."""

        place = same

        def _candidates(self, mapping: FileMapping) -> Iterator[OpenFile]:
            if mapping.path == str(program):
                yield OpenFile(os.open(self.place, os.O_RDONLY), str(self.place))

    with Program([program]) as running:
        running.settle()
        with LiveProcess(running.pid) as memory:
            code = next(
                each for each in memory.files.mappings if each.path == str(program) and each.executable
            )
            file = Found(running.pid, memory).at(code.start)
            assert file is not None
            assert file.place == str(same)
            Found.place = other
            files = Found(running.pid, memory)
            file = files.at(code.start)
            assert file is not None
            assert file.place is None
            assert "is known from the process's memory alone" in files.warnings[0]


def test_the_vdso_is_a_file_like_others() -> None:
    with LiveProcess(os.getpid()) as memory:
        mapping = next((each for each in memory.files.mappings if each.path == "[vdso]"), None)
        if mapping is None:
            pytest.skip("no vDSO")
        file = memory.files.at(mapping.start)
        assert file is not None
        clock = exported(file.headers, file.bias)
        assert any(name.startswith(("__vdso_", "__kernel_")) for name in clock)
        assert memory.files.warnings == []


# --- cores


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcore") is None:
        pytest.skip("no gcore")
    folder = tmp_path_factory.mktemp("core")
    with Program([interpreter("3.14"), PROGRAMS / "loop.py"]) as program:
        program.warm()
        subprocess.run(["gcore", "-o", folder / "core", str(program.pid)], capture_output=True, check=True)
    return folder / f"core.{program.pid}"


def with_other_library(core: Path, folder: Path) -> tuple[Path, str, str]:
    """A system root in which libm is another file; its path in the process, and the build-id that it had there."""
    with CoreFile(core, None) as memory:
        libm = next(file for file in memory.files.files() if "libm.so" in file.path)
        other = next(file for file in memory.files.files() if "libc.so" in file.path)
        for file in memory.files.files():
            copy = Path(f"{folder}{file.path}")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(other.path if file == libm else file.path, copy)
        return folder, libm.path, libm.build_id


@pytest.mark.live
@pytest.mark.one_version("files of a core do not depend on the version")
def test_a_cores_files_are_those_with_its_build_ids(core: Path, tmp_path: Path) -> None:
    root, path, _ = with_other_library(core, tmp_path)
    with CoreFile(core, None, root) as memory:
        places = {file.path: file.place for file in memory.files.files()}
        assert places[path] == path  # the one in the system root is another
        assert all(place == f"{root}{name}" for name, place in places.items() if name != path)
        assert memory.files.warnings == []


def test_a_library_whose_notes_were_moved_to_its_end_is_the_same(tmp_path: Path) -> None:
    """As patchelf does, by which wheels are made to bring their libraries."""
    library = next((numba_for("3.14") / "numpy.libs").glob("libquadmath*"))
    with library.open("rb") as file:
        headers = Headers(file.read())
    assert headers.build_id
    assert all(each.offset > FIRST_BYTES for each in headers.segments if each.kind == PT_NOTE)
    loads = f"import ctypes, sys; ctypes.CDLL({str(library)!r}); {WAITS}"
    with Program([sys.executable, "-c", loads]) as program:
        program.settle()
        command = ["gcore", "-o", tmp_path / "core", str(program.pid)]
        subprocess.run(command, capture_output=True, check=True)
    with CoreFile(tmp_path / f"core.{program.pid}", None) as memory:
        memory.files.find_all()
        assert not [warning for warning in memory.files.warnings if library.name in warning]
        assert library.name in [Path(file.place or "").name for file in memory.files.files()]


@pytest.mark.live
@pytest.mark.one_version("files of a core do not depend on the version")
def test_another_or_missing_file_is_named_and_not_read(core: Path, tmp_path: Path) -> None:
    moved = tmp_path / "core"
    with CoreFile(core, None) as memory:
        libm = next(file for file in memory.files.files() if "libm.so" in file.path)
    here = tmp_path / ("x" * (len(libm.path) - len(str(tmp_path)) - 1))
    moved.write_bytes(core.read_bytes().replace(libm.path.encode(), str(here).encode()))
    code = next(
        mapping for mapping in memory.files.mappings if "libm.so" in mapping.path and mapping.executable
    )
    for what in ("is not here", "is another file"):
        if what == "is another file":
            shutil.copy("/proc/self/exe", here)
        with CoreFile(moved, None) as memory:
            memory.files.at(code.start)
            (warning,) = memory.files.warnings
            assert warning.startswith(f"{here} (build-id {libm.build_id}) ")
            assert what in warning
            with pytest.raises(UnreadableMemory):
                memory.read(code.start, 16)


@pytest.mark.live
@pytest.mark.one_version("files of a core do not depend on the version")
def test_a_program_of_another_build_is_refused(core: Path, tmp_path: Path) -> None:
    python = Path(interpreter("3.14"))
    build_id = Headers(python.read_bytes()).build_id
    other = tmp_path / "python"
    other.write_bytes(python.read_bytes().replace(bytes.fromhex(build_id), bytes(len(build_id) // 2)))
    with pytest.raises(BadCore) as caught:
        program_here(core, str(other))
    said = f"left by {python} (build-id {build_id}), not by this {other} (build-id {'0' * len(build_id)})"
    assert said in str(caught.value)
    assert program_here(core, str(python)) == python


def hollow(core: Path, folder: Path) -> Path:
    """As the kernel writes it with coredump_filter 0: all segments are there, and none is stored."""
    data = bytearray(core.read_bytes())
    (start,) = struct.unpack_from("<Q", data, 32)
    (count,) = struct.unpack_from("<H", data, 56)
    for header in range(start, start + 56 * count, 56):
        if data[header] == 1:  # PT_LOAD
            data[header + 32 : header + 40] = bytes(8)  # p_filesz
    path = folder / "hollow"
    path.write_bytes(data)
    return path


@pytest.mark.live
@pytest.mark.one_version("files of a core do not depend on the version")
def test_what_a_core_leaves_out_of_writable_memory_is_not_known(core: Path, tmp_path: Path) -> None:
    assert holds_stacks(core)
    empty = hollow(core, tmp_path)
    assert not holds_stacks(empty)
    with CoreFile(empty, None) as memory:
        with pytest.raises(NotPython, match="cannot be read"):
            read_layout(memory)
        (warning,) = memory.files.warnings
        assert "the core does not hold their first pages: python3.14, " in warning


@pytest.mark.live
@pytest.mark.one_version("files of a core do not depend on the version")
@pytest.mark.skipif(shutil.which("gcore") is None, reason="no gcore")
def test_the_program_of_a_core_is_not_the_loader_that_started_it(tmp_path: Path) -> None:
    python = Path(interpreter("3.14"))
    with by_loader(python, tmp_path) as program:
        program.warm()
        subprocess.run(["gcore", "-o", tmp_path / "c", str(program.pid)], capture_output=True, check=True)
    core = tmp_path / f"c.{program.pid}"
    assert program_of(core).path == str(python)
    assert program_here(core, str(python)) == python
    with CoreFile(core, program_here(core, None)) as memory:
        assert read_layout(memory).version[:2] == (3, 14)


def test_lines_of_the_kernels_list_that_name_files() -> None:
    text = (
        "00400000-00421000 r-xp 00001000 fe:0a 16058659                 /opt/a b/py\\012thon (deleted)\n"
        "01000000-01200000 rw-p 00000000 00:00 0                          [heap]\n"
        "7f0000000000-7f0000002000 r-xp 00000000 00:00 0 \n"
        "7ffd00021000-7ffd00023000 r-xp 00000000 00:00 0                  [vdso]\n"
    )
    assert parse_file_mappings(text) == [
        FileMapping(0x400000, 0x421000, 0x1000, True, "/opt/a b/py\nthon (deleted)", (0xFE, 0xA), 16058659),
        FileMapping(0x7FFD00021000, 0x7FFD00023000, 0, True, "[vdso]"),
    ]
