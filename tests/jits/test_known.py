"""All JITs of a process: who is believed where two claim the same code, and what is said where nobody does."""

from dataclasses import replace

from jitunwind.errors import NotPython
from jitunwind.jits import Code, codes_of
from jitunwind.jits.known import Jits
from jitunwind.jits.optional import Positions, Traced
from jitunwind.memory import Mapping
from jitunwind.region import Region
from tests.jits.test_gdbjit import CODE, ONE, process


class Stubborn:
    """A JIT that has the first 20 bytes, whatever others say."""

    name = "stubborn"
    warnings: list[str] = []  # noqa: RUF012
    starts = (CODE,)
    gates = lines = lambda self, *of: ()

    def may_hold(self, pc: int) -> Mapping | None:
        return Mapping(CODE, CODE + 4096, True, "") if CODE <= pc < CODE + 4096 else None

    def find(self, pc: int) -> Code | None:
        return Code(CODE, bytes(20), ()) if CODE <= pc < CODE + 20 else None

    def pieces(self, code: Code) -> list[Region]:
        return [Region(code.start, code.size, "mine")]

    def is_current(self) -> bool:
        return True


def test_a_process_without_cpython_has_its_other_jits() -> None:
    jits = Jits(process(ONE))
    assert isinstance(jits.problem, NotPython)
    assert jits.has_code()
    assert jits.name == "GDB's JIT interface"
    assert [piece.name for code in codes_of(jits) for piece in jits.pieces(code)] == ["f", "g"]
    assert jits.telling(Positions) is jits.telling(Traced) is None


def test_what_nobody_knows_is_code_of_its_mapping() -> None:
    jits = Jits(process(ONE))
    assert jits.find(CODE + 100) is None
    assert jits.unknown_piece(CODE + 100) == Region(CODE, 4096, "jit code")
    assert jits.unknown_piece(0x1234) is None


def test_the_first_jit_that_has_an_address_is_believed() -> None:
    jits = Jits(process(ONE))
    jits.jits.insert(0, Stubborn())
    found = codes_of(jits)
    assert [(code.start, jits.pieces(code)[0].name) for code in found] == [(CODE, "mine")]
    assert jits.of(found[0]).name == "stubborn"


def test_code_that_comes_is_noticed_and_found_by_the_renewed() -> None:
    memory = process()
    jits = Jits(memory)
    assert not jits.has_code()
    assert jits.is_current()
    memory.blocks.update(replace(process(ONE)).blocks)
    assert not jits.is_current()
    assert jits.renewed().has_code()


def test_code_of_another_file_makes_them_stale() -> None:
    memory = process(ONE)
    jits = Jits(memory)
    memory.mapped = [Mapping(0x1000, 0x2000, True, "/lib/libpython3.99.so"), *memory.mapped]
    assert not jits.is_current()


class Switch:
    """A JIT without code that can be off."""

    off = "it is off"
    starts = ()

    def __init__(self, state: bool | None) -> None:
        self.state = state

    def is_on(self) -> bool | None:
        return self.state


def test_why_there_is_no_code_is_said_by_what_was_looked_at() -> None:
    """Executable memory of no file may hold code that nobody here can read: then nothing is said of heat."""
    memory = process()
    memory.mapped = [each for each in memory.mapped if not each.executable or each.path]
    said = {state: Jits(memory) for state in (False, True, None)}
    for state, jits in said.items():
        jits.jits.insert(0, Switch(state))
    assert said[False].why_no_code() == "it is off"
    assert said[True].why_no_code() == "the JIT is on, and nothing has become hot"
    assert said[None].why_no_code() == "whether its JIT is on is not known"
    memory.mapped = [*memory.mapped, Mapping(0x7E0000000000, 0x7E0000001000, True, "")]
    unread = Jits(memory)
    unread.jits.insert(0, Switch(True))
    assert unread.why_no_code().startswith("executable memory belongs to no file")
    assert Jits(process(ONE)).why_no_code() == ""
