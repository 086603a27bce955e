"""Code of LLVM's, registered through GDB's JIT interface, that calls itself, and Python, which may be in JIT code.

`outer` calls `inner` in a loop, that calls a Python function by a pointer.
"""

import ctypes
import os
import sys

from handshake import run_forever

sys.path.append(
    os.environ["JITUNWIND_TEST_PACKAGES"]
)  # llvmlite is Python, and a library of no version of it

import llvmlite.binding as llvm

IR = """
define i64 @inner(i64 %n) noinline uwtable {
  %doubled = mul i64 %n, 2
  %got = call i64 inttoptr (i64 CALLBACK to i64 (i64)*)(i64 %doubled)
  %sum = add i64 %got, %n
  ret i64 %sum
}

define i64 @outer(i64 %n) noinline uwtable {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
  %total = phi i64 [0, %entry], [%sum, %loop]
  %argument = add i64 %n, %i
  %got = call i64 @inner(i64 %argument)
  %mixed = xor i64 %got, %argument
  %sum = add i64 %total, %mixed
  %next = add i64 %i, 1
  %done = icmp eq i64 %next, 10
  br i1 %done, label %end, label %loop
end:
  ret i64 %sum
}
"""


def back(n: int) -> int:
    total = 0
    for i in range(60):
        total += i & n
        if total & 4:
            total += 1
    return total


called = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(back)
llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
address = ctypes.cast(called, ctypes.c_void_p).value
module = llvm.parse_assembly(IR.replace("CALLBACK", str(address)))
engine = llvm.create_mcjit_compiler(module, machine)
engine.enable_jit_events()
engine.finalize_object()
outer = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)(engine.get_function_address("outer"))


def work() -> None:
    outer(7)


run_forever(work)
