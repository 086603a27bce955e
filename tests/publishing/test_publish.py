"""`publish`, and what the agent refuses."""

import contextlib
import ctypes
import mmap
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitunwind import Line, Region, UnwindTable, frame_pointer, publish
from jitunwind.agent import built
from jitunwind.agent.library import GDB, LIBGCC, loaded_agent, statistics
from jitunwind.arch.aarch64.registers import AARCH64, X19, X29, X30
from jitunwind.arch.known import decoder
from jitunwind.arch.x86_64.registers import RBP, RBX, RETURN_ADDRESS, RSP, X86_64
from jitunwind.errors import AgentFailed, BrokenInvariant
from jitunwind.publishing.described import described, frames_of
from jitunwind.recover.table import recover
from jitunwind.rows import SAME_VALUE, UNDEFINED, CfaRule, Row, SavedAt, Unknown
from jitunwind.tables.sources import decoded, sections_in
from tests.support.announced import Announced, RegionStruct, files, struct_of, with_rows
from tests.support.assembly import assemble, check_rows
from tests.support.machines import ARM
from tests.support.witnesses import JITUNWIND

SIZE = 0x40
ENTRY = Row(
    CfaRule(RSP, 8),
    (*((number, SAME_VALUE) for number in X86_64.callee_saved), (RETURN_ADDRESS, SavedAt(-8))),
)
TABLE = UnwindTable(SIZE, [0], [ENTRY])
CODE = 0x7F00_1234_5000
OF_FRAME = {RBX: UNDEFINED, RBP: SavedAt(-16), RETURN_ADDRESS: SavedAt(-8)}

CALLER = """
    push rbx      # rsp+8
    xor ebx, ebx  # rsp+16 rbx@-16
    sub rsp, 16   # rsp+16 rbx@-16
    call over     # rsp+32 rbx@-16
over:
    add rsp, 24   # rsp+40 rbx@-16
    pop rbx       # rsp+16 rbx@-16
    ret           # rsp+8
"""
FRAMED = """
    mov rax, [rbp+16]
    push rax
    mov rcx, rsp
    add rax, rcx
    jne over
    inc rax
over:
    leave
    ret
"""


UNREACHED = """
    sub rsp, 8
    jmp over
    nop
over:
    call rdi
    add rsp, 8
    ret
"""


@pytest.fixture
def page_to_run() -> Iterator[int]:
    """A page for code that is run."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        place = ctypes.c_char.from_buffer(page)
        yield ctypes.addressof(place)
        del place


@pytest.fixture
def memory() -> Iterator[int]:
    """A page that code may be in; it is read, and not run."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        place = ctypes.c_char.from_buffer(page)
        yield ctypes.addressof(place)
        del place


def found_by_libgcc(address: int) -> bool:
    find = ctypes.CDLL("libgcc_s.so.1")._Unwind_Find_FDE
    find.restype, find.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_void_p)
    return find(address, (ctypes.c_void_p * 3)()) is not None


def put(memory: int, code: bytes) -> Region:
    ctypes.memmove(memory, code, len(code))
    return Region(memory, len(code), "f")


class TestPublish:
    def test_a_region_is_published_until_it_is_withdrawn(self) -> None:
        before = statistics().regions
        publication = publish(Region(CODE, SIZE, "mine"), TABLE)
        assert len(files()) == 1
        assert b"mine\0" in files()[0]
        assert found_by_libgcc(CODE)
        assert found_by_libgcc(CODE + SIZE - 1)
        assert not found_by_libgcc(CODE + SIZE)
        assert (publication.region.name, publication.table) == ("mine", TABLE)
        publication.withdraw()
        assert not files()
        assert not found_by_libgcc(CODE)
        publication.withdraw()
        assert statistics().regions == before

    def test_regions_with_few_rows_and_with_very_many(self) -> None:
        """GIVEN regions that begin with one CIE, one of them with so many rows that malloc puts its frames far from
        all others', THEN libgcc and debuggers find the frames of each."""
        pushed = Row(CfaRule(RSP, 16), ENTRY.rules)
        count = 100_000
        many = UnwindTable(count, range(count), [ENTRY, pushed] * (count // 2))
        starts = [CODE, CODE + SIZE, CODE + 2 * SIZE + count]
        regions = [Region(CODE, SIZE, "f"), Region(CODE + SIZE, count, "g"), Region(starts[2], SIZE, "h")]
        tables = [TABLE, many, TABLE]
        with contextlib.ExitStack() as stack:
            for region, table in zip(regions, tables, strict=True):
                stack.enter_context(publish(region, table))
            assert all(found_by_libgcc(start + SIZE - 1) for start in starts)
            found = {
                start: table for image in files() for start, _, table in decoded(sections_in(image), X86_64)
            }
        assert list(found) == starts
        assert [len(table.rows) for table in found.values()] == [1, count, 1]

    def test_a_publication_is_withdrawn_where_its_block_ends(self) -> None:
        with publish(Region(CODE, SIZE, "f"), TABLE) as publication:
            assert files()
            assert publication.region.start == CODE
        assert not files()

    def test_each_consumer_is_told_if_it_is_named(self) -> None:
        with publish(Region(CODE, SIZE, "f"), TABLE, consumers=["gdb"]):
            assert files()
            assert not found_by_libgcc(CODE)
        with publish(Region(CODE, SIZE, "f"), TABLE, consumers=["libgcc"]):
            assert not files()
            assert found_by_libgcc(CODE)

    def test_where_nothing_is_known_the_stack_ends(self, tmp_path: Path) -> None:
        """GIVEN a table with a gap, THEN unwinders are told there that there is no return address."""
        table = UnwindTable(SIZE, [0, 8, 16], [ENTRY, Unknown("data"), ENTRY])
        with publish(Region(CODE, SIZE, "f"), table):
            (tmp_path / "gap.elf").write_bytes(files()[0])
            ((_, _, rows),) = JITUNWIND.read(tmp_path / "gap.elf")
        assert [row.rule(RETURN_ADDRESS) for row in rows.values() if isinstance(row, Row)] == [
            SavedAt(-8),
            UNDEFINED,
            SavedAt(-8),
        ]

    def test_the_table_is_recovered_from_the_code(self, memory: int) -> None:
        code = assemble(CALLER)
        with publish(put(memory, code.bytes)) as publication:
            check_rows(code, publication.table)
            assert found_by_libgcc(memory)

    def test_a_walk_behind_code_that_no_path_leads_to_ends(self, page_to_run: int) -> None:
        """GIVEN a function with an instruction that is never reached, and a call behind it, WHEN backtrace() is called
        there, THEN it comes to the process's outermost frame, and to the function once. (libgcc has no rule of a CIE's
        to go back to: what is said of the unreached instruction must not hold behind it.)"""
        walks: list[list[int]] = []

        def walk() -> None:
            pcs = (ctypes.c_void_p * 2000)()
            count = ctypes.CDLL(None).backtrace(pcs, len(pcs))
            walks.append([pc or 0 for pc in pcs[:count]])

        code = assemble(UNREACHED).bytes
        region, found = (
            put(page_to_run, code),
            recover(X86_64, code, decoder(X86_64), {0: X86_64.at_entry(X86_64.platform)}),
        )
        rows = [
            Row(*row) if isinstance(row, Row) else row for row in found.rows
        ]  # none is another's own self
        called = ctypes.CFUNCTYPE(None)(walk)
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(region.start)
        assert any(isinstance(row, Unknown) for row in rows)
        with publish(region, UnwindTable(found.size, found.offsets, rows)):
            walk()
            function(ctypes.cast(called, ctypes.c_void_p))
        outside, inside = walks
        assert sum(region.start <= pc < region.end for pc in inside) == 1
        assert inside[-8:] == outside[-8:]

    def test_names_with_any_characters(self) -> None:
        name = "py::f:/tmp/\udcff\0é\n.py"
        with publish(Region(CODE, SIZE, name), TABLE, lines=[Line(0, "/tmp/\udcff.py", 1)]):
            assert "é".encode() in files()[0]

    def test_overlaps_are_refused(self) -> None:
        with publish(Region(CODE, SIZE, "f"), TABLE):
            for start in (CODE - SIZE + 1, CODE, CODE + SIZE - 1):
                with pytest.raises(AgentFailed, match="overlaps"):
                    publish(Region(start, SIZE, "g"), TABLE)
            with (
                publish(Region(CODE - SIZE, SIZE, "g"), TABLE),
                publish(Region(CODE + SIZE, SIZE, "h"), TABLE),
            ):
                assert statistics().regions == 3
        assert statistics().regions == 0

    @pytest.mark.parametrize(
        ("region", "table", "consumers", "words"),
        [
            (Region(CODE, SIZE - 1, "f"), TABLE, ["gdb"], "0x40 bytes, the region of 0x3f"),
            (Region(CODE, 0, "f"), TABLE, ["gdb"], "are no region"),
            (Region(CODE, -1, "f"), TABLE, ["gdb"], "are no region"),
            (Region(0, SIZE, "f"), TABLE, ["gdb"], "are no region"),
            (Region((1 << 64) - SIZE + 1, SIZE, "f"), TABLE, ["gdb"], "are no region"),
            (Region(CODE, SIZE, "f"), TABLE, [], "consumers are some of"),
            (Region(CODE, SIZE, "f"), TABLE, ["gdb", "perf"], "'perf'"),
            (Region(CODE, SIZE, "f"), "guess", ["gdb"], "'guess'"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, region: Region, table: UnwindTable, consumers: list[str], words: str
    ) -> None:
        if table == "guess":
            region = Region(id(SIZE), 8, "f")
        with pytest.raises(ValueError, match=words):
            publish(region, table, consumers=consumers)
        assert not files()


class TestFramePointer:
    def test_code_that_keeps_its_frame_pointer(self, memory: int) -> None:
        code = assemble(FRAMED)
        body = assemble(FRAMED.replace("    leave\n    ret\n", "    jmp rdx\n"))
        with publish(put(memory, body.bytes), frame_pointer()) as publication:
            (row,) = publication.table.rows
            assert isinstance(row, Row)
            assert row.cfa == CfaRule(RBP, 16)
            assert {number: row.rule(number) for number in OF_FRAME} == OF_FRAME
            assert found_by_libgcc(memory)
        with pytest.raises(BrokenInvariant, match=f"at \\+{code.bytes.index(0xC3):#x} the CFA is not rbp"):
            publish(put(memory, code.bytes), frame_pointer())

    @pytest.mark.parametrize(
        ("source", "at"),
        [
            ("mov rbp, rax\n at: ret", "at"),
            ("inc rbp\n at: jmp rdx", "at"),
            ("test rax, rax\n je over\n mov rbp, rsp\n at: nop\n over: jmp rdx", "at"),
            ("mov [rbp], rax\n at: jmp rdx", "at"),
            ("mov [rbp + 8], rax\n at: jmp rdx", "at"),
        ],
    )
    def test_code_that_does_not(self, memory: int, source: str, at: str) -> None:
        """The message names the first instruction at which it holds no more; nothing is published."""
        code = assemble(source)
        with pytest.raises(BrokenInvariant, match=rf"at \+{code.labels[at]:#x} "):
            publish(put(memory, code.bytes), frame_pointer())
        assert not files()


def a64(source: str) -> tuple[bytes, dict[str, int]]:
    """AArch64's machine code, and its labels' offsets."""
    tools = ARM.needed().tools
    with tempfile.TemporaryDirectory() as folder:
        made, raw = Path(folder, "made.o"), Path(folder, "raw")
        subprocess.run([f"{tools}as", "-o", made, "-"], input=f"{source}\n", text=True, check=True)
        subprocess.run([f"{tools}objcopy", "-O", "binary", "-j", ".text", made, raw], check=True)
        names = subprocess.run([f"{tools}nm", made], capture_output=True, text=True, check=True).stdout
        labels = re.findall(r"^([0-9a-f]+) t (\w+)$", names, re.MULTILINE)
        return raw.read_bytes(), {name: int(offset, 16) for offset, name in labels}


@pytest.mark.aarch64
class TestFramePointerOfAArch64:
    """There the return address lies behind the caller's frame pointer, wherever the CFA is."""

    @pytest.mark.parametrize("offset", [16, 96])
    def test_code_that_keeps_its_frame_pointer(self, offset: int) -> None:
        code, _ = a64(
            "ldr x0, [x29, #24]\n str x0, [sp, #-16]!\n blr x1\n cbz x0, over\n mov x30, x0\n over: br x2"
        )
        (row,) = frame_pointer(offset).checked(AARCH64, code, decoder(AARCH64)).rows
        assert isinstance(row, Row)
        assert row.cfa == CfaRule(X29, offset)
        assert (row.rule(X29), row.rule(X30)) == (SavedAt(-offset), SavedAt(8 - offset))
        assert row.rule(X19) == UNDEFINED

    @pytest.mark.parametrize(
        "source",
        [
            "mov x29, sp\n at: ret",
            "ldp x29, x30, [sp], #16\n at: ret",
            "str x0, [x29]\n at: br x2",
            "str x0, [x29, #8]\n at: br x2",
            "cbz x0, over\n add x29, x29, #16\n at: nop\n over: br x2",
        ],
    )
    def test_code_that_does_not(self, source: str) -> None:
        code, labels = a64(source)
        with pytest.raises(BrokenInvariant, match=rf"at \+{labels['at']:#x} the CFA is not x29 \+ 16"):
            frame_pointer().checked(AARCH64, code, decoder(AARCH64))


def row_at(offset: int = 0, register: int = RSP, cfa: int = 8) -> tuple[int, Row]:
    return offset, Row(CfaRule(register, cfa), ((RETURN_ADDRESS, SavedAt(-8)),))


def rows_with(**fields: int) -> RegionStruct:
    """A region that makes sense, but for its rule's fields."""
    struct = with_rows(CODE, SIZE, [row_at()])
    for name, value in fields.items():
        setattr(struct.kept[0].rules[0], name, value)
    return struct


def lines_with(*lines: tuple[int, int], **fields: object) -> RegionStruct:
    """A region with lines of a file, given by offset and number."""
    rows = [Line(offset, "/tmp/f.py", line) for offset, line in lines or [(0, 1)]]
    struct = struct_of(described(Region(CODE, SIZE, "f"), frames_of(X86_64, CODE, TABLE), rows))
    for name, value in fields.items():
        setattr(struct, name, value)
    return struct


def without_file() -> RegionStruct:
    struct = lines_with()
    struct.kept[0].file = None
    return struct


CIE = bytes([20, 0, 0, 0, 0, 0, 0, 0, 1, *b"zR\0", 1, 0x78, 16, 1, 0, 0x0C, 7, 8, 0x90, 1, 0, 0])


def fde(start: int = CODE, size: int = SIZE, length: int = 28, cie: int = 28) -> bytes:
    words = (length.to_bytes(4, "little"), cie.to_bytes(4, "little"))
    return b"".join((*words, start.to_bytes(8, "little"), size.to_bytes(8, "little"), bytes(8)))


def frames(data: bytes) -> RegionStruct:
    return RegionStruct(start=CODE, size=SIZE, name=b"f", eh_frame=data, eh_frame_size=len(data))


SENSELESS = {
    "no name": lambda: RegionStruct(start=CODE, size=SIZE),
    "no size": lambda: RegionStruct(start=CODE, name=b"f"),
    "around the end": lambda: RegionStruct(start=(1 << 64) - 1, size=2, name=b"f"),
    "first row not at 0": lambda: with_rows(CODE, SIZE, [row_at(1)]),
    "rows that fall": lambda: with_rows(CODE, SIZE, [row_at(), row_at(8), row_at(8)]),
    "a row behind the end": lambda: with_rows(CODE, SIZE, [row_at(), row_at(SIZE)]),
    "a CFA of no general register": lambda: with_rows(CODE, SIZE, [row_at(register=200)]),
    "a rule of no kind": lambda: rows_with(kind=4),
    "an FDE for other code": lambda: frames(CIE + fde(CODE - 1)),
    "an FDE that is too long": lambda: frames(CIE + fde(size=SIZE + 1)),
    "an FDE around the end": lambda: frames(CIE + fde(size=(1 << 64) - 1)),
    "an entry that is cut": lambda: frames((CIE + fde())[:-1]),
    "an entry of 64-bit DWARF": lambda: frames(CIE + fde(length=0xFFFFFFFF)),
    "a terminator": lambda: frames(CIE + fde() + bytes(4)),
    "a CIE before the first entry": lambda: frames(CIE + fde(cie=29)),
    "an entry that is all of it": lambda: lines_with(entry_name=b"e", entry_size=SIZE),
    "an entry without a name": lambda: lines_with(entry_name=None, entry_size=4),
    "lines in the entry": lambda: lines_with((3, 1), entry_name=b"e", entry_size=4),
    "lines that fall": lambda: lines_with((1, 1), (0, 2)),
    "a line behind the end": lambda: lines_with((0, 1), (SIZE, 2)),
    "a line of no file": without_file,
    "a line beyond all numbers": lambda: lines_with((0, 1 << 31)),
}


class TestAgent:
    @pytest.mark.parametrize("what", SENSELESS)
    def test_what_makes_no_sense_is_refused(self, what: str) -> None:
        with (
            pytest.raises(AgentFailed, match="makes no sense"),
            Announced([SENSELESS[what]()], (GDB, LIBGCC)),
        ):
            pass
        assert statistics().regions == 0

    @pytest.mark.parametrize(
        "struct",
        [with_rows(CODE, SIZE, [row_at()]), lines_with(), frames(CIE + fde()), frames(CIE), frames(b"")],
        ids=["rows", "lines", "frames", "no FDE", "no frames"],
    )
    def test_what_makes_sense_is_not(self, struct: RegionStruct) -> None:
        with Announced([struct], (GDB, LIBGCC)):
            assert len(files()) == 1
        assert statistics().regions == 0

    def test_consumers_that_there_are_none_of(self) -> None:
        with pytest.raises(AgentFailed, match="makes no sense"), Announced([lines_with()], (), 1 << 7):
            pass

    def test_all_or_none(self) -> None:
        """GIVEN regions of which the last overlaps the first, THEN none is published."""
        good = with_rows(CODE, SIZE, [row_at()]), with_rows(CODE + SIZE, SIZE, [row_at()])
        bad = with_rows(CODE + SIZE - 1, 1, [row_at()])
        with pytest.raises(AgentFailed, match="overlaps"), Announced([*good, bad], (GDB, LIBGCC)):
            pass
        assert not files()
        assert not found_by_libgcc(CODE)
        with Announced(good, (GDB, LIBGCC)):
            assert found_by_libgcc(CODE + SIZE)

    def test_a_range_is_withdrawn_with_all_that_lies_in_it(self) -> None:
        Announced(
            [with_rows(CODE + SIZE * index, SIZE, [row_at()]) for index in range(40)], (GDB, LIBGCC)
        ).__enter__()
        loaded_agent().withdraw_range(CODE + SIZE + 1, 37 * SIZE)
        known = [index for index in range(40) if loaded_agent().knows(CODE + SIZE * index)]
        assert known == [0, 39]
        assert found_by_libgcc(CODE)
        assert not found_by_libgcc(CODE + SIZE)
        loaded_agent().withdraw_range(CODE, 40 * SIZE)
        assert statistics().regions == 0
        assert not files()


def test_consumers_have_the_bits_of_the_header() -> None:
    header = Path(built.FOLDER, "jitunwind.h").read_text()
    bits = {
        name.lower(): int(bit) for name, bit in re.findall(r"^#define JITUNWIND_(\w+) (\d+)u", header, re.M)
    }
    assert loaded_agent().consumers == bits
