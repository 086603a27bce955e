"""A JIT of some forty lines, debugged in plain GDB: arithmetic becomes x86_64 machine code.

    python examples/jit.py '3 * (x - 1) + x' 14
    gdb -ex run -ex bt --args python examples/jit.py '3 * (stop - 1) + x' 14

`stop` is x, too, but raises SIGTRAP first. GDB then shows the code by its name, and all that called it.
"""

import ast
import ctypes
import mmap
import signal
import sys

import jitunwind

OPERATIONS = {ast.Add: "4801c8", ast.Sub: "4829c8", ast.Mult: "480fafc1"}  # rax +, -, * rcx
RAISE = ctypes.cast(ctypes.CDLL(None)["raise"], ctypes.c_void_p).value or 0


def code_of(node: ast.expr) -> bytes:
    """Code that leaves the value of `node` in rax. What waits for its turn is on the stack, so that its depth is
    another one at every instruction; x is in rbx."""
    match node:
        case ast.BinOp(left, operator, right) if type(operator) in OPERATIONS:
            push, pop = bytes.fromhex("50"), bytes.fromhex("59")  # push rax; pop rcx
            return code_of(right) + push + code_of(left) + pop + bytes.fromhex(OPERATIONS[type(operator)])
        case ast.Constant(int(value)):
            return b"\x48\xb8" + value.to_bytes(8, "little", signed=True)  # movabs rax, value
        case ast.Name("x"):
            return bytes.fromhex("4889d8")  # mov rax, rbx
        case ast.Name("stop"):
            align = bytes.fromhex("55 4889e5 4883e4f0")  # push rbp; mov rbp, rsp; and rsp, -16
            call = b"\x48\xb8" + RAISE.to_bytes(8, "little") + bytes.fromhex("ffd0 c9")  # …; call rax; leave
            return align + b"\xbf" + signal.SIGTRAP.to_bytes(4, "little") + call + code_of(ast.Name("x"))
    raise SyntaxError(f"{ast.unparse(node)}: there are x, stop, whole numbers, +, - and *")


def main(source: str = "3 * (stop - 1) + x", x: str = "14") -> None:
    body = code_of(ast.parse(source, mode="eval").body)
    code = (
        bytes.fromhex("53 4889fb") + body + bytes.fromhex("5b c3")
    )  # push rbx; mov rbx, rdi; …; pop rbx; ret
    memory = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    # The unwind table is recovered from the code; a JIT that knows it may give it instead.
    with jitunwind.publish(jitunwind.Region(start, len(code), f"jit:{source}")):
        print(ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(start)(int(x)))


if __name__ == "__main__":
    main(*sys.argv[1:])
