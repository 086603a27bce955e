/* The unwinders that work inside a process, asked about the states of another one.

   This is a program, which inprocess.py runs. It gets the other process's stack words, to lie at their own addresses,
   the unwind tables under test, and registers. It has the unwinder walk from there, as from a signal's handler, and
   answers with the first frame outside the code under test. No code of the other process runs here, and none has to:
   an unwinder reads tables, registers and memory.

   x86_64 Linux. Registers are DWARF numbers. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

#include "../../agent/unwinding.h"

enum { RBX = 3, RBP = 6, RSP = 7, R12 = 12, R15 = 15, RIP = 16, REGISTERS };
enum { PAGE = 4096, MOST_FRAMES = 64, MOST_FOUND_PAGES = 16, STACK_SIZE = 1 << 18, WORD = 8 };
static const int saved[] = {RBX, RBP, R12, 13, 14, R15};
enum { SAVED = sizeof saved / sizeof saved[0] };

/* How a walk ended: at a frame outside the code, or the last of MOST_FRAMES inside it; without one; at memory that is not
   there (`ip` is that of the last frame inside, if it has come to any); with an error of the unwinder's (`error`). */
enum status { CAME_OUT, ENDED, NO_MEMORY, FAILED };

struct answer {
    uint64_t status, error, lost; /* `lost`: a bit for each of `saved` that the unwinder has no value of */
    uint64_t ip, cfa, values[SAVED];
};

static struct {
    struct answer answer;
    uint64_t registers[REGISTERS];
    bool is_walking, is_below; /* `is_below`: the walk has come to the state that was asked about */
    unsigned frames, found_pages;
    uint64_t found[MOST_FOUND_PAGES];
} walk;

static uint64_t (*inside)[2]; /* the ranges of the code under test, by rising start */
static size_t inside_count;

static bool is_inside(uint64_t address)
{
    size_t low = 0, high = inside_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (inside[middle][1] <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < inside_count && inside[low][0] <= address;
}

/* One frame further out; whether the walk is over. */
static bool come_to(uint64_t ip, uint64_t cfa)
{
    if (!ip && !walk.frames)
        return true; /* the return address is undefined: it ENDED */
    walk.answer.ip = ip;
    walk.answer.cfa = cfa;
    if (is_inside(ip - 1) && ++walk.frames < MOST_FRAMES)
        return false;
    walk.answer.status = CAME_OUT;
    return true;
}

/* Run `function` with the stack pointer at `frame`, where its return address lies. It ends by calling leave. */
void enter(void *frame, void (*function)(void));
_Noreturn void leave(void);
__asm__(".text\n"
        ".local enter\n.local leave\n.local stack_before\n.comm stack_before,8,8\n"
        ".type enter,@function\n"
        "enter:\n"
        "  push %rbx\n  push %rbp\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp, stack_before(%rip)\n"
        "  mov %rdi, %rsp\n"
        "  jmp *%rsi\n"
        ".type leave,@function\n"
        "leave:\n"
        "  mov stack_before(%rip), %rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbp\n  pop %rbx\n"
        "  ret\n");

/* What the kernel lays on the stack for a signal's handler (struct rt_sigframe of the kernel's sigframe.h): where the
   handler returns to, and the registers of the code that was interrupted. */
struct signal_frame {
    void *return_address;
    ucontext_t context;
};
static struct signal_frame *frame; /* near the end of a stack of its own */
static void *signal_return;

static bool make_stack(void)
{
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } action; /* struct sigaction of the kernel */
    if (syscall(SYS_rt_sigaction, SIGSEGV, NULL, &action, sizeof action.mask))
        return false;
    signal_return = action.restorer;
    char *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED)
        return false;
    /* After a call, the stack pointer is 8 below a multiple of 16. */
    frame = (struct signal_frame *)(stack + STACK_SIZE - PAGE - WORD);
    return true;
}

static void fill_frame(void)
{
    static const int places[REGISTERS] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8,
                                          REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    frame->return_address = signal_return;
    for (int i = 0; i < REGISTERS; i++)
        frame->context.uc_mcontext.gregs[places[i]] = (greg_t)walk.registers[i];
}

/* libgcc */

static _Unwind_Reason_Code (*unwind_backtrace)(_Unwind_Trace_Fn, void *);
static _Unwind_Word (*unwind_register)(struct _Unwind_Context *, int);
static _Unwind_Word (*unwind_cfa)(struct _Unwind_Context *);
static _Unwind_Ptr (*unwind_ip)(struct _Unwind_Context *);

static _Unwind_Reason_Code visit(struct _Unwind_Context *context, void *argument)
{
    (void)argument;
    uint64_t ip = unwind_ip(context), cfa = unwind_cfa(context);
    if (!walk.is_below) { /* our own frames, and the signal's */
        walk.is_below = ip == walk.registers[RIP] && cfa == walk.registers[RSP];
        return _URC_NO_REASON;
    }
    if (!come_to(ip, cfa))
        return _URC_NO_REASON;
    for (unsigned i = 0; i < SAVED; i++)
        walk.answer.values[i] = unwind_register(context, saved[i]);
    return _URC_NORMAL_STOP;
}

static void walk_by_libgcc(void)
{
    _Unwind_Reason_Code code = unwind_backtrace(visit, NULL);
    if (!walk.is_below)
        walk.answer.status = FAILED;
    if (walk.answer.status == FAILED)
        walk.answer.error = (uint64_t)code;
    leave();
}

static void *register_with_libgcc(const struct frame_table *table)
{
    libgcc_register((void *)table->frames, 0);
    return (void *)table->frames;
}

/* nongnu libunwind and LLVM's: both have a cursor that steps. */

static union {
    uint64_t words[1024];
} cursor; /* of 127 words in libunwind 1.8, fewer in LLVM's */
static uint64_t llvm_context[32];
static int (*cursor_begin)(void *, void *, int);
static int (*llvm_begin)(void *, void *);
static int (*llvm_context_here)(void *);
static int (*cursor_step)(void *);
static int (*cursor_register)(void *, int, uint64_t *);
static int ip_register = RIP;

/* At the state that was asked about, or, LLVM's, at this very function. */
static int begin_cursor(void)
{
    if (llvm_begin)
        return llvm_context_here(llvm_context) || llvm_begin(&cursor, llvm_context);
    enum { UNW_INIT_SIGNAL_FRAME = 1 };
    walk.is_below = true;
    return cursor_begin(&cursor, &frame->context, UNW_INIT_SIGNAL_FRAME);
}

/* One frame further out; whether the walk is over. */
static bool step_cursor(void)
{
    uint64_t ip = 0, cfa = 0;
    int step = cursor_step(&cursor);
    /* LLVM's says that there is no further step when it has come to a frame of which there is no table. */
    bool is_last = step < 0 || (!step && !llvm_begin);
    if (is_last || cursor_register(&cursor, ip_register, &ip) || cursor_register(&cursor, RSP, &cfa)) {
        walk.answer.status = step ? FAILED : ENDED;
        walk.answer.error = (uint64_t)(int64_t)step;
        return true;
    }
    if (!walk.is_below) {
        walk.is_below = ip == walk.registers[RIP] && cfa == walk.registers[RSP];
        return !step;
    }
    if ((!step && is_inside(ip)) || !come_to(ip, cfa))
        return !step;
    for (unsigned i = 0; i < SAVED && walk.answer.status == CAME_OUT; i++)
        if (cursor_register(&cursor, saved[i], &walk.answer.values[i]))
            walk.answer.lost |= (uint64_t)1 << i;
    return true;
}

static void walk_by_cursor(void)
{
    int failed = begin_cursor();
    while (!failed && !step_cursor())
        ;
    if (failed || !walk.is_below) {
        walk.answer.status = FAILED;
        walk.answer.error = (uint64_t)(int64_t)failed;
    }
    leave();
}

static void *register_with_libunwind(const struct frame_table *table)
{
    return libunwind_register_table(table);
}

static void (*llvm_add)(uint64_t);
static void (*llvm_remove)(uint64_t);

static void *register_with_llvm(const struct frame_table *table)
{
    struct frame_table *kept = malloc(sizeof *kept + table->count * sizeof table->entries[0]);
    if (kept)
        memcpy(kept, table, sizeof *kept + table->count * sizeof table->entries[0]);
    for (size_t i = 0; kept && i < table->count; i++)
        llvm_add((uint64_t)(uintptr_t)table->frames + (uint64_t)(int64_t)table->entries[i].frame);
    return kept;
}

static void deregister_from_llvm(void *registered)
{
    struct frame_table *kept = registered;
    for (size_t i = 0; i < kept->count; i++)
        llvm_remove((uint64_t)(uintptr_t)kept->frames + (uint64_t)(int64_t)kept->entries[i].frame);
    free(kept);
}

/* Which unwinder is asked */

static struct {
    void (*walk)(void);
    void *(*register_table)(const struct frame_table *); /* what undoes it, NULL without memory */
    void (*deregister)(void *);
} reader;

static bool find_functions(void *library, const char *const names[], void *functions[], unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        void *function = dlsym(library, names[i]);
        if (!function)
            return false;
        memcpy(functions[i], &function, sizeof function);
    }
    return true;
}

static bool find_reader(const char *name, const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library)
        return false;
    if (!strcmp(name, "libgcc")) {
        static const char *const names[] = {"_Unwind_Backtrace", "_Unwind_GetGR", "_Unwind_GetCFA", "_Unwind_GetIP"};
        void *functions[] = {&unwind_backtrace, &unwind_register, &unwind_cfa, &unwind_ip};
        reader.walk = walk_by_libgcc;
        reader.register_table = register_with_libgcc;
        reader.deregister = libgcc_deregister;
        return find_functions(library, names, functions, 4) && libgcc_find();
    }
    reader.walk = walk_by_cursor;
    if (!strcmp(name, "libunwind")) {
        static const char *const names[] = {"_ULx86_64_init_local2", "_ULx86_64_step", "_ULx86_64_get_reg"};
        void *functions[] = {&cursor_begin, &cursor_step, &cursor_register};
        reader.register_table = register_with_libunwind;
        reader.deregister = libunwind_cancel_table;
        return find_functions(library, names, functions, 3) && libunwind_find();
    }
    static const char *const names[] = {"unw_init_local", "unw_step", "unw_get_reg", "__unw_add_dynamic_fde",
                                        "__unw_remove_dynamic_fde", "unw_getcontext"};
    void *functions[] = {&llvm_begin, &cursor_step, &cursor_register, &llvm_add, &llvm_remove, &llvm_context_here};
    ip_register = -1; /* UNW_REG_IP */
    reader.register_table = register_with_llvm;
    reader.deregister = deregister_from_llvm;
    return find_functions(library, names, functions, 6);
}

/* Memory: the pages that this process has for the other one */

static uint64_t (*pages)[2];
static size_t pages_count, pages_room;

static bool map_pages(uint64_t start, uint64_t end)
{
    void *at = (void *)(uintptr_t)start;
    return mmap(at, end - start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == at;
}

/* Have memory at [start, end). False where something of this process lies there. */
static bool have_pages(uint64_t start, uint64_t end)
{
    start &= ~(uint64_t)(PAGE - 1);
    end = (end + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    for (size_t i = pages_count; i-- > 0 && start < end;) {
        if (pages[i][0] <= start && end <= pages[i][1])
            return true;
        if (pages[i][0] <= start && start < pages[i][1])
            start = pages[i][1];
    }
    for (uint64_t from = start, to; from < end; from = to) {
        bool is_there = false;
        to = end;
        for (size_t i = 0; i < pages_count; i++) {
            if (pages[i][0] <= from && from < pages[i][1]) {
                to = pages[i][1] < end ? pages[i][1] : end;
                is_there = true;
            } else if (from < pages[i][0] && pages[i][0] < to && !is_there) {
                to = pages[i][0];
            }
        }
        if (is_there)
            continue;
        if (pages_count == pages_room) {
            size_t room = pages_room ? 2 * pages_room : 64;
            void *larger = realloc(pages, room * sizeof *pages);
            if (!larger)
                return false;
            pages = larger;
            pages_room = room;
        }
        if (!map_pages(from, to))
            return false;
        pages[pages_count][0] = from;
        pages[pages_count++][1] = to;
    }
    return true;
}

/* A walk that reads where there is nothing finds zeros there, for a while; then it is ended. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    uint64_t page = (uint64_t)(uintptr_t)info->si_addr & ~(uint64_t)(PAGE - 1);
    if (!walk.is_walking) {
        signal(number, SIG_DFL);
        return;
    }
    if (info->si_code == SEGV_MAPERR && walk.found_pages < MOST_FOUND_PAGES && page && map_pages(page, page + PAGE)) {
        walk.found[walk.found_pages++] = page;
        return;
    }
    walk.answer.status = NO_MEMORY;
    walk.answer.error = (uint64_t)(uintptr_t)info->si_addr;
    void (*away)(void) = leave;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)away;
}

static bool catch_faults(void)
{
    stack_t stack = {.ss_sp = malloc(STACK_SIZE), .ss_size = STACK_SIZE};
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    return stack.ss_sp && !sigaltstack(&stack, NULL) && !sigaction(SIGSEGV, &action, NULL) &&
           !sigaction(SIGBUS, &action, NULL);
}

/* What the parent asks: requests and answers are 64-bit words, then bytes. */

static void receive(void *data, size_t size)
{
    while (size) {
        ssize_t got = read(STDIN_FILENO, data, size);
        if (got <= 0)
            _exit(got < 0);
        data = (char *)data + got;
        size -= (size_t)got;
    }
}

static void answer(const void *data, size_t size)
{
    while (size) {
        ssize_t put = write(STDOUT_FILENO, data, size);
        if (put < 0)
            _exit(1);
        data = (const char *)data + put;
        size -= (size_t)put;
    }
}

static uint64_t receive_word(void)
{
    uint64_t word;
    receive(&word, sizeof word);
    return word;
}

static void *receive_new(size_t size)
{
    void *data = malloc(size ? size : 1);
    if (!data)
        _exit(1);
    receive(data, size);
    return data;
}

/* address, size, bytes */
static uint64_t take_memory(void)
{
    uint64_t address = receive_word(), size = receive_word();
    unsigned char *data = receive_new(size);
    bool done = have_pages(address, address + size);
    if (done)
        memcpy((void *)(uintptr_t)address, data, size);
    free(data);
    return done;
}

/* address (0: anywhere), start and end of the code, size, bytes, how many entries, entries */
static uint64_t take_table(void)
{
    enum { TERMINATOR = 4 };
    uint64_t address = receive_word(), start = receive_word(), end = receive_word(), size = receive_word();
    unsigned char *data = receive_new(size), *frames = (unsigned char *)(uintptr_t)address;
    size_t count = receive_word();
    struct frame_table *table = malloc(sizeof *table + count * sizeof table->entries[0]);
    if (!table)
        _exit(1);
    receive(table->entries, count * sizeof table->entries[0]);
    uint64_t registered = 0;
    bool done = address ? have_pages(address, address + size + TERMINATOR)
                        : (frames = calloc(1, size + TERMINATOR)) != NULL;
    if (done) {
        memcpy(frames, data, size);
        memset(frames + size, 0, TERMINATOR);
        table->start = start;
        table->end = end;
        table->frames = frames;
        table->count = count;
        registered = (uint64_t)(uintptr_t)reader.register_table(table);
    }
    free(table);
    free(data);
    return registered;
}

/* how many, start and end of each */
static uint64_t take_inside(void)
{
    inside_count = receive_word();
    free(inside);
    inside = receive_new(inside_count * sizeof *inside);
    return true;
}

/* registers, where stack words lie, how many, words */
static struct answer judge(void)
{
    memset(&walk, 0, sizeof walk);
    receive(walk.registers, sizeof walk.registers);
    uint64_t address = receive_word(), size = receive_word() * WORD;
    void *words = receive_new(size);
    if (have_pages(address, address + size)) {
        memcpy((void *)(uintptr_t)address, words, size);
        fill_frame();
        walk.answer.status = ENDED;
        walk.is_walking = true;
        enter(frame, reader.walk);
        walk.is_walking = false;
    } else {
        walk.answer.status = FAILED;
        walk.answer.error = EEXIST;
    }
    free(words);
    for (unsigned i = 0; i < walk.found_pages; i++)
        munmap((void *)(uintptr_t)walk.found[i], PAGE);
    return walk.answer;
}

/* Answer requests until there are no more. Says first whether the unwinder is there. */
static void serve(bool is_there)
{
    uint64_t done = is_there;
    answer(&done, sizeof done);
    while (is_there) {
        char request[WORD];
        receive(request, sizeof request);
        if (request[0] == 'a') {
            for (uint64_t count = receive_word(); count; count--) {
                struct answer one = judge();
                answer(&one, sizeof one);
            }
            continue;
        }
        done = true;
        switch (request[0]) {
        case 'm':
            done = take_memory();
            break;
        case 't':
            done = take_table();
            break;
        case 'i':
            done = take_inside();
            break;
        case 'd':
            reader.deregister((void *)(uintptr_t)receive_word());
            break;
        default:
            _exit(2);
        }
        answer(&done, sizeof done);
    }
}

/* Arguments: the unwinder's name and its library. Requests come by the standard input. */
int main(int count, char **arguments)
{
    if (count == 3)
        serve(catch_faults() && make_stack() && find_reader(arguments[1], arguments[2]));
    return count != 3;
}
