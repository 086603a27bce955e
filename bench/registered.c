/* A process whose symbol files a debugger reads through the GDB JIT interface (GDB manual, "JIT Compilation
   Interface"). Its argument is a file of regions: "ADDRESS SIZE CODE" a line, in hexadecimal, CODE being what stands
   at the region's start. Commands come on standard input, answers go to standard output, a line each:

     put NUMBER FILE ...   let entry NUMBER be that file (where there is one: unregister, register), and so on;
                           the answer: the seconds that the debugger took
     call ADDRESS ...      call that region, which calls the next; the last one calls what reads further commands;
                           the answer: "called"
     trap                  the answer: "trap"; then stop in the debugger */

#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef enum { NO_ACTION, REGISTER, UNREGISTER } action;

typedef struct entry {
    struct entry *next, *previous;
    const char *file;
    uint64_t size;
} entry;

typedef struct {
    uint32_t version, action;
    entry *relevant, *first;
} descriptor;

descriptor __jit_debug_descriptor = {1, NO_ACTION, NULL, NULL};

__attribute__((noinline)) void __jit_debug_register_code(void)
{
    __asm__ volatile("" ::: "memory");
}

/* A region is called with what it and those after it are to call. */
typedef void called(void *const *others);

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static entry *read_entry(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        fail(path);
    long size = ftell(file);
    char *data = malloc((size_t)size);
    entry *made = calloc(1, sizeof *made);
    rewind(file);
    if (!data || !made || fread(data, 1, (size_t)size, file) != (size_t)size)
        fail(path);
    fclose(file);
    made->file = data;
    made->size = (uint64_t)size;
    return made;
}

static void announce(entry *which, action what)
{
    __jit_debug_descriptor.action = what;
    __jit_debug_descriptor.relevant = which;
    __jit_debug_register_code();
}

static void add(entry *which)
{
    entry *first = __jit_debug_descriptor.first;
    which->next = first;
    if (first)
        first->previous = which;
    __jit_debug_descriptor.first = which;
    announce(which, REGISTER);
}

static void take_out(entry *which)
{
    if (which->previous)
        which->previous->next = which->next;
    else
        __jit_debug_descriptor.first = which->next;
    if (which->next)
        which->next->previous = which->previous;
    announce(which, UNREGISTER);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

enum { MOST_ENTRIES = 1 << 14 };
static entry *entries[MOST_ENTRIES];

static double put(size_t number, const char *path)
{
    if (number >= MOST_ENTRIES)
        exit(2);
    entry *old = entries[number], *made = read_entry(path);
    double since = now();
    if (old)
        take_out(old);
    add(made);
    double seconds = now() - since;
    if (old)
        free((void *)old->file);
    free(old);
    entries[number] = made;
    return seconds;
}

enum { MOST_CALLED = 64, LONGEST_LINE = 1 << 20 };

static void call(char *arguments);

static void commands(void *const *others)
{
    (void)others;
    char *line = malloc(LONGEST_LINE);
    if (!line)
        fail("malloc");
    for (;;) {
        fflush(stdout);
        /* Not through stdio: its frames in libc are more than LLDB 19 can unwind. */
        size_t length = 0;
        do {
            if (length == LONGEST_LINE - 1 || read(STDIN_FILENO, line + length, 1) != 1)
                exit(0);
        } while (line[length++] != '\n');
        line[length] = 0;
        char *rest = NULL, *command = strtok_r(line, " \n", &rest), *path;
        if (!command)
            continue;
        if (!strcmp(command, "put")) {
            double seconds = 0;
            char *number;
            while ((number = strtok_r(NULL, " \n", &rest)) && (path = strtok_r(NULL, " \n", &rest)))
                seconds += put(strtoul(number, NULL, 10), path);
            printf("%.6f\n", seconds);
        } else if (!strcmp(command, "call")) {
            call(rest);
        } else if (!strcmp(command, "trap")) {
            puts("trap");
            fflush(stdout);
            __asm__ volatile("int3");
        }
    }
}

static void call(char *arguments)
{
    void *chain[MOST_CALLED + 1];
    int count = 0;
    char *rest = NULL, *word;
    for (word = strtok_r(arguments, " \n", &rest); word && count < MOST_CALLED; word = strtok_r(NULL, " \n", &rest))
        chain[count++] = (void *)strtoull(word, NULL, 16);
    chain[count] = (void *)commands;
    puts("called");
    called *first = (called *)chain[0];
    first(chain + 1);
}

static void map_regions(const char *path)
{
    FILE *list = fopen(path, "r");
    if (!list)
        fail(path);
    unsigned long long address, size;
    char code[1024];
    while (fscanf(list, "%llx %llx %1023s", &address, &size, code) == 3) {
        unsigned char *region = mmap((void *)address, size, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (region != (void *)address)
            fail("mmap");
        unsigned int byte;
        for (size_t i = 0; sscanf(code + 2 * i, "%2x", &byte) == 1; i++)
            region[i] = (unsigned char)byte;
        if (mprotect(region, size, PROT_READ | PROT_EXEC))
            fail("mprotect");
    }
    fclose(list);
}

int main(int count, char **arguments)
{
    if (count != 2)
        return 2;
    map_regions(arguments[1]);
    puts("ready");
    commands(NULL);
    return 0;
}
