"""jitunwind and iced-x86 found in a Python that has neither."""

import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.live import REPOSITORY

FINDER = REPOSITORY / "src/jitunwind/startup/finder.py"


def say(code: str, *search: Path) -> str:
    """What a bare Python prints that runs `code` when the finder is installed."""
    begin = f"import runpy; runpy.run_path({str(FINDER)!r})['install']({[str(each) for each in search]!r}); "
    done = subprocess.run([sys.executable, "-I", "-S", "-c", begin + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_of_iced_x86_only_what_is_asked_for_is_imported() -> None:
    ask = (
        "from jitunwind.arch.x86_64.effects import decode; import sys, iced_x86; "
        "print(len(decode(b'\\x53\\xc3', 0, ())[1]), hasattr(iced_x86, 'nothing'), hasattr(iced_x86, '__nothing__'), "
        "*sorted(name for name in sys.modules if name.startswith('iced_x86.')))"
    )
    found = say(ask, REPOSITORY / "src", Path(sysconfig.get_path("platlib"))).split()
    assert found[:3] == ["2", "False", "False"]
    modules = {"Code", "FlowControl", "Mnemonic", "OpAccess", "OpKind", "Register", "_iced_x86_py"}
    assert found[3:] == sorted(f"iced_x86.{name}" for name in modules)


def test_an_iced_x86_that_is_made_otherwise_is_imported_whole(tmp_path: Path) -> None:
    package = tmp_path / "iced_x86"
    package.mkdir()
    (package / "__init__.py").write_text("Decoder = 'its own'\n")
    assert say("from iced_x86 import Decoder; print(Decoder)", tmp_path) == "its own"
