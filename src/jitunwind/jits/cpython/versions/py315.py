"""CPython 3.15, as in 3.15.2."""

from struct import Struct

from jitunwind.arch.aarch64.registers import X21
from jitunwind.arch.x86_64.registers import R13
from jitunwind.jits.cpython.versions.groups import CONTAINERS, DEBUGGER, FRAMES_AND_CODE, INTERPRETER
from jitunwind.jits.cpython.versions.record import (
    Decision,
    ExecutorLayout,
    MicroOpLayout,
    Registration,
    StrLayout,
    Version,
)

VERSION = Version(
    number=(3, 15),
    debug_offsets=f"""
        {INTERPRETER}
        thread_state: size prev next interp current_frame base_frame last_profiled_frame
            last_profiled_frame_seq thread_id native_thread_id datastack_chunk status holds_gil gil_requested
            current_exception exc_state
        err_stackitem: exc_value
        {FRAMES_AND_CODE}
        type_object: size tp_name tp_repr tp_flags tp_basicsize tp_dictoffset
        heap_type_object: size ht_cached_keys
        {CONTAINERS}
        unicode_object: size state length asciiobject_size compactunicodeobject_size
        gc: size collecting frame generation_stats_size generation_stats
        {DEBUGGER}
    """,
    later_without=("thread_state.last_profiled_frame_seq",),
    executor=ExecutorLayout(
        lists=(223464,),
        singles=(223472, 223480),
        array=223440,
        array_count=223448,
        link_next=48,
        code=64,
        jit_size=80,
        jit_code=88,
        registration=Registration(pointer=96, debugger=0, libgcc=8),
        trace=24,
        code_size=76,
        exits=104,
        exit_count=72,
        exit_size=16,
        exit_executor=8,
        warm=None,
        jit_switch=223408,
        shim_in_region=False,
        current=304,
        stencil_group=88,
    ),
    frame_registers={"x86_64": R13, "aarch64": X21},
    frame_of_interpreter=3,
    string=StrLayout(kind=2, ascii=6, behind_ascii=16),
    micro_op=MicroOpLayout(
        instruction=Struct("<HHIQQ"),
        opcode_mask=0x7FFF,
        jumps=0x8000,
        first=300,
        first_names=("_EXIT_TRACE", "_SET_IP"),
    ),
    decisions=(
        Decision("JUMP_BACKWARD", "JUMP_BACKWARD_JIT", "JUMP_BACKWARD_NO_JIT"),
        Decision("RESUME", "RESUME_CHECK_JIT", "RESUME_CHECK"),
    ),
)
