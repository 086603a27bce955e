"""A small JIT, debugged in plain GDB: arithmetic becomes machine code, x86_64's or AArch64's.

    python examples/jit.py '3 * (x - 1) + x' 14
    gdb -ex run -ex bt --args python examples/jit.py '3 * (stop - 1) + x' 14

`stop` is x, too, but raises SIGTRAP first. GDB then shows the code by its name, and all that called it.
"""

import ast
import ctypes
import mmap
import platform
import signal
import sys
from typing import ClassVar

import jitunwind

RAISE = ctypes.cast(ctypes.CDLL(None)["raise"], ctypes.c_void_p).value or 0


class X86:
    """Values come to be in rax; x is in rbx."""

    ENTER = bytes.fromhex("53 4889fb")  # push rbx; mov rbx, rdi
    LEAVE = bytes.fromhex("5b c3")  # pop rbx; ret
    PUSH, POP = bytes.fromhex("50"), bytes.fromhex("59")  # push rax; pop rcx
    X = bytes.fromhex("4889d8")  # mov rax, rbx
    OPERATIONS: ClassVar = {ast.Add: "4801c8", ast.Sub: "4829c8", ast.Mult: "480fafc1"}  # rax +, -, * rcx

    @staticmethod
    def constant(value: int) -> bytes:
        return b"\x48\xb8" + value.to_bytes(8, "little", signed=True)  # movabs rax, value

    @staticmethod
    def call(function: int, argument: int) -> bytes:
        align = bytes.fromhex("55 4889e5 4883e4f0")  # push rbp; mov rbp, rsp; and rsp, -16
        given = b"\xbf" + argument.to_bytes(4, "little")  # mov edi, argument
        return align + given + X86.constant(function) + bytes.fromhex("ffd0 c9")  # …; call rax; leave


def words(*instructions: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in instructions)


class AArch64:
    """Values come to be in x0; x is in x19."""

    ENTER = words(0xA9BF4FFE, 0xAA0003F3)  # stp x30, x19, [sp, #-16]!; mov x19, x0
    LEAVE = words(0xA8C14FFE, 0xD65F03C0)  # ldp x30, x19, [sp], #16; ret
    PUSH, POP = words(0xF81F0FE0), words(0xF84107E1)  # str x0, [sp, #-16]!; ldr x1, [sp], #16
    X = words(0xAA1303E0)  # mov x0, x19
    OPERATIONS: ClassVar = {ast.Add: "0000018b", ast.Sub: "000001cb", ast.Mult: "007c019b"}  # x0 +, -, * x1

    @staticmethod
    def constant(value: int, register: int = 0) -> bytes:
        parts = [value >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
        first, *others = (part << 5 | register for part in parts)
        return words(0xD2800000 | first, *(0xF2A00000 + (at << 21) | each for at, each in enumerate(others)))

    @staticmethod
    def call(function: int, argument: int) -> bytes:
        return (
            AArch64.constant(argument) + AArch64.constant(function, register=8) + words(0xD63F0100)
        )  # blr x8


TO = {"x86_64": X86, "aarch64": AArch64}[platform.machine()]


def code_of(node: ast.expr) -> bytes:
    """Code that computes `node`. What waits for its turn is on the stack, so that its depth is another one at every
    instruction."""
    match node:
        case ast.BinOp(left, operator, right) if type(operator) in TO.OPERATIONS:
            both = code_of(right) + TO.PUSH + code_of(left) + TO.POP
            return both + bytes.fromhex(TO.OPERATIONS[type(operator)])
        case ast.Constant(int(value)):
            return TO.constant(value)
        case ast.Name("x"):
            return TO.X
        case ast.Name("stop"):
            return TO.call(RAISE, signal.SIGTRAP) + TO.X
    raise SyntaxError(f"{ast.unparse(node)}: there are x, stop, whole numbers, +, - and *")


def main(source: str = "3 * (stop - 1) + x", x: str = "14") -> None:
    code = TO.ENTER + code_of(ast.parse(source, mode="eval").body) + TO.LEAVE
    memory = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # An AArch64 processor may have other instructions of that memory in its cache.
    clear = ctypes.CDLL("libgcc_s.so.1")["__clear_cache"]
    clear(ctypes.c_void_p(start), ctypes.c_void_p(start + len(code)))
    # The unwind table is recovered from the code; a JIT that knows it may give it instead.
    with jitunwind.publish(jitunwind.Region(start, len(code), f"jit:{source}")):
        print(ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(start)(int(x)))


if __name__ == "__main__":
    main(*sys.argv[1:])
