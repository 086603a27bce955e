/* perf, to which a JIT tells its tables by a jitdump; samples are taken while `ask` keeps the processor busy. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

const int tells_registers = 0, in_child = 0;

enum { LOAD = 0, UNWINDING_INFO = 4, BUSY = 10000000 /* ns */ };

static FILE *dump;

static uint64_t
nanoseconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* tools/perf/Documentation/jitdump-specification.txt: a record's head, then what `words` counts. */
static void
write_record(uint32_t kind, uint32_t size, const void *words, uint32_t count)
{
    uint32_t head[2] = {kind, 16 + 8 * count + size};
    uint64_t when = nanoseconds(CLOCK_MONOTONIC);
    fwrite(head, sizeof head, 1, dump);
    fwrite(&when, sizeof when, 1, dump);
    fwrite(words, 8, count, dump);
}

static void
begin_dump(void)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/jit-%d.dump", getpid());
    dump = fopen(path, "w+");
    if (!dump || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fileno(dump), 0) == MAP_FAILED) {
        perror(path); /* perf record learns of the dump by that mapping */
        exit(2);
    }
    printf("process %d\n", getpid()); /* its files are named after it */
    uint32_t head[6] = {0x4A695444, 1, 40, 62 /* EM_X86_64 */, 0, (uint32_t)getpid()};
    uint64_t rest[2] = {nanoseconds(CLOCK_MONOTONIC), 0};
    fwrite(head, sizeof head, 1, dump);
    fwrite(rest, sizeof rest, 1, dump);
}

void
tell(const struct slot *slot)
{
    char name[32];
    if (!dump) {
        begin_dump();
    }
    uint64_t tables = slot->table_size + slot->header_size;
    write_record(UNWINDING_INFO, (uint32_t)(tables + (-tables & 7)),
                 (uint64_t[]){tables, slot->header_size, tables}, 3);
    fwrite((void *)slot->table, 1, tables, dump); /* the header is right behind */
    fwrite((char[8]){0}, 1, -tables & 7, dump);
    uint32_t length = (uint32_t)snprintf(name, sizeof name, "case_%lu", (unsigned long)slot->number) + 1;
    uint64_t ids = (uint64_t)getpid() | (uint64_t)syscall(SYS_gettid) << 32;
    write_record(LOAD, length + (uint32_t)slot->code_size,
                 (uint64_t[]){ids, slot->code, slot->code, slot->code_size, slot->number}, 5);
    fwrite(name, 1, length, dump);
    fwrite((void *)slot->code, 1, slot->code_size, dump);
    fflush(dump);
}

void __attribute__((noinline))
ask(void)
{
    uint64_t until = nanoseconds(CLOCK_THREAD_CPUTIME_ID) + BUSY;
    while (nanoseconds(CLOCK_THREAD_CPUTIME_ID) < until) {
        for (volatile int i = 0; i < 20000; i++) {
        }
    }
}
