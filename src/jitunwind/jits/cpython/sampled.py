"""Python's frames of one thread, again and again while its process runs: for a sampler, so all of it is quick.

`Threads` reads during a stop no more than what will have changed when the thread goes on: its state, its frames. What
the frames run is read later, and remembered. CPython counts the code objects that have gone (`code_object_generation`,
Include/internal/pycore_interp_structs.h, there for this purpose): only when one has, they are compared anew.
"""

from contextlib import suppress
from struct import Struct

from jitunwind.errors import UnreadableMemory
from jitunwind.jits.cpython.executors import MOST_EXECUTORS, interpreters
from jitunwind.jits.cpython.frames import TAGS, gil_states, thread_states
from jitunwind.jits.cpython.keeping import CHUNK, LARGEST_CHUNK, keep_chain, keep_chunks
from jitunwind.jits.cpython.layout import Layout
from jitunwind.jits.cpython.objects import CodeObject, Objects
from jitunwind.jits.optional import Keeping, SourceFrame, SourceRecord, SourceRun
from jitunwind.memory import Memory
from jitunwind.memory.live import ids_inside
from jitunwind.rows import WORD

_MOST_CHUNKS = 1 << 8
_MOST_FRAMES = 1 << 14
"""That are copied of one thread: it stands still meanwhile."""
_word = Struct("<Q").unpack_from


class Threads:
    """Those of one CPython. `memory` answers from what was kept first."""

    def __init__(self, memory: Memory, layout: Layout, objects: Objects) -> None:
        self._memory, self._layout, self._objects = memory, layout, objects
        of = layout.offsets
        names = ("current_frame", "native_thread_id", "datastack_chunk")
        fields = [of[f"thread_state.{name}"] for name in names]
        self._first, self._last = (
            min(fields),
            max(fields) + 2 * WORD,
        )  # datastack_top is behind datastack_chunk
        self._frame_at, self._id_at, self._chunk_at = (field - self._first for field in fields)
        self._frame_size = of["interpreter_frame.size"]
        self._code_at = of["interpreter_frame.executable"]
        self._previous_at = of["interpreter_frame.previous"]
        self._instruction_at = of["interpreter_frame.instr_ptr"]
        self._owner_at = of["interpreter_frame.owner"]
        self._known: dict[tuple[int, int], tuple[CodeObject, int | None] | None] = {}
        """By code object and instruction, both as frames have them: what runs, and at which line."""

    def changing(self) -> list[tuple[int, int]]:
        """As `Sampled.changing`. What cannot be read is left out."""
        layout, memory, of = self._layout, self._memory, self._layout.executor
        found = [(layout.runtime + layout.offsets["runtime_state.interpreters_head"], WORD)]
        with suppress(UnreadableMemory):
            for interpreter in interpreters(memory, layout):
                found.append((interpreter + layout.offsets["interpreter_state.code_object_generation"], WORD))
                fields = [*of.lists, *of.singles]
                if of.array is not None and of.array_count is not None:
                    fields += [of.array, of.array_count]
                    array, count = (
                        memory.word(interpreter + of.array),
                        memory.word(interpreter + of.array_count),
                    )
                    if 0 < count <= MOST_EXECUTORS:
                        found.append((array, WORD * count))
                found.append((interpreter + min(fields), max(fields) + WORD - min(fields)))
        return found

    def compare_anew(self) -> None:
        self._known.clear()
        self._objects.compare_anew()

    def records(self, pid: int) -> dict[int, list[SourceRecord]]:
        """As `Sampled.records`."""
        found: dict[int, list[SourceRecord]] = {}
        inside = ids_inside(pid)
        with suppress(UnreadableMemory):
            for state in thread_states(self._memory, self._layout):
                if state.native_id in inside:
                    record = SourceRecord(state.address, state.native_id)
                    found.setdefault(inside[state.native_id], []).append(record)
        return found

    def lock_holders(self) -> set[int] | None:
        return gil_states(self._memory, self._layout)

    def keep(self, keeping: Keeping, record: SourceRecord) -> None:
        """As `Sampled.keep_thread`. What cannot be read is left out."""
        with suppress(UnreadableMemory):
            state = keeping.keep(record.address + self._first, self._last - self._first)
            (chunk,) = _word(state, self._chunk_at)
            (top,) = _word(state, self._chunk_at + WORD)
            if chunk and chunk < top <= chunk + LARGEST_CHUNK:  # of the last one, the part that is in use
                chunk = CHUNK.unpack_from(keeping.keep(chunk, max(CHUNK.size, top - chunk)))[0]
            keep_chunks(keeping, chunk, _MOST_CHUNKS)
            keep_chain(keeping, self._layout, _word(state, self._frame_at)[0], _MOST_FRAMES)

    def runs(self, record: SourceRecord) -> list[SourceRun] | None:
        """As `Sampled.runs`."""
        memory = self._memory
        try:
            state = memory.checked_read(record.address + self._first, self._last - self._first)
        except UnreadableMemory:
            return None
        if _word(state, self._id_at)[0] != record.thread:
            return None
        (address,) = _word(state, self._frame_at)
        runs: list[SourceRun] = []
        frames: list[SourceFrame] = []
        seen: set[int] = set()
        marker = self._layout.record.frame_of_interpreter
        start, data, last = 0, memoryview(b""), -1
        known = self._known
        with suppress(UnreadableMemory):
            while address and address not in seen and len(seen) < _MOST_FRAMES:
                seen.add(address)
                at = address - start
                if not 0 <= at <= last:
                    start, piece = memory.piece(address, self._frame_size)
                    data, at = memoryview(piece), address - start
                    last = len(data) - self._frame_size
                    if at > last:
                        start, data, at = (
                            address,
                            memoryview(memory.checked_read(address, self._frame_size)),
                            0,
                        )
                        last = 0
                if data[at + self._owner_at] == marker:
                    runs.append(SourceRun(frames, address))
                    frames = []
                else:
                    instruction = _word(data, at + self._instruction_at)[0]
                    key = (_word(data, at + self._code_at)[0] & ~TAGS, instruction)
                    found = known.get(key) or self._found(key)
                    if found is not None:
                        code, line = found
                        frames.append(SourceFrame(address, instruction, code.qualname, code.filename, line))
                (address,) = _word(data, at + self._previous_at)
        return [*runs, SourceRun(frames, 0)] if frames else runs

    def _found(self, key: tuple[int, int]) -> tuple[CodeObject, int | None] | None:
        if key not in self._known:
            executable, instruction = key
            code = self._objects.code(executable)
            self._known[key] = None if code is None else (code, code.line_at(instruction))
        return self._known[key]
