"""What a core file says of itself: its architecture, whether it is whole, its program, its segments.

System V gABI, chapters 4 and 5; the notes as the Linux kernel writes them (fs/binfmt_elf.c).
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from signal import SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP
from typing import BinaryIO, NamedTuple

from jitunwind.arch import Architecture
from jitunwind.arch.known import ARCHITECTURES, of_machine
from jitunwind.arch.machine import Machine
from jitunwind.elf.headers import Headers
from jitunwind.errors import BadCore, NotElf
from jitunwind.memory.backing import FIRST_BYTES, asks_for_loader, is_loader

_ET_DYN, _ET_CORE = 3, 4
_PT_LOAD = 1
_PT_NOTE = 4
_PF_X, _PF_W = 1, 2
_MOST_HEADERS = 1 << 20
_PN_XNUM = 0xFFFF
"""With more headers than this, e_phnum is this, and the number stands in the first section's sh_info."""
_NT_PRSTATUS, _NT_PRPSINFO, _NT_AUXV = 1, 3, 6
_NT_FILE, _NT_SIGINFO = 0x46494C45, 0x53494749
_CURSIG, _STATUS_PID = struct.Struct("<12xH"), struct.Struct("<32xI")
"""Of struct elf_prstatus (Linux include/linux/elfcore.h) of a 64-bit process: pr_cursig and pr_pid."""
_STATUS_REGISTERS = 112
"""Of struct elf_prstatus: pr_reg."""
_INFO_PID = struct.Struct("<24xI")
"""Of struct elf_prpsinfo: pr_pid."""
_ARGUMENTS, _LONGEST_ARGUMENTS = 56, 80
"""Of struct elf_prpsinfo: pr_psargs, which the kernel cuts there."""
_SIGINFO = struct.Struct("<iii4xQ")
"""siginfo_t of a 64-bit process (sigaction(2)): si_signo, si_errno, si_code, and si_addr or si_pid."""
_AT_ENTRY, _AT_EXECFN = 9, 31
_LONGEST_PATH = 4096
_MOST_NOTES = 1 << 26
_ELF_HEADER, _PAGE = 64, 4096
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SH_INFO = 44


class Segment(NamedTuple):
    """A PT_LOAD program header: [start, end) of the process, in the file from `offset` for `stored` bytes."""

    start: int
    end: int
    executable: bool
    offset: int
    stored: int
    writable: bool


def _program_headers(file: BinaryIO) -> Iterator[tuple[int, ...]]:
    """(p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align) of each header."""
    header = _at(file, 0, _ELF_HEADER)
    if len(header) < _ELF_HEADER:
        raise BadCore(f"{file.name} is cut short: it ends inside its ELF header")
    (offset,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    if count == _PN_XNUM:
        (sections,) = struct.unpack_from("<Q", header, 40)
        count = int.from_bytes(_at(file, sections + _SH_INFO, 4), "little")
    if size != _PROGRAM_HEADER.size or not 0 < count <= _MOST_HEADERS:
        raise BadCore(f"{file.name}: its program headers make no sense")
    table = _at(file, offset, size * count)
    if len(table) < size * count:
        raise BadCore(f"{file.name} is cut short: it ends inside its program headers")
    yield from _PROGRAM_HEADER.iter_unpack(table)


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Up to `size` bytes of the file from `offset`: fewer, or none, where it ends before."""
    if offset >= os.fstat(file.fileno()).st_size:
        return b""
    file.seek(offset)
    return file.read(size)


def load_segments(path: str) -> list[Segment]:
    """The segments of the core at `path`. BadCore, OSError."""
    with Path(path).open("rb") as file:
        return [
            Segment(address, address + in_memory, bool(flags & _PF_X), offset, in_file, bool(flags & _PF_W))
            for kind, flags, offset, address, _, in_file, in_memory, _ in _program_headers(file)
            if kind == _PT_LOAD
        ]


def is_code(path: Path, offset: int) -> bool:
    """Whether the ELF file at `path` has machine code at that offset; not, where there is no such file."""
    if not path.is_file():  # a core may name what is none, and opening that can wait for ever
        return False
    try:
        with path.open("rb") as file:
            return any(
                kind == _PT_LOAD and flags & _PF_X and start <= offset < start + in_file
                for kind, flags, start, _, _, in_file, _, _ in _program_headers(file)
            )
    except (OSError, BadCore):
        return False


def is_core(path: Path) -> bool:
    """Whether there is an ELF core file at `path`."""
    if not path.is_file():  # to open a pipe can take for ever
        return False
    try:
        with path.open("rb") as file:
            header = file.read(18)
    except OSError:
        return False
    return header[:4] == b"\x7fELF" and len(header) == 18 and header[16] == _ET_CORE


def check_core(path: Path) -> Architecture:
    """The architecture of the process that left the core at `path`. BadCore, unless there is a whole one."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise BadCore(
            f"{path} is a device, a pipe or a socket, and no file", "name a process number or a core file"
        )
    try:
        with path.open("rb") as file:
            header = file.read(64)
        size = path.stat().st_size
    except OSError as error:
        raise BadCore(
            f"{path} cannot be read: {error.strerror}", "name a process number or a core file"
        ) from None
    if not header:
        raise BadCore(f"{path} is empty")
    if header[:4] != b"\x7fELF":
        raise BadCore(f"{path} is no core file", "name a process number or a core file")
    if len(header) < _ELF_HEADER:
        raise BadCore(f"{path} is cut short: it ends inside its ELF header")
    if header[4:6] != b"\x02\x01":
        raise BadCore(f"{path} is of a 32-bit or big-endian process", "known are 64-bit little-endian ones")
    kind, found = struct.unpack_from("<HH", header, 16)
    if kind != _ET_CORE:
        raise BadCore(f"{path} is an ELF file, but no core", "name the core, and the program with --exe")
    arch = of_machine(found)
    if arch is None:
        names = " and ".join(ARCHITECTURES)
        raise BadCore(
            f"{path} is of an architecture that is not known here (machine {found})", f"known are {names}"
        )
    with path.open("rb") as file:
        headers = list(_program_headers(file))
    if not any(kind == _PT_LOAD for kind, *_ in headers):
        raise BadCore(f"{path} holds no memory")
    needed = max(offset + in_file for _, _, offset, _, _, in_file, _, _ in headers)
    if needed > size:
        raise BadCore(f"{path} is cut short: it has {size} of {needed} bytes")
    return arch


def stack_pointer_of(path: Path) -> int | None:
    """The stack pointer of the core's first thread; None where the core does not tell it. BadCore, OSError."""
    with path.open("rb") as file:
        machine = int.from_bytes(_at(file, 18, 2), "little")
        status = _first_notes(file).get(_NT_PRSTATUS, b"")
    at = _STATUS_REGISTERS + 8 * _STACK_POINTERS.get(machine, 0)
    return int.from_bytes(status[at : at + 8], "little") if len(status) >= at + 8 else None


def holds_stacks(path: Path) -> bool:
    """Whether the core has the stack of its first thread, and so the process's own memory: a coredump_filter may
    have left that out (core(5)). True where the core does not tell the stack pointer. BadCore, OSError."""
    pointer = stack_pointer_of(path)
    return pointer is None or any(
        segment.start <= pointer < segment.start + segment.stored for segment in load_segments(str(path))
    )


WITHOUT_MEMORY = "holds none of the process's own memory: its coredump_filter left it out (core(5))"


def check_holds_stacks(path: Path) -> None:
    """BadCore, where the core does not have the process's own memory. OSError."""
    if not holds_stacks(path):
        raise BadCore(f"{path} {WITHOUT_MEMORY}", WITH_MEMORY)


WITH_MEMORY = "take another one: echo 0x33 > /proc/PID/coredump_filter before the crash, or gcore PID"
_STATUS_REGISTERS = 112
"""Of struct elf_prstatus: pr_reg."""
_STACK_POINTERS: dict[int, int] = {Machine.X86_64: 19, Machine.AARCH64: 31}
"""Of pr_reg: user_regs_struct.rsp and user_pt_regs.sp (Linux arch/*/include/uapi/asm/ptrace.h)."""


class MappedFile(NamedTuple):
    """[start, end) of the process, which the file at `path` holds from `offset` on."""

    start: int
    end: int
    offset: int
    path: str


class Program(NamedTuple):
    """What a core says of the program that left it: the file that was mapped where execution began, or, if it does
    not say what was mapped (qemu's), the one that was executed (None without either), and the address at which it
    began (0 likewise, and where it was started through the dynamic loader)."""

    path: str | None
    entry: int


def program_of(path: Path) -> Program:
    """The program that left the core at `path`. BadCore, OSError."""
    with path.open("rb") as file:
        notes = dict(_notes(file))
        auxv = notes.get(_NT_AUXV, b"")
        entry = _auxiliary(auxv, _AT_ENTRY)
        files = _files(notes.get(_NT_FILE, b""))
        if not files:
            return Program(_string(file, _auxiliary(auxv, _AT_EXECFN)), entry)
        first = next((each.path for each in files if each.start <= entry < each.end), None)
        if first is None or not is_loader(first):
            return Program(first, entry)
        started = (each for each in files if not each.offset and each.path != first)
        return Program(next((each.path for each in started if _asks_for_loader(file, each)), first), 0)


def _asks_for_loader(file: BinaryIO, mapped: MappedFile) -> bool:
    """Whether the mapped file is a program for the dynamic loader, by its first page, which the core stores."""
    try:
        return asks_for_loader(mapped.path, Headers(_stored(file, mapped.start, _PAGE)))
    except NotElf:
        return False


def _stored(file: BinaryIO, address: int, size: int) -> bytes:
    """Up to `size` bytes at that address of the process, as far as one segment of the core stores them."""
    for kind, _, offset, start, _, stored, _, _ in list(_program_headers(file)):
        if kind == _PT_LOAD and start <= address < start + stored:
            return _at(file, offset + address - start, min(size, start + stored - address))
    return b""


class Signal(NamedTuple):
    """The signal that a core was written for, and the thread that got it. `code` is si_code (sigaction(2)). `address`
    is what a fault was about; `sender` the process that sent it by kill(2) or the like; None where that is not
    told."""

    number: int
    tid: int
    code: int | None
    address: int | None
    sender: int | None


def signal_of(path: Path) -> Signal | None:
    """The signal that the core at `path` was written for; None where it names none: gcore's. BadCore, OSError."""
    with path.open("rb") as file:
        notes = _first_notes(file)
    status, info = notes.get(_NT_PRSTATUS, b""), notes.get(_NT_SIGINFO, b"")
    if len(status) < _STATUS_PID.size:
        return None
    (number,), (thread,) = _CURSIG.unpack_from(status), _STATUS_PID.unpack_from(status)
    if not number:
        return None
    if len(info) < _SIGINFO.size or _SIGINFO.unpack_from(info)[0] != number:
        return Signal(number, thread, None, None, None)
    _, _, code, detail = _SIGINFO.unpack_from(info)
    is_fault = 0 < code < _SI_KERNEL and number in (SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP)
    is_sent = code in (_SI_USER, _SI_QUEUE, _SI_TKILL)
    return Signal(
        number, thread, code, detail if is_fault else None, detail & 0xFFFFFFFF if is_sent else None
    )


class CoreThread(NamedTuple):
    """A thread of a core: its kernel id, and its registers as struct elf_prstatus has them (pr_reg)."""

    tid: int
    registers: bytes


def threads_of(path: Path) -> list[CoreThread]:
    """The threads of the core at `path`, the one that got the signal first. BadCore, OSError."""
    with path.open("rb") as file:
        return [
            CoreThread(_STATUS_PID.unpack_from(content)[0], content[_STATUS_REGISTERS:])
            for kind, content in _notes(file)
            if kind == _NT_PRSTATUS and len(content) >= _STATUS_REGISTERS
        ]


def process_of(path: Path) -> int:
    """The process number that the core at `path` names; 0, where it names none. BadCore, OSError."""
    with path.open("rb") as file:
        info = _first_notes(file).get(_NT_PRPSINFO, b"")
    return int(_INFO_PID.unpack_from(info)[0]) if len(info) >= _INFO_PID.size else 0


_SI_USER, _SI_QUEUE, _SI_TKILL, _SI_KERNEL = 0, -1, -6, 0x80
"""Of si_code (Linux include/uapi/asm-generic/siginfo.h). With SI_KERNEL there is no address: x86_64 tells none for
addresses that no process can have."""


def arguments_of(path: Path) -> str:
    """The command line that the core at `path` names, cut after 79 bytes by who wrote it; empty where it names none.
    BadCore, OSError."""
    with path.open("rb") as file:
        info = _first_notes(file).get(_NT_PRPSINFO, b"")
    text = info[_ARGUMENTS : _ARGUMENTS + _LONGEST_ARGUMENTS].partition(b"\0")[0].strip()
    return text.decode(errors="replace") + " …" * (len(text) == _LONGEST_ARGUMENTS - 1)


def program_here(core: Path, named: str | None) -> Path | None:
    """The program that left the core, on this machine: the one `named`, or the one that the core names; None
    where it names none. BadCore, where it is not here, or is another one."""
    own, entry = program_of(core)
    exe = named or own
    if exe is None:
        return None
    if not Path(exe).is_file():
        raise BadCore(f"{core} was left by {exe}, which is not here", "name that program with --exe")
    if not can_have_left(Path(exe), entry):
        left_by = own or "another program"
        raise BadCore(f"{core} was left by {left_by}, not by this {exe}", "name the right one with --exe")
    here, had = _build_id_of(Path(exe)), _build_id_in(core, own)
    if here is not None and had and here != had:
        this = f"build-id {here}" if here else "without a build-id"
        raise BadCore(
            f"{core} was left by {own} (build-id {had}), not by this {exe} ({this})",
            "name the right one with --exe",
        )
    return Path(exe)


def _build_id_of(program: Path) -> str | None:
    """The build-id of a file; None, where it is no ELF file."""
    try:
        with program.open("rb") as file:
            return Headers(file.read(FIRST_BYTES)).build_id
    except NotElf:
        return None


def _build_id_in(core: Path, path: str | None) -> str:
    """The build-id that a file had in the process, as the core's memory has it; empty, where it does not."""
    with core.open("rb") as file:
        mapped = _files(dict(_notes(file)).get(_NT_FILE, b""))
        first = next((each for each in mapped if each.path == path and not each.offset), None)
        try:
            return Headers(_stored(file, first.start, FIRST_BYTES)).build_id if first is not None else ""
        except NotElf:
            return ""


def mapped_files(core: Path, program: Path | None) -> list[MappedFile]:
    """What the core says was mapped, by rising address; its program's own file under the path `program`, if
    one is given. Of a core that names no files (qemu-user's) that is all there is. BadCore, OSError."""
    with core.open("rb") as file:
        found = _files(dict(_notes(file)).get(_NT_FILE, b""))
    own, entry = program_of(core)
    if not found and program is not None:
        found = _mapped_program(program, entry)
    elif program is not None:
        found = [each._replace(path=str(program)) if each.path == own else each for each in found]
    return sorted(found)


def _mapped_program(program: Path, entry: int) -> list[MappedFile]:
    """Where the loader has mapped a program that began at address `entry`."""
    with program.open("rb") as file:
        (own,) = struct.unpack_from("<Q", _at(file, 0, _ELF_HEADER), 24)
        return [
            MappedFile(
                entry - own + (address & -_PAGE),
                entry - own + (address + in_file + _PAGE - 1 & -_PAGE),
                offset & -_PAGE,
                str(program),
            )
            for kind, _, offset, address, _, in_file, _, _ in _program_headers(file)
            if kind == _PT_LOAD and in_file
        ]


def can_have_left(program: Path, entry: int) -> bool:
    """Whether the file at `program` can have been what began at address `entry`: by its own entry point, in
    a program that is moved when it is loaded by that within a page."""
    try:
        with program.open("rb") as file:
            header = file.read(_ELF_HEADER)
    except OSError:
        return False
    if header[:6] != b"\x7fELF\x02\x01" or len(header) < _ELF_HEADER:
        return False
    (kind,) = struct.unpack_from("<H", header, 16)
    (own,) = struct.unpack_from("<Q", header, 24)
    return not entry or own == entry or (kind == _ET_DYN and (entry - own) % _PAGE == 0)


def _notes(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    for kind, _, offset, _, _, size, _, _ in list(_program_headers(file)):
        if kind != _PT_NOTE or size > _MOST_NOTES:
            continue
        data, at = _at(file, offset, size), 0
        while at + 12 <= len(data):
            name_size, content_size, note = struct.unpack_from("<III", data, at)
            start = at + 12 + (name_size + 3 & ~3)
            yield note, data[start : start + content_size]
            at = start + (content_size + 3 & ~3)


def _first_notes(file: BinaryIO) -> dict[int, bytes]:
    """The first note of each kind: of those that each thread has, that of the one that got the signal."""
    found: dict[int, bytes] = {}
    for kind, content in _notes(file):
        found.setdefault(kind, content)
    return found


def _auxiliary(auxv: bytes, wanted: int) -> int:
    pairs = struct.iter_unpack("<QQ", auxv[: len(auxv) & ~15])
    return next((value for kind, value in pairs if kind == wanted), 0)


def _string(file: BinaryIO, address: int) -> str | None:
    """The NUL-terminated string at that address of the process; None, if the core does not have all of it."""
    text, end, _ = _stored(file, address, _LONGEST_PATH).partition(b"\0")
    return text.decode(errors="surrogateescape") if end and text else None


def _files(data: bytes) -> list[MappedFile]:
    """Each mapped file: a count, the page size, three words each, then the names. Offsets are in pages."""
    if len(data) < 16:
        return []
    count, page = struct.unpack_from("<QQ", data)
    if count > (len(data) - 16) // 24:
        return []
    names = data[16 + 24 * count :].split(b"\0")
    ranges = struct.iter_unpack("<QQQ", data[16 : 16 + 24 * count])
    return [
        MappedFile(start, end, offset * page, name.decode(errors="surrogateescape"))
        for (start, end, offset), name in zip(ranges, names, strict=False)
    ]
