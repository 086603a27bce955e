/* A JIT in C that describes its code: backtrace() and plain GDB go through it, C++ exceptions would.

     cc -g -o jit examples/jit.c $(jitunwind agent --cflags --libs)
     ./jit
     gdb -ex 'break stop_here' -ex run -ex bt ./jit */

#define _GNU_SOURCE
#include <execinfo.h>
#include <jitunwind.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What a compiler of some language made: a function that keeps its argument in a register, and calls it. And what it
   knows of that code: where the return address is, and the caller's value of that register; and its lines. */
#if defined(__x86_64__)

enum { RBX = 3, RSP = 7, RIP = 16 }; /* DWARF's numbers: System V ABI for x86_64, figure 3.36 */

static const unsigned char code[] = {
    0x53,                   /*  0: push %rbx */
    0x48, 0x89, 0xfb,       /*  1: mov %rdi, %rbx */
    0x48, 0x83, 0xec, 0x20, /*  4: sub $32, %rsp */
    0xff, 0xd3,             /*  8: call *%rbx */
    0x48, 0x83, 0xc4, 0x20, /* 10: add $32, %rsp */
    0x5b,                   /* 14: pop %rbx */
    0xc3,                   /* 15: ret */
};

static const struct jitunwind_rule entry[] = {{RIP, JITUNWIND_SAVED_AT, -8}};
static const struct jitunwind_rule saved[] = {{RIP, JITUNWIND_SAVED_AT, -8}, {RBX, JITUNWIND_SAVED_AT, -16}};
static const struct jitunwind_row rows[] = {
    {0, RSP, 1, 8, entry},   /* from offset 0 on the CFA is rsp + 8, and one rule holds */
    {1, RSP, 2, 16, saved},  /* behind the push */
    {8, RSP, 2, 48, saved},  /* behind the sub */
    {14, RSP, 2, 16, saved}, /* behind the add */
    {15, RSP, 1, 8, entry},  /* behind the pop */
};
static const struct jitunwind_line lines[] = {{0, "/tmp/f.my_language", 1}, {8, "/tmp/f.my_language", 2}};

#elif defined(__aarch64__)

enum { X19 = 19, X30 = 30, SP = 31 }; /* AADWARF64, section 4.1 */

static const unsigned code[] = {
    0xa9bf4ffe, /*  0: stp x30, x19, [sp, #-16]! */
    0xaa0003f3, /*  4: mov x19, x0 */
    0xd10083ff, /*  8: sub sp, sp, #32 */
    0xd63f0260, /* 12: blr x19 */
    0x910083ff, /* 16: add sp, sp, #32 */
    0xa8c14ffe, /* 20: ldp x30, x19, [sp], #16 */
    0xd65f03c0, /* 24: ret */
};

static const struct jitunwind_rule entry[] = {{X30, JITUNWIND_SAME_VALUE, 0}};
static const struct jitunwind_rule saved[] = {{X30, JITUNWIND_SAVED_AT, -16}, {X19, JITUNWIND_SAVED_AT, -8}};
static const struct jitunwind_row rows[] = {
    {0, SP, 1, 0, entry},   /* from offset 0 on the CFA is sp, and the return address is in x30 */
    {4, SP, 2, 16, saved},  /* behind the stp */
    {12, SP, 2, 48, saved}, /* behind the sub */
    {20, SP, 2, 16, saved}, /* behind the add */
    {24, SP, 1, 0, entry},  /* behind the ldp */
};
static const struct jitunwind_line lines[] = {{0, "/tmp/f.my_language", 1}, {12, "/tmp/f.my_language", 2}};

#endif

void stop_here(void)
{
    void *callers[16];
    backtrace_symbols_fd(callers, backtrace(callers, 16), STDOUT_FILENO);
}

int main(void)
{
    void *memory = mmap(NULL, sizeof code, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return perror("mmap"), 1;
    memcpy(memory, code, sizeof code);
    __builtin___clear_cache(memory, (char *)memory + sizeof code);
    mprotect(memory, sizeof code, PROT_READ | PROT_EXEC);

    /* Publish when the code is complete ... */
    struct jitunwind_region region = {
        .start = (uintptr_t)memory,
        .size = sizeof code,
        .name = "my_language::f",
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
        .lines = lines,
        .line_count = sizeof lines / sizeof *lines,
    };
    struct jitunwind_publication *publication;
    int error = jitunwind_publish(&region, 1, JITUNWIND_GDB | JITUNWIND_LIBGCC, &publication);
    if (error)
        return fprintf(stderr, "jitunwind_publish: %s\n", strerror(error)), 1;

    void (*function)(void (*)(void));
    memcpy(&function, &memory, sizeof function);
    function(stop_here);

    /* ... and withdraw before its memory goes. */
    jitunwind_withdraw(&publication, 1);
    munmap(memory, sizeof code);
    return 0;
}
