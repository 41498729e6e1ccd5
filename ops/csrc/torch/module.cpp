// An empty extension module: `from . import _C` loads the library, and loading it registers the operations.
#include <Python.h>

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C() {
  return PyModule_Create(&module);
}
