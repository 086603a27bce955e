/* CPython 3.15 publishes its executors itself, with a poorer rule: that has to go before ours comes, since where two
   symbol files or tables speak of one address, the older wins. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "agent.h"
#include "python.h"
#include "unwinding.h"

static bool read_from_file(uint64_t address, void *data, size_t size)
{
    int file = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t count = pread(file, data, size, (off_t)address);
    int error = errno;
    close(file);
    errno = error;
    return count == (ssize_t)size;
}

/* Whether `size` bytes at `address` could be read: they may have been freed since somebody saw them. Some sandboxes
   do not have the system call, nor has qemu's emulation of Linux. */
bool read_here(uint64_t address, void *data, size_t size)
{
    struct iovec to = {data, size}, from = {(void *)(uintptr_t)address, size};
    ssize_t count = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
    if (count < 0 && (errno == ENOSYS || errno == EPERM))
        return read_from_file(address, data, size);
    return count == (ssize_t)size;
}

/* Withdraw what CPython has published of an executor, as CPython itself would, if it has its code still. NULLs are passed
   over when the executor is freed. */
static void take_over(const struct executor *executor, const struct executor_layout *layout)
{
    unsigned char *registration;
    struct jit_code_entry *entry;
    void *frames, *none = NULL;
    uint64_t code;
    if (!read_here(executor->address + layout->code, &code, sizeof code) || code != executor->start ||
        !read_here(executor->address + layout->registration, &registration, sizeof registration) || !registration)
        return;
    memcpy(&entry, registration + layout->debugger, sizeof entry);
    memcpy(&frames, registration + layout->libgcc, sizeof frames);
    if (entry) {
        debugger_unregister(entry);
        PyMem_RawFree((void *)entry->symbol_file);
        PyMem_RawFree(entry);
        memcpy(registration + layout->debugger, &none, sizeof none);
    }
    if (frames) {
        libgcc_deregister(frames);
        PyMem_RawFree(frames);
        memcpy(registration + layout->libgcc, &none, sizeof none);
    }
}

/* jitunwind_publish in the place of what CPython has published of these executors; nothing happens in between. With
   the GIL held. */
int jitunwind_replace(const struct jitunwind_region *regions, size_t count, unsigned bits,
                      const struct executor *executors, size_t executor_count, const struct executor_layout *layout,
                      struct jitunwind_publication **handles)
{
    int state, same, error = store_check(regions, count, bits);
    if (error)
        return error;
    if (!debugger_find() || !libgcc_find())
        return ENOTSUP;
    if (!read_here((uintptr_t)&error, &same, sizeof same))
        return errno;
    debugger_lock(&state);
    for (size_t i = 0; i < executor_count; i++)
        take_over(&executors[i], layout);
    error = store_publish(regions, count, bits, handles);
    debugger_unlock(state);
    return error;
}
