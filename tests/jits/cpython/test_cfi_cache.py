"""Frames of code that comes again: recovered once, and never taken for those of other code."""

from collections.abc import Callable

import pytest

from jitunwind.arch import Architecture
from jitunwind.arch.aarch64.registers import AARCH64
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.dwarf.decode import eh_frame
from jitunwind.jits.cpython.inside import cfi_cache
from jitunwind.jits.cpython.inside.cfi_cache import CfiCache
from jitunwind.recover.table import recover
from tests.support.codes import cpython_code

START = 0x7E00_0000_0000


def loads(constant: int) -> bytes:
    return (
        b"\x50\x48\xb8" + constant.to_bytes(8, "little") + b"\x58\xc3"
    )  # push rax; movabs rax; pop rax; ret


def looks_like_it(instructions: bytes) -> bytes:
    """mov ecx, 0xb8480000, and then what would be the constant of a movabs."""
    return b"\xb9\x00\x00\x48\xb8" + instructions + b"\xc3"


PUSHES = b"\x50\x90\x90\x90\x90\x90\x58\x90"  # push rax; nop …; pop rax; nop
STAYS = bytes([0x90] * 8)


@pytest.fixture
def recovered(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The machine code that has been recovered."""
    codes = []

    def counting(arch: Architecture, code: bytes, *others: object) -> object:
        codes.append(code)
        return recover(arch, code, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(cfi_cache, "recover", counting)
    return codes


def at(index: int, code: bytes, arch: Architecture = X86_64) -> Callable[[CfiCache], tuple[bytes, bytes]]:
    """What those frames say of code there, and what is right."""
    jit_code = cpython_code(START + index * 0x1000, code, 0, 0)
    return lambda known: (known.of(jit_code), CfiCache(arch).of(jit_code))


def test_code_that_comes_again_with_other_constants_is_recovered_no_more(recovered: list[bytes]) -> None:
    known = CfiCache(X86_64)
    for index in range(6):
        known.of(cpython_code(START + index * 0x1000, loads(index + 1 << 40), 0, 0))
    assert len(recovered) == 2  # most code never comes again: it has to come twice to be remembered
    found, right = at(7, loads(0x1234))(known)
    assert found == right


def test_bytes_that_look_like_a_constant_are_none() -> None:
    known = CfiCache(X86_64)
    for index, instructions in enumerate([STAYS, STAYS, STAYS, PUSHES, STAYS, PUSHES, PUSHES]):
        found, right = at(index, looks_like_it(instructions))(known)
        assert found == right
    assert at(8, looks_like_it(PUSHES))(known)[0] != at(8, looks_like_it(STAYS))(known)[0]


def test_data_behind_the_code_is_no_matter(recovered: list[bytes]) -> None:
    known = CfiCache(X86_64)
    for index in range(6):
        known.of(cpython_code(START + index * 0x1000, loads(index) + looks_like_it(STAYS), 0, 0))
    assert len(recovered) == 2


def test_a_shim_and_a_body_are_in_one() -> None:
    shim = b"\x53\xe8\x02\x00\x00\x00\x5b\xc3"  # push rbx; call the body; pop rbx; ret
    known = CfiCache(X86_64)
    for index in range(5):
        jit_code = cpython_code(START + index * 0x1000, shim + loads(index), len(shim), 0)
        assert known.of(jit_code) == CfiCache(X86_64).of(jit_code)
        (fde,) = eh_frame(known.of(jit_code).eh_frame, 0)
        assert (fde.start, fde.size) == (jit_code.start, jit_code.size)


def test_constants_of_aarch64_are_parts_of_instructions() -> None:
    known = CfiCache(AARCH64)
    for words in ([0xD2800020, 0xD65F03C0], [0xD2800040, 0xD65F03C0], [0xD2800060, 0xD65F03C0]):
        found, right = at(1, b"".join(word.to_bytes(4, "little") for word in words), AARCH64)(known)
        assert found == right
