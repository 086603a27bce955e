"""A witness from the processor: random functions are run instruction by instruction under ptrace, and at each
one the caller's registers by the recovered row are compared with what they were at the function's entry."""

import ctypes
import os
import random
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import NAMES, RETURN_ADDRESS, X86_64
from jitunwind.recover.table import recover
from jitunwind.rows import Row, UnwindTable, evaluate
from tests.support.assembly import disassembly, told

KEPT = ("rbx", "r12", "r13", "r14", "r15")
SCRATCH = ("rax", "rcx", "rdx", "rsi", "r8", "r9", "r10")
FUNCTIONS = 120
MOST_STEPS = 200_000

PTRACE_TRACEME, PTRACE_SINGLESTEP, PTRACE_GETREGS = 0, 9, 12
USER_REGS = (  # struct user_regs_struct, <sys/user.h>
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
PLACES = [(number, USER_REGS.index(name)) for number, name in enumerate(NAMES)]
RSP, RIP = NAMES.index("rsp"), NAMES.index("rip")


@dataclass
class Writer:
    """Writes one random function that keeps the platform's convention. rdi is its random input."""

    dice: random.Random
    name: str
    lines: list[str] = field(default_factory=list)
    labels: int = 0
    pushed: int = 0
    """Words pushed in the body, beyond the frame."""

    def label(self) -> str:
        self.labels += 1
        return f"{self.name}.{self.labels}"

    def write(self) -> list[str]:
        dice = self.dice
        self.framed = dice.random() < 0.5
        self.leaf = dice.random() < 0.3
        self.saved = dice.sample(KEPT, dice.randrange(len(KEPT) + 1))
        self.by_slot = dice.random() < 0.4
        self.slots = dice.randrange(1, 6)
        self.in_register = {}
        if self.leaf and self.saved and dice.random() < 0.6:
            self.in_register[self.saved.pop()] = dice.choice(("r9", "r10"))
        self.moved = self.framed and dice.random() < 0.4
        self.lines += [f".globl {self.name}", f".type {self.name}, @function", f"{self.name}:"]
        early = self.label()
        if dice.random() < 0.4:
            self.lines += ["test dil, 4", f"jne {early}"]
        self.prologue()
        self.statements(3)
        self.epilogue()
        self.lines += [f"{early}:", "lea rax, [rdi+1]", "ret", f".size {self.name}, . - {self.name}"]
        return self.lines

    def frame(self) -> int:
        """Bytes of local slots, those for saved registers included."""
        return 8 * (self.slots + (len(self.saved) if self.by_slot else 0))

    def slot(self, number: int) -> str:
        """The operand of a saved register's slot; with a moved stack pointer only rbp finds it."""
        if self.framed:
            return f"[rbp-{8 * (number + 1)}]"
        return f"[rsp+{8 * (self.slots + number + self.pushed)}]"

    def prologue(self) -> None:
        add = self.lines.append
        if self.framed:
            self.lines += ["enter 0, 0"] if self.dice.random() < 0.2 else ["push rbp", "mov rbp, rsp"]
        if self.by_slot:
            add(self.dice.choice((f"sub rsp, {self.frame()}", f"lea rsp, [rsp-{self.frame()}]")))
            self.lines += [f"mov {self.slot(number)}, {name}" for number, name in enumerate(self.saved)]
        else:
            self.lines += [f"push {name}" for name in self.saved]
            add(f"sub rsp, {self.frame()}")
        self.lines += [f"mov {to}, {name}" for name, to in self.in_register.items()]
        if self.moved:
            add(self.dice.choice(("and rsp, -64", "mov eax, edi; and eax, 0x30; sub rsp, rax")))

    def epilogue(self) -> None:
        add = self.lines.append
        self.lines += [f"mov {name}, {to}" for name, to in self.in_register.items()]
        if self.by_slot:
            self.lines += [f"mov {name}, {self.slot(number)}" for number, name in enumerate(self.saved)]
            add("leave" if self.framed else f"add rsp, {self.frame()}")
        else:
            add(f"lea rsp, [rbp-{8 * len(self.saved)}]" if self.framed else f"lea rsp, [rsp+{self.frame()}]")
            self.lines += [f"pop {name}" for name in reversed(self.saved)]
            if self.framed:
                add("pop rbp")
        add("ret")

    def statements(self, depth: int) -> None:
        for _ in range(self.dice.randrange(1, 4)):
            kinds = [self.overwrite, self.overwrite, self.store, self.exchange]
            if not self.leaf:
                kinds.append(self.call)
            if depth:
                kinds += [lambda: self.pushes(depth), lambda: self.branch(depth), lambda: self.loop(depth)]
            self.dice.choice(kinds)()

    def scratch(self) -> str:
        return self.dice.choice([name for name in SCRATCH if name not in self.in_register.values()])

    def overwrite(self) -> None:
        name = self.dice.choice([*self.saved, *self.in_register, self.scratch()])
        self.lines.append(
            self.dice.choice((f"lea {name}, [rdi+3]", f"mov {name}, rsp", f"imul {name}, rdi, 7"))
        )

    def store(self) -> None:
        place = 8 * (self.pushed + self.dice.randrange(self.slots))
        self.lines.append(
            self.dice.choice(
                (
                    f"mov [rsp+{place}], rdi",
                    f"mov word ptr [rsp+{place + 6}], 5",
                    f"not qword ptr [rsp+{place}]",
                )
            )
        )

    def exchange(self) -> None:
        if self.saved:
            self.lines.append(f"xchg {self.dice.choice(self.saved)}, {self.scratch()}")

    def call(self) -> None:
        self.lines += ["push rdi", "call helper", "pop rdi"]

    def pushes(self, depth: int) -> None:
        words = self.dice.randrange(1, 3)
        self.lines += [f"push {self.dice.choice((*KEPT, 'rdi', 'rsp', '77'))}" for _ in range(words)]
        self.pushed += words
        self.statements(depth - 1)
        self.pushed -= words
        self.lines.append(f"add rsp, {8 * words}")

    def branch(self, depth: int) -> None:
        other, meet = self.label(), self.label()
        self.lines += [f"bt rdi, {self.dice.randrange(8)}", f"jc {other}"]
        self.statements(depth - 1)
        self.lines += [f"jmp {meet}", f"{other}:"]
        self.statements(depth - 1)
        self.lines.append(f"{meet}:")

    def loop(self, depth: int) -> None:
        again = self.label()
        self.lines += ["push 2", f"{again}:"]
        self.pushed += 1
        self.statements(depth - 1)
        self.pushed -= 1
        self.lines += ["dec qword ptr [rsp]", f"jne {again}", "pop rax"]


HELPER = """
.globl helper
.type helper, @function
helper:
    mov rax, rdi
    mov rcx, rsp
    lea rdx, [rdi-1]
    mov [rsp-8], rsp
    mov [rsp-0x40], rdi
    xor esi, esi
    xor r8d, r8d
    lea r9, [rsi+9]
    lea r10, [rsi+10]
    lea r11, [rsi+11]
    ret
.size helper, . - helper
"""


def program(seed: int) -> str:
    """A program that calls each random function twice, the kept registers having new values each time."""
    dice = random.Random(seed)
    names = [f"function_{number}" for number in range(FUNCTIONS)]
    start = [".globl _start", "_start:"]
    for name in names:
        for value in (dice.randrange(256), dice.randrange(256)):
            for number, register in enumerate((*KEPT, "rbp", *SCRATCH)):
                start.append(f"mov {register}, {dice.getrandbits(31) * 16 + number}")
            start += [f"mov edi, {value}", "push rdi" if value & 1 else "nop", f"call {name}"]
            start += ["pop rdi" if value & 1 else "nop"]
    start += ["mov eax, 231", "xor edi, edi", "syscall"]
    functions = [line for name in names for line in Writer(dice, name).write()]
    return "\n".join([".intel_syntax noprefix", ".text", *start, HELPER, *functions, ""])


@dataclass
class Function:
    name: str
    start: int
    code: bytes
    table: UnwindTable


def functions_of(path: Path) -> list[Function]:
    with open(path, "rb") as file:
        elf = ELFFile(file)
        section = elf.get_section_by_name(".text")
        base, text = section["sh_addr"], section.data()
        found = []
        for symbol in elf.get_section_by_name(".symtab").iter_symbols():
            if symbol["st_info"]["type"] == "STT_FUNC":
                start = symbol["st_value"]
                code = text[start - base : start - base + symbol["st_size"]]
                table = recover(X86_64, code, decode, {0: X86_64.at_entry(X86_64.platform)})
                found.append(Function(symbol.name, start, code, table))
    return found


class Stepped:
    """A program that runs one instruction at a time."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._user = (ctypes.c_ulonglong * len(USER_REGS))()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if self._libc.ptrace(PTRACE_TRACEME, 0, None, None) == 0:
                    os.execv(path, [str(path)])
            finally:
                os._exit(77)
        _, status = os.waitpid(self.pid, 0)
        self.alive = os.WIFSTOPPED(status)
        if not self.alive:
            pytest.skip("needs ptrace")
        self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY)

    def registers(self) -> dict[int, int]:
        if self._libc.ptrace(PTRACE_GETREGS, self.pid, None, ctypes.addressof(self._user)):
            raise OSError(ctypes.get_errno(), "PTRACE_GETREGS")
        user = self._user[:]
        return {number: user[place] for number, place in PLACES}

    def word(self, address: int) -> int:
        return int.from_bytes(os.pread(self._memory, 8, address), "little")

    def step(self) -> None:
        self._libc.ptrace(PTRACE_SINGLESTEP, self.pid, None, None)
        _, status = os.waitpid(self.pid, 0)
        self.alive = os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTRAP

    def close(self) -> None:
        os.close(self._memory)
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def wrong_rows(function: Function, offset: int, wanted: dict[int, int], got: dict[int, int] | str) -> str:
    """The disassembly with the rows, and where and how the one at `offset` is wrong."""
    lines = []
    for at, text in disassembly(function.code):
        lines.append(f"{at:#6x}  {text:36} {told(function.table.at(at))}{'   WRONG' if at == offset else ''}")
    if isinstance(got, dict):
        names = [NAMES[number] for number, value in wanted.items() if got.get(number) != value]
        lines.append(f"{function.name}+{offset:#x}: other than at entry: {', '.join(names)}")
    return "\n" + "\n".join(lines)


@pytest.mark.parametrize("seed", range(2))
def test_rows_give_the_registers_that_the_function_was_called_with(tmp_path, seed):
    source, made, path = tmp_path / "program.s", tmp_path / "program.o", tmp_path / "program"
    source.write_text(program(seed))
    subprocess.run(["as", "--64", "-o", made, source], check=True)
    subprocess.run(["ld", "-o", path, made], check=True)
    at = {function.start + i: function for function in functions_of(path) for i in range(len(function.code))}
    stepped = Stepped(path)
    truths: list[dict[int, int]] = []
    checked = 0
    try:
        while stepped.alive and checked < MOST_STEPS:
            registers = stepped.registers()
            function = at.get(registers[RIP])
            if function is not None:
                offset = registers[RIP] - function.start
                if offset == 0:  # no random function jumps to its start
                    truth = {number: registers[number] for number in X86_64.callee_saved}
                    truth[RSP] = registers[RSP] + X86_64.cfa_at_entry_offset
                    truth[RETURN_ADDRESS] = stepped.word(registers[RSP])
                    truths.append(truth)
                row = function.table.at(offset)
                assert isinstance(row, Row), wrong_rows(function, offset, truths[-1], str(row))
                caller = evaluate(row, registers, stepped.word, RSP)
                assert caller == truths[-1], wrong_rows(function, offset, truths[-1], caller)
                checked += 1
            stepped.step()
            if truths and function is not None and function.code[offset] == 0xC3:
                truths.pop()
    finally:
        stepped.close()
    assert not truths
    assert not stepped.alive
    assert checked > 5_000
