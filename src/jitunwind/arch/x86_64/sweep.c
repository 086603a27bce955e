/* `jitunwind.arch.x86_64.sweep`: the loop that decoding spends its time in. It is `_sweep` of effects.py once more,
   which says what it does, and takes its place where this is not built; and the tables that the loop looks forms up
   in. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../agent/python.h"

/* What `Forms` has known by bytes, once more: a look-up by bytes of the code needs no object here. */
struct entry {
    uint64_t key;
    int32_t value;
    uint8_t size; /* of the key, in bytes; 0: nothing is here */
};
enum { LONGEST_KEY = sizeof(uint64_t), FIRST_SIZE = 1 << 12 };

struct table {
    size_t size, used; /* a power of two; at most half of it */
    struct entry *entries;
};
static const char TABLE[] = "jitunwind.arch.x86_64.sweep.table";

struct sweep {
    const char *code, *widths;
    ssize_t size, position, furthest;
    struct table *by_first_bytes, *by_all_bytes;
    PyObject *lengths, *observed, *places, *effects;
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

/* The entry of that key, or the free one where it is to go. */
static struct entry *place_of(const struct table *table, uint64_t key, unsigned size)
{
    uint64_t hash = (key ^ size) * UINT64_C(0x9E3779B97F4A7C15);
    for (size_t at = hash >> 32;; at++) {
        struct entry *entry = &table->entries[at & (table->size - 1)];
        if (!entry->size || (entry->key == key && entry->size == size))
            return entry;
    }
}

static bool grow(struct table *table)
{
    struct table larger = {.size = table->size ? 2 * table->size : FIRST_SIZE, .used = table->used};
    larger.entries = calloc(larger.size, sizeof *larger.entries);
    if (!larger.entries)
        return false;
    for (size_t at = 0; at < table->size; at++) {
        const struct entry *entry = &table->entries[at];
        if (entry->size)
            *place_of(&larger, entry->key, entry->size) = *entry;
    }
    free(table->entries);
    *table = larger;
    return true;
}

/* The first bytes of the code here, at most LONGEST_KEY, as a number. */
static uint64_t bytes_here(const struct sweep *sweep)
{
    uint64_t bytes = 0;
    ssize_t left = sweep->size - sweep->position;
    memcpy(&bytes, sweep->code + sweep->position, left < LONGEST_KEY ? left : LONGEST_KEY);
    return bytes;
}

/* What is known of so many bytes of the code here: in `table`, or in `longer` where it is too many for that. `*found`:
   whether anything is. */
static long known(const struct sweep *sweep, const struct table *table, PyObject *longer, uint64_t bytes, ssize_t size,
                  bool *found)
{
    *found = false;
    if (size > sweep->size - sweep->position)
        return 0;
    if (size <= LONGEST_KEY) {
        uint64_t mask = size < LONGEST_KEY ? (UINT64_C(1) << 8 * size) - 1 : UINT64_MAX;
        const struct entry *entry = place_of(table, bytes & mask, size);
        *found = entry->size;
        return entry->value;
    }
    PyObject *key = PyBytes_FromStringAndSize(sweep->code + sweep->position, size);
    PyObject *value = key ? PyDict_GetItemWithError(longer, key) : NULL;
    Py_DecRef(key);
    *found = value;
    return value ? PyLong_AsLong(value) : 0;
}

/* How many bytes tell the form of the instruction here, at least: `width_at` of forms.py. */
static ssize_t width_here(const struct sweep *sweep)
{
    enum { ESCAPE = 0x0F, AFTER_REX = 256, AFTER_ESCAPE = 512 };
    const unsigned char *code = (const unsigned char *)sweep->code + sweep->position;
    if (sweep->widths[*code] || sweep->position + 1 == sweep->size)
        return sweep->widths[*code] ? sweep->widths[*code] : 2;
    return sweep->widths[(*code == ESCAPE ? AFTER_ESCAPE : AFTER_REX) + code[1]];
}

/* What is known of the instruction here; 0: nothing, or an exception. */
static long told(const struct sweep *sweep)
{
    uint64_t bytes = bytes_here(sweep);
    bool found;
    for (ssize_t width = width_here(sweep);; width++) {
        long length = known(sweep, sweep->by_first_bytes, sweep->lengths, bytes, width, &found);
        if (length || !found)
            return length;
    }
}

/* What the instruction here does, that is so long; NULL: not known, or an exception. */
static PyObject *effects_here(const struct sweep *sweep, ssize_t length)
{
    bool found;
    long place = known(sweep, sweep->by_all_bytes, sweep->places, bytes_here(sweep), length, &found);
    return found ? PyList_GetItem(sweep->effects, place) : NULL;
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
            given = PyList_GetItem(sweep->observed, -*length);
            if (!given)
                return false;
        }
        struct form form = form_of(given);
        ssize_t after = sweep->position + form.length;
        if (after <= sweep->size && form.control != sweep->next) {
            if (!leave(sweep, &form, &ends))
                return false;
        } else if (after <= sweep->size) {
            if (form.handler != &_Py_NoneStruct && !(form.effects = effects_here(sweep, form.length)))
                return !PyErr_Occurred();
            if (PyTuple_Size(form.effects) > 0 && !add_step(sweep, after, form.effects, form.control, NULL))
                return false;
        }
        sweep->position = after;
    }
    *length = 1;
    return true;
}

static struct table *table_in(PyObject *capsule)
{
    return PyCapsule_GetPointer(capsule, TABLE);
}

static void free_table(PyObject *capsule)
{
    struct table *table = table_in(capsule);
    free(table->entries);
    free(table);
}

/* table() */
static PyObject *new_table(PyObject *self, PyObject *arguments)
{
    (void)self, (void)arguments;
    struct table *table = calloc(1, sizeof *table);
    PyObject *capsule = table && grow(table) ? PyCapsule_New(table, TABLE, free_table) : PyErr_NoMemory();
    if (!capsule && table) {
        free(table->entries);
        free(table);
    }
    return capsule;
}

/* put(table, key, value): not for keys that are too long for it. */
static PyObject *put(PyObject *self, PyObject *arguments)
{
    PyObject *capsule, *key;
    int value;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OSi", &capsule, &key, &value))
        return NULL;
    struct table *table = table_in(capsule);
    ssize_t size = PyBytes_Size(key);
    if (table && 0 < size && size <= LONGEST_KEY) {
        struct sweep whole = {.code = PyBytes_AsString(key), .size = size};
        uint64_t bytes = bytes_here(&whole);
        struct entry *entry = place_of(table, bytes, size);
        if (!entry->size && 2 * ++table->used > table->size) {
            if (!grow(table)) {
                table->used--;
                return PyErr_NoMemory();
            }
            entry = place_of(table, bytes, size);
        }
        *entry = (struct entry){.key = bytes, .value = value, .size = size};
    }
    return table ? shared(&_Py_NoneStruct) : NULL;
}

/* clear(table) */
static PyObject *clear(PyObject *self, PyObject *arguments)
{
    PyObject *capsule;
    (void)self;
    struct table *table = PyArg_ParseTuple(arguments, "O", &capsule) ? table_in(capsule) : NULL;
    if (!table)
        return NULL;
    memset(table->entries, 0, table->size * sizeof *table->entries);
    table->used = 0;
    return shared(&_Py_NoneStruct);
}

/* sweep(code, position, furthest, given, context, steps, starts) */
static PyObject *sweep(PyObject *self, PyObject *arguments)
{
    struct sweep state;
    PyObject *code, *widths, *given, *context, *first, *all;
    long length = 1;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "SnnOOOO", &code, &state.position, &state.furthest, &given, &context, &state.steps,
                          &state.starts) ||
        !PyArg_ParseTuple(context, "SOOOO(OO)OOOOO", &widths, &state.lengths, &state.observed, &state.places,
                          &state.effects, &first, &all, &state.next, &state.branch, &state.call, &state.push_next,
                          &state.step_type))
        return NULL;
    state.by_first_bytes = table_in(first);
    state.by_all_bytes = table_in(all);
    if (!state.by_first_bytes || !state.by_all_bytes)
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
    {"table", new_table, METH_NOARGS, NULL},
    {"put", put, METH_VARARGS, NULL},
    {"clear", clear, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

MODULE(sweep, "Decoding's loop: see effects.py.")
