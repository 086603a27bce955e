/* How a hand-made function is called: enter(code, ask, frames) -> nothing.

   `frames` are made frames on the stack, 64 bytes each; the first word of each is the address in `marks` that it
   "returns" to. The caller's rbx points to frame 0, r13 to frame 1 (the function takes that for its own rbx), r12 to
   frame 2, r15 to frame 3.

   The frame of `enter_by_rbx` is found by rbx alone, so that the address behind it tells, even in a list of bare program
   counters, which rbx a reader has found. Only who looks at the row behind the call, as is right if the function is a
   signal frame, finds it by r15. The frame of `enter` is found as others are, for readers that tell registers.

   The function gets: rax 48 (it lowers rsp by it, which no debugger follows), rsi what it calls, r8 `marks`, r14 its
   CFA less BIG. */

        .set    BIG, 0x123456

        .macro  ENTER name, cfa, offset
        .globl  \name, \name\()_return
        .type   \name, @function
\name:
        .cfi_startproc
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        sub     $8, %rsp
        mov     %rdx, %rbx
        lea     64(%rdx), %r13
        lea     128(%rdx), %r12
        lea     192(%rdx), %r15
        lea     -BIG(%rsp), %r14
        mov     $48, %eax
        lea     marks(%rip), %r8
        mov     %rsp, entered_cfa(%rip)
        .cfi_def_cfa \cfa, \offset
        .cfi_undefined %rbx
        .cfi_undefined %r12
        .cfi_undefined %r13
        .cfi_undefined %r14
        call    *%rdi
\name\()_return:
        .cfi_def_cfa %r15, 8
        add     $8, %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .cfi_endproc
        .size   \name, .-\name
        .endm

        .text
        ENTER   enter, %rsp, 64
        ENTER   enter_by_rbx, %rbx, 8

/* Addresses without code; a stack ends here. */
        .globl  marks, entered_cfa
        .type   marks, @function
        nop
marks:
        .cfi_startproc
        .cfi_undefined %rip
        .skip   512, 0x90
        ret
        .cfi_endproc
        .size   marks, .-marks

        .bss
        .balign 8
entered_cfa:
        .skip   8
        .section .note.GNU-stack, "", @progbits
