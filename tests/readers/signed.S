/* AArch64 functions that sign their return address, each with the same code where it calls what it is given.

   DW_CFA_AARCH64_negate_ra_state (AADWARF64, section 4.4) says from where to where the address is signed. */

        .macro  FUNCTION name
        .globl  \name
        .type   \name, %function
\name:
        .cfi_startproc
        .endm

        .macro  SIGN
        paciasp
        .cfi_negate_ra_state
        .endm

        .macro  PUSH
        stp     x29, x30, [sp, #-32]!
        .cfi_def_cfa_offset 32
        .cfi_offset 29, -32
        .cfi_offset 30, -24
        .endm

        .macro  POP
        ldp     x29, x30, [sp], #32
        .cfi_def_cfa_offset 0
        .cfi_restore 29
        .cfi_restore 30
        .endm

        .macro  AUTHENTICATE
        autiasp
        .cfi_negate_ra_state
        .endm

        .macro  DONE name
        ret
        .cfi_endproc
        .size   \name, .-\name
        .endm

        .text
FUNCTION signed_plainly
        SIGN
        PUSH
        blr     x0
        POP
        AUTHENTICATE
        DONE signed_plainly

/* The row at the call is that before an epilogue which comes first in the code. */
FUNCTION signed_restored
        SIGN
        PUSH
        .cfi_remember_state
        b       1f
        POP
        AUTHENTICATE
        ret
1:      .cfi_restore_state
        blr     x0
        POP
        AUTHENTICATE
        DONE signed_restored

/* Remembered unsigned, signed in between by what is never run. */
FUNCTION unsigned_restored
        PUSH
        .cfi_remember_state
        b       1f
        .cfi_negate_ra_state
        nop
1:      .cfi_restore_state
        blr     x0
        POP
        DONE unsigned_restored

FUNCTION signed_thrice
        SIGN
        AUTHENTICATE
        SIGN
        PUSH
        blr     x0
        POP
        AUTHENTICATE
        DONE signed_thrice

/* Nothing says that it is signed: who unwinds takes the signature for a part of the address. */
FUNCTION signed_untold
        paciasp
        PUSH
        blr     x0
        POP
        autiasp
        DONE signed_untold

/* What calls them: call_signed(function, ask). */
        .globl  call_signed, call_signed_return
FUNCTION call_signed
        PUSH
        mov     x2, x0
        mov     x0, x1
        blr     x2
call_signed_return:
        POP
        DONE call_signed
        .section .note.GNU-stack, "", %progbits
