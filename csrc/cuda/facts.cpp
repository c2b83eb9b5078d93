// The CUDA extension's own facts, for `alias-ops info`; importing the module registers the kernels. CPython's limited
// API alone, as csrc/facts.cpp.
#include <Python.h>

namespace {

PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue("{ssssss}", "compiler", ALIAS_OPS_BUILD_COMPILER, "architectures", ALIAS_OPS_BUILD_ARCHITECTURES,
                       "torch", ALIAS_OPS_BUILD_TORCH);
}

PyMethodDef functions[] = {
    {"build_info", build_info, METH_NOARGS, "How the extension was built: compiler, architectures, torch."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "alias_ops._C_cuda",
                          "Compiled CUDA kernels of alias_ops.",
                          0,
                          functions,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C_cuda() { return PyModuleDef_Init(&definition); }
