"""The program that makes a request of a process: root does not run another user's as root."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitunwind.startup.attach import Asker, Target

NOBODY = 65534
SOURCE = """
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    if (count == 1) { /* the process: waits for its end */
        puts("ready");
        fflush(stdout);
        return (int)read(0, arguments, 1);
    }
    return dprintf(open(arguments[count - 1], O_WRONLY), "%d", (int)geteuid()) < 0; /* the request */
}
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody can look into, with the program and a file that everybody can write to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        program, said = folder / "python3", folder / "said"
        subprocess.run(["cc", "-xc", "-", "-o", program], input=SOURCE, text=True, check=True)
        said.touch()
        said.chmod(0o666)
        yield folder


@pytest.mark.parametrize(
    ("owner", "mode", "user"),
    [(0, 0o755, 0), (0, 0o775, NOBODY), (0, 0o757, NOBODY), (NOBODY, 0o755, NOBODY)],
)
def test_as_whom_the_program_of_a_process_is_run(owner: int, mode: int, user: int, folder: Path) -> None:
    program, said = folder / "python3", folder / "said"
    os.chown(program, owner, owner)
    program.chmod(mode)
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        Asker(Target(process.pid, NOBODY, NOBODY), None).ask(said)
    assert said.read_text() == str(user)
