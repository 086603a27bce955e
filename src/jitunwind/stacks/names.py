"""What native code is called: the function of a symbol or debug file, else its file and the offset in it."""

import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from jitunwind.elf.names import FunctionNames
from jitunwind.elf.relocatable import symbols, text_at
from jitunwind.memory import Memory
from jitunwind.stacks.debugfiles import debug_folders
from jitunwind.stacks.images import Image, Images
from jitunwind.stacks.model import Frame, FrameKind
from jitunwind.stacks.walk import RawFrame


class Names:
    """Of the native code of one process. `nameless`: the files of code that had none."""

    def __init__(self, memory: Memory, images: Images, debug_dirs: Sequence[str]) -> None:
        self._images = images
        self._debug_dirs = debug_dirs
        self._frames: dict[tuple[int, bool], Frame] = {}
        self._functions: dict[str, FunctionNames] = {}
        self._exported: dict[str, _Exported] = {}
        self.nameless: set[str] = set()

    def frame(self, raw: RawFrame) -> Frame:
        """The frame, but for its stack and registers."""
        key = raw.pc, raw.at_pc
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = Frame(raw.pc, 0, FrameKind.NATIVE, self._name(*key))
        return found

    def _name(self, pc: int, at_pc: bool) -> str:
        image = self._images.at(pc)
        if image is None:
            return f"{pc:#x}"
        name = self._function(image, pc if at_pc else pc - 1)
        if name is None:
            self.nameless.add(image.path)
            return f"{os.path.basename(image.path)}+{pc - image.base:#x}"
        return name

    def _function(self, image: Image, pc: int) -> str | None:
        return self._of_file(image).get(pc - image.bias) or self._debug(image).at(pc - image.base)

    def _debug(self, image: Image) -> FunctionNames:
        if image.path not in self._functions:
            folders = [Path(folder) for folder in debug_folders(self._debug_dirs, [image.path]) if folder]
            self._functions[image.path] = FunctionNames(Path(image.path), folders)
        return self._functions[image.path]

    def _of_file(self, image: Image) -> "_Exported":
        if image.path not in self._exported:
            self._exported[image.path] = _Exported(image.path)
        return self._exported[image.path]


class _Exported:
    def __init__(self, path: str) -> None:
        self._table: list[tuple[int, int, str]] = []
        try:
            with open(path, "rb") as file:
                elf = ELFFile(file)
                table = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
                if not isinstance(table, SymbolTableSection):
                    return
                names, data = table.stringtable.data(), table.data()
        except (OSError, ELFError):
            return
        self._table = sorted(
            (value, size, text_at(names, at))
            for at, info, _, _, value, size in symbols(data)
            if value and info & 0xF in (0, 2, 10)
        )

    def get(self, address: int) -> str | None:
        index = bisect_right(self._table, (address, 1 << 64, "")) - 1
        if index < 0:
            return None
        value, size, name = self._table[index]
        return name if address < value + max(size, 1) else None
