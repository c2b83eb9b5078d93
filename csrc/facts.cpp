// The extension's own facts, for `alias-ops info`; importing the module loads and registers the kernels.
//
// Nothing but CPython's limited API: one module serves every Python that the package supports. setup.py says from which
// on.
#include <Python.h>

#include <exception>

#include "kernels.h"

namespace {

// A list or dict takes its own reference: this one is given up whether that succeeded or not.
struct Owned {
  PyObject* object;
  explicit Owned(PyObject* o) : object(o) {}
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { Py_XDECREF(object); }
  PyObject* release() {
    PyObject* given = object;
    object = nullptr;
    return given;
  }
};

PyObject* build_info(PyObject*, PyObject*) {
  const char* const facts[][2] = {
      {"compiler", ALIAS_OPS_BUILD_COMPILER}, {"flags", ALIAS_OPS_BUILD_FLAGS}, {"torch", ALIAS_OPS_BUILD_TORCH}};
  Owned info(PyDict_New());
  if (info.object == nullptr) return nullptr;
  for (const auto& [name, text] : facts) {
    Owned value(PyUnicode_FromString(text));
    if (value.object == nullptr || PyDict_SetItemString(info.object, name, value.object) != 0) return nullptr;
  }
  return info.release();
}

PyObject* isa(PyObject*, PyObject*) { return PyUnicode_FromString(alias_ops::kernels().name); }

PyObject* isas(PyObject*, PyObject*) {
  int count;
  const alias_ops::InstructionSet* sets = alias_ops::instruction_sets(&count);
  Owned names(PyList_New(0));
  if (names.object == nullptr) return nullptr;
  for (int i = 0; i < count; ++i) {
    Owned name(PyUnicode_FromString(sets[i].kernels->name));
    if (name.object == nullptr || PyList_Append(names.object, name.object) != 0) return nullptr;
  }
  return names.release();
}

// Chosen here, so that a bad ALIAS_OPS_ISA fails at import with a sentence and not inside an op.
int choose_kernels(PyObject*) {
  try {
    alias_ops::kernels();
    return 0;
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ImportError, error.what());
    return -1;
  }
}

PyMethodDef functions[] = {
    {"build_info", build_info, METH_NOARGS, "How the extension was built: compiler, flags, torch."},
    {"isa", isa, METH_NOARGS, "Instruction set of the kernels in use."},
    {"isas", isas, METH_NOARGS, "Instruction sets compiled in, best first."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(&choose_kernels)}, {0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "alias_ops._C",
                          "Compiled CPU kernels of alias_ops.",
                          0,
                          functions,
                          slots,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&definition); }
