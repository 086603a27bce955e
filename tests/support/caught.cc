/* A CPython extension that throws a C++ exception through frames of JIT code, or has a thread cancelled below them.

   hold(callable, path) -> JIT code -> look(i): once armed, look throws. hold catches, and writes to the file: "caught",
   and the values that it kept in callee-saved registers meanwhile. Then it ends the process: the interpreter's own
   account of the thread is not put right.

   cancel(callable, path) does the same in a thread of its own, whose look waits in read(), a cancellation point, and
   is cancelled there. The file gets "unwound" with the values, from a destructor in the frame above the JIT code;
   "cleaned", from a handler of pthread_cleanup_push; and "joined", where pthread_join says that it was cancelled. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <semaphore.h>
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
    be_cancelled(static_cast<PyObject *>(callable));
    pthread_cleanup_pop(0);
    PyGILState_Release(state);
    return nullptr;
}

static PyObject *
cancel(PyObject *, PyObject *arguments)
{
    PyObject *callable, *path;
    if (!PyArg_ParseTuple(arguments, "OU", &callable, &path)) {
        return nullptr;
    }
    open_file(path);
    waiting = true;
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
    pthread_cancel(started);
    pthread_join(started, &result);
    if (result == PTHREAD_CANCELED) {
        fputs("joined\n", file);
    }
    _exit(0);
    Py_END_ALLOW_THREADS
}

static PyMethodDef methods[] = {
    {"look", look, METH_O, nullptr},
    {"hold", hold, METH_VARARGS, nullptr},
    {"cancel", cancel, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "caught", nullptr, 0, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC
PyInit_caught(void)
{
    return PyModule_Create(&module);
}
