"""What `check` has to know of compiled code besides instructions' effects: the vocabulary of `arch.ARCH.compiled`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

SAVES, WRITES, READS = "saves the frame pointer", "writes the frame pointer", "reads the frame pointer"
"""What an instruction does with the frame pointer."""


class Surroundings(NamedTuple):
    """Of the code that is looked at: `read(address, size)` gives the file's bytes, `is_data(address)` says whether
    jump tables may be there, `is_part(address)` whether that code may belong to the function without lying in it."""

    read: Callable[[int, int], bytes]
    is_data: Callable[[int], bool]
    is_part: Callable[[int], bool]


class Switches(Protocol):
    """The jump tables of one function."""

    def targets(self, offset: int, starts: Sequence[int]) -> list[int]:
        """The addresses to which the jump at `offset` may go; none for one that leaves or is not understood.

        `starts` are the offsets of instructions in the sweep that has the jump.
        """


class Compiled(Protocol):
    """One architecture's compiled code. `code` is a function's or a stub's bytes, `address` where they are."""

    nop: bytes
    """The shortest instruction that does nothing."""

    def starts(self, code: bytes) -> list[int]:
        """Where instructions start, decoded straight on."""

    def padding(self, code: bytes) -> tuple[int, int]:
        """How many instructions fill space between blocks, and how many others there are."""

    def size(self, code: bytes, offset: int) -> int:
        """The bytes of the instruction at `offset`."""

    def is_call(self, code: bytes, offset: int) -> bool: ...

    def stubs(self, code: bytes) -> Iterable[int]:
        """Where the entries of a PLT are entered as functions are, by offset."""

    def slot_of_stub(self, code: bytes, address: int) -> int | None:
        """The slot of the global offset table through which the PLT entry goes that `code` begins with."""

    def slot_of_call(self, code: bytes, offset: int, address: int) -> int | None:
        """The same of the indirect call at `offset`."""

    def frame_pointer_uses(self, code: bytes) -> Iterator[tuple[int, str]]:
        """The instructions that save, write or read the frame pointer, by offset."""

    def switches(self, code: bytes, address: int, around: Surroundings) -> Switches: ...
