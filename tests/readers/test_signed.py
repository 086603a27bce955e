"""AArch64's signed return addresses, as libgcc executes what says that they are signed."""

import subprocess
from pathlib import Path

import pytest

from tests.readers.readers import FOLDER
from tests.support.fetched import fetched
from tests.support.live import PATIENCE
from tests.support.machines import ARM, EMULATED

SIGNS = ("qemu-aarch64", "-cpu", "max") if ARM is EMULATED else ()
"""With signatures, which other tests switch off."""


@pytest.mark.aarch64
@pytest.mark.parametrize("debian", ["12", "sid"])
def test_libgcc_takes_off_the_signatures_that_a_row_speaks_of(debian: str, tmp_path: Path) -> None:
    ARM.needed()
    program = tmp_path / "signed"
    options = ["-O1", "-Wall", "-Wextra", "-Werror", "-march=armv8.3-a", "-shared-libgcc"]
    sources = [FOLDER / "signed.c", FOLDER / "signed.S"]
    subprocess.run([ARM.compiler(), *options, "-o", program, *sources], check=True)
    libraries = f"{ARM.sysroot}/lib"
    loader = [f"{libraries}/ld-linux-aarch64.so.1", "--library-path", libraries] if ARM.sysroot else []
    if debian == "sid":
        loader = fetched("sid", "libgcc-s1", machine=ARM).loader
    done = subprocess.run([*SIGNS, *loader, program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.split() == [
        *("signed_plainly", "found"),
        *("signed_restored", "found"),  # by remember_state and restore_state
        *("unsigned_restored", "found"),
        *("signed_thrice", "found"),
        *("signed_untold", "lost"),  # so the others' signatures are real ones
    ], done.stderr
