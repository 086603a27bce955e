/* A function for tests/audit/test_recorder.py, with a bit of everything that its copy must keep: flags that live on, the red zone, memory addressed by the program counter, branches both ways, a loop,
   string instructions, vectors, a call and an indirect jump. */
#include <stdio.h>

unsigned long word = 0x1122334455667788;
unsigned long work(unsigned long seed);

__asm__(".text\n.globl work, work_end\nwork:\n"
        "  push %rbx\n"
        "  mov %rdi, %rax\n"
        "  mov word(%rip), %rbx\n"
        "  mov %rbx, -16(%rsp)\n"        /* the red zone */
        "  mov %rax, -128(%rsp)\n"
        "  mov $300, %ecx\n"
        "  stc\n"
        "1: lea 3(%rax,%rbx), %rax\n"    /* leaves the carry alone */
        "  adc $5, %rax\n"
        "  rol $7, %rax\n"
        "  jnc 2f\n"
        "  add -16(%rsp), %rbx\n"
        "  jmp 3f\n"
        "2: xor -128(%rsp), %rbx\n"
        "3: dec %ecx\n"
        "  jne 1b\n"
        "  movq %rax, %xmm0\n"
        "  movq %rbx, %xmm1\n"
        "  pxor %xmm1, %xmm0\n"
        "  movq %xmm0, %rdx\n"
        "  addl $9, word+4(%rip)\n"
        "  cmpb $1, word(%rip)\n"
        "  sete %cl\n"
        "  .byte 0x0f, 0x84\n  .long 5f - 4f\n"  /* a near branch where a short one would do */
        "4: call leaf\n"
        "5: lea 6f(%rip), %rsi\n"
        "  jmp *%rsi\n"
        "6: add %rdx, %rax\n"
        "  pop %rbx\n"
        "  ret\n"
        "leaf: not %rax\n"
        "  ret\n"
        "work_end: nop\n");

int main(void)
{
    unsigned long first = work(1), second = work(first);
    printf("%lx %lx %lx\n", first, second, word);
    return 0;
}
