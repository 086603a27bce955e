/* program ARENA FIRST END: calls the hand-made functions of the file from number FIRST on, before number END, and prints
   what the reader finds from within.

   The file is read to the address for which it was made; the functions' places and tables are in it (cases.py). */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program.h"

enum { MOST = 12, STRIDE = 0x4000, DESCRIPTION = 0x1000 };

#define BASE 0x1000000000UL

extern char enter_return[], enter_by_rbx_return[], marks[];
extern uint64_t entered_cfa;
void enter(uint64_t code, void (*ask)(void), void *frames), enter_by_rbx(uint64_t code, void (*ask)(void), void *frames);

static const struct slot *now;
static int frames_seen;

int
frame(uint64_t pc, const uint64_t *sp, const uint64_t *rbx)
{
    if (!frames_seen && pc - now->code > now->code_size) {
        return 1; /* a frame of the reader itself, or of ask */
    }
    printf("frame %#lx ", (unsigned long)pc);
    printf(sp ? "%#lx " : "- ", (unsigned long)(sp ? *sp : 0));
    printf(rbx ? "%#lx\n" : "-\n", (unsigned long)(rbx ? *rbx : 0));
    fflush(stdout); /* the reader may die on the next one */
    return ++frames_seen < MOST;
}

void
ended(long error)
{
    if (frames_seen < MOST) {
        printf("ended %ld\n", error);
    }
}

static void
nothing(void)
{
}

/* Nothing else calls `enter`, so that the stack is the same each time. */
static __attribute__((noinline)) void
run(uint64_t code, void (*called)(void), uint64_t frames[8][8])
{
    (tells_registers ? enter : enter_by_rbx)(code, called, frames);
}

static void
read_one(const struct slot *slot, uint64_t frames[8][8])
{
    now = slot;
    frames_seen = 0;
    tell(slot);
    run(slot->code, ask, frames);
}

int
main(int count, char **arguments)
{
    uint64_t frames[8][8];
    struct stat file;
    int descriptor = open(count == 4 ? arguments[1] : "", O_RDONLY);
    if (descriptor < 0 || fstat(descriptor, &file)) {
        perror("program");
        return 2;
    }
    size_t size = (size_t)file.st_size;
    /* As a JIT has it: memory of its own, no file's. */
    char *arena = mmap((void *)BASE, size, PROT_READ | PROT_WRITE | PROT_EXEC,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (arena != (char *)BASE || read(descriptor, arena, size) != (ssize_t)size) {
        perror("program: the arena");
        return 2;
    }
    for (int i = 0; i < 8; i++) {
        memset(frames[i], 0, sizeof frames[i]);
        frames[i][0] = (uint64_t)(marks + 256 + 16 * i);
    }
    /* Where all is, for whoever reads the answers. The CFA is the same each time. */
    run(((const struct slot *)(arena + DESCRIPTION))->code, nothing, frames);
    printf("known %#lx %#lx %#lx %#lx\n", 
           (unsigned long)(tells_registers ? enter_return : enter_by_rbx_return), (unsigned long)marks,
           (unsigned long)entered_cfa, (unsigned long)frames);
    size_t end = STRIDE * strtoul(arguments[3], NULL, 10);
    for (size_t at = STRIDE * strtoul(arguments[2], NULL, 10); at < end && at < size; at += STRIDE) {
        const struct slot *slot = (const struct slot *)(arena + at + DESCRIPTION);
        printf("case %zu\n", at / STRIDE);
        fflush(stdout);
        int status = 0;
        pid_t child = in_child ? fork() : 0;
        if (child == 0) {
            read_one(slot, frames);
            if (in_child) {
                fflush(stdout);
                _exit(0);
            }
        } else {
            waitpid(child, &status, 0);
        }
        if (status) {
            printf("died %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
        }
        if (!in_child) {
            fflush(stdout);
        }
    }
    return 0;
}
