"""What differs between architectures: one package each, with modules of the same names in it."""

from functools import cache
from typing import NamedTuple

from jitunwind.arch.linux import Linux
from jitunwind.arch.machine import Machine
from jitunwind.rows import SAME_VALUE, UNDEFINED, CfaRule, InRegister, RegisterRule, Row


class Convention(NamedTuple):
    """A calling convention, as far as unwinding goes: the registers a callee hands back as it got them."""

    name: str
    preserved: tuple[int, ...]


class DynamicRelocations(NamedTuple):
    """The kinds of relocations that the loader applies (psABI): `relative`, of the file's own address and an addend;
    `slots`, of the address of a symbol, into a slot of the global offset table."""

    relative: int
    slots: tuple[int, int]


class Architecture(NamedTuple):
    """The facts about one architecture that recovery, the plugin and the reports need.

    Registers are DWARF numbers. `return_address` is the column that unwind tables have it in, `program_counter` the
    number of the register that runs: the registers up to it are those of a thread's state. `cfa_at_entry_offset` is
    CFA minus stack pointer at a function's first instruction, `entry_return` where the return address is there,
    `caller_saved` what does not survive a call, `red_zone` the bytes below the stack pointer that signal handlers
    leave alone. `instruction_size`: what all instructions' sizes are multiples of. `decoder_package`: what
    `arch.ARCH.effects` needs from PyPI. `breakpoint`: the bytes of a breakpoint; stubs call it by their number.
    `packet_order`: the DWARF numbers of the registers in a `g` packet of GDB's remote protocol, as far as it is used.
    `code_address_bits`: those of a code address where the others may hold a signature; None: none is signed.
    """

    name: str
    bfd_name: str
    """What GDB and target descriptions call it (bfd/cpu-*.c)."""
    elf_machine: Machine
    relocations: DynamicRelocations
    linux: Linux
    register_names: tuple[str, ...]
    stack_pointer: int
    frame_pointer: int
    return_address: int
    program_counter: int
    cfa_at_entry_offset: int
    entry_return: RegisterRule
    caller_saved: tuple[int, ...]
    red_zone: int
    instruction_size: int
    decoder_package: str | None
    breakpoint: bytes
    packet_order: tuple[int, ...]
    code_address_bits: int | None
    platform: Convention

    @property
    def callee_saved(self) -> tuple[int, ...]:
        return self.platform.preserved

    def at_entry(self, convention: Convention) -> Row:
        """The row at the first instruction of a function that is called by `convention`."""
        return _at_entry(self, convention.preserved)

    @property
    def return_register(self) -> int | None:
        """The register in which a function gets its return address; None: on the stack."""
        return self.entry_return.register if isinstance(self.entry_return, InRegister) else None

    def without_signature(self, address: int) -> int:
        """A code address without its pointer authentication code: bit 55 says in which half of the address space it
        is (Arm ARM, section D8.10.1)."""
        if self.code_address_bits is None:
            return address
        signature = _ADDRESS_MASK & ~((1 << self.code_address_bits) - 1)
        return address | signature if address >> 55 & 1 else address & ~signature

    @property
    def same_value_by_default(self) -> tuple[int, ...]:
        """The registers that have their value still where a compiler's unwind table says nothing of them."""
        return (
            self.callee_saved if self.return_register is None else (*self.callee_saved, self.return_register)
        )


_ADDRESS_MASK = (1 << 64) - 1


@cache
def _at_entry(arch: Architecture, preserved: tuple[int, ...]) -> Row:
    rules: dict[int, RegisterRule] = dict.fromkeys(arch.callee_saved, UNDEFINED)
    rules.update(dict.fromkeys(preserved, SAME_VALUE))
    in_place = arch.entry_return == InRegister(arch.return_address)
    rules[arch.return_address] = SAME_VALUE if in_place else arch.entry_return
    return Row(CfaRule(arch.stack_pointer, arch.cfa_at_entry_offset), tuple(sorted(rules.items())))
