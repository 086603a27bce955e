"""AArch64's registers: names, DWARF numbers, who saves them, and the state at a function's entry.

Numbers: AADWARF64, section 4.1 ("DWARF register names"); conventions: AAPCS64, section 6.1.
"""

from jitunwind.arch import Architecture, Convention, DynamicRelocations
from jitunwind.arch.aarch64.linux import LINUX
from jitunwind.arch.machine import Machine
from jitunwind.rows import InRegister

X0, X8, X15, X16, X17, X18 = 0, 8, 15, 16, 17, 18
X19, X20, X21, X28, X29, X30 = 19, 20, 21, 28, 29, 30
SP, PC = 31, 32
RA_SIGN_STATE = 34
"""Not a register, but whether the return address is signed: 1, if it is."""
D8, D15 = 72, 79

NAMES = (
    *(f"x{number}" for number in range(31)),
    *("sp", "pc", "elr_mode", "ra_sign_state", "tpidrro_el0"),
    *(f"tpidr_el{level}" for level in range(4)),
    *(f"reserved{number}" for number in range(40, 46)),
    *("vg", "ffr"),
    *(f"p{number}" for number in range(16)),
    *(f"d{number}" for number in range(32)),  # v0 to v31: of these, 64 bits survive a call
)

AARCH64 = Architecture(
    name="aarch64",
    bfd_name="aarch64",
    elf_machine=Machine.AARCH64,
    relocations=DynamicRelocations(
        1027, (1025, 1026)
    ),  # R_AARCH64_RELATIVE, GLOB_DAT, JUMP_SLOT: AAELF64, 5.7.16
    linux=LINUX,
    register_names=NAMES,
    stack_pointer=SP,
    frame_pointer=X29,
    return_address=X30,
    program_counter=PC,
    cfa_at_entry_offset=0,
    entry_return=InRegister(X30),
    caller_saved=(*range(X0, X18 + 1), X30),
    red_zone=0,
    instruction_size=4,
    decoder_package=None,
    breakpoint=bytes.fromhex("000020d4"),  # brk #0
    packet_order=tuple(range(PC + 1)),  # GDB's aarch64-core.xml
    code_address_bits=48,  # what Linux gives programs unless they ask for more
    platform=Convention("AAPCS64", preserved=(*range(X19, X29 + 1), *range(D8, D15 + 1))),
)
