"""What native code is called: the function that it is of, or where none is known, its file and the offset in it."""

import os
from typing import TYPE_CHECKING

from jitunwind.stacks.images import Images
from jitunwind.stacks.model import Frame, FrameKind
from jitunwind.stacks.symbols import Symbols
from jitunwind.stacks.walk import RawFrame

_DELETED = " (deleted)"


if TYPE_CHECKING:
    from jitunwind.stacks.lines import Lines, Location


def _at_line(frame: Frame, location: "Location") -> Frame:
    return frame._replace(file=location.file, line=location.line) if location.line else frame


class Names:
    """Of the native code of one process. `nameless`: the files of code that had none."""

    def __init__(self, images: Images, symbols: Symbols, lines: "Lines | None") -> None:
        self._images, self._symbols, self._lines = images, symbols, lines
        self._frames: dict[tuple[int, bool], list[Frame]] = {}
        self.nameless: set[str] = set()

    def frames(self, raw: RawFrame) -> list[Frame]:
        """The frame, but for its stack and registers; before it those of the functions that the compiler has inlined
        there, where lines are wanted and known."""
        key = raw.pc, raw.at_pc
        found = self._frames.get(key)
        if found is None:
            found = self._frames[key] = self._described(*key)
        return found

    def _described(self, pc: int, at_pc: bool) -> list[Frame]:
        frame = Frame(pc, 0, FrameKind.NATIVE, self._name(pc, at_pc))
        located = self._lines.at(pc if at_pc else pc - 1) if self._lines is not None else []
        if not located:
            return [frame]
        inlined = [_at_line(frame._replace(name=each.function), each) for each in located[:-1]]
        return [*inlined, _at_line(frame, located[-1])]

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
