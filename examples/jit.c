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

enum { RBX = 3, RSP = 7, RIP = 16 }; /* DWARF's numbers: System V ABI for x86_64, figure 3.36 */

/* What a compiler of some language made: a function that keeps its argument in rbx, and calls it. */
static const unsigned char code[] = {
    0x53,                   /*  0: push %rbx */
    0x48, 0x89, 0xfb,       /*  1: mov %rdi, %rbx */
    0x48, 0x83, 0xec, 0x20, /*  4: sub $32, %rsp */
    0xff, 0xd3,             /*  8: call *%rbx */
    0x48, 0x83, 0xc4, 0x20, /* 10: add $32, %rsp */
    0x5b,                   /* 14: pop %rbx */
    0xc3,                   /* 15: ret */
};

/* What it knows of the code: where the return address is (8 bytes below the CFA), and the caller's rbx. */
static const struct jitunwind_rule entry[] = {{RIP, JITUNWIND_SAVED_AT, -8}};
static const struct jitunwind_rule saved[] = {{RIP, JITUNWIND_SAVED_AT, -8}, {RBX, JITUNWIND_SAVED_AT, -16}};
static const struct jitunwind_row rows[] = {
    {0, RSP, 1, 8, entry},   /* from offset 0 on the CFA is rsp + 8, and one rule holds */
    {1, RSP, 2, 16, saved},  /* behind the push */
    {8, RSP, 2, 48, saved},  /* behind the sub */
    {14, RSP, 2, 16, saved}, /* behind the add */
    {15, RSP, 1, 8, entry},  /* behind the pop */
};

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
    mprotect(memory, sizeof code, PROT_READ | PROT_EXEC);

    /* Publish when the code is complete ... */
    struct jitunwind_region region = {
        .start = (uintptr_t)memory,
        .size = sizeof code,
        .name = "my_language::f",
        .rows = rows,
        .row_count = sizeof rows / sizeof *rows,
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
