"""Dumps of JIT code: into a file and back, as other tools read them, and damaged ones."""

import random
import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.dwarf.frames import EhFrame
from jitunwind.errors import BadDump
from jitunwind.jits.cpython.regions import ENTRY_NAME, SHIM_NAME
from jitunwind.jits.cpython.stencils.x86_64 import SHIM
from jitunwind.jits.dump import Dump, load, save
from jitunwind.region import Region, RegionKind
from tests.support.codes import cpython_code
from tests.support.files import write_anew

RET = b"\x90" * 100 + b"\xc3"
OWN_SHIM = SHIM + b"\xe8\x01\x00\x00\x00\xc3"  # push …; call +1; ret
OF_3_14 = Dump(
    "CPython 3.14.10",
    X86_64,
    [
        cpython_code(0x7F00_0000_0000, OWN_SHIM + RET, len(OWN_SHIM), 0),
        cpython_code(0x7F00_0000_2000, RET, 0, 0),
    ],
    ["py::work:/tmp/hot.py", "py::jit_executor:<jit>"],
    own_gate_name=SHIM_NAME,
)
OF_3_15 = Dump(
    "CPython 3.15.2",
    X86_64,
    [cpython_code(0x7F00_0000_0000, RET, 0, 0)],
    ["py::weigh:/tmp/hot.py"],
    [EhFrame(0x7F00_0000_1002, b"\0" * 4), EhFrame(0x1234, b"\0" * 8)],
    Region(0x87F384, 52, ENTRY_NAME, RegionKind.SHIM),
    b"\x55" * 52,
)
BOTH = pytest.mark.parametrize("dump", [OF_3_14, OF_3_15], ids=["3.14", "3.15"])


@BOTH
def test_what_is_saved_is_loaded(dump: Dump, tmp_path: Path) -> None:
    path = tmp_path / "jit.dump"
    path.write_bytes(save(dump))
    assert load(path) == dump


@BOTH
def test_a_dump_finds_code_by_its_addresses(dump: Dump) -> None:
    first = dump.codes[0]
    assert dump.find(first.start) is dump.find(first.start + first.size - 1) is first
    assert dump.find(first.start - 1) is dump.find(first.start + first.size) is None
    assert dump.may_hold(first.start) is not None
    assert [part.name for part in dump.pieces(first)][-1] == dump.names[0]
    assert sum(part.size for part in dump.pieces(first)) == first.size


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_objdump_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "jit.dump"
    path.write_bytes(save(OF_3_14))
    said = subprocess.run(["objdump", "-d", path], capture_output=True, text=True, check=True).stdout
    assert "00007f0000000000 <py::jit_shim:<jit>>:" in said
    assert "<py::work:/tmp/hot.py" in said
    assert "7f0000002064:\tc3" in said


@BOTH
def test_every_shorter_file_is_refused(dump: Dump, tmp_path: Path) -> None:
    data, cut = save(dump), tmp_path / "cut"
    for size in range(len(data)):
        write_anew(cut, data[:size])
        with pytest.raises(BadDump):
            load(cut)


@BOTH
def test_damaged_bytes_raise_nothing_else(dump: Dump, tmp_path: Path) -> None:
    chance, data, damaged = random.Random(11), save(dump), tmp_path / "damaged"
    headers = [*range(64), *range(len(data) - 64 * 8, len(data))]
    for _ in range(6000):
        spoiled = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            at = chance.choice(headers) if chance.random() < 0.7 else chance.randrange(len(spoiled))
            spoiled[at] = chance.choice([0, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        write_anew(damaged, spoiled)
        with suppress(BadDump):
            load(damaged)


def test_other_files_are_refused(tmp_path: Path) -> None:
    garbage, other, risc = tmp_path / "garbage", Path(shutil.which("true") or "/bin/true"), tmp_path / "risc"
    garbage.write_bytes(b"no ELF file at all")
    data = bytearray(save(OF_3_14))
    struct.pack_into("<H", data, 18, 243)  # e_machine: EM_RISCV
    risc.write_bytes(data)
    for path, message in (
        (garbage, "is no dump"),
        (other, "no dump of JIT code"),
        (risc, "is of machine 243"),
        (tmp_path / "missing", "cannot be read: No such file"),
    ):
        with pytest.raises(BadDump, match=message):
            load(path)
