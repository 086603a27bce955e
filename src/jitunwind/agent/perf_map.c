/* perf's map of a process's code: /tmp/perf-PID.map, a line for each piece (the kernel's
   tools/perf/Documentation/jit-interface.txt). It says nothing of time: of code that lay at one address one after the other
   perf shows any. perf_file.c says how the file is kept. */

#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "consumer.h"
#include "perf.h"

static int begin(struct perf_file *file)
{
    (void)file;
    return 0;
}

/* All that the parent's has: the child has the same code. */
static int copy(struct perf_file *file, int parents, uint64_t size)
{
    char bytes[1 << 14];
    for (uint64_t at = 0; at < size && !*file->problem;) {
        uint64_t rest = size - at;
        ssize_t count = pread(parents, bytes, rest < sizeof bytes ? rest : sizeof bytes, (off_t)at);
        if (count <= 0)
            return count ? errno : EIO;
        struct iovec part = {bytes, (size_t)count};
        perf_file_append(file, &part, 1);
        at += (uint64_t)count;
    }
    return 0;
}

static struct perf_file file = {.prefix = "perf-", .suffix = ".map", .begin = begin, .copy = copy, .descriptor = -1};

/* A line ends at the end of a line. */
static void append(uint64_t start, uint64_t size, const char *name)
{
    char head[2 * 16 + 3], clean[1 << 12], end = '\n';
    size_t length = strnlen(name, sizeof clean);
    for (size_t i = 0; i < length; i++)
        clean[i] = name[i] == '\n' || name[i] == '\r' ? '?' : name[i];
    struct iovec parts[] = {
        {head, (size_t)snprintf(head, sizeof head, "%" PRIx64 " %" PRIx64 " ", start, size)},
        {clean, length},
        {&end, 1},
    };
    perf_file_append(&file, parts, sizeof parts / sizeof *parts);
}

static bool find(void)
{
    return perf_file_find(&file);
}

static int add(struct jitunwind_publication *publication, const struct jitunwind_region *region)
{
    (void)publication;
    size_t entry = region->entry_size;
    if (!perf_file_is_ready(&file))
        return 0; /* as `problem` says */
    if (entry)
        append(region->start, entry, region->entry_name);
    append(region->start + entry, region->size - entry, region->name);
    return 0;
}

static int flush(void)
{
    return perf_file_flush(&file);
}

static const char *problem(void)
{
    return file.problem;
}

const struct consumer perf_map_consumer = {
    .name = "perf_map",
    .bit = JITUNWIND_PERF_MAP,
    .find = find,
    .add = add,
    .flush = flush,
    .problem = problem,
};
