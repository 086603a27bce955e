// A process in one of the situations that stacks are read in; says "ready" when it is in it, and stays there.
#define _GNU_SOURCE
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

__attribute__((noinline)) static void stay(void)
{
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}

static void handler(int number) { (void)number; stay(); }

__attribute__((noinline)) static void interrupted(int number)
{
    raise(number);
    __asm__ volatile("");
}

static void handle(int number, int flags)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(number, &action, NULL);
}

static void alternate(void)
{
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
    sigaltstack(&stack, NULL);
    handle(SIGUSR1, SA_ONSTACK);
    interrupted(SIGUSR1);
}

static void nowhere(void)
{
    handle(SIGSEGV, 0);
    void (*volatile function)(void) = (void (*)(void))16;
    function();
    __asm__ volatile("");
}

// Without unwind information, and with a frame pointer, or without one.
__asm__(".text\n.type by_pointer,@function\nby_pointer: push %rbp\n mov %rsp,%rbp\n call stays\n pop %rbp\n ret\n"
        ".size by_pointer,.-by_pointer\n"
        ".type lost,@function\nlost: sub $24,%rsp\n xor %ebp,%ebp\n call stays\n add $24,%rsp\n ret\n"
        ".size lost,.-lost\n"
        // The stack of one that switches stacks without a word, as coroutines do.
        ".type switched,@function\nswitched: mov %rdi,%rsp\n call stays\n hlt\n.size switched,.-switched\n"
        // Its own caller.
        ".type circle,@function\ncircle: .cfi_startproc\n .cfi_def_cfa rsp,0\n .cfi_val_offset rip,0\n"
        " .cfi_same_value rip\n call stays\n hlt\n .cfi_endproc\n.size circle,.-circle\n");
void by_pointer(void);
void lost(void);
void switched(void *);
void circle(void);
__attribute__((used)) void stays(void) { stay(); }

static void *other(void *unused) { (void)unused; stay(); return NULL; }

static void start(void *(*function)(void *))
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, NULL) == 0)
        pthread_detach(thread);
}

#ifdef __GLIBC__ // musl has no coroutines
// A coroutine, by the C library's own functions: it runs on a stack whose outermost frame nobody has called.
static ucontext_t outside, inside;

static void coroutine(void) { stay(); }

__attribute__((noinline)) static void in_coroutine(void)
{
    getcontext(&inside);
    inside.uc_stack.ss_sp = malloc(1 << 16);
    inside.uc_stack.ss_size = 1 << 16;
    inside.uc_link = &outside;
    makecontext(&inside, coroutine, 0);
    swapcontext(&outside, &inside);
}
#else
static void in_coroutine(void) {}
#endif

__attribute__((noinline)) static int deep(int levels)
{
    if (levels <= 0 && levels > -9)
        stay();
    return deep(levels - 1) + 1;
}

// Nothing but read, write and exit is allowed; stdin is a pipe that nobody writes to.
static void confined(void)
{
    char byte;
    puts("ready");
    fflush(stdout);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
    for (;;)
        if (syscall(SYS_read, 0, &byte, 1) <= 0)
            syscall(SYS_exit, 1);
}

// The child of a vfork runs on the stack of its parent, which waits for it.
__attribute__((noinline)) static void vforked(void)
{
    if (vfork() == 0)
        stay();
}

static void *short_lived(void *unused) { (void)unused; usleep(50); start(short_lived); return NULL; }

int main(int count, char **arguments)
{
    const char *what = count > 1 ? arguments[1] : "plain";
    if (!strcmp(what, "alternate"))
        alternate();
    else if (!strcmp(what, "nowhere"))
        nowhere();
    else if (!strcmp(what, "by_pointer"))
        by_pointer();
    else if (!strcmp(what, "lost"))
        lost();
    else if (!strcmp(what, "switched"))
        switched((char *)malloc(1 << 16) + (1 << 16) - 64);
    else if (!strcmp(what, "circle"))
        circle();
    else if (!strcmp(what, "coroutine"))
        in_coroutine();
    else if (!strcmp(what, "deep"))
        deep(20000);
    else if (!strcmp(what, "confined"))
        confined();
    else if (!strcmp(what, "vforked"))
        vforked();
    else if (!strcmp(what, "zombie")) {
        start(other);
        pthread_exit(NULL);
    } else if (!strcmp(what, "threads")) {
        for (int i = 0; i < 4; i++)
            start(short_lived);
    } else if (!strcmp(what, "exec")) {
        if (count == 2)
            puts("ready");
        fflush(stdout);
        execl("/proc/self/exe", arguments[0], "exec", "again", NULL);
    } else if (!strcmp(what, "secret"))
        prctl(PR_SET_DUMPABLE, 0);
    stay();
}
