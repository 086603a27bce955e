/* A CPython extension that throws a C++ exception through frames of JIT code.

   hold(callable) calls it, and catches what back(i) throws when i is 9. The interpreter's own account of the
   thread is put back as it was; what the frames held is lost. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *
back(PyObject *, PyObject *argument)
{
    if (PyLong_AsLong(argument) == 9) {
        throw 9;
    }
    return Py_NewRef(argument);
}

static PyThreadState saved;
static PyThreadState *state;

static PyObject *
hold(PyObject *, PyObject *callable)
{
    /* Has this function save them all, and so give them back: what the unwinder finds in them through JIT code
       is wrong on 3.15. Without this line the interpreter crashes soon after. */
    __asm__ volatile("" ::: "rbx", "r12", "r13", "r14", "r15");
    state = PyThreadState_Get();
    saved = *state;
    try {
        return PyObject_CallNoArgs(callable);
    }
    catch (int) {
        uintptr_t breaker = state->eval_breaker;
        *state = saved;
        state->eval_breaker = breaker;
    }
    Py_RETURN_TRUE;
}

static PyMethodDef methods[] = {
    {"back", back, METH_O, nullptr},
    {"hold", hold, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "thrown", nullptr, 0, methods};

PyMODINIT_FUNC
PyInit_thrown(void)
{
    return PyModule_Create(&module);
}
