/* CPython 3.15 publishes its executors itself, with a poorer rule: that has to go before ours comes, since where two
   symbol files or tables speak of one address, the older wins. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "agent.h"
#include "python.h"
#include "unwinding.h"

/* _PyJitCodeRegistration (Python/jit_publish.c). NULLs in it are passed over when the executor is freed. */
struct registration {
    struct jit_code_entry *gdb;
    void *libgcc; /* the frames themselves */
};

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

/* Withdraw what CPython has published of an executor, as CPython itself would, if it has its code still. */
static void take_over(const struct executor *executor, size_t code_at, size_t registration_at)
{
    struct registration *registration;
    uint64_t code;
    if (!read_here(executor->address + code_at, &code, sizeof code) || code != executor->start ||
        !read_here(executor->address + registration_at, &registration, sizeof registration) || !registration)
        return;
    if (registration->gdb) {
        debugger_unregister(registration->gdb);
        PyMem_RawFree((void *)registration->gdb->symbol_file);
        PyMem_RawFree(registration->gdb);
        registration->gdb = NULL;
    }
    if (registration->libgcc) {
        libgcc_deregister(registration->libgcc);
        PyMem_RawFree(registration->libgcc);
        registration->libgcc = NULL;
    }
}

/* jitunwind_publish in the place of what CPython has published of these executors; nothing happens in between. With
   the GIL held. */
int jitunwind_replace(const struct jitunwind_region *regions, size_t count, unsigned bits,
                      const struct executor *executors, size_t executor_count, size_t code_at, size_t registration_at,
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
        take_over(&executors[i], code_at, registration_at);
    error = store_publish(regions, count, bits, handles);
    debugger_unlock(state);
    return error;
}
