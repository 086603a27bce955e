"""Recovery of unwind tables, bytes in to table out, against capstone merely decoding the same bytes.

    python bench/recovery.py

The regions are those of a real process of each version, on x86_64 and, under qemu, on AArch64; only the bytes that
control reaches count.
"""

import subprocess
import sys

import capstone
from support import ROOT, VERSIONS, in_turns, interpreter, running

sys.path.insert(0, str(ROOT))

from jitunwind.arch import Architecture
from jitunwind.arch.aarch64.registers import AARCH64
from jitunwind.arch.known import decoder
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.jits import Code
from jitunwind.jits.cpython import stencils
from jitunwind.jits.cpython.discovery import read_layout
from jitunwind.jits.cpython.regions import Regions
from jitunwind.memory.process import LiveProcess
from jitunwind.recover.table import recover
from jitunwind.rows import Row
from tests.support.codes import cpython_code

EXECUTORS = 100
ROUNDS = 15


def codes_of(version: str) -> list[Code]:
    with running(version, EXECUTORS) as pid, LiveProcess(pid) as memory:
        regions = Regions(memory, read_layout(memory))
        return [code for start in regions.starts if (code := regions.find(start)) is not None]


PROGRAM = """
import gc
def made(number):
    names = {}
    body = f"  t += len(str(i)) * {number} - [i, t][i % 2]"
    exec(f"def f(n):\\n t = {number}\\n for i in range(n):\\n{body}\\n return t", names)
    return names["f"]
kept = [made(number) for number in range(25)]
for f in kept:
    f(6000)
for each in gc.get_objects():
    if type(each).__name__ == "uop_executor" and each.get_jit_code():
        print(each.get_jit_code().hex())
"""


def codes_under_qemu(version: str) -> list[Code]:
    """Executors' code of an AArch64 interpreter, as that gives it out itself."""
    command = [
        "qemu-aarch64",
        "-cpu",
        "max,pauth=off",
        interpreter(version, "--arch", "arm64"),
        "-c",
        PROGRAM,
    ]
    done = subprocess.run(command, env={"PYTHON_JIT": "1"}, capture_output=True, text=True, check=True)
    codes = [bytes.fromhex(line) for line in done.stdout.splitlines()]
    shims = [stencils.of(AARCH64).shim(code) for code in codes]
    sizes = [0 if shim is None else shim.size for shim in shims]
    return [cpython_code(0, code, size, arch=AARCH64) for code, size in zip(codes, sizes, strict=True)]


def reached(arch: Architecture, code: Code) -> bytes:
    table = recover(arch, code.data, decoder(arch), dict(code.entries))
    return code.data[: max(end for _, end, row in table.spans() if isinstance(row, Row))]


def main() -> None:
    for version in VERSIONS:
        against_capstone(
            version, X86_64, codes_of(version), capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        )
        arm = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
        against_capstone(version, AARCH64, codes_under_qemu(version), arm)


def against_capstone(version: str, arch: Architecture, codes: list[Code], disassembler: capstone.Cs) -> None:
    decode = decoder(arch)
    bytes_of_code = [reached(arch, code) for code in codes]
    kilobytes = sum(map(len, bytes_of_code)) / 1024

    def ours() -> None:
        for code in codes:
            recover(arch, code.data, decode, dict(code.entries))

    def theirs() -> None:
        for part in bytes_of_code:
            for _ in disassembler.disasm_lite(part, 0):
                pass

    mine, capstones, ratio = in_turns(ours, theirs, ROUNDS)
    print(
        f"CPython {version}, {arch.name}: {len(codes)} regions, {kilobytes:.0f} KB of code; "
        f"recover {mine * 1e3 / kilobytes:.3f} ms/KB, "
        f"capstone disasm_lite {capstones * 1e3 / kilobytes:.3f} ms/KB, ratio {ratio:.2f} (aim: at most 1)"
    )


if __name__ == "__main__":
    main()
