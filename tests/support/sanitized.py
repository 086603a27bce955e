"""Extension modules, built with AddressSanitizer and UndefinedBehaviorSanitizer, in a Python of their own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.agent import WARNINGS

_LOAD = """
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
def load(name):
    loader = ExtensionFileLoader(name, sys.argv[1])
    module = loader.create_module(ModuleSpec(name, loader, origin=sys.argv[1]))
    loader.exec_module(module)
    sys.modules[name] = module
    return module
"""


def run_sanitized(source: Path, place: Path, program: str) -> subprocess.CompletedProcess[str]:
    """`program`, in which `load(NAME)` imports what is built of `source` into `place` as the module of that name."""
    library = place / f"{source.stem}.so"
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-shared", "-fPIC", "-O1", "-g")
    subprocess.run(["gcc", *WARNINGS, *flags, "-o", library, source], check=True)
    asan = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    settings = {"LD_PRELOAD": asan.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    return subprocess.run(
        [sys.executable, "-c", _LOAD + program, library],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
