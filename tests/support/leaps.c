/* A CPython extension that leaves frames, those of JIT code among them, without returning to them.

   leap(callable) calls it, and is longjmp'ed back to from back(i) when i is 9. The interpreter's own account
   of the thread is put back as it was; what the frames held is lost. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <setjmp.h>

static jmp_buf place;

static PyObject *
back(PyObject *self, PyObject *argument)
{
    if (PyLong_AsLong(argument) == 9) {
        longjmp(place, 1);
    }
    return Py_NewRef(argument);
}

static PyObject *
leap(PyObject *self, PyObject *callable)
{
    PyThreadState *state = PyThreadState_Get();
    static PyThreadState saved;
    saved = *state;
    if (setjmp(place)) {
        uintptr_t breaker = state->eval_breaker;
        *state = saved;
        state->eval_breaker = breaker;
        Py_RETURN_TRUE;
    }
    return PyObject_CallNoArgs(callable);
}

static PyMethodDef methods[] = {
    {"back", back, METH_O, NULL},
    {"leap", leap, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "leaps", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC
PyInit_leaps(void)
{
    return PyModule_Create(&module);
}
