"""What differs between architectures: one package each, with modules of the same names in it."""

from functools import cache
from typing import NamedTuple

from jitunwind.arch.machine import Machine
from jitunwind.rows import SAME_VALUE, UNDEFINED, CfaRule, InRegister, RegisterRule, Row


class Convention(NamedTuple):
    """A calling convention, as far as unwinding goes: the registers a callee hands back as it got them."""

    name: str
    kept: tuple[int, ...]


class Architecture(NamedTuple):
    """The facts about one architecture that recovery, the plugin and the reports need.

    Registers are DWARF numbers. `return_address` is the column that unwind tables have it in, `program_counter` the
    number of the register that runs: the registers up to it are those of a thread's state. `entry_cfa` is CFA minus
    stack pointer at a function's first instruction, `entry_return` where the return address is there,
    `caller_saved` what does not survive a call, `red_zone` the bytes below the stack pointer that signal handlers
    leave alone. `instruction_size`: what all instructions' sizes are multiples of.
    """

    name: str
    elf_machine: Machine
    register_names: tuple[str, ...]
    stack_pointer: int
    frame_pointer: int
    return_address: int
    program_counter: int
    entry_cfa: int
    entry_return: RegisterRule
    caller_saved: tuple[int, ...]
    red_zone: int
    instruction_size: int
    platform: Convention

    @property
    def callee_saved(self) -> tuple[int, ...]:
        return self.platform.kept

    def at_entry(self, convention: Convention) -> Row:
        """The row at the first instruction of a function that is called by `convention`."""
        return _at_entry(self, convention.kept)

    @property
    def return_register(self) -> int | None:
        """The register in which a function gets its return address; None: on the stack."""
        return self.entry_return.register if isinstance(self.entry_return, InRegister) else None

    @property
    def unspecified(self) -> tuple[int, ...]:
        """The registers that have their value still where a compiler's unwind table says nothing of them."""
        return (
            self.callee_saved if self.return_register is None else (*self.callee_saved, self.return_register)
        )


@cache
def _at_entry(arch: Architecture, kept: tuple[int, ...]) -> Row:
    rules: dict[int, RegisterRule] = dict.fromkeys(arch.callee_saved, UNDEFINED)
    rules.update(dict.fromkeys(kept, SAME_VALUE))
    in_place = arch.entry_return == InRegister(arch.return_address)
    rules[arch.return_address] = SAME_VALUE if in_place else arch.entry_return
    return Row(CfaRule(arch.stack_pointer, arch.entry_cfa), tuple(sorted(rules.items())))
