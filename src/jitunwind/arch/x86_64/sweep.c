/* `jitunwind.arch.x86_64.sweep`: the loop that decoding spends its time in. It is `_sweep` of effects.py once more,
   which says what it does, and takes its place where this is not built. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../../agent/python.h"

struct sweep {
    const char *code, *widths;
    ssize_t size, position, furthest;
    PyObject *known, *others, *effects;
    PyObject *next, *branch, *call, *push_next, *step_type;
    PyObject *steps, *starts;
};

struct form {
    ssize_t length;
    PyObject *handler, *effects, *control;
    long displacement;
};

static bool append_number(PyObject *list, ssize_t number)
{
    PyObject *item = PyLong_FromSsize_t(number);
    bool done = item && !PyList_Append(list, item);
    Py_DecRef(item);
    return done;
}

/* The value for bytes of the code; NULL where there is none, or with an exception. */
static PyObject *look_up(PyObject *map, const struct sweep *sweep, ssize_t size)
{
    ssize_t left = sweep->size - sweep->position;
    PyObject *key = PyBytes_FromStringAndSize(sweep->code + sweep->position, size < left ? size : left);
    PyObject *value = key ? PyDict_GetItemWithError(map, key) : NULL;
    Py_DecRef(key);
    return value;
}

/* What is known of the instruction here; 0: nothing, or an exception. */
static long told(const struct sweep *sweep)
{
    ssize_t width = sweep->widths[(unsigned char)sweep->code[sweep->position]];
    for (;;) {
        PyObject *value = look_up(sweep->known, sweep, width);
        long length = value ? PyLong_AsLong(value) : 0;
        if (!value || length || sweep->position + width >= sweep->size)
            return length;
        width++;
    }
}

static struct form form_of(PyObject *form)
{
    return (struct form){
        .length = PyLong_AsLong(PyTuple_GetItem(form, 0)),
        .handler = PyTuple_GetItem(form, 1),
        .effects = PyTuple_GetItem(form, 2),
        .control = PyTuple_GetItem(form, 3),
        .displacement = PyLong_AsLong(PyTuple_GetItem(form, 4)),
    };
}

static PyObject *shared(PyObject *object)
{
    Py_IncRef(object);
    return object;
}

/* `target` NULL: none. */
static bool add_step(const struct sweep *sweep, ssize_t after, PyObject *effects, PyObject *control,
                     const ssize_t *target)
{
    PyObject *step = PyType_GenericAlloc(sweep->step_type, 5);
    if (!step)
        return false;
    PyTuple_SetItem(step, 0, PyLong_FromSsize_t(sweep->position));
    PyTuple_SetItem(step, 1, PyLong_FromSsize_t(after));
    PyTuple_SetItem(step, 2, shared(effects));
    PyTuple_SetItem(step, 3, shared(control));
    PyTuple_SetItem(step, 4, target ? PyLong_FromSsize_t(*target) : shared(&_Py_NoneStruct));
    bool done = !PyErr_Occurred() && !PyList_Append(sweep->steps, step);
    Py_DecRef(step);
    return done;
}

static ssize_t target_of(const struct sweep *sweep, ssize_t after, long displacement)
{
    int32_t far;
    if (displacement != sizeof far)
        return after + (signed char)sweep->code[after - 1];
    memcpy(&far, sweep->code + after - sizeof far, sizeof far);
    return after + far;
}

/* An instruction that leads elsewhere. `ends`: the sweep does with it. */
static bool leave(struct sweep *sweep, const struct form *form, bool *ends)
{
    ssize_t after = sweep->position + form->length, target;
    PyObject *effects = form->effects, *control = form->control;
    bool calls = control == sweep->call, direct = form->displacement;
    if (direct) {
        target = target_of(sweep, after, form->displacement);
        if (!calls && target > sweep->furthest && target < sweep->size)
            sweep->furthest = target;
        if (calls && target == after) {
            effects = sweep->push_next;
            control = sweep->next;
            direct = false;
        }
    }
    *ends = after > sweep->furthest && !calls && control != sweep->branch;
    return add_step(sweep, after, effects, control, direct ? &target : NULL);
}

/* Goes on until an instruction needs to be told, which is 0 or less, or the sweep ends: 1. `given` may be None. False:
   an exception. */
static bool run(struct sweep *sweep, PyObject *given, long *length)
{
    bool ends = false;
    for (; !ends && sweep->position < sweep->size; given = &_Py_NoneStruct) {
        *length = 0;
        if (given == &_Py_NoneStruct) {
            if (!append_number(sweep->starts, sweep->position))
                return false;
            *length = told(sweep);
            if (*length == 0)
                return !PyErr_Occurred();
            if (*length > 0) {
                sweep->position += *length;
                continue;
            }
            given = PyList_GetItem(sweep->others, -*length);
            if (!given)
                return false;
        }
        struct form form = form_of(given);
        ssize_t after = sweep->position + form.length;
        if (after <= sweep->size && form.control != sweep->next) {
            if (!leave(sweep, &form, &ends))
                return false;
        } else if (after <= sweep->size) {
            if (form.handler != &_Py_NoneStruct && !(form.effects = look_up(sweep->effects, sweep, form.length)))
                return !PyErr_Occurred();
            if (PyTuple_Size(form.effects) > 0 && !add_step(sweep, after, form.effects, form.control, NULL))
                return false;
        }
        sweep->position = after;
    }
    *length = 1;
    return true;
}

/* sweep(code, position, furthest, given, context, steps, starts) */
static PyObject *sweep(PyObject *self, PyObject *arguments)
{
    struct sweep state;
    PyObject *code, *widths, *given, *context;
    long length = 1;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "SnnOOOO", &code, &state.position, &state.furthest, &given, &context, &state.steps,
                          &state.starts) ||
        !PyArg_ParseTuple(context, "SOOOOOOOO", &widths, &state.known, &state.others, &state.effects, &state.next,
                          &state.branch, &state.call, &state.push_next, &state.step_type))
        return NULL;
    state.code = PyBytes_AsString(code);
    state.size = PyBytes_Size(code);
    state.widths = PyBytes_AsString(widths);
    if (!run(&state, given, &length))
        return NULL;
    return Py_BuildValue("nnl", state.position, state.furthest, length);
}

static struct PyMethodDef methods[] = {
    {"sweep", sweep, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

MODULE(sweep, "Decoding's loop: see effects.py.")
