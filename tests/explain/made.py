"""A small region explained, made by hand: hostile names, two tables, a jump in each direction."""

from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.explain.differences import Difference
from jitunwind.explain.jumps import in_lanes
from jitunwind.explain.model import Answer, Block, Explained, Instruction, Listed, Source, Summary, summary_of
from jitunwind.explain.origin import Origin
from jitunwind.recover.table import NOT_REACHED
from tests.support.codes import cpython_code

HOSTILE = '</script><script>window.broken=1</script><img src=x onerror="window.broken=1">.py'
DEEP = {"CFA": "rsp+32", "ra": "c-8", "rbx": "u", "rbp": "c-16"}
FLAT = {"CFA": "rsp+8", "ra": "c-8", "rbx": "u", "rbp": "s"}
SAID = {"CFA": "rbp+16", "ra": "c-8", "rbx": "s", "rbp": "c-16"}
DIFFERENCE = Difference(SAID, {"rbx": "c-56"})
SAME = Answer(FLAT, "", {}, {})
DIFFERS = Answer(DEEP, "", {"published": DIFFERENCE}, {})
EVERYWHERE = {"rbx": "c-56", "r12": "c-48"}
"""What the table has otherwise at every instruction of `wrong_everywhere`, and one more at one of them."""
UNKNOWN = Answer({}, "no path <b>leads</b> here", {}, {})
UNREACHED = Answer({}, NOT_REACHED.reason, {}, {})
TABLES = ("published",)


def region(number: int = 0, file: str = f"/tmp/{HOSTILE}", blocks: int = 3) -> Explained:
    """Each block has four instructions: the first jumps to the last of the next, the third back to the first."""
    made = []
    for index in range(blocks):
        start = 16 * index
        forward = start + 28 if index + 1 < blocks else None
        source = Source(f"f{HOSTILE}", file, 10 + index // 2, f"total += {HOSTILE}", 2 * index)
        instructions = [
            Instruction(start, 4, f"je     +{forward or 0:#x}", forward, SAME),
            Instruction(start + 4, 4, "push   %rbp", None, DIFFERS),
            Instruction(start + 8, 4, f"jmp    +{start:#x}", start, SAME),
            Instruction(start + 12, 4, "ud2", None, UNKNOWN),
        ]
        name = f"_MICRO_OP_{index}"
        made.append(Block(start, start + 16, name, f"oparg {index}", source, instructions, 5 * (index == 1)))
    code = cpython_code(0x7F0000000000 + 0x1000 * number, bytes(16 * blocks), 0, 0)
    listed = Listed(number, code, f"py::f{HOSTILE}:{file}", blocks, (file, 10), (77,) if number == 1 else ())
    jumps = in_lanes(
        (each.offset, each.jump) for block in made for each in block.instructions if each.jump is not None
    )
    return Explained(listed, made, jumps, 2 * blocks, "")


def wrong_everywhere() -> Explained:
    """Three instructions that the table has wrong in the same two registers, the second also in rbp, and one that no
    path reaches."""
    said = {"CFA": "rbp+16", "ra": "c-8", "rbx": "s", "rbp": "c-16", "r12": "s"}
    plain = Answer(FLAT, "", {"published": Difference(said, EVERYWHERE)}, {})
    besides = Answer(DEEP, "", {"published": Difference(said, EVERYWHERE | {"rbp": "c-24"})}, {})
    answers = (plain, besides, plain, UNREACHED)
    instructions = [Instruction(4 * index, 4, "nop", None, answer) for index, answer in enumerate(answers)]
    source = Source("f", "/tmp/plain.py", 10, "total += 1", 0)
    block = Block(0, 16, "_MICRO_OP", "", source, instructions)
    listed = Listed(
        0, cpython_code(0x7F0000000000, bytes(16), 0, 0), "py::f:/tmp/plain.py", 1, ("/tmp/plain.py", 10)
    )
    return Explained(listed, [block], [], 2, "")


def origin() -> Origin:
    return Origin(
        f"process {HOSTILE}",
        "CPython 3.15.2",
        f"python {HOSTILE}",
        "0.1.0",
        "a-host",
        "2026-12-01 05:00:00+00:00",
    )


def summary(*regions: Explained) -> Summary:
    return summary_of(X86_64, regions, TABLES)
