"""Recovery through its one door: annotated assembly in, and the row at each instruction compared."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitunwind.arch.x86_64.effects import decode
from jitunwind.arch.x86_64.registers import X86_64
from jitunwind.recover.table import NOT_REACHED, recover
from jitunwind.rows import Row, Unknown, UnwindTable
from tests.support.assembly import Code, assemble, check_form, check_rows, told
from tests.support.codes import body_entry

FUNCTION, BODY = X86_64.at_entry(X86_64.platform), body_entry(X86_64)
PLATFORM = {0: FUNCTION}


def recovered(code: Code, entries=PLATFORM) -> UnwindTable:
    table = recover(X86_64, code.bytes, decode, entries)
    check_form(table, len(code.bytes))
    return table


def check(source: str) -> UnwindTable:
    """Recover `source`, entered at 0 by the platform's convention, and compare with its comments."""
    code = assemble(source)
    table = recovered(code)
    check_rows(code, table)
    return table


def test_push_and_pop_change_the_depth():
    check("""
        push rbx            # rsp+8
        push r12            # rsp+16 rbx@-16
        mov rbx, rdi        # rsp+24 rbx@-16 r12@-24
        xor r12d, r12d      # rsp+24 rbx@-16 r12@-24
        push 7              # rsp+24 rbx@-16 r12@-24
        pushfq              # rsp+32 rbx@-16 r12@-24
        popfq               # rsp+40 rbx@-16 r12@-24
        pop rax             # rsp+32 rbx@-16 r12@-24
        pop r12             # rsp+24 rbx@-16 r12@-24
        pop rbx             # rsp+16 rbx@-16
        ret                 # rsp+8
    """)


def test_a_pushed_register_is_in_its_slot_while_it_is_in_its_own_place_too():
    check("""
        push rbx            # rsp+8
        mov rax, rbx        # rsp+16 rbx@-16
        mov ebx, 1          # rsp+16 rbx@-16
        nop                 # rsp+16 rbx@-16
        pop rbx             # rsp+16 rbx@-16
        ret                 # rsp+8
    """)


def test_the_row_of_a_call_holds_when_it_has_come_back_too():
    """Unwinders look up a return address by the instruction before it. What is called here keeps no register."""
    code = assemble("""
        push rbx            # rsp+8
        call body           # rsp+16 rbx@-16
        pop rbx             # rsp+16 rbx@-16 r12=lost r13=lost r14=lost r15=lost
        ret                 # rsp+8 r12=lost r13=lost r14=lost r15=lost
    body:
        xor ebx, ebx
        ret
    """)
    check_rows(
        code,
        recovered(code, {0: FUNCTION, code.labels["body"]: BODY}),
    )


def test_sixteen_bit_pushes_change_the_depth_by_two():
    check("""
        push ax             # rsp+8
        pushw 1             # rsp+10
        nop                 # rsp+12
        pop cx              # rsp+12
        pop dx              # rsp+10
        ret                 # rsp+8
    """)


def test_frame_pointer_and_leave():
    check("""
        push rbp            # rsp+8
        mov rbp, rsp        # rsp+16 rbp@-16
        sub rsp, 0x40       # rsp+16 rbp@-16
        mov [rbp-8], rbx    # rsp+80 rbp@-16
        xor ebx, ebx        # rsp+80 rbx@-24 rbp@-16
        mov rbx, [rbp-8]    # rsp+80 rbx@-24 rbp@-16
        leave               # rsp+80 rbx@-24 rbp@-16
        ret                 # rsp+8
    """)


def test_enter_makes_a_frame():
    check("""
        enter 0x20, 0       # rsp+8
        mov [rbp-8], r12    # rsp+48 rbp@-16
        mov r12, rdi        # rsp+48 rbp@-16 r12@-24
        mov r12, [rbp-8]    # rsp+48 rbp@-16 r12@-24
        leave               # rsp+48 rbp@-16 r12@-24
        ret                 # rsp+8
    """)


def test_callee_saved_registers_moved_to_and_from_slots():
    check("""
        sub rsp, 0x18       # rsp+8
        mov [rsp+8], rbx    # rsp+32
        mov [rsp], r15      # rsp+32 rbx@-24
        mov rbx, rdi        # rsp+32 rbx@-24 r15@-32
        mov r15, rsi        # rsp+32 rbx@-24 r15@-32
        nop                 # rsp+32 rbx@-24 r15@-32
        mov rbx, [rsp+8]    # rsp+32 rbx@-24 r15@-32
        mov r15, [rsp]      # rsp+32 rbx@-24 r15@-32
        add rsp, 0x18       # rsp+32 rbx@-24 r15@-32
        ret                 # rsp+8
    """)


def test_lea_moves_the_stack_pointer():
    check("""
        lea rsp, [rsp-0x88] # rsp+8
        lea rcx, [rsp+8]    # rsp+144
        lea rsp, [rcx+0x80] # rsp+144
        ret                 # rsp+8
    """)


def test_a_register_kept_in_another_register():
    check("""
        mov rax, rbx        # rsp+8
        xor ebx, ebx        # rsp+8
        mov rdx, rax        # rsp+8 rbx=rax
        xor eax, eax        # rsp+8 rbx=rax
        mov rbx, rdx        # rsp+8 rbx=rdx
        ret                 # rsp+8
    """)


def test_a_register_that_is_kept_nowhere_is_lost():
    check("""
        xor ebx, ebx        # rsp+8
        mov ebp, ebp        # rsp+8 rbx=lost
        ret                 # rsp+8 rbx=lost rbp=lost
    """)


def test_the_cfa_in_another_register():
    check("""
        lea rcx, [rsp+8]    # rsp+8
        and rsp, -32        # rsp+8
        mov r8, rcx         # rcx+0
        xor ecx, ecx        # rcx+0
        lea rsp, [r8-8]     # r8+0
        ret                 # rsp+8
    """)


def test_exchanged_registers_are_followed():
    check("""
        xchg rbx, rax       # rsp+8
        cpuid               # rsp+8 rbx=rax
        xor eax, eax        # rsp+8 rbx=lost
        ret                 # rsp+8 rbx=lost
    """)
    check("""
        xchg rsi, rbx       # rsp+8
        cpuid               # rsp+8 rbx=rsi
        xchg rbx, rsi       # rsp+8 rbx=rsi
        ret                 # rsp+8
    """)


def test_a_barrier_leaves_the_slot_that_it_names():
    check("""
        push rbx                        # rsp+8
        xor ebx, ebx                    # rsp+16 rbx@-16
        lock or qword ptr [rsp], 0      # rsp+16 rbx@-16
        lock add dword ptr [rsp], 0     # rsp+16 rbx@-16
        lock or qword ptr [rsp], 1      # rsp+16 rbx@-16
        pop rbx                         # rsp+16 rbx=lost
        ret                             # rsp+8 rbx=lost
    """)


def test_push_of_the_stack_pointer_pushes_its_old_value():
    check("""
        push rsp            # rsp+8
        mov rax, [rsp]      # rsp+16
        and rsp, -16        # rsp+16
        mov rsp, rax        # rax+8
        push rsp            # rsp+8
        and [rsp+8], eax    # rsp+16
        pop rsp             # rsp+16 ra=lost
        nop                 # rsp+8 ra=lost
    """)


def test_pop_into_memory_overwrites_a_slot():
    check("""
        push rbx            # rsp+8
        xor ebx, ebx        # rsp+16 rbx@-16
        push rax            # rsp+16 rbx@-16
        pop [rsp]           # rsp+24 rbx@-16
        pop rax             # rsp+16 rbx=lost
        ret                 # rsp+8 rbx=lost
    """)


@pytest.mark.parametrize(
    "store",
    [
        "mov byte ptr [rsp+7], 0",
        "movups [rsp-12], xmm0",
        "lock inc dword ptr [rsp]",
        ".byte 0x36; mov [rsp], eax",
        "xchg [rsp], rdi",
        "fnstcw [rsp]",
    ],
)
def test_a_store_into_a_slot_overwrites_it(store):
    check(f"""
        push rbx            # rsp+8
        xor ebx, ebx        # rsp+16 rbx@-16
        {store}             # rsp+16 rbx@-16
        pop rax             # rsp+16 rbx=lost
        ret                 # rsp+8 rbx=lost
    """)


@pytest.mark.parametrize(
    "store", ["mov byte ptr [rsp+8], 0", "movups [rsp-16], xmm0", "fs mov [rsp], rax", "cmp [rsp], rax"]
)
def test_what_leaves_a_slot_alone(store):
    check(f"""
        push rbx            # rsp+8
        push rbx            # rsp+16 rbx@-16
        xor ebx, ebx        # rsp+24 rbx@-16
        {store.replace("rsp+8", "rsp+8-16")}  # rsp+24 rbx@-16
        pop rcx             # rsp+24 rbx@-16
        pop rbx             # rsp+16 rbx@-16
        ret                 # rsp+8
    """)


def test_paths_that_agree_meet():
    check("""
        push rbx            # rsp+8
        test rdi, rdi       # rsp+16 rbx@-16
        je other            # rsp+16 rbx@-16
        xor ebx, ebx        # rsp+16 rbx@-16
        jmp meet            # rsp+16 rbx@-16
    other:
        mov rbx, rsi        # rsp+16 rbx@-16
    meet:
        inc rbx             # rsp+16 rbx@-16
        pop rbx             # rsp+16 rbx@-16
        ret                 # rsp+8
    """)


def test_a_register_saved_on_one_path_is_found_where_both_have_it():
    check("""
        test rdi, rdi       # rsp+8
        je meet             # rsp+8
        mov [rsp-8], rbx    # rsp+8
    meet:
        nop                 # rsp+8
        ret                 # rsp+8
    """)


def test_paths_that_disagree_taint_what_follows_and_nothing_before():
    table = check("""
        sub rsp, 8          # rsp+8
        test rdi, rdi       # rsp+16
        je meet             # rsp+16
        nop                 # rsp+16
        push rax            # rsp+16
    meet:
        nop                 # ?disagree on the CFA
        ret                 # ?disagree on the CFA
    """)
    assert [row for row in table.rows if isinstance(row, Unknown)] == [
        Unknown(
            "the paths over +0x7 and +0xa meet at +0xb and disagree on the CFA "
            "(stack pointer at CFA-16 and at CFA-24)"
        )
    ]


def test_paths_that_leave_a_register_in_different_places_disagree():
    check("""
        push rbx            # rsp+8
        push r12            # rsp+16 rbx@-16
        test rdi, rdi       # rsp+24 rbx@-16 r12@-24
        je other            # rsp+24 rbx@-16 r12@-24
        mov rax, rbx        # rsp+24 rbx@-16 r12@-24
        mov [rsp+8], rdi    # rsp+24 rbx@-16 r12@-24
        xor ebx, ebx        # rsp+24 r12@-24
        jmp meet            # rsp+24 rbx=rax r12@-24
    other:
        xor ebx, ebx        # rsp+24 rbx@-16 r12@-24
    meet:
        nop                 # ?disagree on where rbx is
        ret                 # ?disagree on where rbx is
    """)


def test_the_path_that_arrives_last_does_not_outweigh_the_others():
    check("""
        push rbx            # rsp+8
        test edi, edi       # rsp+16 rbx@-16
        je other            # rsp+16 rbx@-16
        xor ebx, ebx        # rsp+16 rbx@-16
        jmp meet            # rsp+16 rbx@-16
    again:
        push rax            # rsp+16 rbx@-16
        pop rax             # rsp+24 rbx@-16
    meet:
        nop                 # rsp+16 rbx@-16
        pop rbx             # rsp+16 rbx@-16
        ret                 # rsp+8
    other:
        jmp again           # rsp+16 rbx@-16
    """)


def test_a_loop_keeps_its_row():
    check("""
        push rbp            # rsp+8
        mov ebp, 10         # rsp+16 rbp@-16
    again:
        push rax            # rsp+16 rbp@-16
        pop rax             # rsp+24 rbp@-16
        dec ebp             # rsp+16 rbp@-16
        jne again           # rsp+16 rbp@-16
        pop rbp             # rsp+16 rbp@-16
        ret                 # rsp+8
    """)


def test_what_a_loop_loses_is_lost_in_all_of_it():
    check("""
    again:
        nop                 # rsp+8 rbx=lost r12=lost
        xor r12d, r12d      # rsp+8 rbx=lost r12=lost
        nop                 # rsp+8 rbx=lost r12=lost
        xor ebx, ebx        # rsp+8 rbx=lost r12=lost
        dec edi             # rsp+8 rbx=lost r12=lost
        jne again           # rsp+8 rbx=lost r12=lost
        ret                 # rsp+8 rbx=lost r12=lost
    """)


def test_a_loop_that_pushes_disagrees_with_itself():
    check("""
        nop                 # rsp+8
    again:
        push rax            # ?disagree on the CFA
        dec edi             # ?disagree on the CFA
        jne again           # ?disagree on the CFA
        ret                 # ?disagree on the CFA
    """)


def test_the_loop_instruction_writes_rcx():
    check("""
        mov rcx, rbx        # rsp+8
        xor ebx, ebx        # rsp+8
    again:
        nop                 # rsp+8 rbx=lost
        loop again          # rsp+8 rbx=lost
        ret                 # rsp+8 rbx=lost
    """)


@pytest.mark.parametrize("trap", ["ud2", "int3", "hlt", ".byte 0x06"])
def test_nothing_follows_a_trap(trap):
    check(f"""
        push rax            # rsp+8
        test edi, edi       # rsp+16
        je on               # rsp+16
        push rax            # rsp+16
        {trap}              # rsp+24
    on:
        pop rax             # rsp+16
        ret                 # rsp+8
        .byte 0             # ?no path
    """)


def test_a_call_drops_what_lies_below_the_stack_pointer():
    check("""
        mov [rsp-8], rbx    # rsp+8
        xor ebx, ebx        # rsp+8
        nop                 # rsp+8 rbx@-16
        call [rax]          # rsp+8 rbx@-16
        nop                 # rsp+8 rbx=lost
        ret                 # rsp+8 rbx=lost
    """)


def test_a_call_keeps_the_frame_and_drops_caller_saved_registers():
    check("""
        push rbx            # rsp+8
        mov rbx, r12        # rsp+16 rbx@-16
        mov rax, r13        # rsp+16 rbx@-16
        xor r12d, r12d      # rsp+16 rbx@-16
        xor r13d, r13d      # rsp+16 rbx@-16 r12=rbx
        call [rcx]          # rsp+16 rbx@-16 r12=rbx r13=rax
        nop                 # rsp+16 rbx@-16 r12=rbx r13=lost
        ret                 # rsp+16 rbx@-16 r12=rbx r13=lost
    """)


def test_a_system_call_writes_rax_rcx_and_r11():
    check("""
        mov rax, rbx        # rsp+8
        mov rcx, r12        # rsp+8
        mov rdx, r13        # rsp+8
        xor ebx, ebx        # rsp+8
        xor r12d, r12d      # rsp+8 rbx=rax
        xor r13d, r13d      # rsp+8 rbx=rax r12=rcx
        syscall             # rsp+8 rbx=rax r12=rcx r13=rdx
        ret                 # rsp+8 rbx=lost r12=lost r13=rdx
    """)


def test_a_slot_in_the_red_zone_holds_until_it_is_overwritten():
    check("""
        mov [rsp-8], rbx    # rsp+8
        mov [rsp-0x10], r12 # rsp+8
        xor ebx, ebx        # rsp+8
        xor r12d, r12d      # rsp+8 rbx@-16
        push rax            # rsp+8 rbx@-16 r12@-24
        mov [rsp-0x18], rdi # rsp+16 rbx=lost r12@-24
        push rax            # rsp+16 rbx=lost r12@-24
        nop                 # rsp+24 rbx=lost r12=lost
    """)


def test_a_slot_below_the_red_zone_is_gone():
    check("""
        sub rsp, 0x88       # rsp+8
        mov [rsp], rbx      # rsp+144
        xor ebx, ebx        # rsp+144 rbx@-144
        add rsp, 0x80       # rsp+144 rbx@-144
        add rsp, 8          # rsp+16 rbx@-144
        ret                 # rsp+8 rbx=lost
    """)


def test_a_realigned_stack_with_a_frame_pointer():
    check("""
        push rbp            # rsp+8
        mov rbp, rsp        # rsp+16 rbp@-16
        push rbx            # rsp+16 rbp@-16
        and rsp, -64        # rsp+24 rbx@-24 rbp@-16
        sub rsp, 0x40       # rbp+16 rbx@-24 rbp@-16
        mov rbx, rdi        # rbp+16 rbx@-24 rbp@-16
        call [rax]          # rbp+16 rbx@-24 rbp@-16
        mov rbx, [rbp-8]    # rbp+16 rbx@-24 rbp@-16
        lea rsp, [rbp-8]    # rbp+16 rbx@-24 rbp@-16
        pop rax             # rsp+24 rbx@-24 rbp@-16
        pop rbp             # rsp+16 rbp@-16
        ret                 # rsp+8
    """)


def test_a_realigned_stack_may_be_pushed_over_the_red_zone():
    check("""
        push rbp            # rsp+8
        mov rbp, rsp        # rsp+16 rbp@-16
        mov [rsp-8], rbx    # rsp+16 rbp@-16
        xor ebx, ebx        # rsp+16 rbp@-16
        and rsp, -16        # rsp+16 rbx@-24 rbp@-16
        push rax            # rbp+16 rbx=lost rbp@-16
        leave               # rbp+16 rbx=lost rbp@-16
        ret                 # rsp+8 rbx=lost
    """)


def test_alloca_with_a_frame_pointer():
    check("""
        push rbp            # rsp+8
        mov rbp, rsp        # rsp+16 rbp@-16
        push r12            # rsp+16 rbp@-16
        sub rsp, rax        # rsp+24 rbp@-16 r12@-24
        mov r12, rsp        # rbp+16 rbp@-16 r12@-24
        call [rcx]          # rbp+16 rbp@-16 r12@-24
        mov r12, [rbp-8]    # rbp+16 rbp@-16 r12@-24
        leave               # rbp+16 rbp@-16 r12@-24
        ret                 # rsp+8
    """)


def test_alloca_without_a_frame_pointer_loses_the_cfa():
    check("""
        nop                 # rsp+8
        sub rsp, rax        # rsp+8
        nop                 # ?no register gives the CFA
    """)


def test_trampolines_behind_the_code_have_the_rows_of_a_function():
    check("""
        push rbx            # rsp+8
        mov rbx, rdi        # rsp+16 rbx@-16
        call trampoline     # rsp+16 rbx@-16
        call far_call       # rsp+16 rbx@-16
        pop rbx             # rsp+16 rbx@-16
        ret                 # rsp+8
    trampoline:
        jmp [rip]           # rsp+8
        .quad 0x1122334455  # ?no path
    far_call:
        sub rsp, 8          # rsp+8
        call [rip+5]        # rsp+16
        add rsp, 8          # rsp+16
        ret                 # rsp+8
        .quad 0x48c3c3c3    # ?no path
    """)


def test_call_of_the_next_instruction_is_a_push():
    check("""
        nop                 # rsp+8
        call here           # rsp+8
    here:
        pop rax             # rsp+16
        ret                 # rsp+8
    """)


def test_data_behind_the_code_is_not_reached():
    table = check("""
        jmp [rax]           # rsp+8
        .quad -1            # ?no path
        .ascii "constants"  # ?no path
    """)
    assert table.rows[-1] == NOT_REACHED
    assert len(table.rows) == 2


def test_data_between_code_is_not_reached():
    check("""
        push rbx            # rsp+8
        jmp on              # rsp+16 rbx@-16
        .quad 0x5050505050505050  # ?no path
    on:
        pop rbx             # rsp+16 rbx@-16
        ret                 # rsp+8
    """)


def test_code_behind_data_jumps_back_into_a_straight_run():
    """The bytes 0x48 0xb8 take what follows them into an instruction, so a second sweep decodes `on`."""
    check("""
        test edi, edi       # rsp+8
        jne data            # rsp+8
        xor ebx, ebx        # rsp+8
        nop                 # rsp+8 rbx=lost
    back:
        xor r12d, r12d      # rsp+8 rbx=lost
        nop                 # rsp+8 rbx=lost r12=lost
        ret                 # rsp+8 rbx=lost r12=lost
    data:
        jmp on              # rsp+8
        .byte 0x48, 0xb8    # ?no path
    on:
        jmp back            # rsp+8
        .quad 0             # ?no path
    """)


def test_a_jump_past_a_prefix_has_rows_of_its_own():
    check("""
        cmp dword ptr [rdi], 0      # rsp+8
        je past + 1                 # rsp+8
        push rbx                    # rsp+8
    past:
        lock inc dword ptr [rdi]    # rsp+16 rbx@-16
        nop                         # ?disagree on the CFA
        ret                         # ?disagree on the CFA
    """)


def test_a_jump_into_an_instructions_bytes_has_rows_of_its_own():
    """mov rax, imm64, whose last bytes are: push rax; pop rax; jmp over one byte of the next."""
    code = assemble("""
        push rbx                    # rsp+8
        test edi, edi               # rsp+16 rbx@-16
        je inside + 6               # rsp+16 rbx@-16
        pop rbx                     # rsp+16 rbx@-16
    inside:
        movabs rax, 0x01eb585090909090  # rsp+8
        push r12                    # rsp+8
        pop r12                     # ?disagree on the CFA
        ret                         # ?disagree on the CFA
    """)
    table = recovered(code)
    check_rows(code, table)
    inside = code.labels["inside"]
    # From inside + 6: push rax; pop rax; jmp to inside + 11, which is in `push r12` (41 54): push rsp (54).
    rows = [told(table.at(inside + offset)) for offset in (6, 7, 8, 10, 11)]
    assert rows == ["rsp+16 rbx@-16", "rsp+24 rbx@-16", "rsp+16 rbx@-16", "rsp+8", "rsp+16 rbx@-16"]


def test_both_sides_of_overlapping_instructions_keep_their_rows():
    """Two runs of code that never share an instruction's start, interleaved byte for byte."""
    code = assemble("""
        test edi, edi               # rsp+8
        je first                    # rsp+8
        push rbx                    # rsp+8
        jmp first + 2               # rsp+16 rbx@-16
    first:
        .byte 0x48, 0xb8, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xb8  # rsp+8
        .byte 0x90, 0x90, 0x5b, 0xc3  # rsp+8
        .byte 0xc3
    """)
    # From `first`: movabs; nop; nop; pop rbx; ret. From `first + 2`: seven nops; mov eax, imm32; ret.
    table = recovered(code)
    first = code.labels["first"]
    rows = [told(table.at(first + offset)) for offset in (0, 2, 8, 9, 10, 11, 12, 13, 14)]
    assert rows == [
        *("rsp+8", "rsp+16 rbx@-16", "rsp+16 rbx@-16", "rsp+16 rbx@-16"),
        *("rsp+8", "rsp+8", "rsp+8", "rsp+0 rbx=lost"),
        "rsp+16 rbx@-16",
    ]


def test_shim_and_body_of_an_executor_of_3_14():
    """The layout of CPython 3.14's executors: the shim calls the body, which keeps rbp alone."""
    code = assemble("""
        push r15            # rsp+8
        push r14            # rsp+16 r15@-16
        push r13            # rsp+24 r14@-24 r15@-16
        push r12
        push rbx
        mov r12, rdi
        mov r13, rsi        # rsp+48 rbx@-48 r12@-40 r13@-32 r14@-24 r15@-16
        mov r14, rdx        # rsp+48 rbx@-48 r12@-40 r13@-32 r14@-24 r15@-16
        call body           # rsp+48 rbx@-48 r12@-40 r13@-32 r14@-24 r15@-16
        pop rbx             # rsp+48 rbx@-48 r12@-40 r13@-32 r14@-24 r15@-16
        pop r12             # rsp+40 r12@-40 r13@-32 r14@-24 r15@-16
        pop r13             # rsp+32 r13@-32 r14@-24 r15@-16
        pop r14             # rsp+24 r14@-24 r15@-16
        pop r15             # rsp+16 r15@-16
        ret                 # rsp+8
    body:
        push rbp            # rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost
        mov rbp, rdi        # rsp+16 rbx=lost rbp@-16 r12=lost r13=lost r14=lost r15=lost
        push rax            # rsp+16 rbx=lost rbp@-16 r12=lost r13=lost r14=lost r15=lost
        call stub           # rsp+24 rbx=lost rbp@-16 r12=lost r13=lost r14=lost r15=lost
        lea rsp, [rsp+8]    # rsp+24 rbx=lost rbp@-16 r12=lost r13=lost r14=lost r15=lost
        pop rbp             # rsp+16 rbx=lost rbp@-16 r12=lost r13=lost r14=lost r15=lost
        test rax, rax       # rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost
        je out              # rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost
        jmp [r12+0x38]      # rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost
    out:
        ret                 # rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost
    stub:
        jmp [rip]           # rsp+8
        .quad 0             # ?no path
    """)
    table = recovered(code, {0: FUNCTION, code.labels["body"]: BODY})
    check_rows(code, table)


def test_a_disagreement_in_a_body_leaves_the_rest_of_the_body_alone():
    code = assemble("""
        sub rsp, 8          # rsp+8
        call body           # rsp+16
        add rsp, 8          # rsp+16 rbx=lost r12=lost r13=lost r14=lost r15=lost
        ret                 # rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost
    body:
        test eax, eax       # rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost
        je meet             # rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost
        push rax            # rsp+8 rbx=lost r12=lost r13=lost r14=lost r15=lost
    meet:
        ret                 # ?disagree on the CFA
    """)
    table = recovered(code, {0: FUNCTION, code.labels["body"]: BODY})
    check_rows(code, table)


def test_an_entry_that_code_also_falls_into_meets_it():
    code = assemble("""
        xor ebx, ebx        # rsp+8
        nop                 # rsp+8 rbx=lost
    second:
        nop                 # rsp+8 rbx=lost
        ret                 # rsp+8 rbx=lost
    """)
    both = {0: FUNCTION, code.labels["second"]: FUNCTION}
    for entries in (both, dict(reversed(both.items()))):
        check_rows(code, recovered(code, entries))


def test_code_without_an_end_has_rows_to_its_end():
    check("""
        push rbx            # rsp+8
        nop                 # rsp+16 rbx@-16
    """)


def test_an_instruction_that_is_cut_off_at_the_end_is_none():
    check("""
        push rbx            # rsp+8
        .byte 0x48, 0xb8    # rsp+16 rbx@-16
    """)


def test_empty_code_has_an_empty_table():
    assert recover(X86_64, b"", decode, PLATFORM) == UnwindTable(0, [], [])


def test_code_that_is_never_entered_is_not_reached():
    assert recover(X86_64, b"\x90\xc3", decode, {}) == UnwindTable(2, [0], [NOT_REACHED])
    assert recover(X86_64, b"\x90\xc3", decode, {9: FUNCTION, -4: BODY}).rows == [NOT_REACHED]


def test_code_before_the_entry_is_not_reached():
    table = recover(X86_64, b"\x90\x90\xc3", decode, {2: FUNCTION})
    assert [told(table.at(offset)) for offset in range(3)] == ["?" + NOT_REACHED.reason] * 2 + ["rsp+8"]


LIKELY = [
    *(b"\x50", b"\x53", b"\x55", b"\x5b", b"\x5d", b"\x90", b"\xc3", b"\xc9", b"\x48\x89\xe5"),
    *(b"\x48\x89\xec", b"\x48\x83\xec\x10", b"\x48\x83\xc4\x10", b"\x48\x83\xe4\xf0", b"\x31\xdb"),
    *(b"\x48\x89\x1c\x24", b"\x48\x8b\x1c\x24", b"\xff\x20", b"\xff\x10", b"\xf0", b"\x0f\x0b"),
]
JUMPS = st.tuples(st.sampled_from([b"\xeb", b"\x74", b"\xe2"]), st.integers(-40, 40)).map(
    lambda pair: pair[0] + pair[1].to_bytes(1, "little", signed=True)
)
CALLS = st.integers(-40, 40).map(lambda to: b"\xe8" + to.to_bytes(4, "little", signed=True))
PIECES = st.one_of(st.sampled_from(LIKELY), JUMPS, CALLS, st.binary(min_size=1, max_size=4))


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=40).map(b"".join), st.integers(0, 60))
def test_any_bytes_give_each_offset_a_row_or_a_reason(code, second):
    table = recover(X86_64, code, decode, {0: FUNCTION, second: BODY})
    check_form(table, len(code))
    for offset in range(len(code)):
        row = table.at(offset)
        assert isinstance(row, Row) or row.reason


def test_what_takes_too_long_is_given_up_with_a_reason(monkeypatch):
    monkeypatch.setattr("jitunwind.recover.table.MOST_STEPS", 3)
    table = recovered(assemble("nop\n" * 9 + "jmp $+2\n" * 9 + "ret"))
    assert [row.reason for row in table.rows] == ["recovery takes more than 3 steps here"]
    short = recovered(assemble("ret"))
    assert [isinstance(row, Row) for row in short.rows] == [True]


def test_boundaries_end_a_disagreement():
    code = assemble(
        """
    first:
        xor eax, eax
    also:
        test eax, eax
        je second
        push rax
        call rbx
    second:
        push rax
        pop rax
    third:
        ret
    """
    )
    offsets = [code.labels[name] for name in ("first", "also", "second", "third")]
    unsure = recover(X86_64, code.bytes, decode, {0: BODY})
    assert [isinstance(unsure.at(offset), Unknown) for offset in offsets] == [False, False, True, True]
    known = recover(X86_64, code.bytes, decode, {0: BODY}, lambda: offsets)
    assert [known.at(offset) for offset in offsets] == [BODY] * len(offsets)
    # WHEN one of them is none, nothing is believed
    inside = offsets[2] - 2  # the call, behind a push
    assert recover(X86_64, code.bytes, decode, {0: BODY}, lambda: [*offsets, inside]).rows == unsure.rows
