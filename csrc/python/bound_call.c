/* The extension module fastmlp._bound_call: where arrays lie, and kernels' calls with memory of their own as functions of
 * Python's, for nets so small that Python and cffi would take longer than the kernel. On a Zen 4 core `net.forward(x)` of
 * 8-64-64-4 takes 0.52 us, a step of 2-2-1 0.59; through cffi, with Python copying and checking, 0.82 and 2.27. A function
 * knows arrays like its own; what else may come is left to Python. What its addresses point to it keeps alive. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#define NO_IMPORT_ARRAY /* what an array's fields say needs no function of NumPy's */
#include <math.h>
#include <numpy/ndarrayobject.h>
#include <stdint.h>
#include <string.h>

/* What tells a function of Python's its memory: a capsule, which owns it. */
static void *memory_of(PyObject *capsule) { return PyCapsule_GetPointer(capsule, NULL); }

static PyArrayObject *array_of(PyObject *array) { return (PyArrayObject *)array; }

static npy_intp n_elements(PyObject *array) {
    npy_intp n = 1;
    for (int i = 0; i < PyArray_NDIM(array_of(array)); i++) n *= PyArray_DIM(array_of(array), i);
    return n;
}

/* Of float32, float64 and int64, which are all that come here. */
static size_t element_size(PyObject *array) { return PyArray_TYPE(array_of(array)) == NPY_FLOAT ? 4 : 8; }

/* Whether something is an array (and of no derived class) of aligned elements in native order. */
static int is_readable(PyObject *given, PyObject *some_array) {
    return Py_TYPE(given) == Py_TYPE(some_array) && PyArray_ISALIGNED(array_of(given)) && PyArray_ISNOTSWAPPED(array_of(given));
}

static int has_shape_of(PyObject *given, PyObject *array) {
    const int n_axes = PyArray_NDIM(array_of(array));
    return PyArray_NDIM(array_of(given)) == n_axes &&
           memcmp(PyArray_DIMS(array_of(given)), PyArray_DIMS(array_of(array)), (size_t)n_axes * sizeof(npy_intp)) == 0;
}

static int has_type_of(PyObject *given, PyObject *array) {
    return PyArray_TYPE(array_of(given)) == PyArray_TYPE(array_of(array));
}

/* Copies reals to where as many of their own or the other type stand; returns whether it could. */
static int copy_reals(PyObject *place, PyObject *given) {
    if (!is_readable(given, place) || !has_shape_of(given, place) || !PyArray_IS_C_CONTIGUOUS(array_of(given))) return 0;
    const npy_intp n = n_elements(place);
    const int type = PyArray_TYPE(array_of(given));
    void *to = PyArray_DATA(array_of(place));
    const void *from = PyArray_DATA(array_of(given));
    if (has_type_of(given, place)) memmove(to, from, (size_t)n * element_size(place));
    else if (type == NPY_DOUBLE)
        for (npy_intp i = 0; i < n; i++) ((float *)to)[i] = (float)((const double *)from)[i];
    else if (type == NPY_FLOAT)
        for (npy_intp i = 0; i < n; i++) ((double *)to)[i] = (double)((const float *)from)[i];
    else return 0;
    return 1;
}

/* A call with all that was given. */
static PyObject *call_with_all(PyObject *function, PyObject *const *arguments, Py_ssize_t n, PyObject *names) {
    PyObject *positional = PyTuple_New(n), *named = PyDict_New(), *result = NULL;
    int is_ready = positional && named;
    for (Py_ssize_t i = 0; is_ready && i < n; i++) is_ready = PyTuple_SetItem(positional, i, Py_NewRef(arguments[i])) == 0;
    for (Py_ssize_t i = 0; is_ready && names && i < PyTuple_Size(names); i++)
        is_ready = PyDict_SetItem(named, PyTuple_GetItem(names, i), arguments[n + i]) == 0;
    if (is_ready) result = PyObject_Call(function, positional, named);
    Py_XDECREF(positional);
    Py_XDECREF(named);
    return result;
}

/* --- forward --- */

typedef struct {
    void (*kernel)(int64_t call, int64_t logits);
    int64_t call, logits;
    int is_long, is_busy; /* whether Python's other threads run meanwhile: to let them takes 0.05 us */
    PyObject *x, *y;      /* arrays where the kernel reads, and where it writes */
    PyObject *copy;       /* makes a new array of y */
    PyObject *otherwise;  /* None, or called in place of predict with what that does not know */
    PyObject *memory;
} bound_forward;

static void compute(bound_forward *b) {
    if (!b->is_long) {
        b->kernel(b->call, b->logits);
        return;
    }
    b->is_busy = 1;
    PyThreadState *state = PyEval_SaveThread();
    b->kernel(b->call, b->logits);
    PyEval_RestoreThread(state);
    b->is_busy = 0;
}

static PyObject *predict(PyObject *self, PyObject *const *arguments, Py_ssize_t n, PyObject *names) {
    bound_forward *b = memory_of(self);
    if (n == 0 && !names) {
        compute(b);
        return Py_NewRef(b->y);
    }
    if (n == 1 && !names && !b->is_busy && copy_reals(b->x, arguments[0])) {
        compute(b);
        return PyObject_CallNoArgs(b->copy);
    }
    if (b->otherwise == Py_None) Py_RETURN_NONE;
    return call_with_all(b->otherwise, arguments, n, names);
}

static PyObject *run(PyObject *self, PyObject *unused) {
    (void)unused;
    compute(memory_of(self));
    Py_RETURN_NONE;
}

static void release_forward(PyObject *capsule) {
    bound_forward *b = memory_of(capsule);
    Py_XDECREF(b->x);
    Py_XDECREF(b->y);
    Py_XDECREF(b->copy);
    Py_XDECREF(b->otherwise);
    Py_XDECREF(b->memory);
    PyMem_Free(b);
}

static PyMethodDef of_a_forward[] = {
    {"predict", (PyCFunction)(void (*)(void))predict, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"run", run, METH_NOARGS, NULL},
};

static PyObject *bind_forward(PyObject *module, PyObject *arguments) {
    (void)module;
    long long kernel, call, logits;
    int is_long;
    PyObject *memory, *x, *y, *otherwise;
    if (!PyArg_ParseTuple(arguments, "LLLpOOOO", &kernel, &call, &logits, &is_long, &memory, &x, &y, &otherwise)) return NULL;
    bound_forward *b = PyMem_Calloc(1, sizeof *b);
    PyObject *capsule = b ? PyCapsule_New(b, NULL, release_forward) : PyErr_NoMemory();
    if (!capsule) {
        PyMem_Free(b);
        return NULL;
    }
    b->kernel = (void (*)(int64_t, int64_t))(intptr_t)kernel;
    b->call = call;
    b->logits = logits;
    b->is_long = is_long;
    b->x = Py_NewRef(x);
    b->y = Py_NewRef(y);
    b->copy = PyObject_GetAttrString(y, "copy");
    b->otherwise = Py_NewRef(otherwise);
    b->memory = Py_NewRef(memory);
    PyObject *functions = NULL;
    if (b->copy) {
        PyObject *predict_it = PyCFunction_NewEx(&of_a_forward[0], capsule, NULL);
        PyObject *run_it = PyCFunction_NewEx(&of_a_forward[1], capsule, NULL);
        if (predict_it && run_it) functions = PyTuple_Pack(2, predict_it, run_it);
        Py_XDECREF(predict_it);
        Py_XDECREF(run_it);
    }
    Py_DECREF(capsule);
    return functions;
}

/* --- a training step --- */

/* How a kernel's examples begin: see fastmlp.h. */
typedef struct {
    int64_t x, x_row, x_column;
} inputs;

typedef struct {
    double (*kernel)(int64_t call, int64_t dropout_step);
    int64_t call;
    int is_long;
    PyObject *x, *y;          /* what a batch looks like; targets are copied to y, for they must stay what was checked */
    inputs *inputs;           /* where the kernel looks for x */
    int has_highest;
    uint64_t highest;         /* of the targets, read as naturals: none is negative or not a number either */
    PyObject *update, *table; /* of the optimizer */
    PyObject *memory;
} bound_step;

static int are_targets_right(const bound_step *b) {
    const npy_intp n = b->has_highest ? n_elements(b->y) : 0;
    const void *y = PyArray_DATA(array_of(b->y));
    int is_wrong = 0;
    if (element_size(b->y) == 4)
        for (npy_intp i = 0; i < n; i++) is_wrong |= ((const uint32_t *)y)[i] > b->highest;
    else
        for (npy_intp i = 0; i < n; i++) is_wrong |= ((const uint64_t *)y)[i] > b->highest;
    return !is_wrong;
}

/* Whether targets like those of y, or a column's without its second axis, were copied there and are such as the loss takes. */
static int are_targets_copied(const bound_step *b, PyObject *given) {
    if (!is_readable(given, b->y) || !has_type_of(given, b->y) || !PyArray_IS_C_CONTIGUOUS(array_of(given))) return 0;
    if (!has_shape_of(given, b->y)) {
        const int is_column = PyArray_NDIM(array_of(b->y)) == 2 && PyArray_DIM(array_of(b->y), 1) == 1;
        if (!is_column || PyArray_NDIM(array_of(given)) != 1 || n_elements(given) != n_elements(b->y)) return 0;
    }
    memmove(PyArray_DATA(array_of(b->y)), PyArray_DATA(array_of(given)), (size_t)n_elements(given) * element_size(given));
    return are_targets_right(b);
}

/* Whether examples are like those of x. A kernel reads them where they are, but not a column repeated. */
static int are_inputs_known(const bound_step *b, PyObject *given) {
    return is_readable(given, b->x) && has_type_of(given, b->x) && has_shape_of(given, b->x) &&
           PyArray_STRIDE(array_of(given), 1) != 0;
}

/* The loss of a step on a batch; not a number, with nothing done, if it is not like the one before. */
static double step(const bound_step *b, PyObject *x, PyObject *y, int64_t dropout_step) {
    if (!are_inputs_known(b, x) || !are_targets_copied(b, y)) return NAN;
    const npy_intp *strides = PyArray_STRIDES(array_of(x));
    *b->inputs = (inputs){(intptr_t)PyArray_DATA(array_of(x)), strides[0], strides[1]};
    PyThreadState *state = b->is_long ? PyEval_SaveThread() : NULL;
    const double loss = b->kernel(b->call, dropout_step);
    if (state) PyEval_RestoreThread(state);
    return loss;
}

static PyObject *acquire_name, *release_name;

/* The same where other threads of Python's run meanwhile: with the lock held that lets only one of them train, and from the
 * start, for the targets' place is the step's. Not a number, too, if the lock is taken, or if Python failed. */
static double locked_step(const bound_step *b, PyObject *x, PyObject *y, int64_t dropout_step, PyObject *lock) {
    double loss = NAN;
    PyObject *held = PyObject_CallMethodObjArgs(lock, acquire_name, Py_False, NULL), *released = NULL;
    if (held == Py_True) {
        loss = step(b, x, y, dropout_step);
        released = PyObject_CallMethodObjArgs(lock, release_name, NULL);
    }
    Py_XDECREF(held);
    Py_XDECREF(released);
    return loss;
}

/* repeat(X, y, update, table, dropout_step, lock): the loss; None if it is for another batch, or not a number. */
static PyObject *repeat(PyObject *self, PyObject *const *arguments, Py_ssize_t n) {
    const bound_step *b = memory_of(self);
    if (n != 6 || arguments[2] != b->update || arguments[3] != b->table) Py_RETURN_NONE;
    PyObject *x = arguments[0], *y = arguments[1];
    const long long dropout_step = PyLong_AsLongLong(arguments[4]);
    if (dropout_step == -1 && PyErr_Occurred()) return NULL;
    const double loss = b->is_long ? locked_step(b, x, y, dropout_step, arguments[5]) : step(b, x, y, dropout_step);
    if (b->is_long && PyErr_Occurred()) return NULL;
    return loss == loss ? PyFloat_FromDouble(loss) : Py_NewRef(Py_None);
}

static void release_step(PyObject *capsule) {
    bound_step *b = memory_of(capsule);
    Py_XDECREF(b->x);
    Py_XDECREF(b->y);
    Py_XDECREF(b->update);
    Py_XDECREF(b->table);
    Py_XDECREF(b->memory);
    PyMem_Free(b);
}

static PyMethodDef of_a_step = {"repeat", (PyCFunction)(void (*)(void))repeat, METH_FASTCALL, NULL};

static PyObject *bind_step(PyObject *module, PyObject *arguments) {
    (void)module;
    long long kernel, call, inputs_at;
    int is_long;
    PyObject *memory, *x, *y, *highest, *update, *table;
    if (!PyArg_ParseTuple(arguments, "LLpOLOOOOO", &kernel, &call, &is_long, &memory, &inputs_at, &x, &y, &highest, &update, &table))
        return NULL;
    const unsigned long long limit = highest == Py_None ? 0 : PyLong_AsUnsignedLongLong(highest);
    if (PyErr_Occurred()) return NULL;
    bound_step *b = PyMem_Calloc(1, sizeof *b);
    PyObject *capsule = b ? PyCapsule_New(b, NULL, release_step) : PyErr_NoMemory();
    if (!capsule) {
        PyMem_Free(b);
        return NULL;
    }
    b->kernel = (double (*)(int64_t, int64_t))(intptr_t)kernel;
    b->call = call;
    b->is_long = is_long;
    b->inputs = (inputs *)(intptr_t)inputs_at;
    b->x = Py_NewRef(x);
    b->y = Py_NewRef(y);
    b->has_highest = highest != Py_None;
    b->highest = limit;
    b->update = Py_NewRef(update);
    b->table = Py_NewRef(table);
    b->memory = Py_NewRef(memory);
    PyObject *function = PyCFunction_NewEx(&of_a_step, capsule, NULL);
    Py_DECREF(capsule);
    return function;
}

/* The addresses of a kernel and of its call are taken as they are; memory is what must be kept for the call. */
static PyTypeObject *array_type; /* numpy.ndarray */

static PyObject *address(PyObject *module, PyObject *given) {
    (void)module;
    if (given == Py_None) return PyLong_FromLong(0);
    if (!PyObject_TypeCheck(given, array_type)) return PyErr_Format(PyExc_TypeError, "%R is no array", given);
    return PyLong_FromVoidPtr(PyArray_DATA(array_of(given)));
}

static PyMethodDef functions[] = {
    {"address", address, METH_O, "address(array) -> where its memory begins; 0 for None."},
    {"bind_forward", bind_forward, METH_VARARGS,
     "bind_forward(kernel, call, logits, is_long, memory, x, y, otherwise) -> (predict, run): predict() computes y from x,\n"
     "predict(given) from a copy of given, of which it returns a new array, and run() returns nothing. For whatever else is\n"
     "given, and while another thread computes, predict returns what otherwise(...) does, or None where that is None."},
    {"bind_step", bind_step, METH_VARARGS,
     "bind_step(kernel, call, is_long, memory, inputs, x, y, highest, update, table) -> repeat(X, y, update, table, dropout_step,\n"
     "lock): the loss of a step on a batch that looks like x and y; None, with nothing done, for any other batch or optimizer,\n"
     "and where the loss is not a number. If it is long, it holds the lock meanwhile. inputs: their address in the call.\n"
     "highest, which no target may exceed, read as naturals, may be None."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "fastmlp._bound_call", .m_size = 0, .m_methods = functions};

PyMODINIT_FUNC PyInit__bound_call(void) {
    acquire_name = PyUnicode_InternFromString("acquire");
    release_name = PyUnicode_InternFromString("release");
    PyObject *numpy = PyImport_ImportModule("numpy");
    array_type = numpy ? (PyTypeObject *)PyObject_GetAttrString(numpy, "ndarray") : NULL;
    Py_XDECREF(numpy);
    return acquire_name && release_name && array_type ? PyModuleDef_Init(&definition) : NULL;
}
