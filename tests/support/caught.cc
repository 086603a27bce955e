/* A CPython extension that throws a C++ exception through frames of JIT code, or has a thread cancelled below them.

   each(callable, number) -> JIT code -> at(i): at throws when it has been called with that number so often that JIT code
   has long been entered. each catches, puts the interpreter's own account of the thread back as it was (what the frames
   held is lost), and returns whether the values that it kept in callee-saved registers are right, and the program
   counters of the stack at the throw; or None, if nothing was thrown.

   hold(callable, path) -> JIT code -> look(i): once armed, look throws. hold catches, and writes to the file: "caught",
   and the values that it kept in callee-saved registers meanwhile. Then it ends the process: the interpreter's own
   account of the thread is not put right.

   cancel(callable, path) does the same in a thread of its own, whose look waits in read(), a cancellation point, and
   is cancelled there. The file gets "unwound" with the values, from a destructor in the frame above the JIT code;
   "cleaned", from a handler of pthread_cleanup_push; and "joined", where pthread_join says that it was cancelled.

   cancel_anywhere(callable, path, nanoseconds) does not wait for a cancellation point: the thread is cancelled
   asynchronously, that long after it has begun to call, or as often as that goes by until it is in JIT code: a signal's
   handler cancels it there. (A thread that is cancelled in malloc waits for a lock of its own when it ends.) The file
   gets "stack", too, and the program counters that backtrace() finds in that handler.

   signal_after(number, nanoseconds) has that signal sent to the process. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static const int MIDDLE = 25; /* JIT code has long been entered then */

static FILE *file;
static bool throwing, waiting;
static sem_t there;
static int never[2];

#define OPAQUE(name, value) unsigned long name = (value); __asm__ volatile("" : "+r"(name))

/* The values are opaque to the compiler, live across the call, and wanted behind it: at -O2 -fomit-frame-pointer each
   has a callee-saved register of its own, but for one where rbp is needed, and that one is found through rbp. The
   unwinder restores those registers. */
#define KEEP_SIX                                                                                                     \
    OPAQUE(first, 0x1111222233334444);                                                                               \
    OPAQUE(second, 0x2222333344445555);                                                                              \
    OPAQUE(third, 0x3333444455556666);                                                                               \
    OPAQUE(fourth, 0x4444555566667777);                                                                              \
    OPAQUE(fifth, 0x5555666677778888);                                                                               \
    OPAQUE(sixth, 0x6666777788889999)

/* To a file that has no buffer: what was written is there, however the process ends. */
static void
say(const char *what, unsigned long first, unsigned long second, unsigned long third, unsigned long fourth,
    unsigned long fifth, unsigned long sixth)
{
    fprintf(file, "%s %#lx %#lx %#lx %#lx %#lx %#lx\n", what, first, second, third, fourth, fifth, sixth);
}

static void
open_file(PyObject *path)
{
    file = fopen(PyUnicode_AsUTF8(path), "w");
    if (!file) {
        abort();
    }
    setvbuf(file, nullptr, _IONBF, 0);
}

static PyObject *
look(PyObject *, PyObject *argument)
{
    if (PyLong_AsLong(argument) == MIDDLE) {
        if (throwing) {
            throw MIDDLE;
        }
        if (waiting) {
            char nothing;
            sem_post(&there);
            if (read(never[0], &nothing, 1)) {
                abort();
            }
        }
    }
    return Py_NewRef(argument);
}

__attribute__((noinline)) static void
catch_it(PyObject *callable)
{
    KEEP_SIX;
    try {
        PyObject_CallNoArgs(callable);
    }
    catch (int) {
        say("caught", first, second, third, fourth, fifth, sixth);
        _exit(0);
    }
    __asm__ volatile("" : : "r"(first), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth));
}

static PyObject *
hold(PyObject *, PyObject *arguments)
{
    PyObject *callable, *path;
    if (!PyArg_ParseTuple(arguments, "OU", &callable, &path)) {
        return nullptr;
    }
    open_file(path);
    throwing = true;
    catch_it(callable);
    return nullptr;
}

__attribute__((noinline)) static void
be_cancelled(PyObject *callable)
{
    KEEP_SIX;
    struct Above {
        unsigned long &first, &second, &third, &fourth, &fifth, &sixth;
        ~Above() { say("unwound", first, second, third, fourth, fifth, sixth); }
    };
    {
        Above above{first, second, third, fourth, fifth, sixth};
        PyObject_CallNoArgs(callable);
    }
    __asm__ volatile("" : : "r"(first), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth));
}

enum { MOST = 200 };

static long thrown_at = -1, calls;
static void *pcs[MOST];
static int pc_count;

static PyObject *
at(PyObject *, PyObject *argument)
{
    if (PyLong_AsLong(argument) == thrown_at && ++calls == MIDDLE) {
        pc_count = backtrace(pcs, MOST);
        throw MIDDLE;
    }
    return Py_NewRef(argument);
}

/* 1 where an exception was caught and all is right, -1 where something is wrong, 0 where nothing was thrown. */
__attribute__((noinline)) static int
catch_one(PyObject *callable)
{
    KEEP_SIX;
    int found = 0;
    try {
        Py_XDECREF(PyObject_CallNoArgs(callable));
    }
    catch (int) {
        found = 1;
    }
    /* compared behind a barrier: the compiler cannot know what they are */
    __asm__ volatile("" : "+r"(first), "+r"(second), "+r"(third), "+r"(fourth), "+r"(fifth), "+r"(sixth));
    bool right = first == 0x1111222233334444 && second == 0x2222333344445555 && third == 0x3333444455556666 &&
                 fourth == 0x4444555566667777 && fifth == 0x5555666677778888 && sixth == 0x6666777788889999;
    return right ? found : -1;
}

static PyObject *
each(PyObject *, PyObject *arguments)
{
    PyObject *callable;
    if (!PyArg_ParseTuple(arguments, "Ol", &callable, &thrown_at)) {
        return nullptr;
    }
    PyThreadState *state = PyThreadState_Get();
    PyThreadState saved = *state;
    calls = pc_count = 0;
    int found = catch_one(callable);
    thrown_at = -1;
    if (!found) {
        if (PyErr_Occurred()) {
            return nullptr;
        }
        Py_RETURN_NONE;
    }
    uintptr_t breaker = state->eval_breaker;
    *state = saved;
    state->eval_breaker = breaker;
    PyObject *list = PyList_New(pc_count);
    for (int i = 0; list && i < pc_count; i++) {
        PyList_SET_ITEM(list, i, PyLong_FromVoidPtr(pcs[i]));
    }
    return Py_BuildValue("NN", PyBool_FromLong(found > 0), list);
}

static thread_local bool is_to_go;

/* JIT code is in none of the objects that the loader knows. */
static void
go(int, siginfo_t *, void *context)
{
    dl_find_object found;
    ucontext_t *at = static_cast<ucontext_t *>(context);
#if defined(__x86_64__)
    uintptr_t pc = at->uc_mcontext.gregs[REG_RIP];
#else
    uintptr_t pc = at->uc_mcontext.pc;
#endif
    if (is_to_go && _dl_find_object(reinterpret_cast<void *>(pc), &found)) {
        pc_count = backtrace(pcs, MOST);
        pthread_cancel(pthread_self());
    }
}

static void
clean(void *)
{
    fputs("cleaned\n", file);
}

static void *
thread(void *callable)
{
    PyGILState_STATE state = PyGILState_Ensure();
    pthread_cleanup_push(clean, nullptr);
    if (!waiting) {
        is_to_go = true;
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, nullptr);
        sem_post(&there);
    }
    be_cancelled(static_cast<PyObject *>(callable));
    pthread_cleanup_pop(0);
    PyGILState_Release(state);
    return nullptr;
}

/* In a thread of its own; it is cancelled so long after it is `there`. The process ends. */
static void
call_and_cancel(PyObject *callable, PyObject *path, long nanoseconds)
{
    open_file(path);
    if (sem_init(&there, 0, 0) || pipe(never)) {
        abort();
    }
    pthread_t started;
    void *result = nullptr;
    Py_BEGIN_ALLOW_THREADS /* for ever: the thread holds the GIL when it ends */
    if (pthread_create(&started, nullptr, thread, callable)) {
        abort();
    }
    sem_wait(&there);
    if (waiting) {
        pthread_cancel(started);
    }
    timespec time = {0, nanoseconds};
    while (!waiting && pthread_tryjoin_np(started, &result)) {
        nanosleep(&time, nullptr);
        pthread_kill(started, SIGUSR1);
    }
    if (waiting) {
        pthread_join(started, &result);
    }
    if (result == PTHREAD_CANCELED) {
        fputs("joined\n", file);
    }
    if (pc_count) {
        fputs("stack", file);
        for (int i = 0; i < pc_count; i++) {
            fprintf(file, " %p", pcs[i]);
        }
        fputs("\n", file);
    }
    _exit(0);
    Py_END_ALLOW_THREADS
}

static PyObject *
cancel(PyObject *, PyObject *arguments)
{
    PyObject *callable, *path;
    if (PyArg_ParseTuple(arguments, "OU", &callable, &path)) {
        waiting = true;
        call_and_cancel(callable, path, 0);
    }
    return nullptr;
}

static PyObject *
cancel_anywhere(PyObject *, PyObject *arguments)
{
    PyObject *callable, *path;
    long nanoseconds;
    if (PyArg_ParseTuple(arguments, "OUl", &callable, &path, &nanoseconds)) {
        struct sigaction action{};
        action.sa_sigaction = go;
        action.sa_flags = SA_SIGINFO | SA_RESTART;
        sigaction(SIGUSR1, &action, nullptr);
        backtrace(pcs, 1); /* loads libgcc */
        call_and_cancel(callable, path, nanoseconds);
    }
    return nullptr;
}

static PyObject *
signal_after(PyObject *, PyObject *arguments)
{
    sigevent event{};
    itimerspec when{};
    timer_t timer;
    event.sigev_notify = SIGEV_SIGNAL;
    if (!PyArg_ParseTuple(arguments, "il", &event.sigev_signo, &when.it_value.tv_nsec)) {
        return nullptr;
    }
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) || timer_settime(timer, 0, &when, nullptr)) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"look", look, METH_O, nullptr},
    {"hold", hold, METH_VARARGS, nullptr},
    {"cancel", cancel, METH_VARARGS, nullptr},
    {"at", at, METH_O, nullptr},
    {"each", each, METH_VARARGS, nullptr},
    {"signal_after", signal_after, METH_VARARGS, nullptr},
    {"cancel_anywhere", cancel_anywhere, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "caught", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC
PyInit_caught(void)
{
    return PyModule_Create(&module);
}
