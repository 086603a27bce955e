/* CPython's stable ABI, as far as it is used here (PEP 384; docs.python.org, "Stable ABI"). Everything is weak: in a
   process without CPython it is NULL, and not used. No Python's headers are needed, and no version is in it. */

#ifndef JITUNWIND_PYTHON_H
#define JITUNWIND_PYTHON_H

#include <stdint.h>
#include <sys/types.h>

typedef struct _object PyObject;
typedef PyObject *(*PyCFunction)(PyObject *, PyObject *);

struct PyMethodDef {
    const char *name;
    PyCFunction function;
    int flags;
    const char *doc;
};
enum { METH_VARARGS = 1, METH_NOARGS = 4 };

struct PyModuleDef_Slot {
    int slot;
    void *value;
};
/* Since 3.12: a module may be in several interpreters, each with a GIL of its own. */
#define MULTIPLE_INTERPRETERS {3, (void *)2}
#define SINCE_MULTIPLE_INTERPRETERS 0x030C0000ul

struct PyModuleDef {
    ssize_t reference_count; /* PyObject, of builds with a GIL */
    void *type;
    void *base[3];
    const char *name;
    const char *doc;
    ssize_t size;
    struct PyMethodDef *methods;
    struct PyModuleDef_Slot *slots;
    void *rest[3];
};

/* What makes a module of the array `methods`. A program that embeds CPython may export none of its functions: there the
   import fails (with SystemError, as nothing can be raised). */
#define MODULE(NAME, DOC)                                                                                              \
    static struct PyModuleDef_Slot slots[] = {MULTIPLE_INTERPRETERS, {0, NULL}};                                       \
    static struct PyModuleDef definition = {                                                                           \
        .reference_count = 1, .name = #NAME, .doc = DOC, .methods = methods, .slots = slots};                          \
                                                                                                                       \
    __attribute__((visibility("default"))) PyObject *PyInit_##NAME(void)                                               \
    {                                                                                                                  \
        if (!&Py_Version || !PyModuleDef_Init || !Py_BuildValue)                                                       \
            return NULL;                                                                                               \
        if (Py_Version < SINCE_MULTIPLE_INTERPRETERS)                                                                  \
            slots[0].slot = 0;                                                                                         \
        return PyModuleDef_Init(&definition);                                                                          \
    }

#define OF_PYTHON extern __attribute__((weak, visibility("default")))
OF_PYTHON const unsigned long Py_Version;
OF_PYTHON PyObject _Py_NoneStruct;
OF_PYTHON PyObject *PyModuleDef_Init(struct PyModuleDef *);
OF_PYTHON int PyArg_ParseTuple(PyObject *, const char *, ...);
OF_PYTHON PyObject *Py_BuildValue(const char *, ...);
OF_PYTHON PyObject *PyBool_FromLong(long);
OF_PYTHON PyObject *PyLong_FromLong(long);
OF_PYTHON PyObject *PyLong_FromUnsignedLongLong(unsigned long long);
OF_PYTHON PyObject *PyBytes_FromStringAndSize(const char *, ssize_t);
OF_PYTHON PyObject *PyLong_FromSsize_t(ssize_t);
OF_PYTHON long PyLong_AsLong(PyObject *);
OF_PYTHON ssize_t PyLong_AsSsize_t(PyObject *);
OF_PYTHON PyObject *PyList_New(ssize_t);
OF_PYTHON int PyList_Append(PyObject *, PyObject *);
OF_PYTHON PyObject *PyList_GetItem(PyObject *, ssize_t);
OF_PYTHON ssize_t PyList_Size(PyObject *);
OF_PYTHON PyObject *PyType_GenericAlloc(PyObject *, ssize_t);
OF_PYTHON PyObject *PyTuple_GetItem(PyObject *, ssize_t);
OF_PYTHON int PyTuple_SetItem(PyObject *, ssize_t, PyObject *);
OF_PYTHON ssize_t PyTuple_Size(PyObject *);
OF_PYTHON PyObject *PyDict_GetItemWithError(PyObject *, PyObject *);
OF_PYTHON int PyDict_SetItem(PyObject *, PyObject *, PyObject *);
OF_PYTHON int PyDict_Contains(PyObject *, PyObject *);
OF_PYTHON int PySet_Contains(PyObject *, PyObject *);
OF_PYTHON int PySet_Add(PyObject *, PyObject *);
OF_PYTHON PyObject *PyObject_GetAttr(PyObject *, PyObject *);
OF_PYTHON PyObject *PyCapsule_New(void *, const char *, void (*)(PyObject *));
OF_PYTHON void *PyCapsule_GetPointer(PyObject *, const char *);
OF_PYTHON PyObject *PyErr_Occurred(void);
OF_PYTHON char *PyBytes_AsString(PyObject *);
OF_PYTHON ssize_t PyBytes_Size(PyObject *);
OF_PYTHON PyObject *PyErr_NoMemory(void);
OF_PYTHON void PyErr_WriteUnraisable(PyObject *);
OF_PYTHON void *PyEval_SaveThread(void);
OF_PYTHON void PyEval_RestoreThread(void *);
OF_PYTHON int Py_IsInitialized(void);
OF_PYTHON int PyGILState_Check(void);
OF_PYTHON int PyGILState_Ensure(void);
OF_PYTHON void PyGILState_Release(int);
OF_PYTHON PyObject *PyObject_CallNoArgs(PyObject *);
OF_PYTHON void Py_IncRef(PyObject *);
OF_PYTHON void Py_DecRef(PyObject *);
OF_PYTHON void *PyInterpreterState_Get(void);
OF_PYTHON void *PyInterpreterState_Main(void);
OF_PYTHON void PyMem_RawFree(void *);

#endif
