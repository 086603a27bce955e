"""Recovery of unwind tables, bytes in to table out, against capstone merely decoding the same bytes.

    python bench/recovery.py

The regions are those of a real process of each version; only the bytes that control reaches count.
"""

import capstone
from support import VERSIONS, in_turns, running

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.cpython.layout import read_layout
from jitunwind.cpython.regions import JitCode, Regions
from jitunwind.memory.process import LiveProcess
from jitunwind.recover.table import recover
from jitunwind.rows import Row

EXECUTORS = 100
ROUNDS = 15


def codes_of(version: str) -> list[JitCode]:
    with running(version, EXECUTORS) as pid, LiveProcess(pid) as memory:
        regions = Regions(memory, read_layout(memory))
        return [code for start in regions.starts if (code := regions.find(start)) is not None]


def reached(code: JitCode) -> bytes:
    table = recover(X86_64, code.code, decode, code.entries(X86_64))
    return code.code[: max(end for _, end, row in table.spans() if isinstance(row, Row))]


def main() -> None:
    for version in VERSIONS:
        codes = codes_of(version)
        bytes_of_code = [reached(code) for code in codes]
        kilobytes = sum(map(len, bytes_of_code)) / 1024
        disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)

        def ours(codes: list[JitCode] = codes) -> None:
            for code in codes:
                recover(X86_64, code.code, decode, code.entries(X86_64))

        def theirs(parts: list[bytes] = bytes_of_code, disassembler: capstone.Cs = disassembler) -> None:
            for part in parts:
                for _ in disassembler.disasm_lite(part, 0):
                    pass

        mine, capstones, ratio = in_turns(ours, theirs, ROUNDS)
        print(
            f"CPython {version}: {len(codes)} regions, {kilobytes:.0f} KB of code; "
            f"recover {mine * 1e3 / kilobytes:.3f} ms/KB, "
            f"capstone disasm_lite {capstones * 1e3 / kilobytes:.3f} ms/KB, ratio {ratio:.2f} (aim: at most 1)"
        )


if __name__ == "__main__":
    main()
