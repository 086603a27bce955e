"""x86_64's registers: names, DWARF numbers, who saves them, and the state at a function's entry.

Numbers: System V psABI for x86_64, table 3.36 ("DWARF Register Number Mapping"); conventions: section 3.2.
"""

from jitunwind.arch import Architecture, Convention, DynamicRelocations
from jitunwind.arch.machine import Machine
from jitunwind.arch.x86_64.linux import LINUX
from jitunwind.rows import SavedAt

RAX, RDX, RCX, RBX, RSI, RDI, RBP, RSP = range(8)
R8, R9, R10, R11, R12, R13, R14, R15 = range(8, 16)
RETURN_ADDRESS = 16

NAMES = (
    *("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    "rip",
)

X86_64 = Architecture(
    name="x86_64",
    bfd_name="i386:x86-64",
    elf_machine=Machine.X86_64,
    relocations=DynamicRelocations(8, (6, 7)),  # R_X86_64_RELATIVE, GLOB_DAT, JUMP_SLOT: psABI, table 4.9
    linux=LINUX,
    register_names=NAMES,
    stack_pointer=RSP,
    frame_pointer=RBP,
    return_address=RETURN_ADDRESS,
    program_counter=RETURN_ADDRESS,  # one number for both
    cfa_at_entry_offset=8,
    entry_return=SavedAt(-8),
    caller_saved=(RAX, RDX, RCX, RSI, RDI, R8, R9, R10, R11),
    red_zone=128,
    instruction_size=1,
    decoder_package="iced-x86",
    breakpoint=b"\xcc",  # int3
    packet_order=(
        RAX,
        RBX,
        RCX,
        RDX,
        RSI,
        RDI,
        RBP,
        RSP,
        *range(R8, RETURN_ADDRESS + 1),
    ),  # GDB's 64bit-core.xml
    code_address_bits=None,
    platform=Convention("System V", preserved=(RBX, RBP, R12, R13, R14, R15)),
)
