/* The files for perf, from C: regions with and without room for their tables, in threads and in the children of forks, and
   with frames that cannot be moved. The files are removed at the end; a test of them in Python reads what is in them. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "jitunwind.h"

enum { THREADS = 4, REGIONS = 200, RSP = 7, RIP = 16, LARGEST = 64 };
static const struct jitunwind_rule rule = {RIP, JITUNWIND_SAVED_AT, -8};
static const struct jitunwind_row rows[] = {{0, RSP, 1, 8, &rule}, {8, RSP, 1, 16, &rule}};
static const struct jitunwind_line line = {0, "f.py", 7};
static unsigned char code[THREADS][REGIONS][LARGEST];
static const unsigned both = JITUNWIND_JITDUMP | JITUNWIND_PERF_MAP;

static void *publish(void *argument)
{
    size_t thread = (size_t)(uintptr_t)argument;
    for (size_t i = 0; i < REGIONS; i++) {
        struct jitunwind_publication *handle;
        memset(code[thread][i], 0x90, i % 2 ? LARGEST : LARGEST / 4); /* every other one is full */
        struct jitunwind_region region = {.start = (uintptr_t)code[thread][i],
                                          .size = LARGEST,
                                          .name = "f",
                                          .rows = rows,
                                          .row_count = 2,
                                          .lines = &line,
                                          .line_count = i % 3 == 0};
        CHECK(!jitunwind_publish(&region, 1, both, &handle));
        CHECK(!jitunwind_problem(both), "%s", jitunwind_problem(both));
        jitunwind_withdraw(&handle, 1);
    }
    return NULL;
}

static void publish_in_threads(void)
{
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, publish, (void *)(uintptr_t)i));
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static off_t size_of(const char *form, bool removes)
{
    char path[64];
    struct stat status;
    snprintf(path, sizeof path, form, (int)getpid());
    CHECK(!stat(path, &status), "%s", path);
    if (removes)
        unlink(path);
    return status.st_size;
}

/* A CIE that does not say how addresses are encoded: the region is told of without a table. */
static void frames_that_cannot_be_moved(void)
{
    static uint32_t frames[] = {12, 0, 0x78010001, 0x0000108, 24, 20, 0, 0, LARGEST, 0, 0};
    uint64_t start = (uintptr_t)code[0][0];
    struct jitunwind_publication *handle;
    memcpy(&frames[6], &start, sizeof start);
    struct jitunwind_region region = {
        .start = start, .size = LARGEST, .name = "g", .eh_frame = frames, .eh_frame_size = sizeof frames};
    CHECK(!jitunwind_publish(&region, 1, both, &handle));
    CHECK(!jitunwind_problem(both));
    jitunwind_withdraw(&handle, 1);
}

int main(void)
{
    CHECK(!jitunwind_problem(both));
    publish_in_threads();
    frames_that_cannot_be_moved();
    off_t dump = size_of("/tmp/jit-%d.dump", false), map = size_of("/tmp/perf-%d.map", false);
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        publish(NULL);
        CHECK(size_of("/tmp/jit-%d.dump", true) > dump && size_of("/tmp/perf-%d.map", true) > map);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && !status);
    CHECK(size_of("/tmp/jit-%d.dump", true) == dump && size_of("/tmp/perf-%d.map", true) == map);
    return 0;
}
