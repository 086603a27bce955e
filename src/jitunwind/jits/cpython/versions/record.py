"""What differs between minor versions of CPython: the type of a version's record, which is the checklist for a new one.

A field has no default, so that a record cannot be made without it. Files named here are CPython's. Structures of 64-bit
builds; offsets in bytes.
"""

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple


class Registration(NamedTuple):
    """What CPython itself publishes of an executor (Python/jit_publish.c, _PyJitCodeRegistration).

    `pointer`: in the executor, where the pointer to it is. `debugger`, `libgcc`: where in it the pointers are to its
    entry in the debuggers' list, and to the frames that libgcc knows.
    """

    pointer: int
    debugger: int
    libgcc: int


class ExecutorLayout(NamedTuple):
    """Offsets in executors, and of the interpreter's ways to them (Include/internal/pycore_optimizer.h,
    pycore_interp_structs.h; compile `offsetof` with Py_BUILD_CORE). Those in the interpreter are x86_64's.

    `lists`: offsets in the interpreter of heads of linked lists of executors; `singles`: of pointers to one;
    `array` and `array_count`: of a pointer to an array of them and its length, where the version has one.
    """

    lists: tuple[int, ...]
    singles: tuple[int, ...]
    array: int | None
    array_count: int | None
    link_next: int
    code: int
    jit_size: int
    jit_code: int
    registration: Registration | None
    """None: the version publishes nothing itself."""
    trace: int
    code_size: int
    exits: int
    exit_count: int
    exit_size: int
    """Bytes of an _PyExitData."""
    exit_executor: int
    """In an _PyExitData: of the executor that it leads to."""
    warm: int | None
    """Of the flag that the body's first instructions set by its absolute address; None: they set none."""
    jit_switch: int
    """Of the interpreter's flag that says whether its JIT is on; in every build, with a JIT or without."""
    shim_in_region: bool
    """Each executor's machine code begins with a shim of its own; else the interpreter has one for all."""
    current: int
    """In a thread's state: of the executor that it runs (PyThreadState.current_executor)."""
    stencil_group: int
    """Bytes of a StencilGroup (jit_stencils.h, which Tools/jit writes while CPython is built)."""

    def moved(self, in_interpreter: int = 0, in_executor: int = 0) -> "ExecutorLayout":
        """That of a build whose interpreters have these fields so many bytes farther, and whose executors theirs."""

        def farther(offset: int | None) -> int | None:
            return None if offset is None else offset + in_interpreter

        registration = self.registration
        if registration is not None:
            registration = registration._replace(pointer=registration.pointer + in_executor)
        return self._replace(
            lists=tuple(offset + in_interpreter for offset in self.lists),
            singles=tuple(offset + in_interpreter for offset in self.singles),
            array=farther(self.array),
            array_count=farther(self.array_count),
            jit_switch=self.jit_switch + in_interpreter,
            link_next=self.link_next + in_executor,
            code=self.code + in_executor,
            jit_size=self.jit_size + in_executor,
            jit_code=self.jit_code + in_executor,
            registration=registration,
            code_size=self.code_size + in_executor,
            exits=self.exits + in_executor,
            exit_count=self.exit_count + in_executor,
        )


class StrLayout(NamedTuple):
    """`str` objects (Include/cpython/unicodeobject.h). The bits of PyASCIIObject.state begin at `kind` and `ascii`;
    `behind_ascii`: bytes that a PyCompactUnicodeObject has behind its PyASCIIObject."""

    kind: int
    ascii: int
    behind_ascii: int


class MicroOpLayout(NamedTuple):
    """The micro-ops of traces (Include/internal/pycore_optimizer.h, pycore_uop_ids.h).

    `instruction`: a _PyUOpInstruction as opcode, oparg, target and two operands. The opcode's bits are `opcode_mask`;
    `jumps` is set where it holds exits in the target's place. `first`: the number of the first micro-op that has a
    name, `first_names`: the names of that and the next.
    """

    instruction: Struct
    opcode_mask: int
    jumps: int
    first: int
    first_names: tuple[str, str]


class Decision(NamedTuple):
    """Names of bytecode instructions: one of which CPython has not decided yet whether it may be compiled, and what it
    becomes where it may and where it may not (Python/bytecodes.c)."""

    undecided: str
    compiled: str
    uncompiled: str


class Version(NamedTuple):
    """One minor version of CPython."""

    number: tuple[int, int]
    debug_offsets: str
    """_Py_DebugOffsets (Include/internal/pycore_debug_offsets.h) in order, from behind `free_threaded` on, as far as it
    is used, as `group: field field …`: one 64-bit word for each field."""
    later_without: tuple[str, ...]
    """Those that a later version, in development, has no more."""
    executor: ExecutorLayout
    frame_registers: Mapping[str, int]
    """By the name of an architecture: the DWARF number of the register that holds the interpreter's frame in JIT code.
    Clang chooses it: the parameter `frame` of a stencil (Tools/jit/template.c)."""
    frame_of_interpreter: int
    """FRAME_OWNED_BY_INTERPRETER (Include/internal/pycore_interpframe_structs.h)."""
    string: StrLayout
    micro_op: MicroOpLayout
    decisions: tuple[Decision, ...]
