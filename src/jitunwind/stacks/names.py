"""What native code is called: the function that it is of, or where none is known, its file and the offset in it."""

import os
from collections.abc import Sequence

from jitunwind.memory.backing import BackingFiles
from jitunwind.stacks.debugfiles import debug_folders
from jitunwind.stacks.images import Images
from jitunwind.stacks.model import Frame, FrameKind
from jitunwind.stacks.symbols import Symbols
from jitunwind.stacks.walk import RawFrame

_DELETED = " (deleted)"


class Names:
    """Of the native code of one process. `nameless`: the files of code that had none."""

    def __init__(
        self, files: BackingFiles, images: Images, debug_dirs: Sequence[str], program: str | None
    ) -> None:
        folders = debug_folders(debug_dirs, [program] if program else [])
        self._images, self._symbols = images, Symbols(files, folders)
        self._frames: dict[tuple[int, bool], Frame] = {}
        self.nameless: set[str] = set()

    def frame(self, raw: RawFrame) -> Frame:
        """The frame, but for its stack and registers."""
        key = raw.pc, raw.at_pc
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = Frame(raw.pc, 0, FrameKind.NATIVE, self._name(*key))
        return found

    def _name(self, pc: int, at_pc: bool) -> str:
        place = pc if at_pc else pc - 1
        found = self._symbols.name_at(place)
        if found is not None:
            return found.function
        image = self._images.at(place)
        if image is None:
            return f"{pc:#x}"
        path = image.path.removesuffix(_DELETED)
        self.nameless.add(path)
        return f"{os.path.basename(path)}+{pc - image.base:#x}"
