/* A CPython extension whose `outer` keeps six known values in callee-saved registers while it calls Python.

   outer(callable) -> JIT code -> innermost(i): a debugger stopped in innermost must find the values in
   outer's frame. The values are opaque to the compiler (empty asm), live across the call, and more than
   the stack would be used for: at -O2 each has a register of its own. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define OPAQUE(name, value) unsigned long name = (value); __asm__ volatile("" : "+r"(name))

__attribute__((noinline)) static PyObject *
innermost(PyObject *self, PyObject *argument)
{
    __asm__ volatile("");
    return Py_NewRef(argument);
}

__attribute__((noinline)) static PyObject *
outer(PyObject *self, PyObject *callable)
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

static PyMethodDef methods[] = {
    {"innermost", innermost, METH_O, NULL},
    {"outer", outer, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "known_registers", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC
PyInit_known_registers(void)
{
    return PyModule_Create(&module);
}
