/* The agent as a module of CPython, `jitunwind.agent.agent`: what library.py calls. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "consumer.h"
#include "python.h"

/* What describes regions and lines in Python: their structs, but that pointers are offsets in a piece of data, or, that
   to lines, the index of the first in all of them. */
enum { REGION_WORDS = 13, NAME = 2, ENTRY_NAME = 3, EH_FRAME = 7, LINES = 9, PERF_EH_FRAME = 11 };
enum { LINE_WORDS = 3, FILE_NAME = 1 };
_Static_assert(sizeof(struct jitunwind_region) == REGION_WORDS * sizeof(uint64_t), "all of its fields are words");
_Static_assert(sizeof(struct jitunwind_line) == LINE_WORDS * sizeof(uint64_t), "all of its fields are words");

static PyObject *none(void)
{
    Py_IncRef(&_Py_NoneStruct);
    return &_Py_NoneStruct;
}

/* The regions in `words`, with their lines behind them, in memory from malloc, and how many; NULL without memory. */
static struct jitunwind_region *regions_of(PyObject *words, PyObject *lines, PyObject *data, size_t *count)
{
    static const int pointers[] = {NAME, ENTRY_NAME, EH_FRAME, PERF_EH_FRAME};
    size_t size = (size_t)PyBytes_Size(words), of_lines = (size_t)PyBytes_Size(lines);
    uintptr_t base = (uintptr_t)PyBytes_AsString(data);
    uint64_t *copy = malloc(size + of_lines + 1);
    if (!copy)
        return NULL;
    memcpy(copy, PyBytes_AsString(words), size);
    uint64_t *copied_lines = copy + size / sizeof *copy;
    memcpy(copied_lines, PyBytes_AsString(lines), of_lines);
    *count = size / sizeof(struct jitunwind_region);
    for (uint64_t *region = copy; region < copied_lines; region += REGION_WORDS) {
        for (unsigned i = 0; i < sizeof pointers / sizeof *pointers; i++)
            region[pointers[i]] += base;
        region[LINES] = (uintptr_t)(copied_lines + region[LINES] * LINE_WORDS);
    }
    for (uint64_t *line = copied_lines; line < copied_lines + of_lines / sizeof *line; line += LINE_WORDS)
        line[FILE_NAME] += base;
    return (struct jitunwind_region *)copy;
}

/* publish(words, lines, data, bits, executors, and four offsets: struct executor_layout): an errno, or the handles as bytes.
   Where there are `executors` (address and start of the code of each), in the place of what CPython has published. */
static PyObject *publish(PyObject *self, PyObject *arguments)
{
    PyObject *words, *lines, *data, *executors, *result = NULL;
    unsigned bits;
    unsigned long long offsets[4];
    size_t count = 0;
    int error;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "SSSISKKKK", &words, &lines, &data, &bits, &executors, &offsets[0],
                          &offsets[1], &offsets[2], &offsets[3]))
        return NULL;
    struct executor_layout layout = {offsets[0], offsets[1], offsets[2], offsets[3]};
    struct jitunwind_region *regions = regions_of(words, lines, data, &count);
    struct jitunwind_publication **handles = calloc(count + 1, sizeof *handles);
    size_t executor_count = (size_t)PyBytes_Size(executors) / sizeof(struct executor);
    if (!regions || !handles)
        error = ENOMEM;
    else if (executor_count)
        error = jitunwind_replace(regions, count, bits, (const struct executor *)PyBytes_AsString(executors),
                                  executor_count, &layout, handles);
    else
        error = jitunwind_publish(regions, count, bits, handles);
    result = error ? PyLong_FromLong(error)
                   : PyBytes_FromStringAndSize((const char *)handles, (ssize_t)(count * sizeof *handles));
    free(regions);
    free(handles);
    return result;
}

/* tell(words, lines, data, bits): an errno; further consumers get regions that are published. */
static PyObject *tell(PyObject *self, PyObject *arguments)
{
    PyObject *words, *lines, *data;
    unsigned bits;
    size_t count = 0;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "SSSI", &words, &lines, &data, &bits))
        return NULL;
    struct jitunwind_region *regions = regions_of(words, lines, data, &count);
    int error = regions ? jitunwind_tell(regions, count, bits) : ENOMEM;
    free(regions);
    return PyLong_FromLong(error);
}

/* withdraw(handles) */
static PyObject *withdraw(PyObject *self, PyObject *arguments)
{
    PyObject *handles;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "S", &handles))
        return NULL;
    jitunwind_withdraw((struct jitunwind_publication **)PyBytes_AsString(handles),
                       (size_t)PyBytes_Size(handles) / sizeof(struct jitunwind_publication *));
    return none();
}

/* consumer_bits(): (name, bit) of each consumer. Those of one name have one bit. */
static PyObject *consumer_bits(PyObject *self, PyObject *unused)
{
    PyObject *list = PyList_New(0);
    (void)self, (void)unused;
    for (unsigned i = 0; list && i < CONSUMER_COUNT; i++) {
        PyObject *pair = Py_BuildValue("sI", consumers[i]->name, consumers[i]->bit);
        if (!pair || PyList_Append(list, pair)) {
            Py_DecRef(list);
            list = NULL;
        }
        if (pair)
            Py_DecRef(pair);
    }
    return list;
}

/* problem(bits): why one of these consumers takes no code, or no more; None: each does. */
static PyObject *problem(PyObject *self, PyObject *arguments)
{
    unsigned bits;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "I", &bits))
        return NULL;
    const char *found = jitunwind_problem(bits);
    return found ? Py_BuildValue("s", found) : none();
}

static PyObject *withdraw_range(PyObject *self, PyObject *arguments)
{
    unsigned long long start, size;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "KK", &start, &size))
        return NULL;
    jitunwind_withdraw_range(start, size);
    return none();
}

static PyObject *knows(PyObject *self, PyObject *arguments)
{
    unsigned long long address;
    (void)self;
    return PyArg_ParseTuple(arguments, "K", &address) ? PyBool_FromLong(jitunwind_knows(address)) : NULL;
}

static PyObject *statistics(PyObject *self, PyObject *unused)
{
    struct jitunwind_statistics found;
    (void)self, (void)unused;
    jitunwind_statistics(&found);
    return Py_BuildValue("KKK", (unsigned long long)found.regions, (unsigned long long)found.files,
                         (unsigned long long)found.bytes);
}

/* follow(function): whether calls of mprotect and munmap are noted of the object that has it. */
static PyObject *follow(PyObject *self, PyObject *arguments)
{
    const char *function;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "s", &function))
        return NULL;
    void *inside = dlsym(RTLD_DEFAULT, function);
    return PyBool_FromLong(inside && jitunwind_follow((uintptr_t)inside) > 0);
}

static void call(void *callable)
{
    int state = PyGILState_Ensure();
    PyObject *result = PyObject_CallNoArgs(callable);
    if (result)
        Py_DecRef(result);
    else
        PyErr_WriteUnraisable(callable);
    PyGILState_Release(state);
}

/* set_worker(callable), or set_worker(None); while paused. The callable is kept for ever: a thread may just be calling it. */
static PyObject *set_worker(PyObject *self, PyObject *arguments)
{
    PyObject *callable;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "O", &callable))
        return NULL;
    Py_IncRef(callable);
    jitunwind_set_worker(callable == &_Py_NoneStruct ? NULL : call, callable);
    return none();
}

static PyObject *pause(PyObject *self, PyObject *unused)
{
    void *state = PyEval_SaveThread(); /* the thread that is waited for needs the GIL */
    (void)self, (void)unused;
    jitunwind_pause();
    PyEval_RestoreThread(state);
    return none();
}

static PyObject *resume(PyObject *self, PyObject *arguments)
{
    int now;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "p", &now))
        return NULL;
    jitunwind_resume(now);
    return none();
}

static PyObject *call_soon(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    jitunwind_call();
    return none();
}

static PyObject *events(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyLong_FromSsize_t((ssize_t)jitunwind_events());
}

static PyObject *is_paused(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyBool_FromLong(jitunwind_is_paused());
}

/* take(): (kind, start, size) of the event that came first; None, if there is none. */
static PyObject *take(PyObject *self, PyObject *unused)
{
    struct jitunwind_event event;
    (void)self, (void)unused;
    if (!jitunwind_take(&event, 1))
        return none();
    return Py_BuildValue("KKK", (unsigned long long)event.kind, (unsigned long long)event.start,
                         (unsigned long long)event.size);
}

static PyObject *lost(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyBool_FromLong(jitunwind_lost());
}

static PyObject *remember(PyObject *self, PyObject *arguments)
{
    unsigned long long start;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "K", &start))
        return NULL;
    jitunwind_remember(start);
    return none();
}

static PyObject *unmap(PyObject *self, PyObject *arguments)
{
    unsigned long long start, size;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "KK", &start, &size))
        return NULL;
    jitunwind_unmap(start, size);
    return none();
}

/* read(address, size): the bytes; None, where they cannot be read. With the GIL held. */
static PyObject *read_memory(PyObject *self, PyObject *arguments)
{
    unsigned long long address, size;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "KK", &address, &size))
        return NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (ssize_t)size);
    if (!bytes)
        return NULL;
    if (read_here(address, PyBytes_AsString(bytes), size))
        return bytes;
    Py_DecRef(bytes);
    return none();
}

/* exchange(object, offset, old, other, new): whether the byte there was `old` or `other`, and is `new` now. With the GIL
   held. */
static PyObject *exchange(PyObject *self, PyObject *arguments)
{
    PyObject *object;
    unsigned long long offset;
    unsigned char old, other, new;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OKbbb", &object, &offset, &old, &other, &new))
        return NULL;
    unsigned char *byte = (unsigned char *)object + offset;
    bool is_there = *byte == old || *byte == other;
    if (is_there)
        *byte = new;
    return PyBool_FromLong(is_there);
}

/* address(name): that of a symbol of the program or of what it has loaded, or 0. */
static PyObject *address(PyObject *self, PyObject *arguments)
{
    const char *name;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "s", &name))
        return NULL;
    return PyLong_FromUnsignedLongLong((uintptr_t)dlsym(RTLD_DEFAULT, name));
}

static PyObject *in_main_interpreter(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return PyBool_FromLong(PyInterpreterState_Get() == PyInterpreterState_Main());
}

static struct PyMethodDef methods[] = {
    {"publish", publish, METH_VARARGS, NULL},
    {"tell", tell, METH_VARARGS, NULL},
    {"withdraw", withdraw, METH_VARARGS, NULL},
    {"consumer_bits", consumer_bits, METH_NOARGS, NULL},
    {"problem", problem, METH_VARARGS, NULL},
    {"withdraw_range", withdraw_range, METH_VARARGS, NULL},
    {"knows", knows, METH_VARARGS, NULL},
    {"statistics", statistics, METH_NOARGS, NULL},
    {"follow", follow, METH_VARARGS, NULL},
    {"set_worker", set_worker, METH_VARARGS, NULL},
    {"pause", pause, METH_NOARGS, NULL},
    {"resume", resume, METH_VARARGS, NULL},
    {"call", call_soon, METH_NOARGS, NULL},
    {"events", events, METH_NOARGS, NULL},
    {"is_paused", is_paused, METH_NOARGS, NULL},
    {"take", take, METH_NOARGS, NULL},
    {"lost", lost, METH_NOARGS, NULL},
    {"remember", remember, METH_VARARGS, NULL},
    {"unmap", unmap, METH_VARARGS, NULL},
    {"read", read_memory, METH_VARARGS, NULL},
    {"exchange", exchange, METH_VARARGS, NULL},
    {"address", address, METH_VARARGS, NULL},
    {"in_main_interpreter", in_main_interpreter, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

MODULE(agent, "jitunwind's agent: see library.py.")
