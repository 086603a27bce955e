"""Builds what pyproject.toml cannot say: the C parts, and the file that JITUNWIND=1 needs.

The C parts, shared objects and a program, have no Python's ABI in them, so that one wheel serves every Python of an
architecture. Where they cannot be built the install succeeds all the same: publishing says what is missing, and
decoding is slower.
With JITUNWIND_STRICT set (tools/setup.sh does) that is an error, and so are the compiler's warnings.
"""

import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

AGENT = Path("src/jitunwind/agent")
SOURCES = sorted(map(str, AGENT.glob("*.c")))
HEADERS = sorted(map(str, AGENT.glob("*.h")))
DESCRIPTOR = str(AGENT / "descriptor.c")
SWEEP = "src/jitunwind/arch/x86_64/sweep.c"
STRAIGHT = "src/jitunwind/recover/straight.c"
READERS = [
    "src/jitunwind/audit/readers/unwinders.c",
    *(str(AGENT / name) for name in ("libgcc.c", "libunwind.c", "unwinding.c")),
]
START = "src/jitunwind.pth"
COMPILERS = ("cc", "gcc", "clang")
CFLAGS = [
    "-fPIC",
    "-fvisibility=hidden",
    "-O2",
    "-g",
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-pthread",
]
LIBS = ["-ldl"]
PROGRAMS = ("unwinders",)
"""The last names of the extensions that are programs. The others are shared objects."""
_LACKS = {
    "jitunwind.arch.x86_64.sweep": "decodes x86_64 in Python",
    "jitunwind.recover.straight": "takes longer to recover rows",
    "jitunwind.audit.readers.unwinders": "cannot audit with --reader",
}
"""What does not work without a shared object."""
STRICT = bool(os.environ.get("JITUNWIND_STRICT"))


class BuildAgent(build_ext):
    """Each Extension is a shared object or a program, made by one call of the C compiler."""

    def run(self) -> None:
        super().run()
        # An editable install's wheel is filled by the command `install`, any other's by the files in build_lib.
        into = self.get_finalized_command("install").install_lib if self.editable_mode else self.build_lib
        self.mkpath(into)
        self.copy_file(START, into)

    def build_extensions(self) -> None:
        for extension in self.extensions:
            self.build_extension(extension)

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        named = shlex.split(os.environ.get("CC", ""))
        compiler = named or [next(filter(shutil.which, COMPILERS), COMPILERS[0])]
        strict = ["-Werror"] if STRICT else []
        extra = shlex.split(os.environ.get("CFLAGS", ""))
        form = "-pie" if ext.name.endswith(PROGRAMS) else "-shared"
        command = [*compiler, form, *CFLAGS, *strict, *extra, "-o", str(target), *ext.sources, *LIBS]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            if STRICT:
                raise
            lacks = _LACKS.get(ext.name, "will not publish JIT code")
            self.warn(f"{target.name} was not built, so jitunwind {lacks}: {error}")

    def copy_extensions_to_source(self) -> None:
        """Into the checkout, those that were built (`inplace`)."""
        for extension in self.extensions:
            name = self.get_ext_filename(extension.name)
            built, target = Path(self.build_lib, name), Path("src", name)
            target.unlink(missing_ok=True)
            if built.exists():
                self.copy_file(str(built), str(target))

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ("" if fullname.endswith(PROGRAMS) else ".so")

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *HEADERS, START]


class AnyPython(bdist_wheel):
    """A wheel for every Python 3 of this architecture."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension("jitunwind.agent.agent", [path for path in SOURCES if path != DESCRIPTOR]),
        Extension("jitunwind.agent.descriptor", [DESCRIPTOR]),
        Extension("jitunwind.arch.x86_64.sweep", [SWEEP]),
        Extension("jitunwind.recover.straight", [STRAIGHT]),
        *(
            [Extension("jitunwind.audit.readers.unwinders", READERS)]
            if platform.machine() == "x86_64"
            else []
        ),
    ],
    cmdclass={"build_ext": BuildAgent, "bdist_wheel": AnyPython},
)
