"""The decoder of a disassembler's words against the decoder of the bytes: the same steps, the same tables."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

import jitunwind.rows
from jitunwind.arch.effects import Assign, Clobber, Control, Decoded, Load, Step, Store, effects
from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import R11, RAX, RBP, RBX, RCX, RSP, X86_64
from jitunwind.arch.x86_64.text import decode_text, text_decoder
from jitunwind.recover.table import recover
from tests.support.assembly import assemble, disassembly, side_by_side, told

EVERY = range(16)
PLATFORM = {0: X86_64.at_entry(X86_64.platform)}
SYNTAXES = ("att", "intel")
SRC = Path(jitunwind.rows.__file__).parents[1]

ODD = """
push rbx; push r12; push ax; pushw 5; push 5; push 0x1000; push [rbx+8]; pushw [rbx]; push fs; pushf
pushfw; pop rbx; pop r12; pop ax; pop [rbx+8]; pop [rsp+8]; popw [rbx]; pop fs; popf; popfw; push rsp
pop rsp; .byte 0x66; leave; sysenter; leave; enter 0x20, 0; enter 0x20, 1; add rsp, 8
add rsp, 0x1000; add rsp, -128; sub rsp, 8
sub rsp, 0x80; add esp, 8; sub rsp, rax; and rsp, -16; lea rsp, [rsp+8]; lea rsp, [rbp-0x28]
lea rbx, [rsp+rax*2+8]; lea ebx, [rsp+8]; lea rbx, [esp+8]; lea rbx, [rip+8]; lea rbx, [rax*8+8]
lea rbx, fs:[rax+8]; mov rbx, rax; mov ebx, eax; mov bl, al; mov bh, al; mov rbx, [rsp+8]
mov rbx, fs:[0x28]; mov rbx, fs:[rax]; mov rbx, [rax+rcx]; mov ebx, [rsp]; mov rbx, [eax]
mov [rsp+8], rbx; mov [rsp], ebx; mov [rsp], bx; mov [rsp], bl; mov [rsp+rax], rbx; mov fs:[rsp], rbx
mov [rsp], ds; mov rbx, fs; mov qword ptr [rsp], 5; mov byte ptr [rbp-1], 5; mov rbx, 5; mov ebx, 5
movabs rbx, 0x1122334455667788; movabs rax, [0x1122334455667788]; movabs [0x1122334455667788], rax
movzx ebx, al; movzx rbx, word ptr [rsp]; movsx rbx, al; movsxd rbx, eax; movsx ebx, byte ptr [rsp]
xchg rbx, rax; xchg rbx, rcx; xchg [rsp], rbx; xchg ax, ax; nop; nop dword ptr [rbx+8]; xadd [rsp], rbx
xadd rbx, rcx; cmpxchg [rsp], rbx; cmpxchg rbx, rcx; lock cmpxchg [rbp-8], ecx; cmpxchg8b [rsp]
cmpxchg16b [rsp]; bswap rbx; cmp rbx, rax; cmp [rsp], rax; test rbx, rbx; bt rbx, rax; bts rbx, rax
xchg rbx, rbx; lock or dword ptr [rsp], 0; add qword ptr [rsp], 0; xor byte ptr [rsp], 0; lock or [rsp], rax
bts dword ptr [rsp], 3; inc rbx; dec dword ptr [rsp]; neg rbx; not rbx; not qword ptr [rsp]; shl rbx, cl
shl rbx; sar dword ptr [rsp], 4; shld rbx, rax, cl; shrd [rsp], rax, 4; rol rbx, 1; mul rbx; mul bl
mul qword ptr [rsp]; imul rbx; imul rbx, rax; imul rbx, [rsp], 5; div rbx; div byte ptr [rsp]
idiv dword ptr [rsp]; cdq; cqo; cwd; cbw; cwde; cdqe; cpuid; rdtsc; rdtscp; xgetbv; syscall; lahf; sahf
xlatb; cmovne rbx, rax; cmovb rbx, [rsp]; sete bl; setg byte ptr [rsp]; bsf rbx, rax; tzcnt rbx, rax
popcnt rbx, [rsp]; andn rbx, rax, rcx; bextr rbx, rax, rcx; blsr rbx, rax; bzhi rbx, rax, rcx
pdep rbx, rax, rcx; rorx rbx, rax, 5; sarx rbx, rax, rcx; mulx rbx, rcx, rax; adcx rbx, rax
crc32 rbx, rax; crc32 ebx, byte ptr [rsp]; movbe rbx, [rsp]; movbe [rsp], rbx; movnti [rsp], rbx
movq xmm0, rbx; movq rbx, xmm0; movd ebx, xmm0; movd [rsp], xmm0; movq [rsp], xmm0; movaps [rsp], xmm0
movaps xmm0, [rsp]; movups [rsp-8], xmm0; movss [rsp], xmm0; movsd [rsp], xmm0; movsd xmm0, [rsp]
movlps [rsp], xmm0; movhpd [rsp], xmm0; movdqa [rsp], xmm0; movntdq [rsp], xmm0; movntps [rsp], xmm0
vmovaps [rsp], ymm0; vmovdqu [rsp], xmm0; vmovdqu64 [rsp], zmm0; vmovd ebx, xmm0; vmovq rbx, xmm0
vmovq [rsp], xmm0; vmovss [rsp], xmm0; vextracti128 [rsp], ymm0, 1; vextracti64x4 [rsp], zmm0, 1
vpextrq rbx, xmm0, 1; vpextrq [rsp], xmm0, 1; pextrb [rsp], xmm0, 1; pextrw ebx, xmm0, 1
pinsrq xmm0, rbx, 1; pmovmskb ebx, xmm0; movmskpd ebx, xmm0; vpbroadcastd ymm0, ebx; cvttsd2si rbx, xmm0
cvtsi2sd xmm0, rbx; vcvtsi2sd xmm0, xmm0, dword ptr [rsp]; ucomisd xmm0, [rsp]; ptest xmm0, [rsp]
pcmpestri xmm0, xmm1, 5; pcmpistri xmm0, [rsp], 5; vzeroupper; emms; kmovq rbx, k1; kmovw [rsp], k1
kmovq k1, rbx; vaddpd zmm0{k1}{z}, zmm1, [rsp]{1to8}; vmovaps [rsp]{k1}, zmm0; vpcmpeqb k1, zmm0, zmm1
fld qword ptr [rsp]; fst dword ptr [rsp]; fstp qword ptr [rsp]; fstp tbyte ptr [rsp]; fist word ptr [rsp]
fistp dword ptr [rsp]; fistp qword ptr [rsp]; fisttp qword ptr [rsp]; fild qword ptr [rsp]
fadd dword ptr [rsp]; fnstcw [rsp]; fldcw [rsp]; fnstsw ax; fnstenv [rsp]; fnsave [rsp]; fxsave [rsp]
fxrstor [rsp]; fstp st(1); fcmovne st, st(1); stmxcsr [rsp]; ldmxcsr [rsp]; xsave [rsp]; xrstor [rsp]
movsb; rep movsq; stosd; rep stosb; lodsq; scasb; repne scasb; cmpsb; repe cmpsb; in al, dx; out dx, al
cld; std; mfence; lfence; pause; endbr64; prefetcht0 [rsp]; clflush [rsp]; rdrand rbx; rdseed rbx
rdfsbase rbx; wrfsbase rbx; rdsspq rbx; incsspq rbx; lock add [rsp], rax; lock xadd [rsp], eax
xacquire lock inc dword ptr [rsp]; sgdt [rsp]; str bx; lar rbx, ax; sldt [rsp]; smsw rbx; invlpg [rsp]
verr bx; call next; next: call [rbx]; call rbx; call fs:[rbx]; call next; jne next; jrcxz next; loop next
loopne next; je next + 0x10000; jae next - 0x10000; js next - 0x40
"""
ENDS = (
    *(
        "ret",
        "ret 8",
        "rep ret",
        "bnd ret",
        "lret",
        "iretq",
        "sysretq",
        "ud2",
        "int3",
        "hlt",
        "int 0x80",
        "jmp rbx",
    ),
    *(
        "jmp [rip]",
        "notrack jmp rbx",
        "notrack jmp [rax*8+8]",
        "jmp fs:[rbx]",
        "ljmp [rbx]",
        ".byte 0x06",
        "jmp . + 0x5000",
    ),
    *("bnd jmp . + 0x5000", "jmp . - 0x20", "jmp . - 0x5000", "ud1 eax, [rsp]", "jmp rax", "jmp ax"),
)


def flat(step: Step | None):
    """A step in a form that is equal where two decoders mean the same."""
    if step is None:
        return None
    parts = sorted((type(part).__name__, tuple(part)) for part in step.effects)
    return step.next, step.control.name, step.target, parts


def lines_of(code: bytes, syntax: str):
    listing = disassembly(code, syntax)
    ends = [offset for offset, _ in listing[1:]] + [len(code)]
    return [(offset, end - offset, text) for (offset, text), end in zip(listing, ends, strict=True)]


def differences(code: bytes, syntax: str) -> list[str]:
    """Where the two decoders give different steps for the instructions that both see."""
    lines = lines_of(code, syntax)
    one, other = decode(code, 0, EVERY), decode_text(lines, EVERY, 0, len(code))
    by_bytes = {step.offset: flat(step) for step in one.steps}
    by_text = {step.offset: flat(step) for step in other.steps}
    found = [] if one.starts == other.starts else [f"starts {one.starts} {other.starts}"]
    for offset, _, text in lines:
        if by_bytes.get(offset) != by_text.get(offset):
            found.append(f"{text:40} {by_bytes.get(offset)} {by_text.get(offset)}")
    return found


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_unusual_instructions_mean_the_same(syntax):
    code = assemble(ODD).bytes
    assert len(lines_of(code, syntax)) > 250
    assert not differences(code, syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_instructions_that_end_a_path_mean_the_same(syntax):
    source = "\n".join(f"end.{number}: nop; {end}" for number, end in enumerate(ENDS))
    code = assemble(f"{source}\nend.{len(ENDS)}:")
    found = {}
    for number, end in enumerate(ENDS):
        piece = code.bytes[code.labels[f"end.{number}"] : code.labels[f"end.{number + 1}"]]
        found[end] = differences(piece, syntax)
    assert not {end: there for end, there in found.items() if there}


def one(text: str, followed=EVERY, base=0) -> Step | None:
    steps = decode_text([(0, 4, text)], followed, base).steps
    return steps[0] if steps else None


@pytest.mark.parametrize(
    ("text", "effect"),
    [
        ("mov    0x8(%rsp),%rbx        # 0x1234 <a(int, char)+4>", Load(RBX, RSP, 8)),
        ("mov    %rbx,-0x8(%rbp)", Store(RBP, -8, RBX, 8)),
        ("movq   $0x0,(%rsp)", Store(RSP, 0, None, 8)),
        ("sub    $0xffffffffffffff80,%rsp", Assign(RSP, RSP, 128)),
        ("sub    rsp,0xffffffffffffff80", Assign(RSP, RSP, 128)),
        ("cs mov %eax,%ds:0x8(%rsp)", Store(RSP, 8, None, 4)),
        ("mov    %rbx,(%eax)", None),
        ("lea    0x0(%rsi,%riz,1),%rsi", Assign(4, 4, 0)),
        ("data16 rex.W", None),
    ],
)
def test_decorations_change_nothing(text, effect):
    step = one(text)
    assert (step.effects if step else effects()) == (effects(effect) if effect else effects())


@pytest.mark.parametrize("prefix", ["", "bnd ", "notrack ", "data16 ", "rex.W "])
@pytest.mark.parametrize("mnemonic", ["call", "callq"])
@pytest.mark.parametrize("target", ["0x7f0000001010 <f(int, <lambda#1>)+16>", "7f0000001010"])
def test_targets_count_from_the_codes_start(prefix, mnemonic, target):
    step = one(f"{prefix}{mnemonic} {target}", base=0x7F0000001000)
    assert (step.control, step.target) == (Control.CALL, 0x10)
    assert one(f"jmp {target}", base=0x7F0000001020).target == -0x10


@pytest.mark.parametrize(
    "text", ["jmp *%rax", "jmp rax", "jmp *0x10(%rip) # 0x30 <x>", "jmp QWORD PTR [rip+0x10]"]
)
def test_indirect_jumps_have_no_target(text):
    assert one(text) == Step(0, 4, effects(), Control.JUMP, None)


@pytest.mark.parametrize(
    ("text", "registers"),
    [
        ("frobnicate %rsp,%rbx", {RSP, RBX}),
        ("frobnicate rbx,rcx,QWORD PTR [rsp]", {RBX, RCX}),
        ("pushmany %rbx", {RSP, RBX}),
        ("frobnicate", set(EVERY) - {RSP}),
        ("syscall", {RAX, RCX, R11}),
    ],
)
def test_unknown_mnemonics_count_as_writing_what_they_name(text, registers):
    assert {part.target for part in one(text).effects if isinstance(part, Clobber)} == registers


def test_only_followed_registers_matter():
    assert one("mov %rax,%rcx", followed=[RBX, RSP]) is None
    assert one("mov %rbx,(%rax)", followed=[RBX, RSP]) is None
    assert one("pop %rcx", followed=[RBX, RSP]).effects == effects(Assign(RSP, RSP, 8))


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.text(max_size=30),
        st.from_regex(r"\A(mov|xchg|enter|push|lea|imul|movs|jmp|call) [%$*0-9a-z(),\[\]+:-]{0,20}\Z"),
    )
)
def test_no_text_is_too_strange(text):
    assert isinstance(decode_text([(0, 1, text)], EVERY), Decoded)


def test_a_disassembler_is_asked_piece_by_piece_and_not_trusted():
    asked = []

    def disassemble(begin, end):
        asked.append((begin, end))
        yield from ((offset, 1, "nop") for offset in range(begin, end))

    decoded = text_decoder(disassemble, 0)(bytes(3000), 100, [RSP])
    assert decoded.starts == list(range(100, 3000))
    assert asked == [(100, 1124), (1124, 2148), (2148, 3000)]
    for lines in ([], [(1, 1, "nop")], [(0, 0, "nop")], [(0, -1, "nop")]):
        assert text_decoder(lambda begin, end, lines=lines: lines, 0)(bytes(8), 0, [RSP]) == Decoded([], [])
    beyond = text_decoder(lambda begin, end: [(0, 9, "push %rbx")], 0)(bytes(8), 0, [RSP])
    assert beyond.steps == [Step(0, 8, effects(), Control.HALT)]


# Real code: functions of the C library, sampled evenly.


@cache
def libc() -> tuple[Path, dict[int, int], bytes, int]:
    """The C library that runs here: its path, its functions (address -> size), .text and its address."""
    mapped = re.findall(r"(/\S*/libc\.so\.6)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    if not mapped:
        pytest.skip("needs glibc")
    with open(mapped[0], "rb") as file:
        elf = ELFFile(file)
        section = elf.get_section_by_name(".text")
        start, text = section["sh_addr"], section.data()
        functions = {
            symbol["st_value"]: symbol["st_size"]
            for symbol in elf.get_section_by_name(".dynsym").iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_size"] > 16
        }
    inside = {at: size for at, size in sorted(functions.items()) if start <= at < start + len(text) - size}
    return Path(mapped[0]), inside, text, start


def sampled(step: int) -> dict[int, bytes]:
    """Each `step`-th function of the C library: address -> machine code."""
    _, functions, text, start = libc()
    return {at: text[at - start : at - start + functions[at]] for at in list(functions)[::step]}


def by_bytes(code: bytes):
    return recover(X86_64, code, decode, PLATFORM)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_objdumps_words_give_the_same_tables(syntax):
    path = libc()[0]
    for start, code in sampled(80).items():

        def disassemble(begin, end, start=start):
            command = ["objdump", "-d", "-w", "-z", "--no-show-raw-insn", "-M", syntax, path]
            limits = [f"--start-address={start + begin}", f"--stop-address={start + end + 16}"]
            listing = subprocess.run([*command, *limits], capture_output=True, text=True, check=True).stdout
            found = re.findall(r"^\s*([0-9a-f]+):\t(.*)$", listing, re.MULTILINE)
            offsets = [int(address, 16) - start for address, _ in found]
            for offset, after, (_, text) in zip(offsets, offsets[1:], found, strict=False):
                if offset < end:
                    yield offset, after - offset, text

        table = recover(X86_64, code, text_decoder(disassemble, start), PLATFORM)
        wanted = by_bytes(code)
        rows = {offset: told(wanted.at(offset)) for offset, _ in disassembly(code)}
        assert table == wanted, f"\n{start:#x}\n{side_by_side(code, table, rows)}"


IN_GDB = """
import json, sys
sys.path.insert(0, {src!r})
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.arch.x86_64.text import text_decoder
from jitunwind.recover.table import recover

architecture = gdb.selected_inferior().architecture()
found = {{}}
for syntax in ("att", "intel"):
    gdb.execute("set disassembly-flavor " + syntax)
    for start, code in json.loads({functions!r}).items():
        start, code = int(start), bytes.fromhex(code)
        def disassemble(begin, end):
            for line in architecture.disassemble(start + begin, start + end - 1):
                yield line["addr"] - start, line["length"], line["asm"]
        table = recover(X86_64, code, text_decoder(disassemble, start), {{0: X86_64.at_entry(X86_64.platform)}})
        found[syntax + " " + str(start)] = repr(table)
assert "iced_x86" not in sys.modules
print("RESULT", json.dumps(found))
"""


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs GDB")
def test_gdbs_words_give_the_same_tables(tmp_path):
    functions = sampled(25)
    script = tmp_path / "recover.py"
    sent = json.dumps({start: code.hex() for start, code in functions.items()})
    script.write_text(IN_GDB.format(src=str(SRC), functions=sent))
    command = [
        "gdb",
        "-nx",
        "-batch",
        "-ex",
        "set debuginfod enabled off",
        "-ex",
        f"source {script}",
        libc()[0],
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    result = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    assert result, done.stdout + done.stderr
    found = json.loads(result[1])
    assert len(found) == 2 * len(functions) > 100
    wrong = [key for key, table in found.items() if table != repr(by_bytes(functions[int(key.split()[1])]))]
    assert not wrong, f"other rows for {wrong}, the first:\n{found[wrong[0]]}"
