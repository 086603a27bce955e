"""Unwinders inside the process, from C code that JIT code has called: do they get through it, and is it right?

With `jitunwind.enable()` and without. What is right is said by GDB with the plugin, of the same stack: it waits
there. What is found without is tested too, so that it is known what publishing is good for.
"""

import signal
from pathlib import Path

import pytest

from jitunwind.arch.aarch64.registers import AARCH64
from tests.support import THOROUGH
from tests.support.live import EVERYWHERE, VERSIONS, Interpreter, case
from tests.support.machines import HERE, MACHINES
from tests.support.unwinders import (
    EXACT,
    KEPT,
    dumped,
    interrupted_anywhere,
    thrown_anywhere,
    unwound,
    walked,
    walked_deep,
)

FUNCTIONS = 100 if THOROUGH else 12
"""Functions that C++ exceptions are thrown through, from seven places each or more."""
INTERRUPTED = 300 if THOROUGH else 40
"""Processes that are interrupted in JIT code, and end there."""


@pytest.mark.parametrize(
    ("python", "name"),
    [
        case(version, machine, name)
        for version in VERSIONS
        for machine in MACHINES
        for name in (EXACT if machine is HERE else EXACT[:1])  # the second is the same unwinder
    ],
    indirect=["python"],
)
def test_published_code_is_walked_through_to_main(python: Interpreter, tmp_path: Path, name: str) -> None:
    walk = walked(python, tmp_path, name, published=True)
    assert walk.pcs == walk.right, f"the stack is not GDB's\n{walk}"
    for symbol in ("hold", "Py_BytesMain", "_start"):
        assert symbol in walk.symbols, f"no {symbol}\n{walk}"
    if name == "libunwind":
        held = {int(value, 16) for value in walk.note.split()[1:] if value != "lost"}
        assert set(KEPT[:5]) <= held, walk


def test_a_walk_from_deep_recursion_through_c_and_published_code_ends(python: Interpreter) -> None:
    without, deep, known = walked_deep(python)
    assert known >= 10, deep
    assert len(without) < len(deep) < 10 * len(without), deep
    assert deep[-1] == without[-1]


@pytest.mark.parametrize("name", EXACT)
def test_unpublished_code_is_not(python: Interpreter, tmp_path: Path, name: str) -> None:
    """3.15 has frame pointers, and tells libgcc of them: there only the entry into JIT code is passed over."""
    walk = walked(python, tmp_path, name, published=False)
    missing = [pc for pc in walk.right if pc not in walk.pcs]
    assert missing, walk
    if not python.shim_in_region:
        assert len(missing) == 1, walk
        assert "_start" in walk.symbols, walk
    elif name in ("backtrace", "stacktrace"):
        assert len(walk.pcs) == 1, f"not cut at the first frame in JIT code\n{walk}"


@pytest.mark.parametrize("published", [False, True], ids=["off", "on"])
def test_libdw_passes_over_a_frame(python: Interpreter, tmp_path: Path, published: bool) -> None:
    """Published or not: it knows files only (docs/unwinders.md), and goes by frame pointers elsewhere. On 3.14 rbp
    is the evaluator's, on 3.15 the entry's: the function that has set it is passed over."""
    walk = walked(python, tmp_path, "libdw", published)
    missing = [pc for pc in walk.right if pc not in walk.pcs]
    assert len(missing) == 1, walk
    assert "_start" in walk.symbols, walk


@pytest.mark.parametrize("published", [False, True], ids=["off", "on"])
def test_faulthandler_dumps_the_c_stack_through_jit_code(
    python: Interpreter, tmp_path: Path, published: bool
) -> None:
    walk = dumped(python, tmp_path, published)
    # The innermost frame in JIT code is at another call by now.
    if published:
        assert walk.pcs[1:] == walk.right[1:], walk
        assert "_start+" in walk.note, walk
    elif python.shim_in_region:
        assert len(walk.pcs) == 1, f"not cut at the first frame in JIT code\n{walk}"
    else:
        assert [pc for pc in walk.right[1:] if pc not in walk.pcs] == walk.right[1:2], walk


@EVERYWHERE
def test_an_exception_is_caught_above_published_code_with_all_registers(
    python: Interpreter, tmp_path: Path
) -> None:
    done, notes = unwound(python, tmp_path, "hold", published=True)
    assert done.returncode == 0, done.stderr
    assert notes == {"caught": KEPT}


def test_exceptions_from_many_places_of_published_code_are_caught_with_all_registers(
    python: Interpreter, tmp_path: Path
) -> None:
    """Regions have code that no path leads to; what is published behind it has to hold as well."""
    status, exceptions = thrown_anywhere(python, tmp_path, FUNCTIONS)
    assert not status
    assert all(is_right for is_right, _ in exceptions)
    assert len({pc for _, pc in exceptions if pc}) > 5 * FUNCTIONS, exceptions


@EVERYWHERE
def test_an_exception_is_not_caught_above_unpublished_code_or_damages_registers(
    python: Interpreter, tmp_path: Path
) -> None:
    done, notes = unwound(python, tmp_path, "hold", published=False)
    if python.shim_in_region:
        assert done.returncode == -signal.SIGABRT
        assert "terminate called after throwing" in done.stderr
        assert not notes
    else:
        assert done.returncode == 0, done.stderr
        # What is wrong is the evaluator's; on AArch64 that has saved all that was its caller's.
        assert (notes["caught"] == KEPT) == (python.machine.arch is AARCH64)


@EVERYWHERE
def test_a_thread_cancelled_below_published_code_cleans_up_above_it(
    python: Interpreter, tmp_path: Path
) -> None:
    done, notes = unwound(python, tmp_path, "cancel", published=True)
    assert done.returncode == 0, done.stderr
    assert notes == {"unwound": KEPT, "cleaned": [], "joined": []}


def test_a_thread_cancelled_at_any_instruction_of_published_code_cleans_up_above_it(
    python: Interpreter, tmp_path: Path
) -> None:
    found = interrupted_anywhere(python, tmp_path, "cancel", INTERRUPTED)
    right = f"unwound {' '.join(map(hex, KEPT))}\ncleaned\njoined\nstack"
    for each in found:
        assert each.text.startswith(right) or not each.is_judged, each
    assert sum(each.in_jit_code for each in found) > INTERRUPTED / 8, found


def test_a_process_killed_at_any_instruction_of_published_code_has_its_c_stack_dumped_whole(
    python: Interpreter, tmp_path: Path
) -> None:
    found = interrupted_anywhere(python, tmp_path, "fault", INTERRUPTED)
    for each in found:
        assert "_start+" in each.text or not each.is_judged, each
    assert sum(each.in_jit_code for each in found) > INTERRUPTED / 8, found


def test_a_thread_cancelled_below_unpublished_code_does_not_or_has_damaged_registers(
    python: Interpreter, tmp_path: Path
) -> None:
    done, notes = unwound(python, tmp_path, "cancel", published=False)
    assert done.returncode == 0, done.stderr
    if python.shim_in_region:
        assert notes == {"joined": []}
    else:
        assert notes.keys() == {"unwound", "cleaned", "joined"}
        assert notes["unwound"] != KEPT
