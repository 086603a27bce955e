/* A file in /tmp that perf looks for: /tmp/perf-PID.map, /tmp/jit-PID.dump.

   /tmp is everybody's, so no link is followed, and no file is written to that another user could write to. A file of that
   name may be there already: of a process that had the same number and has ended, which is removed; of this process before
   exec(3), which goes on; of a process of the same number in another container that has the same /tmp, which has it locked;
   or of somebody else. The last two stay as they are, and nothing is written. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "perf.h"

enum { PATH_SIZE = 64 };
static const uint64_t LIMIT = 256 << 20; /* bytes: perf reads all of it */

static void path_of(const struct perf_file *file, char *path)
{
    snprintf(path, PATH_SIZE, "/tmp/%s%ld%s", file->prefix, (long)getpid(), file->suffix);
}

/* Say why it is not written, and write no more. */
__attribute__((format(printf, 2, 3))) static bool refuse(struct perf_file *file, const char *why, ...)
{
    va_list arguments;
    char path[PATH_SIZE], reason[sizeof file->problem - PATH_SIZE];
    path_of(file, path);
    va_start(arguments, why);
    vsnprintf(reason, sizeof reason, why, arguments);
    va_end(arguments);
    snprintf(file->problem, sizeof file->problem, "%s %s", path, reason);
    if (file->descriptor >= 0)
        close(file->descriptor);
    file->descriptor = -1;
    return false;
}

static double seconds(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* When this process began, as files' times are (proc(5): starttime, in ticks since the machine has started). exec(3) does
   not change it. Without /proc: now. */
static double began(void)
{
    enum { STARTTIME = 22, NAME = 2 };
    char text[1024] = "";
    unsigned long long ticks = 0;
    int proc = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t size = proc < 0 ? -1 : read(proc, text, sizeof text - 1);
    if (proc >= 0)
        close(proc);
    const char *field = size > 0 ? strrchr(text, ')') : NULL; /* the name may have blanks */
    for (int number = NAME; field && number < STARTTIME; number++)
        field = strchr(field + 1, ' ');
    double now = seconds(CLOCK_REALTIME);
    if (!field || sscanf(field, "%llu", &ticks) != 1)
        return now;
    return now - seconds(CLOCK_BOOTTIME) + (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

static const char *why_unsafe(const struct stat *status)
{
    if (!S_ISREG(status->st_mode))
        return "it is no regular file";
    if (status->st_uid != geteuid())
        return "it belongs to another user";
    if (status->st_nlink != 1)
        return "it has another name as well";
    if (status->st_mode & (S_IWGRP | S_IWOTH))
        return "others may write to it";
    return NULL;
}

/* Whether this process has mapped the file: another JIT in it writes a jitdump of its own. */
static bool is_mapped(const char *path)
{
    char line[512];
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && !found && fgets(line, sizeof line, maps))
        found = strstr(line, path) != NULL;
    if (maps)
        fclose(maps);
    return found;
}

/* The file of that name that is there: it goes on, it is removed, or it stays. */
static bool take_over(struct perf_file *file, const char *path, bool *is_removed)
{
    struct stat status;
    *is_removed = false;
    file->descriptor = open(path, O_RDWR | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (file->descriptor < 0 && errno == ELOOP)
        return refuse(file, "is not written: it is a link");
    if (file->descriptor < 0 || fstat(file->descriptor, &status))
        return refuse(file, "is not written: %s", strerror(errno));
    const char *why = why_unsafe(&status);
    if (why)
        return refuse(file, "is not written: %s", why);
    if (flock(file->descriptor, LOCK_EX | LOCK_NB))
        return refuse(file, "is not written: another process writes it, whose number is the same in its container");
    if (is_mapped(path))
        return refuse(file, "is not written: another JIT of this process writes it");
    if ((double)status.st_mtim.tv_sec + 1e-9 * (double)status.st_mtim.tv_nsec < began()) {
        if (unlink(path))
            return refuse(file, "is not written: it cannot be removed: %s", strerror(errno));
        close(file->descriptor);
        file->descriptor = -1;
        *is_removed = true;
        return false;
    }
    file->size = (uint64_t)status.st_size;
    int error = file->go_on ? file->go_on(file) : 0;
    return !error || refuse(file, "is not written: %s",
                            error == EBADMSG ? "this process has it from before exec(3), damaged" : strerror(error));
}

static bool open_new(struct perf_file *file, const char *path)
{
    file->descriptor = open(path, O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (file->descriptor < 0)
        return false;
    flock(file->descriptor, LOCK_EX | LOCK_NB); /* where a file system has no locks, it goes without */
    file->size = 0;
    int error = file->begin(file);
    return !error || refuse(file, "is not written: %s", strerror(error));
}

static bool open_file(struct perf_file *file)
{
    char path[PATH_SIZE];
    bool is_removed = true;
    path_of(file, path);
    if (open_new(file, path))
        return true;
    if (*file->problem)
        return false;
    if (errno != EEXIST)
        return refuse(file, "is not written: %s", strerror(errno));
    if (take_over(file, path, &is_removed))
        return true;
    if (!is_removed || open_new(file, path))
        return is_removed;
    return *file->problem ? false : refuse(file, "is not written: %s", strerror(errno));
}

bool perf_file_is_ready(struct perf_file *file)
{
    pid_t here = getpid();
    if (file->owner != here) {
        int parents = file->owner && !*file->problem ? file->descriptor : -1;
        uint64_t size = file->size;
        file->owner = here;
        file->descriptor = -1;
        *file->problem = 0;
        if (open_file(file) && parents >= 0) {
            int error = file->copy(file, parents, size);
            if (error && !*file->problem)
                refuse(file, "lacks what the parent's has: %s", strerror(error));
        }
        if (parents >= 0)
            close(parents);
    }
    file->has_begun |= !*file->problem;
    return !*file->problem;
}

bool perf_file_find(struct perf_file *file)
{
    int state;
    debugger_lock(&state);
    bool is_found = perf_file_is_ready(file) || file->has_begun;
    debugger_unlock(state);
    return is_found;
}

int perf_file_flush(struct perf_file *file)
{
    if (file->owner)
        perf_file_is_ready(file);
    return 0;
}

static uint64_t limit(void)
{
    struct rlimit largest; /* the process would die of a signal */
    if (!getrlimit(RLIMIT_FSIZE, &largest) && largest.rlim_cur < LIMIT)
        return largest.rlim_cur;
    return LIMIT;
}

void perf_file_append(struct perf_file *file, const struct iovec *parts, int count)
{
    uint64_t size = 0;
    for (int i = 0; i < count; i++)
        size += parts[i].iov_len;
    if (*file->problem)
        return;
    if (file->size + size > limit()) {
        refuse(file, "is full, with %" PRIu64 " bytes: code that comes from now on is not in it", file->size);
        return;
    }
    ssize_t written = writev(file->descriptor, parts, count);
    if (written == (ssize_t)size) {
        file->size += size;
        return;
    }
    int error = written < 0 ? errno : ENOSPC;
    if (written > 0 && ftruncate(file->descriptor, (off_t)file->size)) /* readers expect whole records */
        error = errno;
    refuse(file, "is written no more: %s", strerror(error));
}
