/* A CPython extension that samples the stacks of its own process: a timer's signal interrupts threads anywhere, and the
   handler walks the stack. What walks is in another file (sampler.h).

   prepare(count, microseconds, alternate): room for so many samples, which come after about so long; the handlers run
   on a stack of their own if `alternate`.
   enter(): in each thread that is to be sampled; takes a first sample at once.
   start(), stop(): samples come, from all those threads; no more come.
   is_full(): whether there is no more room.
   hold(callable): calls it, with known values in callee-saved registers.
   write(path): what was sampled, in 64-bit words: where `hold` begins and ends, where `_start` does; then of each sample
   the thread, whether it is a thread's first, the interrupted program counter, the number of frames, and the frames
   (struct frame).

   The handler allocates nothing and takes no lock, unless the walker does. */

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "sampler.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { MOST = 400, MOST_THREADS = 16, STACK = 1 << 18 };

struct sample {
    uint64_t thread, is_first, pc, count;
    struct frame frames[MOST];
};

static struct sample *samples;
static unsigned capacity;
static _Atomic unsigned taken;
static unsigned microseconds;
static bool alternate;
static _Atomic bool running;
static timer_t timers[MOST_THREADS];
static unsigned timer_count; /* with the GIL */
static _Thread_local timer_t timer;
static _Thread_local volatile bool is_first;
static _Thread_local uint32_t chance;

static void
set_timer(timer_t which, unsigned after)
{
    struct itimerspec when = {.it_value = {after / 1000000, after % 1000000 * 1000}};
    timer_settime(which, 0, &when, NULL);
}

/* A place for a debugger to stop at: that sample is complete. */
__attribute__((noinline, visibility("default"))) void
sampled(unsigned number)
{
    __asm__ volatile("" : : "r"(number) : "memory");
}

static void
handle(int signal, siginfo_t *info, void *context)
{
    int before = errno;
    ucontext_t *at = context;
    (void)signal, (void)info;
    unsigned place = atomic_fetch_add(&taken, 1);
    if (place < capacity) {
        struct sample *sample = &samples[place];
        sample->thread = (uint64_t)syscall(SYS_gettid);
        sample->is_first = is_first;
#if defined(__x86_64__)
        sample->pc = (uint64_t)at->uc_mcontext.gregs[REG_RIP];
#else
        sample->pc = at->uc_mcontext.pc;
#endif
        sample->count = (uint64_t)walk_from(at, sample->frames, MOST);
        sampled(place);
    }
    else {
        atomic_store(&taken, capacity);
        atomic_store(&running, false);
    }
    if (!is_first && atomic_load(&running)) { /* after another time each time: no step of the program's own */
        chance = chance * 1664525 + 1013904223;
        set_timer(timer, microseconds / 2 + (chance >> 8) % microseconds);
    }
    errno = before;
}

static PyObject *
prepare(PyObject *Py_UNUSED(self), PyObject *arguments)
{
    int on_another;
    if (!PyArg_ParseTuple(arguments, "IIp", &capacity, &microseconds, &on_another)) {
        return NULL;
    }
    alternate = on_another;
    samples = mmap(NULL, capacity * sizeof *samples, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_RESTART | (alternate ? SA_ONSTACK : 0)};
    sigemptyset(&action.sa_mask);
    if (samples == MAP_FAILED || sigaction(SIGPROF, &action, NULL)) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    prepare_walker();
    Py_RETURN_NONE;
}

static PyObject *
enter(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    chance = (uint32_t)event.sigev_notify_thread_id;
    if (timer_count == MOST_THREADS || timer_create(CLOCK_MONOTONIC, &event, &timer)) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (alternate) {
        stack_t stack = {.ss_sp = malloc(STACK), .ss_size = STACK};
        if (sigaltstack(&stack, NULL)) {
            return PyErr_SetFromErrno(PyExc_OSError);
        }
    }
    is_first = true;
    raise(SIGPROF);
    is_first = false;
    timers[timer_count++] = timer;
    Py_RETURN_NONE;
}

static PyObject *
start(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    atomic_store(&running, true);
    for (unsigned i = 0; i < timer_count; i++) {
        set_timer(timers[i], microseconds);
    }
    Py_RETURN_NONE;
}

static PyObject *
stop(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    atomic_store(&running, false);
    for (unsigned i = 0; i < timer_count; i++) {
        set_timer(timers[i], 0);
    }
    Py_RETURN_NONE;
}

static PyObject *
is_full(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused))
{
    return PyBool_FromLong(atomic_load(&taken) >= capacity);
}

#define OPAQUE(name, value) unsigned long name = (value); __asm__ volatile("" : "+r"(name))

__attribute__((noinline, visibility("default"))) PyObject *
hold(PyObject *Py_UNUSED(self), PyObject *callable)
{
    OPAQUE(first, 0x1111222233334444);
    OPAQUE(second, 0x2222333344445555);
    OPAQUE(third, 0x3333444455556666);
    OPAQUE(fourth, 0x4444555566667777);
    OPAQUE(fifth, 0x5555666677778888);
    OPAQUE(sixth, 0x6666777788889999);
    PyObject *result = PyObject_CallNoArgs(callable);
    __asm__ volatile("" : : "r"(first), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth));
    return result;
}

static void
write_range(FILE *file, void *function)
{
    Dl_info found;
    const ElfW(Sym) *symbol = NULL;
    dladdr1(function, &found, (void **)&symbol, RTLD_DL_SYMENT);
    uint64_t range[] = {(uintptr_t)function, (uintptr_t)function + (symbol ? symbol->st_size : 0)};
    fwrite(range, sizeof range, 1, file);
}

static PyObject *
write_samples(PyObject *Py_UNUSED(self), PyObject *path)
{
    unsigned count = atomic_load(&taken) < capacity ? atomic_load(&taken) : capacity;
    FILE *file = fopen(PyUnicode_AsUTF8(path), "wb");
    if (!file) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    write_range(file, (void *)hold);
    write_range(file, dlsym(RTLD_DEFAULT, "_start"));
    for (struct sample *sample = samples; sample < samples + count; sample++) {
        fwrite(sample, offsetof(struct sample, frames) + sample->count * sizeof(struct frame), 1, file);
    }
    if (fclose(file)) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"prepare", prepare, METH_VARARGS, NULL},
    {"enter", enter, METH_NOARGS, NULL},
    {"start", start, METH_NOARGS, NULL},
    {"stop", stop, METH_NOARGS, NULL},
    {"is_full", is_full, METH_NOARGS, NULL},
    {"hold", hold, METH_O, NULL},
    {"write", write_samples, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "sampler", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC
PyInit_sampler(void)
{
    return PyModule_Create(&module);
}
