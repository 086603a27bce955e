"""What the scenario tests do inside GDB: each public function is one session's course, told by keywords.

Run by GDB's own Python; `scenario` picks the function and what it returns goes to `output` as JSON. Errors of
GDB's that the course does not expect end it, and the test shows them.
"""

import json
import os
import random
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gdb

MASK = (1 << 64) - 1
KEPT = {
    "i386:x86-64": ("rbx", "rbp", "r12", "r13", "r14", "r15"),
    "aarch64": tuple(f"x{number}" for number in range(19, 30)),
}
"""The callee-saved registers, by GDB's name of the architecture."""
ARGUMENTS_OF_EVALUATOR = ("tstate", "frame")
MOST_FINISHES = 12
MOST_TRIES = 50
CALLEES = 10
"""Frames in which C that was called by JIT code is looked for."""
PAGE = 4096
PUSHES = bytes.fromhex("415741564155415453")
"""push r15, r14, r13, r12, rbx: how a shim of 3.14 begins."""


def say(command: str) -> str:
    said: str = gdb.execute(command, to_string=True)
    return said


def backtrace() -> str:
    return say("bt")


def name_of(frame: gdb.Frame | None) -> str:
    return (frame.name() if frame is not None else None) or "??"


def is_jit(name: str) -> bool:
    return name.startswith("py::") and not is_shim(name)


def is_shim(name: str) -> bool:
    return name.startswith("py::jit_shim") or name == "_PyJIT_Entry"


def architecture() -> str:
    name: str = gdb.selected_inferior().architecture().name()
    return name


def is_remote() -> bool:
    """Whether there is a gdbstub between: qemu's, on this machine, which calls itself process 1 and tells no
    mappings."""
    return gdb.selected_inferior().connection.type == "remote"


def process() -> int:
    """The process on this machine: of a guest, its emulator, whose threads are the guest's."""
    return gdb.selected_thread().ptid[1] if is_remote() else gdb.selected_inferior().pid


def value_of(frame: gdb.Frame, expression: str) -> str:
    """What `print` says of it in `frame`; GDB's error where it has none."""
    frame.select()
    try:
        return say(f"output/x {expression}")
    except gdb.error as error:
        return str(error)


def registers_of(frame: gdb.Frame) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for name in (*KEPT[architecture()], "sp", "pc"):
        try:
            found[name] = int(frame.read_register(name)) & MASK
        except gdb.error:
            found[name] = None
    return found


def interrupted(times: int, longest: float, seed: int, steps: int = 0) -> list[str]:
    """The stack at each of `times` SIGINTs, each after at most `longest` seconds of running, and up to `steps`
    instructions more: an emulator sees signals between blocks of instructions only."""
    generator = random.Random(seed)
    pid = process()
    say("handle SIGINT stop print nopass")
    stacks: list[str] = []
    signals: list[str] = []

    def note(event: gdb.StopEvent) -> None:
        signals.append(getattr(event, "stop_signal", "?"))

    gdb.events.stop.connect(note)
    sender = subprocess.Popen(
        ["sh", "-c", f"while read delay; do sleep $delay; kill -INT {pid}; done"],
        stdin=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert sender.stdin is not None
    try:
        while len(stacks) < times:
            sender.stdin.write(f"{generator.uniform(0, longest):.4f}\n")
            say("continue")
            assert signals == ["SIGINT"], f"it stopped by {signals or 'something else'}"
            for _ in range(generator.randint(0, steps)):
                say("stepi")
            signals.clear()
            stacks.append(backtrace())
    finally:
        gdb.events.stop.disconnect(note)
        sender.stdin.close()
        sender.wait()
    return stacks


def stop_below_jit(function: str) -> None:
    """Stop in `function`, called by JIT code itself; told from its return address and the mappings alone."""
    say(f"break {function}")
    for _ in range(MOST_TRIES):
        say("continue")
        frame = gdb.newest_frame().older()
        if frame is not None and is_anonymous(frame.pc()):
            break
    else:
        raise AssertionError(f"{function} was never called by JIT code:\n{backtrace()}")
    say("delete")


def finish_into_jit(function: str, steps: int) -> dict[str, Any]:
    """Break in a C function that JIT code calls, `finish` until a JIT frame is selected, step, `bt`."""
    stop_below_jit(function)
    at_break = backtrace()
    finishes = 0
    while not is_jit(name_of(gdb.selected_frame())) and finishes < MOST_FINISHES:
        say("finish")
        finishes += 1
    finished = backtrace()
    for _ in range(steps):
        say("stepi")
    return {"at_break": at_break, "finishes": finishes, "finished": finished, "stepped": backtrace()}


def in_extension(values: list[str]) -> dict[str, Any]:
    """Stop in `innermost`, go `up` to `outer` through JIT code, print; then `finish` all the way there."""
    stop_below_jit("innermost")
    stack = backtrace()
    seen = looked_at("outer", values)
    gdb.newest_frame().select()
    outer = frame_named("outer")
    cfa = registers_of(outer)["sp"] if outer is not None else None
    finishes = 0
    selected = gdb.selected_frame()
    while name_of(selected) != "outer" and finishes < MOST_FINISHES and outer is not None:
        say("finish")
        selected = gdb.newest_frame()
        finishes += 1
    at_end = looked_at("outer", values)
    return {
        "stack": stack,
        "seen": seen,
        "finishes": finishes,
        "at_end": at_end,
        "same_frame": registers_of(selected)["sp"] == cfa,
    }


def frame_named(name: str) -> gdb.Frame | None:
    try:
        frame = gdb.newest_frame()
        while frame is not None and name_of(frame) != name:
            frame = frame.older()
    except gdb.error:
        return None
    return frame


def looked_at(function: str, expressions: list[str]) -> dict[str, Any] | None:
    """The values and registers in the frame of `function`, None where there is no such frame."""
    frame = frame_named(function)
    if frame is None:
        return None
    values = {each: value_of(frame, each) for each in expressions}
    return {"values": values, "registers": registers_of(frame)}


def is_anonymous(address: int) -> bool:
    """Whether it lies in JIT code, as far as can be told without the plugin: behind a gdbstub by what GDB has
    symbols of."""
    if is_remote():
        said = say(f"info symbol {address:#x}")
        return said.startswith(("py::", "No symbol"))
    return any(start <= address < end for start, end in anonymous_code())


def anonymous_code() -> list[tuple[int, int]]:
    """The executable anonymous mappings (proc(5)), which are JIT code; CPython 3.15 may name them."""
    found = []
    for line in Path(f"/proc/{gdb.selected_inferior().pid}/maps").read_text().splitlines():
        extent, permissions, _, _, inode, *name = line.split()
        if "x" in permissions and inode == "0" and (not name or name[0].startswith("[anon")):
            start, end = extent.split("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def shims() -> list[int]:
    """Where 3.14's shims begin: at pages of JIT code, by their bytes; behind a gdbstub the plugin says where."""
    if is_remote():
        regions = json.loads(say("info jit-regions --json"))
        return [int(each["start"], 16) for each in regions if each["kind"] == "shim"]
    inferior = gdb.selected_inferior()
    pages = (page for start, end in anonymous_code() for page in range(start, end, PAGE))
    return [page for page in pages if bytes(inferior.read_memory(page, len(PUSHES))) == PUSHES]


def recorded_at_entry(arguments: Sequence[str]) -> dict[str, Any]:
    """The caller's registers at a shim's first instruction, from the machine alone; and `arguments` in `up`."""
    frame = gdb.newest_frame()
    registers = registers_of(frame)
    if architecture() == "aarch64":
        registers["pc"] = int(frame.read_register("x30")) & MASK
    else:
        stack_pointer = registers["sp"] or 0
        word = bytes(gdb.selected_inferior().read_memory(stack_pointer, 8))
        registers["sp"], registers["pc"] = stack_pointer + 8, int.from_bytes(word, "little")
    return {"registers": registers, "values": {each: value_of(frame.older(), each) for each in arguments}}


def evaluators_frame(function: str, entry: str) -> dict[str, Any]:
    """The evaluator's registers and arguments, as recorded when it entered JIT code, and as seen in that same
    activation from a C function that JIT code calls.

    `entry`: the symbol of the shim, whose own unwind information GDB has (3.15); empty where each executor
    has one (3.14). There the evaluator's arguments are optimized out, and only registers are compared."""
    entries = [f"*{entry}"] if entry else [f"*{address:#x}" for address in shims()]
    pauses = [gdb.Breakpoint(each, internal=True) for each in entries]
    say("continue")
    arguments = ARGUMENTS_OF_EVALUATOR if entry else ()
    truth = recorded_at_entry(arguments)
    for pause in pauses:
        pause.enabled = False
    gdb.Breakpoint(function, internal=True)
    say("continue")
    frame = gdb.newest_frame()
    while frame is not None and registers_of(frame)["sp"] != truth["registers"]["sp"]:
        try:
            frame = frame.older()
        except gdb.error:
            frame = None
    if frame is None:
        return {"truth": truth, "seen": None, "stack": backtrace()}
    seen = {"registers": registers_of(frame), "values": {each: value_of(frame, each) for each in arguments}}
    return {"truth": truth, "seen": seen, "stack": backtrace()}


def thrown(function: str, most_steps: int) -> dict[str, Any]:
    """Stop where an exception is set in a callee of JIT code, go on to where it comes back into the JIT frame,
    and step until that activation has ended, by way of JIT code's error exits."""
    say(f"break {function}")
    for _ in range(MOST_TRIES):
        say("continue")
        if any(is_jit(name) for name in names()[:CALLEES]):
            break
    else:
        raise AssertionError(f"{function} was never called by JIT code:\n{backtrace()}")
    stacks = [backtrace()]
    say("delete")
    frame = gdb.newest_frame()
    while not is_jit(name_of(frame)):
        frame = frame.older()
    say(f"tbreak *{frame.pc():#x}")  # `finish` steps out of inlined functions, which takes GDB its time
    say("continue")
    stacks.append(backtrace())
    returned = len(stacks) - 1
    shim = gdb.newest_frame().older()
    caller = registers_of(shim.older()) if is_shim(name_of(shim)) else None
    ended = False
    while caller is not None and not ended and len(stacks) < most_steps:
        say("stepi")
        stacks.append(backtrace())
        ended = registers_of(gdb.newest_frame()) == caller
    return {"returned": returned, "stacks": stacks, "ended": ended}


def looked_over(function: str, line: str) -> dict[str, Any]:
    """What plain commands say of a JIT frame, its shim and its evaluator; and the stop at a Python line,
    FILE:NUMBER."""
    stop_below_jit(function)
    say("up")
    commands = ["frame", "list", "info symbol $pc", "info line *$pc", "x/i $pc", "info frame", "info source"]
    found: dict[str, Any] = {command: say(command) for command in commands}
    say("up")
    found["shim"] = say("info symbol $pc") + say("info registers rip rsp rbp")
    say("up")
    found["evaluator"] = say("info registers rip rsp rbx rbp r12 r13 r14 r15")
    found["break"] = say(f"break {line}")
    say("continue")
    found["stopped"] = backtrace()
    found["at"] = say("info line *$pc")
    return found


def watched(times: int, seconds: float, announcements: int) -> dict[str, Any]:
    """All that GDB says while the process runs on for a while, `times` times; and the names that it knows then,
    and at each of some announcements by the process."""
    pid = gdb.selected_inferior().pid
    say("handle SIGINT stop print nopass")
    say("set print frame-info short-location")  # of other sources GDB says that they are not there
    said = ""
    for _ in range(times):
        with subprocess.Popen(["sh", "-c", f"sleep {seconds}; kill -INT {pid}"]):
            said += say("continue")
        backtrace()
    names = listed()
    say("break *__jit_debug_register_code")
    between = []
    for _ in range(announcements):
        said += say("continue")
        between.append(listed())
    return {"said": said, "names": names, "between": between}


def all_frames() -> list[gdb.Frame]:
    frames, frame = [], gdb.newest_frame()
    while frame is not None:
        frames.append(frame)
        frame = frame.older()
    return frames


def names() -> list[str]:
    return [name_of(frame) for frame in all_frames()]


def saved(function: str, core: str) -> str:
    """The stack in `function`, called by JIT code, and the process there saved as a core."""
    stop_below_jit(function)
    stack = backtrace()
    say(f"generate-core-file {core}")
    return stack


def all_threads(function: str) -> str:
    """The stacks of all threads, while one is in `function`, called by JIT code."""
    stop_below_jit(function)
    return say("thread apply all bt")


def aborted(function: str) -> str:
    """The stack in `function`, called by JIT code, where the process then dies and leaves its core."""
    stop_below_jit(function)
    stack = backtrace()
    pid = process()
    most = resource.prlimit(pid, resource.RLIMIT_CORE)[1]
    resource.prlimit(pid, resource.RLIMIT_CORE, (most, most))
    say("set scheduler-locking on")  # else GDB may still be resuming another thread when the process dies
    say("signal SIGABRT")
    return stack


def stopped_in(function: str, go: str) -> str:
    """Tell the program to go on, and stop it in `function`; the stack there."""
    Path(go).touch()
    say(f"break {function}")
    say("continue")
    return backtrace()


def ended(go: str) -> dict[str, str]:
    """Let the program end by itself."""
    Path(go).touch()
    before = backtrace()
    return {"before": before, "end": say("continue"), "after": errors_of("bt")}


def errors_of(command: str) -> str:
    try:
        return say(command)
    except gdb.error as error:
        return str(error)


def other_process(other: int) -> dict[str, str]:
    """`bt` here, then `detach`, and the same of another process in the same session."""
    first = backtrace()
    one = gdb.selected_inferior().pid
    say("detach")
    os.kill(one, signal.SIGKILL)
    say(f"attach {other}")
    return {"first": first, "second": backtrace(), "regions": listed()}


def listed() -> str:
    """A list of JIT code: the plugin's, or of what has such names."""
    try:
        return say("info jit-regions")
    except gdb.error:
        return say("info functions ^py::")


def damaged() -> dict[str, dict[str, str]]:
    """`bt` and `info jit-regions`, as they are and with the structures of the executors overwritten."""
    from jitunwind.gdbplugin.session import session
    from jitunwind.jits.cpython.discovery import read_layout

    inferior = gdb.selected_inferior()
    memory = session().memory
    layout = read_layout(memory)
    of = layout.executor
    interpreter = memory.word(layout.runtime + layout.offsets["runtime_state.interpreters_head"])
    regions = cpython_regions()
    executors = list(regions.executors.by_start.values())
    first = executors[0].address
    head = interpreter + (of.lists[0] if of.array is None else of.array)
    stack_pointer = int(gdb.newest_frame().read_register("rsp")) & MASK
    damages: dict[str, list[tuple[int, int]]] = {
        "as it is": [],
        "a wild pointer at the head": [(head, 0x4141414141414140)],
        "a head that points into the stack": [(head, stack_pointer)],
        "a cycle of executors": [(each.address + of.link_next, first) for each in executors],
        "absurd sizes": [(each.address + of.jit_size, 1 << 63) for each in executors],
        "sizes of one byte": [(each.address + of.jit_size, 1) for each in executors],
        "code elsewhere": [(each.address + of.jit_code, stack_pointer) for each in executors],
        "code at nothing": [(each.address + of.jit_code, MASK) for each in executors],
        "executors of no type": [(each.address + 8, MASK) for each in executors],
        "wild code objects": [(each.address + of.code, 0x4141414141414141) for each in executors],
        "many exits": [(each.address + of.exit_count, MASK) for each in executors],
        "a cycle of interpreters": [(interpreter + layout.offsets["interpreter_state.next"], interpreter)],
        "a wild interpreter": [
            (layout.runtime + layout.offsets["runtime_state.interpreters_head"], MASK - 7)
        ],
    }
    if of.array_count is not None:
        damages["an absurd count"] = [(interpreter + of.array_count, 1 << 62)]
    found = {}
    for name, writes in damages.items():
        kept = [(address, memory.read(address, 8)) for address, _ in writes]
        for address, value in writes:
            inferior.write_memory(address, value.to_bytes(8, "little"))
        gdb.invalidate_cached_frames()
        found[name] = {"stack": backtrace(), "regions": errors_of("info jit-regions")}
        for address, data in kept:
            inferior.write_memory(address, data)
    return found


def cpython_regions() -> Any:
    """The `Regions` of the selected inferior's CPython."""
    from jitunwind.gdbplugin.session import session
    from jitunwind.jits.cpython.jit import CPythonJit

    jits = session().jits()
    assert jits is not None
    cpython = jits.telling(CPythonJit)
    assert cpython is not None
    return cpython.regions


def several(courses: Sequence[dict[str, Any]]) -> list[Any]:
    """What each of some courses returns, one after the other in this session; each is its keywords and `scenario`."""
    found = []
    for each in courses:
        keywords = dict(each)
        found.append(course(keywords.pop("scenario"))(**keywords))
        gdb.execute("delete", to_string=True)
    return found


def described(function: str, steps: int) -> dict[str, Any]:
    """What machine code says of itself: per region what its `_SET_IP`s store beside what its trace has; and at
    how many of `steps` instructions in JIT code the line is the one of the interpreter's frame."""
    from jitunwind.gdbplugin.session import name_of, session
    from jitunwind.jits.cpython.frames import frame_at
    from jitunwind.jits.cpython.uops import MicroOps
    from jitunwind.rows import Unknown

    stop_below_jit(function)
    gdb.newest_frame().older().select()
    say(f"tbreak *{gdb.selected_frame().pc():#x}")
    say("continue")
    current = session()
    regions = cpython_regions()
    micro_ops, found = MicroOps(regions), []
    for start in regions.starts:
        region = regions.find(start)
        trace = micro_ops.trace(region)
        stores = sorted(regions.stencils.stores(region.data, region.start, regions.layout))
        found.append(
            {
                "names": [part.name for part in regions.parts(region)],
                "stored": [store.address for store in stores if store.address is not None],
                "operands": [each.operand for each in trace if each.sets_instruction],
                "located": not isinstance(micro_ops.offsets(region, trace), Unknown),
            }
        )
    frame_register = name_of(regions.layout.record.frame_registers[regions.arch.name], regions.arch)
    seen = same = 0
    for _ in range(steps):
        frame = gdb.newest_frame()
        pc = frame.pc()
        region = regions.find(pc)
        if region is not None:
            address = int(frame.read_register(frame_register)) & MASK
            python = frame_at(current.memory, regions.layout, regions.objects, address)
            rows = [row for row in regions.lines(region) if row.offset <= pc - region.start]
            seen += 1
            same += bool(rows and python is not None and rows[-1].line == python.line)
        say("stepi")
    return {"regions": found, "seen": seen, "same": same}


def stopped_threads(function: str, stops: int) -> list[str]:
    """The names of the threads in which a breakpoint there stops."""
    say(f"break {function}")
    found = set()
    for _ in range(stops):
        say("continue")
        found.add(gdb.selected_thread().name)
    return sorted(found)


SCENARIOS: tuple[Callable[..., Any], ...] = (
    *(
        interrupted,
        finish_into_jit,
        in_extension,
        evaluators_frame,
        thrown,
        saved,
        all_threads,
        aborted,
        stopped_in,
        looked_over,
        watched,
        stopped_threads,
    ),
    *(ended, other_process, damaged, described, several),
)


def course(name: str) -> Callable[..., Any]:
    return next(each for each in SCENARIOS if each.__name__ == name)


def main(scenario: str, output: str, **arguments: Any) -> None:
    Path(output).write_text(json.dumps(course(scenario)(**arguments)))


if "ARGUMENTS" in globals():
    main(**ARGUMENTS)  # type: ignore[name-defined]  # noqa: F821
