/* `jitunwind.recover.straight`: the steps at which the walk of flow.py (`_Analysis._follow`) has nothing to decide, which
   are nearly all. What it does is what that does; where it does not go on, that takes the next step. */

#include <stdbool.h>
#include <stddef.h>

#include "../agent/python.h"

/* What stays the same in one walk: see `_Analysis.constant`. All references are borrowed. */
struct walk {
    PyObject *steps, *marks, *leaders, *arrivals, *sources, *states, *done;
    PyObject *ends, *exits, *at_entry, *exit_type;
    PyObject *next, *branch, *call, *jump, *returns, *after, *after_call;
    int all_calls_return;
};

/* Where it is. References are owned but for `behind`, what is known to follow `state`. */
struct place {
    ssize_t index, mark, previous;
    PyObject *state, *call, *behind;
};

static void set(PyObject **place, PyObject *object)
{
    PyObject *before = *place;
    Py_IncRef(object);
    *place = object;
    Py_DecRef(before);
}

static bool set_state(struct place *at, const struct walk *walk, PyObject *state)
{
    PyObject *behind = NULL;
    if (state != &_Py_NoneStruct) {
        if (!(behind = PyObject_GetAttr(state, walk->after)))
            return false;
        Py_DecRef(behind); /* the state keeps it */
    }
    at->behind = behind;
    set(&at->state, state);
    return true;
}

/* Note at `target` the state in which control arrives there first, from the instruction at `source`. */
static bool note_arrival(const struct walk *walk, PyObject *target, PyObject *state, PyObject *source, PyObject *call)
{
    PyObject *pair = Py_BuildValue("OO", source, call);
    bool done = pair && !PyDict_SetItem(walk->arrivals, target, state) && !PyDict_SetItem(walk->sources, target, pair);
    Py_DecRef(pair);
    return done;
}

/* Come to a leader. `*decide`: there are two states to be met; nothing is done. */
static bool join(struct place *at, const struct walk *walk, PyObject *leader, bool *decide)
{
    PyObject *known = PyDict_GetItemWithError(walk->arrivals, leader);
    bool is_here = at->state != &_Py_NoneStruct;
    if ((*decide = known && is_here && known != at->state))
        return true;
    if (!known) {
        if (PyErr_Occurred())
            return false;
        if (!is_here)
            return true;
        PyObject *previous = PyLong_FromSsize_t(at->previous);
        bool noted = previous && note_arrival(walk, leader, at->state, previous, at->call);
        Py_DecRef(previous);
        if (!noted)
            return false;
        known = at->state;
    }
    if (PyDict_SetItem(walk->states, leader, known))
        return false;
    if (PyDict_GetItemWithError(walk->done, leader) == known)
        return set_state(at, walk, &_Py_NoneStruct);
    return !PyDict_SetItem(walk->done, leader, known) && (is_here || set_state(at, walk, known));
}

/* Control goes to `target`, where this walk comes later on or where that state has arrived before. `*decide`: else. */
static bool lead(const struct place *at, const struct walk *walk, PyObject *offset, PyObject *target, PyObject *state,
                 bool *decide)
{
    PyObject *known = PyDict_GetItemWithError(walk->arrivals, target);
    if (known || PyErr_Occurred()) {
        *decide = known != state;
        return known;
    }
    int comes_there = PyLong_AsSsize_t(target) > PyLong_AsSsize_t(offset) ? PySet_Contains(walk->leaders, target) : 0;
    *decide = !comes_there;
    if (PyErr_Occurred())
        return false;
    return !comes_there || note_arrival(walk, target, state, offset, at->call);
}

/* A return in that state. `*decide`: it has not been seen whether it is that at entry. */
static bool leave(const struct walk *walk, PyObject *offset, PyObject *state, bool *decide)
{
    PyObject *as_at_entry = PyDict_GetItemWithError(walk->at_entry, state);
    if ((*decide = !as_at_entry))
        return !PyErr_Occurred();
    PyObject *found = PyType_GenericAlloc(walk->exit_type, 3);
    if (!found)
        return false;
    PyTuple_SetItem(found, 0, Py_BuildValue("O", &_Py_NoneStruct));
    PyTuple_SetItem(found, 1, PyBool_FromLong(1));
    PyTuple_SetItem(found, 2, Py_BuildValue("O", as_at_entry));
    bool done = !PyErr_Occurred() && !PyDict_SetItem(walk->exits, offset, found);
    Py_DecRef(found);
    return done;
}

/* Take a step from a state. `*decide`: not here; nothing is done. */
static bool take(struct place *at, const struct walk *walk, PyObject *step, PyObject *offset, bool *decide)
{
    PyObject *behind = PyTuple_GetItem(step, 1), *control = PyTuple_GetItem(step, 3), *target = PyTuple_GetItem(step, 4);
    PyObject *following = PyDict_GetItemWithError(at->behind, PyTuple_GetItem(step, 2));
    bool has_target = target != &_Py_NoneStruct, ends = control == walk->jump || control == walk->returns;
    *decide = !following;
    if (!following)
        return !PyErr_Occurred();
    if (has_target && (control == walk->branch || control == walk->jump)) {
        if (!lead(at, walk, offset, target, following, decide))
            return false;
    } else if (control == walk->returns) {
        if (!leave(walk, offset, following, decide))
            return false;
    } else if (control == walk->call && !has_target && walk->all_calls_return) {
        PyObject *returned = PyObject_GetAttr(following, walk->after_call);
        if (!returned)
            return false;
        Py_DecRef(returned); /* `following` keeps it */
        if ((*decide = returned == &_Py_NoneStruct))
            return true;
        set(&at->call, offset);
        following = returned;
    } else {
        *decide = control != walk->next;
    }
    if (*decide)
        return true;
    at->previous = PyLong_AsSsize_t(offset);
    if (ends)
        return !PySet_Add(walk->ends, behind) && set_state(at, walk, &_Py_NoneStruct);
    int notes = following != at->state ? 1 : PyDict_Contains(walk->states, behind);
    if (notes < 0 || (notes && PyDict_SetItem(walk->states, behind, following)))
        return false;
    return following == at->state || set_state(at, walk, following);
}

static bool go_on(struct place *at, const struct walk *walk)
{
    ssize_t count = PyList_Size(walk->steps);
    bool decide = false;
    for (; at->index < count; at->index++) {
        PyObject *step = PyList_GetItem(walk->steps, at->index);
        PyObject *offset = step ? PyTuple_GetItem(step, 0) : NULL;
        ssize_t here = offset ? PyLong_AsSsize_t(offset) : -1;
        if (here < 0)
            return false;
        for (;;) {
            PyObject *leader = PyList_GetItem(walk->marks, at->mark);
            if (!leader || PyLong_AsSsize_t(leader) > here)
                break;
            if (!join(at, walk, leader, &decide))
                return false;
            if (decide)
                return true;
            at->mark++;
            set(&at->call, &_Py_NoneStruct);
        }
        if (PyErr_Occurred())
            return false;
        if (at->state != &_Py_NoneStruct && (!take(at, walk, step, offset, &decide) || decide))
            return !PyErr_Occurred();
    }
    return true;
}

/* skip(constant, index, mark, state, previous, call) -> the same five, further on */
static PyObject *skip(PyObject *self, PyObject *arguments)
{
    struct walk walk;
    struct place at = {.state = NULL};
    PyObject *constant, *state, *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OnnOnO", &constant, &at.index, &at.mark, &state, &at.previous, &at.call) ||
        !PyArg_ParseTuple(constant, "OOOOOOOOOOOOOOOOOOp", &walk.steps, &walk.marks, &walk.leaders,
                          &walk.arrivals, &walk.sources, &walk.states, &walk.done, &walk.ends, &walk.exits,
                          &walk.at_entry, &walk.exit_type, &walk.next, &walk.branch, &walk.call, &walk.jump,
                          &walk.returns, &walk.after, &walk.after_call, &walk.all_calls_return))
        return NULL;
    Py_IncRef(at.call);
    Py_IncRef(&_Py_NoneStruct);
    at.state = &_Py_NoneStruct;
    if (set_state(&at, &walk, state) && go_on(&at, &walk))
        result = Py_BuildValue("nnOnO", at.index, at.mark, at.state, at.previous, at.call);
    Py_DecRef(at.state);
    Py_DecRef(at.call);
    return result;
}

static struct PyMethodDef methods[] = {
    {"skip", skip, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

MODULE(straight, "The walk's plain steps: see flow.py.")
