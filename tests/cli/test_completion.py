"""`jitunwind completion`: the scripts, and what bash asks for when somebody presses TAB."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import command, jitunwind, plain_environment


@pytest.mark.parametrize(
    ("shell", "typical"),
    [("bash", "complete -o nosort -F"), ("zsh", "#compdef jitunwind"), ("fish", "complete --no-files")],
)
def test_a_script_for_each_shell(shell: str, typical: str) -> None:
    done = jitunwind("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert typical in done.stdout
    assert "_JITUNWIND_COMPLETE" in done.stdout


def test_the_script_is_right_bash(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    script = jitunwind("completion", "bash").stdout
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("jitunwind b", ["plain,bt"]),
        (
            "jitunwind ",
            [
                f"plain,{verb}"
                for verb in (
                    "agent",
                    "audit",
                    "bt",
                    "check",
                    "completion",
                    "disable",
                    "doctor",
                    "dump",
                    "enable",
                    "explain",
                    "gdb",
                    "help",
                    "record",
                    "run",
                )
            ],
        ),
        ("jitunwind a", ["plain,agent", "plain,audit"]),
        ("jitunwind ch", ["plain,check"]),
        ("jitunwind bt --py", ["plain,--python", "plain,--python-only"]),
        ("jitunwind bt --w", ["plain,--watch"]),
        ("jitunwind bt --n", ["plain,--native-only", "plain,--no-lines"]),
        ("jitunwind bt --color a", ["plain,auto", "plain,always"]),
        ("jitunwind run --perf j", ["plain,jitdump"]),
        ("jitunwind enable --pe", ["plain,--perf"]),
        ("jitunwind completion z", ["plain,zsh"]),
        ("jitunwind enable --t", ["plain,--timeout"]),
        ("jitunwind run --py", ["plain,--python"]),
        ("jitunwind run scr", ["file,scr"]),
    ],
)
def test_what_bash_is_offered(typed: str, offered: list[str]) -> None:
    words = typed.split(" ")
    asked = {"_JITUNWIND_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        command(), env=plain_environment() | asked, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == offered, done.stderr


def test_bash_completes(tmp_path: Path) -> None:
    """As `jitunwind b<TAB>` does, by the script's own function."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    launcher = tmp_path / "jitunwind"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} -m jitunwind "$@"\n')
    launcher.chmod(0o755)
    ask = (
        'eval "$(jitunwind completion bash)"; COMP_WORDS=(jitunwind b); COMP_CWORD=1; '
        '_jitunwind_completion jitunwind b jitunwind; echo "${COMPREPLY[@]}"'
    )
    environment = plain_environment()
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    done = subprocess.run(["bash", "-c", ask], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "bt\n", done.stderr
