/* CPython 3.15 publishes its executors itself, with a poorer rule: that has to go before ours comes, since where two
   symbol files or tables speak of one address, the older wins. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "agent.h"

/* _PyJitCodeRegistration (Python/jit_publish.c). NULLs in it are passed over when the executor is freed. */
struct registration {
    struct jit_code_entry *gdb;
    void *libgcc; /* the frames themselves */
};

/* Whether `size` bytes at `address` could be read: they may have been freed since somebody saw them. */
static bool read_here(uint64_t address, void *data, size_t size)
{
    struct iovec to = {data, size}, from = {(void *)(uintptr_t)address, size};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)size;
}

struct executor {
    uint64_t address, start;
};

/* Withdraw what CPython has published of an executor, as CPython itself would, if it has its code still. */
static void take_over(const struct executor *executor, size_t code_at, size_t registration_at,
                      void (*give_back)(void *))
{
    struct registration *registration;
    uint64_t code;
    if (!read_here(executor->address + code_at, &code, sizeof code) || code != executor->start ||
        !read_here(executor->address + registration_at, &registration, sizeof registration) || !registration)
        return;
    if (registration->gdb) {
        debugger_unregister(registration->gdb);
        give_back((void *)registration->gdb->symbol_file);
        give_back(registration->gdb);
        registration->gdb = NULL;
    }
    if (registration->libgcc) {
        libgcc_deregister(registration->libgcc);
        give_back(registration->libgcc);
        registration->libgcc = NULL;
    }
}

/* jitunwind_publish in the place of what CPython has published of these executors; nothing happens in between. With
   the GIL held. */
EXPORTED int jitunwind_replace(const struct jitunwind_region *regions, size_t count, unsigned consumers,
                               const struct executor *executors, size_t executor_count, size_t code_at,
                               size_t registration_at)
{
    void (*give_back)(void *);
    void *function = dlsym(RTLD_DEFAULT, "PyMem_RawFree");
    int state, same, error = store_check(regions, count, consumers);
    if (error)
        return error;
    if (!function || !debugger_find() || !libgcc_find())
        return ENOTSUP;
    if (!read_here((uintptr_t)&function, &same, sizeof same))
        return errno;
    struct jitunwind_publication **handles = malloc((count + 1) * sizeof *handles);
    if (!handles)
        return ENOMEM;
    memcpy(&give_back, &function, sizeof function);
    debugger_lock(&state);
    for (size_t i = 0; i < executor_count; i++)
        take_over(&executors[i], code_at, registration_at, give_back);
    error = store_publish(regions, count, consumers, handles);
    debugger_unlock(state);
    free(handles);
    return error;
}

/* What the agent calls in its thread: a Python callable, by CPython's stable ABI. */
static int (*take_gil)(void);
static void (*give_gil)(int);
static void *(*call)(void *);
static void (*let_go)(void *);
static void (*report)(void *);

static void call_python(void *callable)
{
    int state = take_gil();
    void *result = call(callable);
    if (result)
        let_go(result);
    else
        report(callable);
    give_gil(state);
}

/* Have a Python callable attend, until it is NULL; it has to live as long. Whether this process has a CPython. */
EXPORTED int jitunwind_attend_python(void *callable)
{
    void *functions[] = {dlsym(RTLD_DEFAULT, "PyGILState_Ensure"), dlsym(RTLD_DEFAULT, "PyGILState_Release"),
                         dlsym(RTLD_DEFAULT, "PyObject_CallNoArgs"), dlsym(RTLD_DEFAULT, "Py_DecRef"),
                         dlsym(RTLD_DEFAULT, "PyErr_WriteUnraisable")};
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
        if (!functions[i])
            return 0;
    memcpy(&take_gil, &functions[0], sizeof(void *));
    memcpy(&give_gil, &functions[1], sizeof(void *));
    memcpy(&call, &functions[2], sizeof(void *));
    memcpy(&let_go, &functions[3], sizeof(void *));
    memcpy(&report, &functions[4], sizeof(void *));
    jitunwind_attend(callable ? call_python : NULL, callable);
    return 1;
}
