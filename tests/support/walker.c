/* A CPython extension whose `look` is called by JIT code, and walks the stack from there.

   hold(callable) -> JIT code -> look(i). Once armed, look writes the frames that it found to a file, a line each:
   the program counter and the dynamic symbol that holds it; then the walker's note. Then it says "walked" and waits to be killed, so that
   others can see the same stack. `hold` keeps known values in callee-saved registers meanwhile. */

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>
#include <unistd.h>

#include "walker.h"

enum { MOST = 256, MIDDLE = 25 };

char walker_note[256];
static const char *armed;

static const char *
symbol_at(uintptr_t pc)
{
    Dl_info found;
    return dladdr((void *)pc, &found) && found.dli_sname ? found.dli_sname : "-";
}

static void
write_frames(void)
{
    uintptr_t pcs[MOST];
    int count = walk(pcs, MOST);
    FILE *file = fopen(armed, "w");
    if (!file) {
        abort();
    }
    for (int i = 0; i < count; i++) {
        fprintf(file, "%#lx %s\n", (unsigned long)pcs[i], symbol_at(pcs[i] - 1));
    }
    fprintf(file, "%s", walker_note);
    fclose(file);
    puts("walked");
    fflush(stdout);
    for (;;) {
        pause();
    }
}

__attribute__((noinline)) PyObject *
look(PyObject *Py_UNUSED(self), PyObject *argument)
{
    if (armed && PyLong_AsLong(argument) == MIDDLE) { /* JIT code has long been entered then */
        write_frames();
    }
    return Py_NewRef(argument);
}

#define OPAQUE(name, value) unsigned long name = (value); __asm__ volatile("" : "+r"(name))

__attribute__((noinline)) PyObject *
hold(PyObject *Py_UNUSED(self), PyObject *callable)
{
    OPAQUE(first, 0x1111222233334444);
    OPAQUE(second, 0x2222333344445555);
    OPAQUE(third, 0x3333444455556666);
    OPAQUE(fourth, 0x4444555566667777);
    OPAQUE(fifth, 0x5555666677778888);
    PyObject *result = PyObject_CallNoArgs(callable);
    __asm__ volatile("" : : "r"(first), "r"(second), "r"(third), "r"(fourth), "r"(fifth));
    return result;
}

/* The next `look` walks, and writes what it finds to that file. */
static PyObject *
arm(PyObject *Py_UNUSED(self), PyObject *path)
{
    armed = strdup(PyUnicode_AsUTF8(path));
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"look", look, METH_O, NULL},
    {"hold", hold, METH_O, NULL},
    {"arm", arm, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "walker", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC
PyInit_walker(void)
{
    return PyModule_Create(&module);
}
