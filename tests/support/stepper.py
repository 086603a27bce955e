"""Single-steps JIT code inside GDB and compares each unwound caller with what was recorded at the call.

Run by GDB's own Python with `CONFIG` (see `Config`) among its globals, attached to a program that has said
"ready". The ground truth of an activation is the machine's state at the shim's first instruction. Where JIT
code and its shims are is found here from /proc/PID/maps, the shim's bytes and the ELF symbol alone: nothing
of jitunwind is imported, so that the same harness judges GDB with and without the plugin.
"""

import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import gdb

REGISTERS = ("rsp", "rip", "rbx", "rbp", "r12", "r13", "r14", "r15")
"""Of the caller; its rsp is the CFA, its rip the return address."""
NAMES = {"rsp": "CFA", "rip": "RA"}
KEPT = REGISTERS[2:]
PUSHES = bytes.fromhex("415741564155415453")
"""push r15, r14, r13, r12, rbx: how a shim of 3.14 begins."""
ENTRY = "_PyJIT_Entry"
"""The one shim of 3.15."""
PAGE = 4096
LONGEST_SHIM = 64
LONGEST_INSTRUCTION = 15
MASK = (1 << 64) - 1
MOST_EXAMPLES = 6
MOST_FRAMES = 2
"""From a body to the C code that entered it: the body's caller is the shim, the shim's is C."""


@dataclass
class Config:
    """`budget`: how many instructions inside JIT code to check; `patience`: after how many in a row that
    were all seen before the activation is left alone; `seconds`: when to give up waiting for the next."""

    output: str
    shim_in_region: bool
    budget: int
    patience: int
    seconds: float
    seed: int


@dataclass
class Activation:
    """One run of JIT code. `truth`: the caller's registers at the call; while JIT code has called C,
    `resume` is where that call returns to and with which stack pointer. `first` and
    `body` are where the executor's body begins that the shim called and that runs now, `last` the
    instruction checked last."""

    truth: dict[str, int]
    resume: tuple[int, int] | None = None
    abandoned: bool = False
    first: int = 0
    body: int = 0
    last: int = 0


@dataclass
class Report:
    body: int = 0
    """Instructions checked in executors' bodies."""
    shim: int = 0
    activations: int = 0
    nested: int = 0
    """Activations entered while another of the same thread was in C."""
    returns: int = 0
    """Activations seen to return to their RA at their CFA: the ground truth is true."""
    bad_returns: int = 0
    jumps: int = 0
    """Jumps from one executor's body to the start of another's: side exits, and links between executors."""
    foreign: int = 0
    """Instructions checked behind such a jump: on 3.14 the activation's shim is then another executor's."""
    threads: int = 0
    counts: dict[str, dict[str, dict[str, int]]] = field(
        default_factory=lambda: {
            part: {
                NAMES.get(register, register): {"exact": 0, "wrong": 0, "unknown": 0}
                for register in REGISTERS
            }
            for part in ("body", "shim")
        }
    )
    depths: dict[str, dict[str, int]] = field(default_factory=lambda: {"body": {}, "shim": {}})
    """How many frames out of bodies and shims GDB had the caller, and how often."""
    distinct: int = 0
    """Different addresses among the checked instructions."""
    examples: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str = ""
    """Why it ended before the budget was used up, if it did."""


class Stepper:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.report = Report()
        self.random = random.Random(config.seed)
        self.pid = gdb.selected_inferior().pid
        self.code: list[tuple[int, int]] = []
        self.shims: dict[int, int] = {}
        """Start to end."""
        self.breakpoints: dict[int, gdb.Breakpoint] = {}
        self.stacks: dict[int, list[Activation]] = {}
        self.seen: set[int] = set()
        self.stale = 0
        self.skip = 0
        """How many activations to let pass unchecked, for another path to come up."""
        if not config.shim_in_region:
            start = address_of(ENTRY)
            self.shims[start] = end_of_function(start)

    # What is code

    def rescan(self) -> None:
        """Where JIT code is now: executable anonymous mappings, and the shims in them."""
        with open(f"/proc/{self.pid}/maps") as maps:
            code = [extent(line) for line in maps if is_anonymous_code(line)]
        if code == self.code:
            return
        self.code = code
        if self.config.shim_in_region:
            for start, end in code:
                self.find_shims(start, end)
        for start in self.shims:
            self.break_at(start)

    def find_shims(self, start: int, end: int) -> None:
        for page in range(start, end, PAGE):
            if page in self.shims:
                continue
            head = memory(page, LONGEST_SHIM)
            call = head.find(b"\xe8", len(PUSHES))
            if head.startswith(PUSHES) and call > 0:
                self.shims[page] = page + call + 5 + int.from_bytes(head[call + 1 : call + 5], "little")

    def break_at(self, address: int) -> None:
        known = self.breakpoints.get(address)
        if known is None:
            self.breakpoints[address] = gdb.Breakpoint(f"*{address:#x}", internal=True)
        elif not known.enabled:
            known.enabled = True

    def in_shim(self, pc: int) -> bool:
        return any(start <= pc < end for start, end in self.shims.items())

    def is_jit(self, pc: int) -> bool:
        return any(start <= pc < end for start, end in self.code) or self.in_shim(pc)

    def is_body_start(self, pc: int) -> bool:
        """Regions begin at pages; 3.14's with a shim."""
        return pc in self.shims.values() if self.config.shim_in_region else pc % PAGE == 0

    # What to do next

    def run(self) -> None:
        begin = time.monotonic()
        gdb.execute("set breakpoint always-inserted on", to_string=True)
        gdb.execute("set scheduler-locking step", to_string=True)
        gdb.execute("set print frame-info short-location", to_string=True)  # sources cost 3 ms a step
        self.rescan()
        try:
            while self.report.body < self.config.budget:
                self.advance()
                if time.monotonic() - begin > self.config.seconds:
                    self.report.stopped = "time is up"
                    break
        except gdb.error as error:
            self.report.stopped = f"GDB says: {error}"
        self.report.seconds = time.monotonic() - begin
        self.report.distinct = len(self.seen)
        self.report.threads = len(self.stacks)

    def advance(self) -> None:
        """One decision at the place where the process stands."""
        thread = gdb.selected_thread()
        if thread is None:
            raise gdb.error("the process is gone")
        stack = self.stacks.setdefault(thread.ptid[1], [])
        pc, sp = register("rip"), register("rsp")
        if pc in self.shims:
            self.enter(stack, sp)
        top = stack[-1] if stack else None
        if top is not None and top.resume == (pc, sp):
            self.resumed(top)
        if top is None or top.resume is not None or top.abandoned:
            self.go_on()
            return
        if self.is_jit(pc):
            self.check(top, pc)
            if self.stale > self.config.patience:
                self.stale, self.skip = 0, self.random.randrange(30)
                top.abandoned = True
                self.go_on()
                return
            gdb.execute("stepi", to_string=True)
            return
        if sp == top.truth["rsp"]:  # it has returned
            good = pc == top.truth["rip"] and all(register(name) == top.truth[name] for name in KEPT)
            self.report.returns += good
            self.report.bad_returns += not good
            stack.pop()
            self.go_on()
            return
        back = word(sp)  # JIT code has called C
        if not self.is_jit(back):
            raise gdb.error(f"left JIT code for {pc:#x} with {back:#x} on the stack")
        top.resume = (back, sp + 8)
        self.break_at(back)
        self.go_on()

    def resumed(self, activation: Activation) -> None:
        """Its call of C has come back: that place needs no breakpoint, unless for another activation."""
        waited, activation.resume = activation.resume, None
        if waited is None:
            return
        others = (other.resume for stack in self.stacks.values() for other in stack)
        if not any(other is not None and other[0] == waited[0] for other in others):
            self.breakpoints[waited[0]].enabled = False

    def go_on(self) -> None:
        gdb.execute("continue", to_string=True)
        self.rescan()

    def enter(self, stack: list[Activation], sp: int) -> None:
        """A shim's first instruction: this is the ground truth."""
        while stack and stack[-1].truth["rsp"] <= sp + 8:
            self.resumed(stack.pop())  # returned, while it was left alone
        truth = {name: register(name) for name in KEPT}
        truth["rsp"], truth["rip"] = sp + 8, word(sp)
        self.report.activations += 1
        self.report.nested += bool(stack)
        self.skip = max(self.skip - 1, -1)
        stack.append(Activation(truth, abandoned=self.skip >= 0))

    def check(self, activation: Activation, pc: int) -> None:
        """Compare GDB's caller with the ground truth."""
        in_shim = self.in_shim(pc)
        self.stale = self.stale + 1 if pc in self.seen else 0
        self.seen.add(pc)
        if in_shim:
            self.report.shim += 1
        else:
            self.report.body += 1
            self.follow(activation, pc)
        part = "shim" if in_shim else "body"
        got, depth = self.caller()
        depths, counts = self.report.depths[part], self.report.counts[part]
        depths[str(depth)] = depths.get(str(depth), 0) + 1
        bad = []
        for name in REGISTERS:
            value, true = got[name], activation.truth[name]
            verdict = "unknown" if isinstance(value, str) else "exact" if value == true else "wrong"
            counts[NAMES.get(name, name)][verdict] += 1
            if verdict != "exact":
                shown = value if isinstance(value, str) else f"{value:#x}"
                bad.append(f"{NAMES.get(name, name)}: {verdict}: {shown}, true is {true:#x}")
        if bad and len(self.report.examples) < MOST_EXAMPLES:
            code = gdb.execute(f"x/3i {pc:#x}", to_string=True).rstrip()
            self.report.examples.append("\n".join([code, *bad]))

    def caller(self) -> tuple[dict[str, int | str], int]:
        """The registers of the innermost frame that is neither JIT code nor its shim, with words where there
        is no value, and how many frames out that is."""
        depth = 0
        try:
            frame = gdb.newest_frame()
            while depth == 0 or (self.is_jit(frame.pc()) and depth < MOST_FRAMES):
                depth += 1
                frame = frame.older()
                if frame is None:
                    return dict.fromkeys(REGISTERS, "no such frame"), depth
        except (gdb.error, gdb.MemoryError) as error:
            return dict.fromkeys(REGISTERS, str(error)), depth
        found: dict[str, int | str] = {}
        for name in REGISTERS:
            try:
                found[name] = int(frame.read_register(name)) & MASK
            except (gdb.error, gdb.MemoryError) as error:
                found[name] = str(error)
        return found, depth

    def follow(self, activation: Activation, pc: int) -> None:
        """Note which executor's body runs."""
        jumped = not activation.last < pc <= activation.last + LONGEST_INSTRUCTION
        activation.last = pc
        if not activation.body:
            activation.body = activation.first = pc
        elif jumped and pc != activation.body and self.is_body_start(pc):
            activation.body = pc
            self.report.jumps += 1
        self.report.foreign += activation.body != activation.first


def register(name: str) -> int:
    return int(gdb.newest_frame().read_register(name)) & MASK


def memory(address: int, size: int) -> bytes:
    return bytes(gdb.selected_inferior().read_memory(address, size))


def word(address: int) -> int:
    return int.from_bytes(memory(address, 8), "little")


def address_of(symbol: str) -> int:
    return int(gdb.parse_and_eval(f"(unsigned long)&{symbol}"))


def end_of_function(start: int) -> int:
    """Behind its first `ret`."""
    architecture = gdb.selected_inferior().architecture()
    for line in architecture.disassemble(start, start + 4 * LONGEST_SHIM):
        if line["asm"].split()[0] in ("ret", "retq"):
            return int(line["addr"] + line["length"])
    raise gdb.error(f"the function at {start:#x} has no end")


def is_anonymous_code(line: str) -> bool:
    """Of a line of /proc/PID/maps (proc(5))."""
    fields = line.split()
    return "x" in fields[1] and fields[4] == "0" and (len(fields) == 5 or fields[5].startswith("[anon"))


def extent(line: str) -> tuple[int, int]:
    start, end = line.split()[0].split("-")
    return int(start, 16), int(end, 16)


def main(config: dict[str, Any]) -> None:
    stepper = Stepper(Config(**config))
    try:
        stepper.run()
    finally:
        with open(stepper.config.output, "w") as file:
            json.dump(vars(stepper.report), file)


if "CONFIG" in globals():
    main(CONFIG)  # type: ignore[name-defined]  # noqa: F821
