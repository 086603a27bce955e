"""CPython 3.14, as in 3.14.10."""

from struct import Struct

from jitunwind.arch.aarch64.registers import X20
from jitunwind.arch.x86_64.registers import R12
from jitunwind.jits.cpython.versions.groups import CONTAINERS, DEBUGGER, FRAMES_AND_CODE, INTERPRETER
from jitunwind.jits.cpython.versions.record import Decision, ExecutorLayout, MicroOpLayout, StrLayout, Version

VERSION = Version(
    number=(3, 14),
    debug_offsets=f"""
        {INTERPRETER}
        thread_state: size prev next interp current_frame thread_id native_thread_id datastack_chunk status
        {FRAMES_AND_CODE}
        type_object: size tp_name tp_repr tp_flags
        {CONTAINERS}
        unicode_object: size state length asciiobject_size
        gc: size collecting
        {DEBUGGER}
    """,
    later_without=(),
    executor=ExecutorLayout(
        lists=(223192, 223200),
        singles=(),
        array=None,
        array_count=None,
        link_next=72,
        code=88,
        jit_size=104,
        jit_code=112,
        registration=None,
        trace=24,
        code_size=100,
        exits=128,
        exit_count=96,
        exit_size=16,
        exit_executor=8,
        warm=35,
        jit_switch=223184,
        shim_in_region=True,
        current=272,
        stencil_group=40,
    ),
    frame_registers={"x86_64": R12, "aarch64": X20},
    frame_of_interpreter=3,
    string=StrLayout(kind=2, ascii=6, behind_ascii=16),
    micro_op=MicroOpLayout(
        instruction=Struct("<HHIQQ"),
        opcode_mask=0x7FFF,
        jumps=0x8000,
        first=300,
        first_names=("_EXIT_TRACE", "_SET_IP"),
    ),
    decisions=(Decision("JUMP_BACKWARD", "JUMP_BACKWARD_JIT", "JUMP_BACKWARD_NO_JIT"),),
)
